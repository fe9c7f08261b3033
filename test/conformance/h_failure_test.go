package conformance

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs/test/fleet"
)

// monotonic reads a time of a unit, in µs since the host's boot.
func (h *host) monotonic(t *testing.T, unit, what string) int64 {
	t.Helper()
	at, err := strconv.ParseInt(h.sh(t, "systemctl show -p %sTimestampMonotonic --value %s", what, unit), 10, 64)
	if err != nil || at == 0 {
		t.Fatalf("%s: %s of %s: %v %d", h.name, what, unit, err, at)
	}
	return at
}

// boot cuts the power and returns how long dockerd took to start.
func (h *host) boot(t *testing.T) time.Duration {
	t.Helper()
	the.PowerCut(t, h.name)
	fleet.Eventually(t, 90*time.Second, func() string {
		if r := h.try(t, "systemctl is-active docker"); r.Code != 0 {
			return r.String()
		}
		return ""
	})
	return time.Duration(h.monotonic(t, "docker", "ActiveEnter")-h.monotonic(t, "docker", "ExecMainStart")) * time.Microsecond
}

// TestC90RebootWith100Volumes, with the control plane away: compared with a reboot of the same host without volumes.
func TestC90RebootWith100Volumes(t *testing.T) {
	bootstrap(t)
	t.Cleanup(func() {
		the.Sh(t, "h1", "systemctl enable -q mobyfs-control")
		startControl(t)
	})
	the.Sh(t, "h1", "systemctl disable -q mobyfs-control")
	onEach(t, func(t *testing.T, on *host) {
		on.direct(t)
		bare := on.boot(t)
		the.Sh(t, "h1", "systemctl start mobyfs-control")
		startControl(t)
		const make, drop = "for i in $(seq -w 100); do docker volume create -d mobyfs c90-%[1]s-$i; done", "docker volume ls -q | grep c90-%[1]s | xargs -r docker volume rm"
		t.Cleanup(func() {
			startControl(t)
			on.sh(t, drop, on.name)
		})
		on.sh(t, make, on.name)
		the.Sh(t, "h1", "systemctl stop mobyfs-control")
		full := on.boot(t)
		t.Logf("dockerd starts in %v with 100 volumes, in %v without", full, bare)
		if full-bare > 3*time.Second {
			t.Errorf("dockerd starts in %v with 100 volumes, in %v without", full, bare)
		}
		if agent, dockerd := on.monotonic(t, "mobyfs", "ActiveEnter"), on.monotonic(t, "docker", "ExecMainStart"); agent > dockerd {
			t.Errorf("the agent was ready %d µs after dockerd's start", agent-dockerd)
		}
		if got := strings.Count(strings.Join(on.names(t), " "), "c90-"+on.name); got != 100 {
			t.Errorf("Docker lists %d volumes, want 100", got)
		}
	})
}

// TestC93StrandedContainerIsStartedOnce: dockerd starts it when the driver is not there, and does not try again.
func TestC93StrandedContainerIsStartedOnce(t *testing.T) {
	onBoth(t, func(t *testing.T, on *host) {
		on.direct(t)
		stranded, stopped := on.volume(t, "c93"), on.volume(t, "c93s")
		on.start(t, stranded, stranded, "--restart=always")
		on.start(t, stopped, stopped, "--restart=unless-stopped")
		on.docker(t, "stop", "-t", "1", stopped)
		back := func() {
			on.sh(t, "rm -rf /run/systemd/system/mobyfs.*.d; systemctl daemon-reload; systemctl start mobyfs.socket mobyfs")
		}
		t.Cleanup(back)
		on.sh(t, forgetStarts+`systemctl stop docker.socket docker mobyfs mobyfs.socket; rm -f %s
			for unit in mobyfs.socket mobyfs.service; do
				mkdir -p /run/systemd/system/$unit.d; printf '[Unit]\nConditionPathExists=/run/never\n' > /run/systemd/system/$unit.d/never.conf
			done
			systemctl daemon-reload; systemctl start docker`, socket)
		on.dockerdIsUp(t)
		mustBe(t, "without the driver the container is", on.docker(t, "inspect", stranded, "--format", "{{.State.Status}}"), "exited")
		back()
		fleet.Eventually(t, 60*time.Second, func() string { return on.started(t, stranded, 2) })
		on.sh(t, "sleep 5")
		mustBe(t, "five seconds later", on.started(t, stranded, 2), "")
		mustBe(t, "the one that was stopped is", on.docker(t, "inspect", stopped, "--format", "{{.State.Status}}"), "exited")
	})
}

// TestC94CrashLoopAttachesOnceInTheGracePeriod: the container ends after 0.1 s, and Docker waits 0.1, 0.2, 0.4 … s.
func TestC94CrashLoopAttachesOnceInTheGracePeriod(t *testing.T) {
	onBoth(t, func(t *testing.T, on *host) {
		on.record(t)
		volume := on.volume(t, "c94")
		on.docker(t, "run", "-d", "--name", volume, "--restart=always", "-v", volume+":/data", "--volume-driver=mobyfs", "busybox", "sh", "-c", "sleep 0.1; exit 1")
		on.sh(t, "sleep 8")
		mounts := strings.Count(on.changes(t, volume), "Unmount")
		if attached := on.attached(t, volume); mounts < 3 || attached != 1 {
			t.Errorf("in %d rounds within 8 s the volume was attached %d times, want once", mounts, attached)
		}
		on.docker(t, "rm", "-f", volume)
		on.noUses(t, volume)
	})
}

// TestC95ShutdownWith50Containers: dockerd has 15 s for it.
func TestC95ShutdownWith50Containers(t *testing.T) {
	onEach(t, func(t *testing.T, on *host) {
		on.record(t)
		t.Cleanup(func() {
			on.sh(t, "docker ps -aq | xargs -r docker rm -f; docker volume ls -q | grep c95 | xargs -r docker volume rm")
		})
		on.sh(t, `for i in $(seq -w 50); do
			docker run -d -v c95-%s-$i:/data --network none --volume-driver=mobyfs busybox sh -c 'trap "exit 0" TERM; while :; do sleep 0.5; done'
			done`, on.name)
		start := time.Now()
		on.sh(t, forgetStarts+"systemctl stop docker.socket docker")
		t.Logf("dockerd ended in %v", time.Since(start))
		last := map[string]call{}
		for _, c := range on.recorded(t) {
			if strings.HasPrefix(c.Name, "c95-"+on.name) {
				last[c.Name] = c
			}
		}
		for name, c := range last {
			if c.Call != "Unmount" || c.Err != "" || c.Status != 200 {
				t.Errorf("%s: the last call was %+v", name, c)
			}
		}
		if len(last) != 50 {
			t.Errorf("Docker used %d volumes, want 50", len(last))
		}
		mustBe(t, "uses counted", on.sh(t, `grep -c '"uses":{"' /var/lib/mobyfs/state/mounts.json || true`), "0")
		on.sh(t, "systemctl start docker")
		on.dockerdIsUp(t)
	})
}

// TestC96FullAndReadOnlyDiskLoseNothing: the agent's state is on a file system of its own that is filled, and then
// can't be written at all.
func TestC96FullAndReadOnlyDiskLoseNothing(t *testing.T) {
	const state = "/var/lib/mobyfs/state"
	onBoth(t, func(t *testing.T, on *host) {
		volume, another := on.volume(t, "c96"), on.volume(t, "c96n")
		on.docker(t, "volume", "create", "-d", "mobyfs", "--label", "keep=yes", volume)
		on.start(t, volume, volume)
		t.Cleanup(func() {
			on.sh(t, `systemctl stop mobyfs; mount -o remount,rw %[1]s; rm -f %[1]s/filler; rm -rf /run/kept; cp -a %[1]s /run/kept
				umount %[1]s; cp -a /run/kept/. %[1]s/; systemctl start mobyfs`, state)
		})
		on.sh(t, `systemctl stop mobyfs; rm -rf /run/state; cp -a %[1]s /run/state; mount -t tmpfs -o size=2m tmpfs %[1]s
			cp -a /run/state/. %[1]s/; systemctl start mobyfs`, state)
		for _, trouble := range []struct{ begin, end string }{
			{"head -c 4m /dev/zero > %[1]s/filler 2>/dev/null; true", "rm %[1]s/filler"},
			{"mount -o remount,ro %[1]s", "mount -o remount,rw %[1]s"},
		} {
			on.sh(t, trouble.begin, state)
			r := on.tryDocker(t, "run", "--rm", "-v", another+":/data", "--volume-driver=mobyfs", "busybox", "true")
			if r.Code == 0 {
				t.Errorf("%s: a use was promised that can't be written down", trouble.begin)
			}
			fleet.Has(t, r.Stderr, "disk")
			mustBe(t, "Docker's label", label(t, on, volume), "yes")
			mustBe(t, "the container", on.started(t, volume, 1), "")
			on.sh(t, trouble.end, state)
		}
		on.hasUses(t, volume, 1)
		refusedOn(t, other, volume)
		fleet.Eventually(t, 60*time.Second, func() string {
			return on.tryDocker(t, "run", "--rm", "-v", another+":/data", "--volume-driver=mobyfs", "busybox", "true").Stderr
		})
		on.docker(t, "rm", "-f", volume)
		on.noUses(t, volume)
	})
}
