package templates

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files anew")

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s differs (-want +got); go test ./templates -update writes it anew:\n%s", path, diff)
	}
}

func rendered(t *testing.T) func(string, error) string {
	return func(text string, err error) string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
}

func TestEnvironments(t *testing.T) {
	must := rendered(t)
	golden(t, "mobyfs.env", must(Node{Cluster: "shop", Node: "vol-1", Control: "10.0.1.11:7946", Advertise: "10.0.1.11:8080", AgentPort: 8080,
		Endpoint: "unix:///run/docker/plugins/mobyfs.sock", Linger: "5s", Trash: "24h"}.Environment()))
	watched := must(Node{Cluster: "shop", Metrics: "127.0.0.1:9646", PerVolume: true, Traces: "http://c:4318"}.Environment())
	for _, line := range []string{"MOBYFS_METRICS=127.0.0.1:9646\n", "MOBYFS_VOLUME_METRICS=true\n", "OTEL_EXPORTER_OTLP_ENDPOINT=http://c:4318\n"} {
		if !strings.Contains(watched, "\n"+line) {
			t.Errorf("mobyfs.env lacks %q:\n%s", line, watched)
		}
	}
	if traced := must(Control{Cluster: "shop", Traces: "http://c:4318"}.Environment()); !strings.HasSuffix(traced, "\nOTEL_EXPORTER_OTLP_ENDPOINT=http://c:4318\n") {
		t.Errorf("mobyfs-control.env ends with:\n%s", traced)
	}
	set := must(Control{Cluster: "shop", Quota: "2GiB", SessionTTL: "10s"}.Environment())
	for _, line := range []string{"MOBYFS_CONTROL_QUOTA=2GiB\n", "MOBYFS_SESSION_TTL=10s\n"} {
		if !strings.Contains(set, "\n"+line) {
			t.Errorf("mobyfs-control.env lacks %q:\n%s", line, set)
		}
	}
	golden(t, "mobyfs-control.env", must(Control{Cluster: "shop", Host: "h1", ControlPort: 7946, PeerPort: 7947, PeerAddress: "10.0.0.1:7947", Strategy: "spread", Overcommit: 1, Headroom: 0.05}.Environment()))
}

func TestRegistrations(t *testing.T) {
	must := rendered(t)
	golden(t, "mobyfs.socket", must(Socket("https", "127.0.0.1:8081")))
	golden(t, "mobyfs-kept.socket", must(KeptSocket([]string{"/run/docker/plugins/mobyfs.sock", "127.0.0.1:8081"})))
	golden(t, "mobyfs.spec", must(Spec("unix:///run/mobyfs/driver.sock")))
	golden(t, "mobyfs.json", must(JSON("https://127.0.0.1:8081", "/var/lib/mobyfs/pki")))
}

func TestClusterFiles(t *testing.T) {
	must := rendered(t)
	golden(t, "hosts.yaml", must(Cluster{Cluster: "shop", First: "vol-1", Hosts: []Host{
		{Name: "vol-1", Address: "10.0.1.11"},
		{Name: "vol-2", Address: "10.0.1.12", User: "ubuntu", Port: 2222},
	}}.File()))
	golden(t, "sandbox.yaml", must(Cluster{Cluster: "demo", User: "root", First: "h1", Sandbox: "demo"}.File()))
}

// Docker's start must never hang on ours, and ours never on Docker's or on the control plane's.
func TestAgentUnitsKeepBootSafe(t *testing.T) {
	must := rendered(t)
	for name, unit := range map[string]string{
		"mobyfs.socket": must(Socket("unix", "/run/docker/plugins/mobyfs.sock")), "mobyfs.service": must(Unit("mobyfs.service")),
	} {
		if !strings.Contains(unit, "\nBefore=docker.service\n") {
			t.Errorf("%s does not come before docker.service", name)
		}
		for _, line := range strings.Split(unit, "\n") {
			key, value, _ := strings.Cut(line, "=")
			switch {
			case (key == "Requires" || key == "PartOf" || key == "BindsTo" || key == "After" || key == "Wants") && strings.Contains(value, "docker"):
				t.Errorf("%s depends on Docker: %s", name, line)
			case strings.Contains(value, "network-online") || strings.Contains(value, "mobyfs-control"):
				t.Errorf("%s waits for the network or for control: %s", name, line)
			case key == "EnvironmentFile" && !strings.HasPrefix(value, "-") || key == "StateDirectory" || key == "RequiresMountsFor":
				t.Errorf("%s does not start, and Docker hangs, without: %s", name, line)
			case strings.HasPrefix(key, "Private") || strings.HasPrefix(key, "Protect") || key == "ReadWritePaths":
				t.Errorf("%s hides its mounts from containers: %s", name, line)
			}
		}
	}
	for _, want := range []string{"Type=notify", "KillMode=process", "Restart=always", "RestartSec=100ms", "WatchdogSec=10",
		"StartLimitIntervalSec=0", "TimeoutAbortSec=2",
		"ExecStart=/usr/bin/mobyfs start -p ${MOBYFS_PORT}", "EnvironmentFile=-/etc/mobyfs/mobyfs.env"} {
		if !strings.Contains(must(Unit("mobyfs.service")), "\n"+want+"\n") {
			t.Errorf("mobyfs.service lacks %s", want)
		}
	}
	if want := "TriggerLimitIntervalSec=0"; !strings.Contains(must(Unit("mobyfs.socket")), "\n"+want+"\n") {
		t.Errorf("mobyfs.socket lacks %s: it ends when the service fails often", want)
	}
}
