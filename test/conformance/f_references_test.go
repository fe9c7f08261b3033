package conformance

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs/test/fleet"
)

// refusedOn fails unless another host is refused the volume.
func refusedOn(t *testing.T, host, volume string) {
	t.Helper()
	if r := the.TryOn(t, host, "docker", "run", "--rm", "-v", volume+":/data", "--volume-driver=mobyfs", "busybox", "true"); r.Code == 0 {
		t.Errorf("%s could use %s, which is in use elsewhere", host, volume)
	}
}

// killDockerd ends dockerd without a word and waits until the next one answers.
func (h *host) killDockerd(t *testing.T) {
	t.Helper()
	h.sh(t, forgetStarts+"kill -9 $(systemctl show -p MainPID --value docker)")
	h.dockerdIsUp(t)
}

// forgetStarts goes before what starts dockerd anew: after three starts in a minute systemd would leave it alone.
const forgetStarts = "systemctl reset-failed docker docker.socket; "

func (h *host) restartDockerd(t *testing.T) {
	t.Helper()
	h.sh(t, forgetStarts+"systemctl restart docker")
	h.dockerdIsUp(t)
}

func (h *host) dockerdIsUp(t *testing.T) {
	t.Helper()
	fleet.Eventually(t, 90*time.Second, func() string {
		if r := h.tryDocker(t, "ps"); r.Code != 0 {
			return r.String()
		}
		return ""
	})
}

func TestC69CountsArePerID(t *testing.T) {
	onBoth(t, func(t *testing.T, on *host) {
		volume := on.volume(t, "c69")
		on.do(t, "Create", "Name", volume)
		on.do(t, "Mount", "Name", volume, "ID", "one")
		on.do(t, "Mount", "Name", volume, "ID", "one")
		on.do(t, "Unmount", "Name", volume, "ID", "one")
		on.hasUses(t, volume, 1)
		refusedOn(t, other, volume)
		on.do(t, "Unmount", "Name", volume, "ID", "one")
		on.noUses(t, volume)
		the.InVolume(t, other, volume, "true")
	})
}

func TestC70UnmountOfWhatIsNotMountedSucceeds(t *testing.T) {
	onBoth(t, func(t *testing.T, on *host) {
		volume := on.volume(t, "c70")
		on.do(t, "Unmount", "Name", volume, "ID", "one")
		on.do(t, "Create", "Name", volume)
		on.do(t, "Unmount", "Name", volume, "ID", "one")
		on.do(t, "Unmount", "Name", volume, "ID", "one")
		on.hasUses(t, volume, 0)
		on.do(t, "Mount", "Name", volume, "ID", "one") // which those before don't make up for
		on.hasUses(t, volume, 1)
		on.do(t, "Unmount", "Name", volume, "ID", "two")
		on.hasUses(t, volume, 1)
		on.do(t, "Unmount", "Name", volume, "ID", "one")
		on.hasUses(t, volume, 0)
	})
}

func TestC71MountWithoutAnIDAndWithPodmansIsBalanced(t *testing.T) {
	onBoth(t, func(t *testing.T, on *host) {
		volume := on.volume(t, "c71")
		on.do(t, "Create", "Name", volume)
		for _, id := range []string{"", strings.Repeat("0", 64)} {
			call := func(name string) {
				body := args("Name", volume, "ID", id)
				if id == "" {
					body = args("Name", volume)
				}
				on.wire(t, 1, asPodman("VolumeDriver."+name, body))[0].succeeded(t)
			}
			call("Mount")
			on.hasUses(t, volume, 1)
			call("Unmount")
			on.hasUses(t, volume, 0)
		}
	})
}

func TestC72DockerdKilledAndTheContainerStartedAgain(t *testing.T) {
	onBoth(t, func(t *testing.T, on *host) {
		on.record(t)
		volume := on.volume(t, "c72")
		on.start(t, volume, volume)
		on.killDockerd(t)
		on.docker(t, "start", volume)
		on.hasUses(t, volume, 1)
		on.docker(t, "stop", volume)
		on.noUses(t, volume)
		mustBe(t, "its calls", on.changes(t, volume), "Create Mount Mount Unmount")
	})
}

func TestC73DockerdKilledAndTheContainerRemoved(t *testing.T) {
	onBoth(t, func(t *testing.T, on *host) {
		volume := on.volume(t, "c73")
		on.start(t, volume, volume)
		on.killDockerd(t)
		on.docker(t, "rm", "-f", volume)
		on.noUses(t, volume)
	})
}

func TestC74DockerdKilledUnderAContainerThatGoesByItself(t *testing.T) {
	onBoth(t, func(t *testing.T, on *host) {
		volume := on.volume(t, "c74")
		on.start(t, volume, volume, "--rm")
		on.killDockerd(t)
		on.noUses(t, volume)
		if r := on.tryDocker(t, "container", "inspect", volume); r.Code == 0 {
			t.Error("the container is still there")
		}
	})
}

// TestC75PowerCut: a container that is to run always has its data, and one that is not does not hold its volume.
func TestC75PowerCut(t *testing.T) {
	onBoth(t, func(t *testing.T, on *host) {
		on.direct(t)
		always, once := on.volume(t, "c75a"), on.volume(t, "c75o")
		on.start(t, always, always, "--restart=always")
		on.start(t, once, once)
		on.sh(t, "sync")
		the.PowerCut(t, on.name)
		fleet.Eventually(t, 90*time.Second, func() string { return on.started(t, always, 2) })
		on.noUses(t, once)
		on.hasUses(t, always, 1)
		on.docker(t, "rm", "-f", always)
		on.noUses(t, always)
	})
}

// liveRestore makes dockerd leave containers alone when it ends, until the test is over.
func (h *host) liveRestore(t *testing.T) {
	t.Helper()
	t.Cleanup(func() { h.sh(t, "rm -f /etc/docker/daemon.json; systemctl reload docker") })
	h.sh(t, `echo '{"live-restore": true}' > /etc/docker/daemon.json; systemctl reload docker`)
	fleet.Eventually(t, 60*time.Second, func() string {
		if got := h.docker(t, "info", "--format", "{{.LiveRestoreEnabled}}"); got != "true" {
			return "live-restore is " + got
		}
		return ""
	})
}

func TestC76LiveRestoreLeavesTheCountsAlone(t *testing.T) {
	onBoth(t, func(t *testing.T, on *host) {
		volume := on.volume(t, "c76")
		on.liveRestore(t)
		on.start(t, volume, volume)
		before := fmt.Sprint(on.uses(t, volume))
		pid := on.docker(t, "inspect", volume, "--format", "{{.State.Pid}}")
		on.restartDockerd(t)
		on.sh(t, "sleep 20") // longer than counts are believed without a proof
		mustBe(t, "the count", fmt.Sprint(on.uses(t, volume)), before)
		mustBe(t, "the container's process", on.docker(t, "inspect", volume, "--format", "{{.State.Pid}}"), pid)
		refusedOn(t, other, volume)
		// Docker 20.10 forgets the use with cp, and for us it ends there too; the kernel knows better.
		on.docker(t, "cp", "/etc/hostname", volume+":/data/copied")
		on.sh(t, "sleep 7")
		refusedOn(t, other, volume)
		on.docker(t, "stop", volume)
		on.noUses(t, volume)
	})
}

func TestC77ContainerDiesWhileDockerdIsDown(t *testing.T) {
	onBoth(t, func(t *testing.T, on *host) {
		volume := on.volume(t, "c77")
		on.liveRestore(t)
		on.start(t, volume, volume)
		pid := on.docker(t, "inspect", volume, "--format", "{{.State.Pid}}")
		on.sh(t, forgetStarts+"systemctl stop docker.socket docker; kill -9 %s; systemctl start docker", pid)
		on.dockerdIsUp(t)
		on.noUses(t, volume)
	})
}

func TestC78AgentIsDownWhileTheContainerStops(t *testing.T) {
	onBoth(t, func(t *testing.T, on *host) {
		volume := on.volume(t, "c78")
		on.start(t, volume, volume)
		on.sh(t, "systemctl stop mobyfs mobyfs.socket")
		on.docker(t, "stop", "-t", "1", volume)
		on.sh(t, "systemctl start mobyfs.socket mobyfs")
		on.noUses(t, volume)
	})
}

// TestC79UnmountWhileTheKernelShowsAUser: as Docker 20.10 sends it too early, or somebody by mistake.
func TestC79UnmountWhileTheKernelShowsAUser(t *testing.T) {
	onBoth(t, func(t *testing.T, on *host) {
		volume := on.volume(t, "c79")
		on.start(t, volume, volume)
		for id := range on.uses(t, volume) {
			on.do(t, "Unmount", "Name", volume, "ID", id)
		}
		on.sh(t, "sleep 12") // longer than an unused lease lingers
		if v := the.Volume(t, volume); v.Lease == nil || v.Lease.Node != on.name {
			t.Errorf("the lease left a host that uses the volume: %+v", v)
		}
		refusedOn(t, other, volume)
		if r := the.Try(t, "volume", "move", volume, "--to", other); r.Code == 0 {
			t.Error("the volume was moved from under its container")
		}
		if problem := fmt.Sprint(the.Inspect(t, on.name, volume).Status["problem"]); !strings.Contains(problem, "use") {
			t.Errorf("docker volume inspect shows the problem %q", problem)
		}
		mustBe(t, "the data", on.started(t, volume, 1), "")
		on.docker(t, "rm", "-f", volume)
		on.noUses(t, volume)
	})
}

// TestC80OpenFileStopsARemove: of a process on the host, which has the volume mounted nowhere.
func TestC80OpenFileStopsARemove(t *testing.T) {
	onBoth(t, func(t *testing.T, on *host) {
		volume := on.volume(t, "c80")
		on.run(t, volume, "echo precious > /data/x")
		free(t, volume)
		path := the.Inspect(t, on.name, volume).Mountpoint
		t.Cleanup(func() { on.sh(t, "systemctl stop holder 2>/dev/null || true") })
		on.sh(t, "systemd-run -q --unit=holder sh -c 'exec 3<%s/x; exec sleep 100000'; sleep 0.5", path)
		fleet.Has(t, on.refused(t, "Remove", "Name", volume), volume, on.name, "sleep")
		if r := the.Try(t, "volume", "move", volume, "--to", other); r.Code == 0 {
			t.Error("a volume with an open file was moved")
		}
		mustBe(t, "the data", on.sh(t, "cat %s/x", path), "precious")
		on.sh(t, "systemctl stop holder")
		on.docker(t, "volume", "rm", volume)
	})
}
