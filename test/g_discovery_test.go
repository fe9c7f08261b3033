package test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs/provision"
	"github.com/mobyfs/mobyfs/test/fleet"
)

// engines are the hosts that stand for an engine each.
var engines = []struct{ name, host string }{{"20.10", "h1"}, {"26.1", "h3"}}

// onEachEngine runs a test on a host of each engine.
func onEachEngine(t *testing.T, test func(t *testing.T, host string)) {
	for _, e := range engines {
		t.Run(e.name, func(t *testing.T) {
			fleet.Has(t, the.On(t, e.host, "docker", "version", "--format", "{{.Server.Version}}"), e.name)
			test(t, e.host)
		})
	}
}

// needCluster makes the cluster if these tests are run by themselves.
func needCluster(t *testing.T) {
	t.Helper()
	if _, err := os.Stat(the.ClusterYAML()); os.IsNotExist(err) {
		the.Bootstrap(t)
	}
}

// discoveredBy is the fleet's cluster.yaml with another way for Docker.
func discoveredBy(t *testing.T, lines ...string) string {
	t.Helper()
	text, err := os.ReadFile(the.ClusterYAML())
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "cluster.yaml")
	more := "\ndocker:\n"
	for _, l := range lines {
		more += "  " + l + "\n"
	}
	if err := os.WriteFile(path, append(text, more...), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

const sockPath = "/run/docker/plugins/mobyfs.sock"

// underLoad makes calls on a host, half of them to the driver itself and half through dockerd, while do is done. It
// returns the time that the slowest call took.
func underLoad(t *testing.T, host, volume string, seconds int, do func()) (slowest time.Duration) {
	t.Helper()
	since := the.On(t, host, "date", "+%Y-%m-%d %H:%M:%S")
	type result struct {
		out []byte
		err error
	}
	results := make(chan result, 2)
	for _, args := range [][]string{
		{sockPath, "POST", "/VolumeDriver.Get", fmt.Sprintf(`{"Name":%q}`, volume)},
		{"/run/docker.sock", "GET", "/volumes/" + volume, ""},
	} {
		cmd := the.CmdOn(host, append(append([]string{"hosttool", "load"}, args...), "25", fmt.Sprint(seconds))...)
		go func() {
			out, err := cmd.Output()
			results <- result{out, err}
		}()
	}
	do()
	for range cap(results) {
		r := <-results
		var got struct {
			Calls   int
			Failed  []string
			Slowest float64 `json:"slowest_seconds"`
		}
		if err := json.Unmarshal(r.out, &got); err != nil || r.err != nil {
			t.Fatalf("the load: %v, %v in %s", r.err, err, r.out)
		}
		if len(got.Failed) > 0 || got.Calls != 25*seconds {
			t.Errorf("of %d calls %d failed: %v", got.Calls, len(got.Failed), got.Failed)
		}
		slowest = max(slowest, time.Duration(got.Slowest*float64(time.Second)))
	}
	if cut := the.Sh(t, host, "journalctl -u mobyfs --since '"+since+"' -o cat | grep -c 'without a body' || true"); cut != "0" {
		t.Errorf("%s calls came without a body", cut)
	}
	return slowest
}

// debugLog has the agent say each call without a body, and undoes that at the end.
func debugLog(t *testing.T, host string) {
	t.Helper()
	env := "/etc/mobyfs/mobyfs.env"
	the.Sh(t, host, "cp -p "+env+" /run/mobyfs.env.before && echo MOBYFS_LOG=debug >> "+env+" && systemctl reload mobyfs")
	t.Cleanup(func() {
		the.Sh(t, host, "cp -p /run/mobyfs.env.before "+env+" && rm /run/mobyfs.env.before && systemctl reload mobyfs")
	})
}

func TestC16AgentRestartUnder50CallsPerSecondLosesNone(t *testing.T) {
	needCluster(t)
	onEachEngine(t, func(t *testing.T, host string) {
		volume := "busy-" + host
		the.On(t, host, "docker", "volume", "create", "-d", "mobyfs", volume)
		defer the.Remove(t, volume)
		debugLog(t, host)
		calm := underLoad(t, host, volume, 5, func() {})
		var slowest []time.Duration // of the calls around each restart: other work on the machine may hit one of them
		for range 3 {
			slowest = append(slowest, underLoad(t, host, volume, 5, func() { the.On(t, host, "systemctl", "restart", "mobyfs") }))
		}
		slices.Sort(slowest)
		t.Logf("3 restarts in 750 calls: the slowest call took %v, without a restart %v", slowest, calm)
		if added := slowest[1] - calm; added > time.Second {
			t.Errorf("a restart adds %v, want less than 1 s", added)
		}
		reloads := 0
		worst := underLoad(t, host, volume, 8, func() {
			for range 20 {
				the.On(t, host, "systemctl", "reload", "mobyfs")
				reloads++
			}
		})
		t.Logf("%d reloads in 400 calls: the slowest call took %v", reloads, worst)
		fleet.Has(t, the.Sh(t, host, "journalctl -u mobyfs -o cat | grep 'were read again' | tail -1"), "changed=nothing", "until=")
	})
}

func TestC19SocketIsThereBeforeDockerAndIsNeverUnlinked(t *testing.T) {
	needCluster(t)
	onEachEngine(t, func(t *testing.T, host string) {
		the.PowerCut(t, host)
		fleet.Eventually(t, 90*time.Second, func() string {
			if r := the.TryOn(t, host, "docker", "volume", "ls", "-q"); r.Code != 0 {
				return r.String()
			}
			return ""
		})
		if got := the.On(t, host, "stat", "-c", "%a %U:%G %F", sockPath); got != "600 root:root socket" {
			t.Errorf("the socket is %s", got)
		}
		order := the.Sh(t, host, `for u in "mobyfs.socket ActiveEnterTimestampMonotonic" "docker.service ExecMainStartTimestampMonotonic"; do set -- $u; systemctl show -p $2 --value $1; done`)
		var socket, docker int
		if n, err := fmt.Sscan(order, &socket, &docker); n != 2 || err != nil || socket == 0 || socket >= docker {
			t.Errorf("the socket was there at %d µs after boot, dockerd was started at %d (%v)", socket, docker, err)
		}
		before := the.On(t, host, "stat", "-c", "%i", sockPath)
		for _, act := range []string{"systemctl restart mobyfs", "systemctl kill -s KILL mobyfs", "systemctl reload-or-restart mobyfs"} {
			the.Sh(t, host, act)
			if now := the.On(t, host, "stat", "-c", "%i", sockPath); now != before {
				t.Errorf("after %s it is another socket", act)
			}
			the.On(t, host, "docker", "volume", "ls", "-q")
		}
	})
}

// An agent that hangs is ended by systemd's watchdog, and takes nothing with it. That an old agent may even end after
// the new one has bound the name is tried beside the code that binds it.
func TestC20AgentThatHangsAndIsReplacedTakesNoSocketAway(t *testing.T) {
	needCluster(t)
	onEachEngine(t, func(t *testing.T, host string) {
		before := the.On(t, host, "stat", "-c", "%i", sockPath)
		pid := the.On(t, host, "systemctl", "show", "-p", "MainPID", "--value", "mobyfs")
		the.Sh(t, host, "kill -STOP "+pid)
		fleet.Eventually(t, 60*time.Second, func() string {
			if now := the.On(t, host, "systemctl", "show", "-p", "MainPID", "--value", "mobyfs"); now == pid || now == "0" {
				return "the agent that hangs was not replaced"
			}
			return ""
		})
		fleet.Eventually(t, 60*time.Second, func() string {
			if r := the.TryOn(t, host, "docker", "volume", "ls", "-q"); r.Code != 0 {
				return r.String()
			}
			return ""
		})
		if now := the.On(t, host, "stat", "-c", "%i", sockPath); now != before {
			t.Error("it is another socket")
		}
	})
}

func TestC21SecondAgentNamesTheFirst(t *testing.T) {
	needCluster(t)
	onEachEngine(t, func(t *testing.T, host string) {
		pid := the.On(t, host, "systemctl", "show", "-p", "MainPID", "--value", "mobyfs")
		r := the.TryOn(t, host, "sh", "-c", "set -a; . /etc/mobyfs/mobyfs.env; exec mobyfs start -p 8099 --endpoint unix:///run/second.sock")
		if r.Code == 0 {
			t.Fatalf("it started: %v", r)
		}
		fleet.Has(t, r.Stderr, "process "+pid, "hint:")
		if r := the.TryOn(t, host, "test", "-e", "/run/second.sock"); r.Code == 0 {
			t.Error("it left a socket")
		}
		the.On(t, host, "docker", "volume", "ls", "-q")
	})
}

// plugins is what mobyctl plugin status says.
func plugins(t *testing.T, file string, wantCode int, hosts ...string) map[string]provision.HostPlugins {
	t.Helper()
	r := the.Try(t, append([]string{"plugin", "status", "-f", file, "-o", "json"}, hosts...)...)
	var all []provision.HostPlugins
	if err := json.Unmarshal([]byte(r.Stdout), &all); err != nil || r.Code != wantCode {
		t.Fatalf("plugin status, want exit code %d: %v", wantCode, r)
	}
	by := map[string]provision.HostPlugins{}
	for _, h := range all {
		by[h.Host] = h
	}
	return by
}

// inUse demands that Docker on a host uses a registration that answers, and nothing else.
func inUse(t *testing.T, h provision.HostPlugins, place string) {
	t.Helper()
	if len(h.Registrations) != 1 || h.Registrations[0].Place != place || !h.Registrations[0].Wins || !h.Registrations[0].Answers || !h.Docker.Activated {
		t.Errorf("%s: got %+v, want %s in use", h.Host, h, place)
	}
}

// writeThrough has a container write to a volume, and another one read it.
func writeThrough(t *testing.T, host, volume, text string) {
	t.Helper()
	the.InVolume(t, host, volume, "echo "+text+" > /data/x")
	if got := the.InVolume(t, host, volume, "cat /data/x"); got != text {
		t.Errorf("%s: read %q, want %q", host, got, text)
	}
}

// restartDockers begins a new life of dockerd on all hosts, and has it use the driver.
func restartDockers(t *testing.T) {
	t.Helper()
	for h := range the.Hosts {
		the.On(t, h, "systemctl", "restart", "docker")
		the.On(t, h, "docker", "volume", "ls", "-q")
	}
}

func TestC22EachWayOfDiscoveryWorks(t *testing.T) {
	needCluster(t)
	for _, bad := range []struct{ lines, want string }{
		{"discovery: spec\naddress: https://127.0.0.1:8081", "never verifies"},
		{"discovery: spec\naddress: tcp://0.0.0.0:8081", "own host only"},
		{"discovery: json\naddress: tcp://127.0.0.1:8081", "certificates"},
	} {
		r := the.Try(t, "bootstrap", "-f", discoveredBy(t, strings.Split(bad.lines, "\n")...), "--yes")
		if r.Code == 0 {
			t.Errorf("%s was accepted", bad.lines)
		}
		fleet.Has(t, r.Stderr, bad.want)
	}
	defer the.Remove(t, "way-h1", "way-h3")
	before := sockPath
	for _, way := range []struct{ lines, place string }{
		{"discovery: spec", "/etc/docker/plugins/mobyfs.spec"},
		{"discovery: spec\naddress: tcp://127.0.0.1:8082", "/etc/docker/plugins/mobyfs.spec"},
		{"discovery: json", "/etc/docker/plugins/mobyfs.json"},
	} {
		t.Run(way.lines, func(t *testing.T) {
			file := discoveredBy(t, strings.Split(way.lines, "\n")...)
			plan := the.Try(t, "plan", "-f", file)
			fleet.Has(t, plan.Stdout+plan.Stderr, "open until dockerd restarts")
			r := the.Try(t, "bootstrap", "-f", file, "--yes")
			if r.Code != 0 {
				t.Fatalf("bootstrap: %v", r)
			}
			if again := the.Try(t, "plan", "-f", file); again.Code != 0 {
				t.Errorf("a second plan: %v", again)
			}
			for _, e := range engines {
				writeThrough(t, e.host, "way-"+e.host, "before")
			}
			for _, h := range plugins(t, file, 2) {
				if len(h.Kept) != 1 {
					t.Errorf("%s keeps %v, want what dockerd read before (%s)", h.Host, h.Kept, before)
				}
			}
			restartDockers(t)
			status := plugins(t, file, 0)
			onEachEngine(t, func(t *testing.T, host string) {
				inUse(t, status[host], way.place)
				if r := the.TryOn(t, host, "test", "-e", sockPath); r.Code == 0 {
					t.Errorf("%s is still there", sockPath)
				}
				writeThrough(t, host, "way-"+host, "after")
			})
			if again := the.Try(t, "plan", "-f", file); again.Code != 0 {
				t.Errorf("after dockerd's restart the plan is not empty: %v", again)
			}
		})
		before = way.place
	}
}

func TestC23CertificatesDecideWhoCallsTheDriver(t *testing.T) {
	needCluster(t)
	file := discoveredBy(t, "discovery: json")
	the.Ctl(t, "bootstrap", "-f", file, "--yes")
	restartDockers(t)
	defer the.Remove(t, "secret-h1", "secret-h3")
	const pki = "/var/lib/mobyfs/pki/"
	const address = "127.0.0.1:8081"
	authority := the.Sh(t, "h1", "cat /var/lib/mobyfs-control/pki/ca.crt /var/lib/mobyfs-control/pki/ca.key")
	onEachEngine(t, func(t *testing.T, host string) {
		ask := func(cert, key string) fleet.Result {
			return the.TryOn(t, host, "hosttool", "tls", address, pki+"ca.crt", cert, key)
		}
		if mode := the.On(t, host, "stat", "-c", "%a %U", pki+"docker.key"); mode != "600 root" {
			t.Errorf("docker.key is %s", mode)
		}
		good := ask(pki+"docker.crt", pki+"docker.key")
		if good.Code != 0 {
			t.Fatalf("dockerd's own certificate: %v", good)
		}
		other := map[string]string{"h1": "h3", "h3": "h1"}[host]
		put(t, host, "/run/other", the.Sh(t, other, "cat "+pki+"docker.crt "+pki+"docker.key"))
		put(t, host, "/run/expired", forge(t, authority, host, time.Now().Add(-time.Hour)))
		put(t, host, "/run/stranger", forge(t, "", host, time.Now().Add(time.Hour)))
		for name, r := range map[string]fleet.Result{
			"the node's own":                 ask(pki+"node.crt", pki+"node.key"),
			"that of another node's dockerd": ask("/run/other", "/run/other"),
			"one that has expired":           ask("/run/expired", "/run/expired"),
			"one of another authority":       ask("/run/stranger", "/run/stranger"),
			"none":                           ask("-", ""),
		} {
			if r.Code == 0 || !strings.Contains(r.Stderr, "remote error: tls") {
				t.Errorf("with %s certificate: %v", name, r)
			}
		}
		the.Sh(t, host, "rm /run/other /run/expired /run/stranger")

		docker := the.On(t, host, "systemctl", "show", "-p", "MainPID", "--value", "docker")
		writeThrough(t, host, "secret-"+host, "before")
		the.Sh(t, host, "rm "+pki+"node.crt")
		the.Ctl(t, "bootstrap", "-f", file, "--yes")
		renewed := ask(pki+"docker.crt", pki+"docker.key")
		if renewed.Code != 0 || renewed.Stdout == good.Stdout {
			t.Errorf("the driver shows %v, before it was %v", renewed, good)
		}
		writeThrough(t, host, "secret-"+host, "after")
		if now := the.On(t, host, "systemctl", "show", "-p", "MainPID", "--value", "docker"); now != docker {
			t.Error("dockerd was restarted")
		}
	})
}

// TestDiscoveryGoesBackToTheSocket leaves the fleet as the other tests want it.
func TestDiscoveryGoesBackToTheSocket(t *testing.T) {
	needCluster(t)
	the.Ctl(t, "bootstrap", "-f", the.ClusterYAML(), "--yes")
	defer the.Remove(t, "back-h1", "back-h3")
	for _, e := range engines {
		writeThrough(t, e.host, "back-"+e.host, "before")
	}
	restartDockers(t)
	status := plugins(t, the.ClusterYAML(), 0)
	onEachEngine(t, func(t *testing.T, host string) {
		inUse(t, status[host], sockPath)
		writeThrough(t, host, "back-"+host, "after")
		for _, gone := range []string{"/etc/docker/plugins/mobyfs.spec", "/etc/docker/plugins/mobyfs.json", "/run/mobyfs/driver.sock", "/run/mobyfs/kept"} {
			if r := the.TryOn(t, host, "test", "-e", gone); r.Code == 0 {
				t.Errorf("%s is still there", gone)
			}
		}
	})
	t.Logf("plugin status says:\n%s", the.Ctl(t, "plugin", "status", "-f", the.ClusterYAML()))
}

func TestPluginStatusNamesWhatShadowsTheDriver(t *testing.T) {
	needCluster(t)
	onEachEngine(t, func(t *testing.T, host string) {
		the.Sh(t, host, "mkdir -p /etc/docker/plugins && echo https://127.0.0.1:1 > /etc/docker/plugins/mobyfs.spec")
		defer the.Sh(t, host, "rm /etc/docker/plugins/mobyfs.spec && rmdir --ignore-fail-on-non-empty /etc/docker/plugins && rmdir --ignore-fail-on-non-empty /etc/docker")
		r := the.Try(t, "plugin", "status", "-f", the.ClusterYAML(), host)
		if r.Code != 2 {
			t.Errorf("exit code %d, want 2", r.Code)
		}
		fleet.Has(t, r.Stdout, host, sockPath, "uses it", "/etc/docker/plugins/mobyfs.spec", "passes it over", "never verifies https", "remove it")
	})
}

// put writes a private file on a host.
func put(t *testing.T, host, path, text string) {
	t.Helper()
	cmd := the.CmdOn(host, "sh", "-c", "umask 077; printf '%s\n' \"$0\" > "+path, text)
	if r := fleet.RunCommand(t, cmd); r.Code != 0 {
		t.Fatalf("write %s on %s: %v", path, host, r)
	}
}

// forge makes a certificate and key for the dockerd of a node, signed by an authority (its certificate and key in PEM)
// or, if that is empty, by itself.
func forge(t *testing.T, authority, node string, until time.Time) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	cert := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: until.Add(-2 * time.Hour), NotAfter: until,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	parent, signer := cert, any(key)
	cluster := "shop"
	if authority != "" {
		ca, rest := pem.Decode([]byte(authority))
		caKey, _ := pem.Decode(rest)
		if parent, err = x509.ParseCertificate(ca.Bytes); err != nil {
			t.Fatal(err)
		}
		if signer, err = x509.ParsePKCS8PrivateKey(caKey.Bytes); err != nil {
			t.Fatal(err)
		}
		cluster = parent.Subject.CommonName
	}
	cert.URIs = []*url.URL{{Scheme: "spiffe", Host: cluster, Path: "/docker/" + node}}
	cert.DNSNames = []string{node + ".docker.mobyfs"}
	der, err := x509.CreateCertificate(rand.Reader, cert, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})) +
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}))
}
