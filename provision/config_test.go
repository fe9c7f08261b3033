package provision

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mobyfs/mobyfs/internal/discovery"
	"github.com/mobyfs/mobyfs/provision/cloud"
	"github.com/mobyfs/mobyfs/provision/host"
	"github.com/mobyfs/mobyfs/templates"
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
		t.Errorf("%s differs (-want +got); go test ./provision -update writes it anew:\n%s", path, diff)
	}
}

const head = "apiVersion: mobyfs.dev/v1\ncluster: shop\n"
const hosts = "hosts:\n  - name: vol-1\n    address: 10.0.1.11\n"

// Every mistake is answered with its place and the way out; the golden file is what people read.
func TestConfigMistakes(t *testing.T) {
	var out strings.Builder
	for _, tc := range []struct{ name, text string }{
		{"unknown field in a host", head + "hosts:\n  - name: vol-1\n    adress: 10.0.1.11\n"},
		{"unknown field at the top", head + "host:\n  - name: vol-1\n"},
		{"unknown field in ssh", head + "ssh:\n  usr: root\n" + hosts},
		{"unknown field that is like nothing", head + "provision: {aws: {}}\n" + hosts},
		{"a key twice", head + "cluster: shop\n" + hosts},
		{"no YAML", head + "hosts: [\n"},
		{"empty", ""},
		{"only comments", "# nothing\n"},
		{"wrong type", head + "hosts:\n  - name: vol-1\n    address: 10.0.1.11\n    port: ssh\n"},
		{"a word for a mapping", head + "ssh: root\n" + hosts},
		{"a word for a list", head + "hosts: vol-1\n"},
		{"a list for a word", "apiVersion: mobyfs.dev/v1\ncluster: [shop]\n" + hosts},
		{"a number for a word", head + "hosts:\n  - name: 1\n    address: 10.0.1.11\n  - {name: {a: b}, address: 10.0.1.12}\n"},
		{"no apiVersion", "cluster: shop\n" + hosts},
		{"old apiVersion", "apiVersion: mobyfs.dev/v0\ncluster: shop\n" + hosts},
		{"no cluster", "apiVersion: mobyfs.dev/v1\n" + hosts},
		{"bad cluster", "apiVersion: mobyfs.dev/v1\ncluster: Shop_EU\n" + hosts},
		{"no hosts", head},
		{"empty hosts", head + "hosts:\n"},
		{"no address", head + "hosts:\n  - name: vol-1\n"},
		{"no name", head + "hosts:\n  - address: 10.0.1.11\n"},
		{"bad name", head + "hosts:\n  - name: Vol_1\n    address: 10.0.1.11\n"},
		{"name twice", head + hosts + "  - name: vol-1\n    address: 10.0.1.12\n"},
		{"address twice", head + hosts + "  - name: vol-2\n    address: 10.0.1.11\n"},
		{"user in the address", head + "hosts:\n  - name: vol-1\n    address: root@10.0.1.11\n"},
		{"port in the address", head + "hosts:\n  - name: vol-1\n    address: 10.0.1.11:2222\n"},
		{"an option as address", head + "hosts:\n  - name: vol-1\n    address: -oProxyCommand=id\n"},
		{"a command as user", head + "ssh: {user: \"root;id\"}\n" + hosts},
		{"port out of range", head + "hosts:\n  - name: vol-1\n    address: 10.0.1.11\n    port: 70000\n"},
		{"host key that is none", head + "hosts:\n  - name: vol-1\n    address: 10.0.1.11\n    hostKey: MD5:aa\n"},
		{"pinned without a pin", head + "ssh: {hostKeys: pinned}\n" + hosts},
		{"unknown policy", head + "ssh:\n  hostKeys: strikt\n" + hosts},
		{"unknown sudo", head + "ssh: {sudo: yes}\n" + hosts},
		{"same ports", head + "ports: {control: 8080, agent: 8080}\n" + hosts},
		{"control on no host", head + "control: {host: vol-2}\n" + hosts},
		{"control on two hosts", head + "control: [vol-1, vol-2]\n" + hosts + "  - {name: vol-2, address: b}\n"},
		{"control on four hosts", head + "control:\n  hosts: [vol-1, vol-2, vol-3, vol-4]\n" + hosts},
		{"control twice on one host", head + "control: [vol-1, vol-1, vol-1]\n" + hosts},
		{"control in two ways", head + "control: {host: vol-1, hosts: [vol-1, vol-1]}\n" + hosts},
		{"unknown field in control", head + "control: {hots: [vol-1]}\n" + hosts},
		{"a word for control", head + "control: vol-1\n" + hosts},
		{"the peers' port is the agents'", head + "ports: {peer: 8080}\n" + hosts},
		{"hosts and a sandbox", head + "sandbox: {name: demo}\n" + hosts},
		{"unknown field in docker", head + "docker: {discover: spec}\n" + hosts},
		{"unknown way of discovery", head + "docker: {discovery: socket}\n" + hosts},
		{"socket elsewhere", head + "docker: {address: \"unix:///run/mobyfs.sock\"}\n" + hosts},
		{"https in a .spec", head + "docker: {discovery: spec, address: \"https://127.0.0.1:8081\"}\n" + hosts},
		{"another machine in a .spec", head + "docker: {discovery: spec, address: \"tcp://10.0.1.11:8081\"}\n" + hosts},
		{"a name that may lead anywhere", head + "docker: {discovery: spec, address: \"tcp://localhost:8081\"}\n" + hosts},
		{"another socket in a .spec", head + "docker: {discovery: spec, address: \"unix:///tmp/x.sock\"}\n" + hosts},
		{"no port", head + "docker: {discovery: json, address: \"https://127.0.0.1\"}\n" + hosts},
		{"no TLS in a .json", head + "docker: {discovery: json, address: \"tcp://127.0.0.1:8081\"}\n" + hosts},
		{"a path that Docker ignores", head + "docker: {discovery: json, address: \"https://127.0.0.1:8081/mobyfs\"}\n" + hosts},
		{"Docker's port is an agent's", head + "docker: {discovery: json, address: \"https://127.0.0.1:8080\"}\n" + hosts},
		{"metrics at no address", head + "monitoring: {metrics: 9646}\n" + hosts},
		{"metrics at a port that is taken", head + "monitoring: {metrics: \"0.0.0.0:8080\"}\n" + hosts},
		{"metrics of volumes nowhere", head + "monitoring: {perVolume: true}\n" + hosts},
		{"traces to no URL", head + "monitoring: {traces: \"10.0.1.20:4318\"}\n" + hosts},
		{"traces with a password", head + "monitoring: {traces: \"http://a:b@10.0.1.20:4318\"}\n" + hosts},
		{"no time to linger", head + "volumes: {linger: soon}\n" + hosts},
		{"too long to linger", head + "volumes: {linger: 2h}\n" + hosts},
		{"class without a name", head + "volumes:\n  classes:\n    - size: 1G\n" + hosts},
		{"class that can't be one", head + "volumes:\n  classes:\n    - name: Fast!\n      size: big\n      backend: drr\n" + hosts},
		{"class twice", head + "volumes:\n  classes: [{name: fast}, {name: fast}]\n" + hosts},
		{"unknown field in a class", head + "volumes:\n  classes: [{name: fast, sise: 1G}]\n" + hosts},
		{"no URL", head + "docker: {discovery: spec, address: 127.0.0.1}\n" + hosts},
		{"node that can't be so", head + hosts + "    zone: a b\n    rack: \"!\"\n    labels: {disk: \"x,y\"}\n    taints: [gpu:never]\n"},
		{"taint twice", head + hosts + "    taints: [gpu, gpu=yes]\n"},
		{"a word for taints", head + hosts + "    taints: gpu\n"},
		{"a list for labels", head + hosts + "    labels: [disk]\n"},
		{"three at once", "apiVersion: mobyfs.dev/v1\ncluster: shop\nssh: {hostKeys: never}\nhosts:\n  - name: A\n    address: 10.0.1.11\n  - name: b\n"},
	} {
		_, err := ParseConfig("cluster.yaml", []byte(tc.text))
		var wrong *ConfigError
		if !errors.As(err, &wrong) {
			t.Errorf("%s: got %v, want a ConfigError", tc.name, err)
			continue
		}
		fmt.Fprintf(&out, "== %s\n%v\n\n", tc.name, wrong)
	}
	golden(t, "config.golden", out.String())
}

func TestConfigDefaults(t *testing.T) {
	c, err := ParseConfig("cluster.yaml", []byte(head+"ssh:\n"+hosts))
	if err != nil {
		t.Fatal(err)
	}
	want := &Config{
		APIVersion: APIVersion, Cluster: "shop",
		SSH:     SSHConfig{HostKeys: host.HostKeysAsk, Sudo: host.SudoAuto},
		Ports:   PortsConfig{Control: 7946, Agent: 8080, Peer: 7947},
		Docker:  DockerConfig{Discovery: discovery.Sock, Address: discovery.SockEndpoint},
		Volumes: VolumesConfig{Linger: "5s", Trash: "1h"},
		Hosts:   []HostConfig{{Name: "vol-1", Address: "10.0.1.11"}},
	}
	if diff := cmp.Diff(want, c); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// The sample that init writes is valid, and has a paragraph for every key.
func TestSampleIsValidAndNamesEveryKey(t *testing.T) {
	for name, data := range map[string]templates.Cluster{
		"hosts":   {Cluster: "shop", First: "vol-1", Hosts: []templates.Host{{Name: "vol-1", Address: "10.0.1.11", User: "ubuntu", Port: 2222}}},
		"sandbox": {Cluster: "shop", First: "h1", Sandbox: "demo"},
	} {
		text, err := data.File()
		if err != nil {
			t.Fatal(err)
		}
		c, err := ParseConfig("cluster.yaml", []byte(text))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if c.Sandbox.Name != data.Sandbox || len(c.Hosts) != len(data.Hosts) {
			t.Errorf("%s: read back as %+v", name, c)
		}
	}
	text, err := templates.Cluster{Cluster: "shop", First: "vol-1", Hosts: []templates.Host{{Name: "vol-1", Address: "a"}}}.File()
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"$", "$.ssh", "$.control", "$.ports", "$.docker", "$.hosts[0]"} {
		for _, key := range keysAt(path) {
			if !strings.Contains(text, key+":") {
				t.Errorf("the sample does not mention %s.%s", path, key)
			}
		}
	}
}

func TestWhatIsMonitoredReachesTheHosts(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cluster.yaml")
	text := "apiVersion: mobyfs.dev/v1\ncluster: shop\nhosts: [{name: h1, address: 10.0.0.1}]\n" +
		"monitoring: {metrics: \"127.0.0.1:9646\", perVolume: true, traces: \"http://10.0.1.20:4318\"}\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := LoadConfig(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := NewFleet(c, []cloud.HostSpec{{Name: "h1", Address: "10.0.0.1"}})
	if want := (Monitoring{Metrics: "127.0.0.1:9646", PerVolume: true, Traces: "http://10.0.1.20:4318"}); err != nil || f.Monitoring != want {
		t.Errorf("got %+v, %v", f.Monitoring, err)
	}
}
