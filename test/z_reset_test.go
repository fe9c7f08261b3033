package test

import (
	"testing"
	"time"
)

func TestResetRefusesWhileVolumesAreHere(t *testing.T) {
	the.ctl(t, "volume", "create", "precious", "--node", "h2")
	r := the.try(t, "reset", "-f", clusterYAML(), "--yes")
	if r.code == 0 {
		t.Fatal("reset took a volume with it")
	}
	has(t, r.stderr+r.stdout, "precious", "h2", "--purge-data")
	if v := the.volume(t, "precious"); v.Node != "h2" {
		t.Errorf("after the refusal: %+v", v)
	}
	the.inVolume(t, "h2", "precious", "echo fine > /data/x")
	remove(t, "precious")
}

// TestResetLeavesTheHostAsItWas runs last: there is no cluster after it.
func TestResetLeavesTheHostAsItWas(t *testing.T) {
	docker := the.sh(t, "h1", "systemctl show -p MainPID docker")
	r := the.try(t, "reset", "-f", clusterYAML(), "--yes", "--purge-data")
	if r.code != 0 {
		t.Fatalf("reset: %v", r)
	}
	if after := hostTree(t, "h1"); after != freshTree {
		t.Errorf("h1 is not what it was before the first bootstrap:\n%s", diffLines(freshTree, after))
	}
	for h := range the.hosts {
		// On these hosts /var/lib/mobyfs is a file system of its own, which stays, empty; and they come with a user
		// named mobyfs, who may use sudo.
		if out := the.sh(t, h, "systemctl list-units --all --no-legend 'mobyfs*'; find /var/lib/mobyfs /run/docker/plugins -mindepth 1; find /var/lib /etc /usr -xdev -name '*mobyfs*' ! -path /var/lib/mobyfs ! -path /etc/sudoers.d/mobyfs"); out != "" {
			t.Errorf("%s still has: %s", h, out)
		}
	}
	if now := the.sh(t, "h1", "systemctl show -p MainPID docker"); now != docker {
		t.Errorf("reset restarted Docker: %s, was %s", now, docker)
	}
	eventually(t, 30*time.Second, func() string {
		if r := the.tryOn(t, "h1", "docker", "run", "--rm", "busybox", "true"); r.code != 0 {
			return r.String()
		}
		return ""
	})
	again := the.try(t, "reset", "-f", clusterYAML(), "--yes")
	if again.code != 0 {
		t.Errorf("a second reset: %v", again)
	}
	has(t, again.stdout+again.stderr, "nothing to do")
}
