package test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mobyfs/mobyfs"

	"github.com/mobyfs/mobyfs/test/fleet"
)

// freshTree is what h1 looked like before the first bootstrap, for the reset to compare with.
var freshTree string

func TestBootstrapMakesAClusterOfThreeHosts(t *testing.T) {
	freshTree = hostTree(t, "h1")
	dockers := map[string]string{}
	for h := range the.Hosts {
		dockers[h] = the.Sh(t, h, "systemctl show -p MainPID docker")
	}
	the.Ctl(t, "init", "--sandbox", the.Name, "-o", the.ClusterYAML())

	plan := the.Try(t, "plan", "-f", the.ClusterYAML())
	if plan.Code != 2 {
		t.Errorf("plan with changes pending: exit code %d, want 2\n%v", plan.Code, plan)
	}
	fleet.Has(t, plan.Stdout+plan.Stderr, "h1", "h2", "h3", "Docker")
	if after := hostTree(t, "h1"); after != freshTree {
		t.Errorf("showing the plan changed h1:\n%s", diffLines(freshTree, after))
	}

	asked := the.Try(t, "bootstrap", "-f", the.ClusterYAML())
	if asked.Code == 0 {
		t.Errorf("bootstrap without a terminal and without --yes went ahead: %v", asked)
	}
	fleet.Has(t, asked.Stderr, "--yes")

	r := the.Try(t, "bootstrap", "-f", the.ClusterYAML(), "--yes")
	if r.Code != 0 {
		t.Fatalf("bootstrap: %v", r)
	}
	t.Logf("bootstrap says:\n%s%s", r.Stdout, r.Stderr)

	var nodes []mobyfs.Node
	the.Decode(t, &nodes, "node", "ls", "-o", "json")
	if len(nodes) != 3 {
		t.Fatalf("got %d nodes, want 3: %+v", len(nodes), nodes)
	}
	for _, n := range nodes {
		if !n.Ready || n.Capacity.TotalBytes == 0 || n.Version != "v0.0.0-test" {
			t.Errorf("node %+v is not ready, has no capacity or another version", n)
		}
	}
	for h, before := range dockers {
		if now := the.Sh(t, h, "systemctl show -p MainPID docker"); now != before {
			t.Errorf("%s: bootstrap restarted Docker: %s, was %s", h, now, before)
		}
		if mode := the.On(t, h, "stat", "-c", "%a", "/run/docker/plugins/mobyfs.sock"); mode != "600" {
			t.Errorf("%s: the plugin's socket has mode %s, want 600", h, mode)
		}
		fleet.Has(t, the.On(t, h, "systemctl", "show", "mobyfs.service"), "Type=notify", "ActiveState=active", "KillMode=process")
		fleet.Has(t, the.On(t, h, "systemctl", "show", "-p", "Before", "mobyfs.service"), "docker.service")
	}
	if leftover := the.Ctl(t, "volume", "ls", "-o", "json"); strings.TrimSpace(leftover) != "[]" {
		t.Errorf("the proof left volumes behind: %s", leftover)
	}
}

func TestSecondBootstrapIsAnEmptyPlanAndChangesNothing(t *testing.T) {
	before := map[string]string{}
	for h := range the.Hosts {
		before[h] = hostTree(t, h) + the.Sh(t, h, "systemctl show -p MainPID,ActiveEnterTimestampMonotonic mobyfs docker")
	}
	if plan := the.Try(t, "plan", "-f", the.ClusterYAML()); plan.Code != 0 {
		t.Errorf("an empty plan has exit code %d, want 0\n%v", plan.Code, plan)
	}
	r := the.Try(t, "bootstrap", "-f", the.ClusterYAML(), "--yes")
	if r.Code != 0 {
		t.Fatalf("second bootstrap: %v", r)
	}
	fleet.Has(t, r.Stdout+r.Stderr, "nothing to do")
	for h := range the.Hosts {
		after := hostTree(t, h) + the.Sh(t, h, "systemctl show -p MainPID,ActiveEnterTimestampMonotonic mobyfs docker")
		if after != before[h] {
			t.Errorf("%s changed:\n%s", h, diffLines(before[h], after))
		}
	}
}

func TestSecretsStayWhereTheyWereBorn(t *testing.T) {
	keys := map[string]string{}
	for h := range the.Hosts {
		if mode := the.On(t, h, "stat", "-c", "%a", "/var/lib/mobyfs/pki/node.key"); mode != "600" {
			t.Errorf("%s: node.key has mode %s, want 600", h, mode)
		}
		key := the.On(t, h, "sha256sum", "/var/lib/mobyfs/pki/node.key")
		if other, taken := keys[key]; taken {
			t.Errorf("%s and %s have the same key", h, other)
		}
		keys[key] = h
	}
	for _, h := range []string{"h2", "h3"} {
		if out := the.Sh(t, h, "find / -xdev -name ca.key -o -xdev -name control.key 2>/dev/null"); out != "" {
			t.Errorf("%s has keys of the control host: %s", h, out)
		}
	}
	local, err := filepath.Glob(filepath.Join(the.Dir, "home", "*", "*.key"))
	if err != nil || len(local) != 1 || filepath.Base(local[0]) != "operator.key" {
		t.Errorf("mobyctl keeps %v (%v), want its own operator.key alone", local, err)
	}
	for _, f := range local {
		if info, err := os.Stat(f); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, mode %v, want 0600", f, err, info.Mode())
		}
	}
}

// TestOnlyMembersAreServed: whoever has no certificate of the cluster gets no answer from any port.
func TestOnlyMembersAreServed(t *testing.T) {
	for _, addr := range []string{the.Hosts["h1"] + ":7946", the.Hosts["h1"] + ":7947", the.Hosts["h1"] + ":8080", the.Hosts["h2"] + ":8080"} {
		if err := anonymousGet(addr); err == nil {
			t.Errorf("%s answered a stranger", addr)
		}
	}
	if out := the.Sh(t, "h1", "ss -Hltn | awk '{print $4}' | grep -v -e 127.0.0.1 -e '\\[::1\\]' | sort -u"); strings.Contains(out, ":2379") || strings.Contains(out, ":2380") {
		t.Errorf("etcd can be reached from outside:\n%s", out)
	}
}
