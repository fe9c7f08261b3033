package clients

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs/test/fleet"
)

// gaveUp is in what Podman tells its user, in place of a reason, when the driver has not answered for 5 s.
const gaveUp = "Client.Timeout"

// withPodman brings Podman and the image busybox onto the host.
func (h host) withPodman(t *testing.T) {
	t.Helper()
	install(t, h.name, "podman", "crun")
	give(t, h.name, "podman/.", "/etc/containers")
	the.Sh(t, h.name, "podman image exists busybox || docker save busybox | podman load --quiet")
	if out := the.On(t, h.name, "podman", "--version"); !strings.Contains(out, " "+h.podmanVersion+".") {
		t.Fatalf("%s has %s, want Podman %s", h.name, out, h.podmanVersion)
	}
}

// podman runs podman, which must succeed.
func (h host) podman(t *testing.T, args ...string) string {
	t.Helper()
	return the.On(t, h.name, append([]string{"podman"}, args...)...)
}

// refuses runs podman, which must fail, and returns what it told its user.
func (h host) refuses(t *testing.T, args ...string) string {
	t.Helper()
	r := the.TryOn(t, h.name, append([]string{"podman"}, args...)...)
	if r.Code == 0 {
		t.Fatalf("podman %s succeeded on %s: %v", strings.Join(args, " "), h.name, r)
	}
	t.Logf("podman %s: %s", strings.Join(args, " "), r.Stderr)
	return r.Stderr
}

// running is how a container is run on a volume: the sandbox has no nftables for Podman's networks.
func running(volume string, args ...string) []string {
	return append([]string{"run", "--network=none", "-v", volume + ":/data"}, args...)
}

// inUse waits until control knows that a volume is used on a host, or that it is not used at all where host is "".
func inUse(t *testing.T, volume, host string) {
	t.Helper()
	fleet.Eventually(t, time.Minute, func() string {
		switch v := the.Volume(t, volume); {
		case v.Lease == nil && host != "":
			return "nobody uses the volume"
		case v.Lease != nil && v.Lease.Node != host:
			return "the volume is in use on " + v.Lease.Node
		}
		return ""
	})
}

// TestC101PodmanCreatesRunsAndRemoves, and reads and writes what Docker on other hosts writes and reads.
func TestC101PodmanCreatesRunsAndRemoves(t *testing.T) {
	onEach(t, func(t *testing.T, on, away host) {
		on.withPodman(t)
		on.podman(t, "volume", "create", "--driver", "mobyfs", "-o", "size=10MiB", "pod")
		if v := the.Volume(t, "pod"); v.Node != on.name || v.Spec.SizeBytes != 10<<20 {
			t.Errorf("got %+v, want it on %s with 10 MiB", v, on.name)
		}
		on.podman(t, running("pod", "--rm", "busybox", "sh", "-c", "echo Podman on "+on.name+" >/data/log")...)
		the.InVolume(t, away.name, "pod", "echo Docker on "+away.name+" >>/data/log")
		got := on.podman(t, running("pod", "--rm", "busybox", "cat", "/data/log")...)
		if want := "Podman on " + on.name + "\nDocker on " + away.name; got != want {
			t.Errorf("Podman reads %q, want %q", got, want)
		}
		on.podman(t, "volume", "rm", "pod")
		if r := the.Try(t, "volume", "inspect", "pod"); r.Code == 0 {
			t.Errorf("Podman removed the volume, and it is there: %v", r)
		}
	})
}

// TestC101PodmanShowsWhyTheDriverRefuses: an option that is wrong, a size that fits nowhere, a volume that is in use on
// another host. What was refused left nothing behind.
func TestC101PodmanShowsWhyTheDriverRefuses(t *testing.T) {
	onEach(t, func(t *testing.T, on, away host) {
		on.withPodman(t)
		fleet.Has(t, on.refuses(t, "volume", "create", "--driver", "mobyfs", "-o", "sise=1G", "wrong"), "sise", "did you mean size")
		fleet.Has(t, on.refuses(t, "volume", "create", "--driver", "mobyfs", "-o", "size=9000TiB", "wrong"), "wrong", "no node has room", "add a node")
		if out := on.podman(t, "volume", "ls", "--quiet"); strings.Contains(out, "wrong") {
			t.Errorf("Podman lists the volume that was refused: %s", out)
		}
		if r := the.Try(t, "volume", "inspect", "wrong"); r.Code == 0 {
			t.Errorf("the cluster has the volume that was refused: %v", r)
		}

		on.podman(t, "volume", "create", "--driver", "mobyfs", "pod")
		t.Cleanup(func() { on.podman(t, "volume", "rm", "pod") })
		the.On(t, away.name, "docker", "run", "-d", "--name", "holder", "-v", "pod:/data", "--volume-driver=mobyfs", "busybox", "sleep", "100000")
		t.Cleanup(func() { the.On(t, away.name, "docker", "rm", "-f", "holder") })
		inUse(t, "pod", away.name)
		fleet.Has(t, on.refuses(t, running("pod", "--rm", "busybox", "true")...), `"pod" is in use on `+away.name, "stop it there")
		fleet.Has(t, on.refuses(t, "volume", "rm", "pod"), `"pod" is in use on `+away.name)
		if out := on.podman(t, "volume", "ls", "--quiet"); !strings.Contains(out, "pod") {
			t.Errorf("Podman forgot a volume that it could not remove; it lists %q", out)
		}
		the.On(t, away.name, "docker", "exec", "holder", "touch", "/data/still-there")
		the.On(t, away.name, "docker", "rm", "-f", "holder")
		if got := on.podman(t, running("pod", "--rm", "busybox", "ls", "/data")...); got != "still-there" {
			t.Errorf("afterwards Podman sees %q", got)
		}
	})
}

// TestC71PodmansMountsAreBalanced: Podman sends the same ID for all its containers and counts them itself. The volume is
// held until its last container ends, and Docker's containers are counted besides.
func TestC71PodmansMountsAreBalanced(t *testing.T) {
	onEach(t, func(t *testing.T, on, _ host) {
		on.withPodman(t)
		on.podman(t, "volume", "create", "--driver", "mobyfs", "pod")
		t.Cleanup(func() { on.podman(t, "volume", "rm", "--force", "pod") })
		inUse(t, "pod", "")
		for i := range 3 {
			first, second := fmt.Sprintf("first-%d", i), fmt.Sprintf("second-%d", i)
			for _, name := range []string{first, second} {
				on.podman(t, running("pod", "-d", "--name", name, "busybox", "sleep", "100000")...)
			}
			the.On(t, on.name, "docker", "run", "-d", "--name", "beside", "-v", "pod:/data", "--volume-driver=mobyfs", "busybox", "sleep", "100000")
			t.Cleanup(func() { the.TryOn(t, on.name, "docker", "rm", "-f", "beside") })
			on.podman(t, "rm", "--force", "--time=0", first)
			the.On(t, on.name, "docker", "rm", "-f", "beside")
			inUse(t, "pod", on.name)
			on.podman(t, "exec", second, "touch", "/data/"+second)
			if r := the.TryOn(t, third, "docker", "run", "--rm", "-v", "pod:/data", "--volume-driver=mobyfs", "busybox", "true"); r.Code == 0 {
				t.Fatal("Podman uses the volume, and another host's Docker got it")
			}
			on.podman(t, "rm", "--force", "--time=0", second)
			inUse(t, "pod", "")
		}
		if got := the.InVolume(t, third, "pod", "ls /data"); got != "second-0\nsecond-1\nsecond-2" {
			t.Errorf("on %s the volume has %q", third, got)
		}
	})
}

// TestC88PodmanIsAnsweredBeforeItGivesUp: also while the control plane is stuck. It shows its user the driver's reason,
// and a mount that came to nothing leaves nothing behind.
func TestC88PodmanIsAnsweredBeforeItGivesUp(t *testing.T) {
	onEach(t, func(t *testing.T, on, _ host) {
		on.withPodman(t)
		on.podman(t, "volume", "create", "--driver", "mobyfs", "pod")
		t.Cleanup(func() { on.podman(t, "volume", "rm", "--force", "pod") })
		t.Cleanup(func() { the.Sh(t, "h1", "systemctl kill --signal=CONT mobyfs-control") })
		the.Sh(t, "h1", "systemctl kill --signal=STOP mobyfs-control")
		for _, args := range [][]string{
			running("pod", "--rm", "busybox", "true"),
			{"volume", "create", "--driver", "mobyfs", "stuck"},
		} {
			began := time.Now()
			said := on.refuses(t, args...)
			t.Logf("answered, all in all, after %.1f s", time.Since(began).Seconds())
			if strings.Contains(said, gaveUp) {
				t.Errorf("podman %s gave up waiting: %s", strings.Join(args, " "), said)
			}
		}
		the.Sh(t, "h1", "systemctl kill --signal=CONT mobyfs-control")
		fleet.Eventually(t, 30*time.Second, func() string {
			r := the.TryOn(t, on.name, append([]string{"podman"}, running("pod", "--rm", "busybox", "true")...)...)
			if r.Code != 0 {
				return r.String()
			}
			return ""
		})
		inUse(t, "pod", "")
		if r := the.Try(t, "volume", "inspect", "stuck"); r.Code == 0 {
			the.Remove(t, "stuck") // control may have heard the call after all; it is a volume like any other
		}
	})
}
