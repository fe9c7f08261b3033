package test

import (
	"testing"
	"time"

	"github.com/mobyfs/mobyfs/test/fleet"
)

func TestResetRefusesWhileVolumesAreHere(t *testing.T) {
	the.Ctl(t, "volume", "create", "precious", "--node", "h2")
	r := the.Try(t, "reset", "-f", the.ClusterYAML(), "--yes")
	if r.Code == 0 {
		t.Fatal("reset took a volume with it")
	}
	fleet.Has(t, r.Stderr+r.Stdout, "precious", "h2", "--purge-data")
	if v := the.Volume(t, "precious"); v.Node != "h2" {
		t.Errorf("after the refusal: %+v", v)
	}
	the.InVolume(t, "h2", "precious", "echo fine > /data/x")
	the.Remove(t, "precious")
}

// TestResetLeavesTheHostAsItWas runs last: there is no cluster after it.
func TestResetLeavesTheHostAsItWas(t *testing.T) {
	docker := the.Sh(t, "h1", "systemctl show -p MainPID docker")
	r := the.Try(t, "reset", "-f", the.ClusterYAML(), "--yes", "--purge-data")
	if r.Code != 0 {
		t.Fatalf("reset: %v", r)
	}
	if after := hostTree(t, "h1"); after != freshTree {
		t.Errorf("h1 is not what it was before the first bootstrap:\n%s", diffLines(freshTree, after))
	}
	for h := range the.Hosts {
		// On these hosts /var/lib/mobyfs is a file system of its own, which stays, empty; and they come with a user
		// named mobyfs, who may use sudo.
		if out := the.Sh(t, h, "systemctl list-units --all --no-legend 'mobyfs*'; find /var/lib/mobyfs /run/docker/plugins -mindepth 1; find /var/lib /etc /usr -xdev -name '*mobyfs*' ! -path /var/lib/mobyfs ! -path /etc/sudoers.d/mobyfs"); out != "" {
			t.Errorf("%s still has: %s", h, out)
		}
	}
	if now := the.Sh(t, "h1", "systemctl show -p MainPID docker"); now != docker {
		t.Errorf("reset restarted Docker: %s, was %s", now, docker)
	}
	fleet.Eventually(t, 30*time.Second, func() string {
		if r := the.TryOn(t, "h1", "docker", "run", "--rm", "busybox", "true"); r.Code != 0 {
			return r.String()
		}
		return ""
	})
	again := the.Try(t, "reset", "-f", the.ClusterYAML(), "--yes")
	if again.Code != 0 {
		t.Errorf("a second reset: %v", again)
	}
	fleet.Has(t, again.Stdout+again.Stderr, "nothing to do")
}
