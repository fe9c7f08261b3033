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

// traces lists what of mobyfs is on a host. On these hosts /var/lib/mobyfs is a file system of its own, which stays,
// empty; and they come with a user named mobyfs, who may use sudo.
func traces(t *testing.T, host string) string {
	t.Helper()
	return the.Sh(t, host, "systemctl list-units --all --no-legend --plain 'mobyfs*' | cut -d' ' -f1; find /var/lib/mobyfs /run/docker/plugins -mindepth 1; "+
		"find /var/lib /etc /usr /run -xdev -name '*mobyfs*' ! -path /var/lib/mobyfs ! -path /etc/sudoers.d/mobyfs ! -path '/run/docker/plugins/*' ! -path '/run/systemd/*'")
}

// forgetGone makes Docker forget the volumes that it has a record of from earlier tests and the cluster has not any more.
// Such a record goes when the volume is asked for by its name; docs/decisions/0011 tells what one costs that stays.
const forgetGone = `grep -aoE '[a-zA-Z0-9][a-zA-Z0-9_.-]+\{"Name":"[^"]*","Driver":"mobyfs"' /var/lib/docker/volumes/metadata.db | sed 's/{.*//' |
	sort -u | while read -r name; do docker volume inspect "$name" >/dev/null 2>&1 || true; done`

// TestC25ResetLeavesOnlyAStubAndThatUntilDockerEnds runs last: there is no cluster after it.
func TestC25ResetLeavesOnlyAStubAndThatUntilDockerEnds(t *testing.T) {
	docker := the.Sh(t, "h1", "systemctl show -p MainPID docker")
	for _, e := range engines { // a volume that Docker will remember, and the cluster will have gone
		the.Sh(t, e.host, forgetGone)
		the.On(t, e.host, "docker", "volume", "create", "-d", "mobyfs", "left-"+e.host)
	}
	r := the.Try(t, "reset", "-f", the.ClusterYAML(), "--yes", "--purge-data")
	if r.Code != 0 {
		t.Fatalf("reset: %v", r)
	}
	fleet.Has(t, r.Stdout+r.Stderr, "a stub answers it")
	if now := the.Sh(t, "h1", "systemctl show -p MainPID docker"); now != docker {
		t.Errorf("reset restarted Docker: %s, was %s", now, docker)
	}
	// A new cluster takes the stub's place on the same hosts, and leaves one again.
	the.Ctl(t, "bootstrap", "-f", the.ClusterYAML(), "--yes")
	for _, e := range engines {
		if units := the.Sh(t, e.host, "systemctl list-units --all --no-legend --plain 'mobyfs-stub*'"); units != "" {
			t.Errorf("%s is a node again and has %s", e.host, units)
		}
		the.On(t, e.host, "docker", "volume", "create", "-d", "mobyfs", "left-"+e.host)
	}
	the.Ctl(t, "reset", "-f", the.ClusterYAML(), "--yes", "--purge-data")

	again := the.Try(t, "reset", "-f", the.ClusterYAML(), "--yes")
	if again.Code != 0 {
		t.Errorf("a second reset: %v", again)
	}
	fleet.Has(t, again.Stdout+again.Stderr, "nothing to do")

	onEachEngine(t, func(t *testing.T, host string) {
		if got, want := traces(t, host), "mobyfs-stub.service\n/run/docker/plugins/mobyfs.sock"; got != want {
			t.Errorf("%s has: %s, want the stub alone", host, got)
		}
		began := time.Now()
		if the.DockerLists(t, host, "left-"+host) {
			t.Errorf("%s still lists a volume of the cluster that is gone", host)
		}
		took := time.Since(began)
		t.Logf("docker volume ls took %v", took)
		if took > time.Second {
			t.Errorf("docker volume ls took %v", took)
		}
		if r := the.TryOn(t, host, "docker", "run", "--rm", "-v", "left-"+host+":/data", "--volume-driver=mobyfs", "busybox", "true"); r.Code == 0 {
			t.Error("a container started with a volume of a cluster that is gone")
		} else {
			fleet.Has(t, r.Stderr, "taken off this host")
		}
		fleet.Eventually(t, 60*time.Second, func() string {
			if r := the.TryOn(t, host, "docker", "run", "--rm", "busybox", "true"); r.Code != 0 {
				return r.String()
			}
			return ""
		})

		start := startDockerd(t, host)
		t.Logf("dockerd's start afterwards took %v", start)
		if start > 10*time.Second {
			t.Errorf("dockerd still looks for the driver: its start took %v; it says:\n%s", start,
				the.Sh(t, host, "journalctl -u docker -u mobyfs-stub -o cat --since -2min | grep -iE 'volume|plugin|stub' | tail -20"))
		}
		if got := traces(t, host); got != "" {
			t.Errorf("after Docker's restart %s still has: %s", host, got)
		}
		began = time.Now()
		the.On(t, host, "docker", "volume", "ls")
		if took := time.Since(began); took > time.Second {
			t.Errorf("after Docker's restart docker volume ls took %v", took)
		}
	})
	if after := hostTree(t, "h1"); after != freshTree {
		t.Errorf("h1 is not what it was before the first bootstrap:\n%s", diffLines(freshTree, after))
	}
}
