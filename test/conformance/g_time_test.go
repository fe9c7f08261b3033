package conformance

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs/test/fleet"
)

// faraway makes a volume for each engine that is on another host, from which nothing comes until arrive is called.
func faraway(t *testing.T, prefix string) (volumes map[string]string, arrive func()) {
	t.Helper()
	bootstrap(t)
	volumes = map[string]string{}
	for _, on := range engines {
		volumes[on.name] = on.volume(t, prefix)
		the.InVolume(t, other, volumes[on.name], "echo far away > /data/x")
		free(t, volumes[on.name])
	}
	the.Sh(t, other, "iptables -I INPUT -p tcp --dport 8080 -j DROP")
	arrive = sync.OnceFunc(func() { the.Sh(t, other, "iptables -D INPUT -p tcp --dport 8080 -j DROP") })
	t.Cleanup(arrive)
	return volumes, arrive
}

func (h *host) mountOf(volume, id string) request {
	return h.asDocker("VolumeDriver.Mount", args("Name", volume, "ID", id))
}

// TestC37SlowMountHoldsNobodyUp, and neither does it another volume.
func TestC37SlowMountHoldsNobodyUp(t *testing.T) {
	volumes, _ := faraway(t, "c37")
	onBoth(t, func(t *testing.T, on *host) {
		requests := []request{on.mountOf(volumes[on.name], "x").leave(4000)}
		for i := range 12 {
			call := []string{"Get", "List", "Capabilities", "Path"}[i%4]
			r := on.asDocker("VolumeDriver."+call, args("Name", volumes[on.name]))
			r.Wait = 1000 + 200*i
			requests = append(requests, r)
		}
		answers := on.wire(t, len(requests), requests...)[1:]
		for i, s := range answers {
			s.succeeded(t)
			if s.Took >= 1000 {
				t.Errorf("call %d took %d ms", i, s.Took)
			}
		}
		if took := usual(answers); took >= 100 {
			t.Errorf("calls take %d ms", took)
		}
	})
}

func TestC84VolumesDontWaitForEachOther(t *testing.T) {
	volumes, _ := faraway(t, "c84")
	onBoth(t, func(t *testing.T, on *host) {
		near := on.volume(t, "c84n")
		on.do(t, "Create", "Name", near)
		mount := on.mountOf(near, "y")
		mount.Wait = 1000
		s := on.wire(t, 2, on.mountOf(volumes[on.name], "x").leave(3000), mount)[1]
		s.succeeded(t)
		if s.Took >= 1000 {
			t.Errorf("the Mount of another volume took %d ms", s.Took)
		}
		on.do(t, "Unmount", "Name", near, "ID", "y")
	})
}

// TestC85MountThatTakesLongSaysHowFarItIs, while Docker still waits, which it does for 120 s.
func TestC85MountThatTakesLongSaysHowFarItIs(t *testing.T) {
	volumes, arrive := faraway(t, "c85")
	t.Run("away", func(t *testing.T) {
		onBoth(t, func(t *testing.T, on *host) {
			volume := volumes[on.name]
			s := on.wire(t, 1, on.mountOf(volume, "x"))[0]
			if s.Status != 200 || s.Took >= 110_000 {
				t.Errorf("got %+v, want an error before 110 s", s)
			}
			fleet.Has(t, *s.answer(t).Err, volume, other)
			on.hasUses(t, volume, 0)
		})
	})
	arrive()
	t.Run("back", func(t *testing.T) {
		onBoth(t, func(t *testing.T, on *host) {
			mustBe(t, "once it can be had", on.run(t, volumes[on.name], "cat /data/x"), "far away")
		})
	})
}

// TestC86MountThatDockerGaveUpOnLeavesNothing: it gives up after 120 s, and here after one.
func TestC86MountThatDockerGaveUpOnLeavesNothing(t *testing.T) {
	volumes, arrive := faraway(t, "c86")
	t.Run("away", func(t *testing.T) {
		onBoth(t, func(t *testing.T, on *host) {
			on.wire(t, 1, on.mountOf(volumes[on.name], "x").leave(1000))
			fleet.Eventually(t, 2*time.Second, func() string {
				if uses := on.uses(t, volumes[on.name]); len(uses) > 0 {
					return fmt.Sprintf("counted are %v", uses)
				}
				return ""
			})
		})
	})
	arrive()
	t.Run("back", func(t *testing.T) {
		onBoth(t, func(t *testing.T, on *host) {
			on.noUses(t, volumes[on.name])
			mustBe(t, "the data", on.run(t, volumes[on.name], "cat /data/x"), "far away")
		})
	})
}

func TestC87UnmountDoesNotWaitForControl(t *testing.T) {
	bootstrap(t)
	volumes := map[string]string{}
	for _, on := range engines {
		volumes[on.name] = on.volume(t, "c87")
		on.do(t, "Create", "Name", volumes[on.name])
		on.do(t, "Mount", "Name", volumes[on.name], "ID", "x")
	}
	withoutControl(t)
	onBoth(t, func(t *testing.T, on *host) {
		s := on.wire(t, 1, on.asDocker("VolumeDriver.Unmount", args("Name", volumes[on.name], "ID", "x")))[0]
		s.succeeded(t)
		if s.Took >= 5000 {
			t.Errorf("it took %d ms", s.Took)
		}
		on.hasUses(t, volumes[on.name], 0)
	})
}

// TestC88PodmanIsAnsweredInItsTime, which is 5 s for everything.
func TestC88PodmanIsAnsweredInItsTime(t *testing.T) {
	volumes, _ := faraway(t, "c88")
	onBoth(t, func(t *testing.T, on *host) {
		s := on.wire(t, 1, asPodman("VolumeDriver.Mount", args("Name", volumes[on.name], "ID", "x")))[0]
		if s.Status != 500 || s.Took > 4700 {
			t.Errorf("got %+v, want an error within 4.5 s", s)
		}
		fleet.Has(t, *s.answer(t).Err, volumes[on.name])
	})
}

// TestC89ProgressOfASlowMountCanBeSeen: docker inspect of the container can't, for Docker holds its lock.
func TestC89ProgressOfASlowMountCanBeSeen(t *testing.T) {
	volumes, _ := faraway(t, "c89")
	onBoth(t, func(t *testing.T, on *host) {
		volume := volumes[on.name]
		on.docker(t, "create", "--name", volume, "-v", volume+":/data:nocopy", "--volume-driver=mobyfs", "busybox", "true")
		on.sh(t, "(timeout -s KILL 100 docker start %s >/dev/null 2>&1 &) ; sleep 2", volume)
		if moving := the.Inspect(t, on.name, volume).Status["moving"]; moving != other+" to "+on.name {
			t.Errorf("the status shows moving = %v", moving)
		}
		start := time.Now()
		on.docker(t, "ps")
		if took := time.Since(start); took > 3*time.Second {
			t.Errorf("docker ps took %v", took)
		}
		if r := on.try(t, "timeout 3 docker inspect %s >/dev/null", volume); r.Code == 124 {
			t.Log("docker inspect of the container waits for the Mount")
		}
	})
}

func TestC82ParallelMountsAreOneAttach(t *testing.T) {
	onBoth(t, func(t *testing.T, on *host) {
		volume := on.volume(t, "c82")
		on.do(t, "Create", "Name", volume)
		var mounts, unmounts []request
		for i := range 50 {
			mounts = append(mounts, on.mountOf(volume, fmt.Sprint("id-", i)))
			unmounts = append(unmounts, on.asDocker("VolumeDriver.Unmount", args("Name", volume, "ID", fmt.Sprint("id-", i))))
		}
		for _, s := range on.wire(t, 50, mounts...) {
			s.succeeded(t)
		}
		on.hasUses(t, volume, 50)
		if n := on.attached(t, volume); n != 1 {
			t.Errorf("it was attached %d times", n)
		}
		for _, s := range on.wire(t, 50, unmounts...) {
			s.succeeded(t)
		}
		on.noUses(t, volume)
	})
}

// attached tells how often a volume was attached on the host.
func (h *host) attached(t *testing.T, volume string) int {
	t.Helper()
	return strings.Count(h.sh(t, "journalctl -u mobyfs --no-pager | grep 'msg=attached' || true"), "name="+volume+" ")
}

// TestC83CallsAtRandomLeakNothing: 8 at a time, in no order, on one volume.
func TestC83CallsAtRandomLeakNothing(t *testing.T) {
	rounds := 1000
	if *long {
		rounds = 10_000
	}
	onBoth(t, func(t *testing.T, on *host) {
		volume := on.volume(t, "c83")
		rng := rand.New(rand.NewPCG(83, 1))
		var requests []request
		for range rounds {
			call := []string{"Create", "Mount", "Mount", "Unmount", "Unmount", "Get", "Remove"}[rng.IntN(7)]
			requests = append(requests, on.asDocker("VolumeDriver."+call, args("Name", volume, "ID", fmt.Sprint("id-", rng.IntN(4)))))
		}
		slowest, refused := 0, 0
		for _, s := range on.wire(t, 8, requests...) {
			if *s.answer(t).Err != "" {
				refused++
			}
			slowest = max(slowest, s.Took)
		}
		t.Logf("%d calls, %d refused, the slowest took %d ms", rounds, refused, slowest)
		if slowest > 30_000 {
			t.Errorf("a call took %d ms", slowest)
		}
		fleet.Eventually(t, 60*time.Second, func() string { // counts that nobody stands behind don't stop a Remove
			if a := on.ask(t, "VolumeDriver.Remove", args("Name", volume)); *a.Err != "" {
				return *a.Err
			}
			return ""
		})
		on.hasUses(t, volume, 0)
		if exists(t, volume) {
			t.Error("the volume is still there")
		}
		mustBe(t, "a new volume of that name", on.run(t, volume, "ls -A /data"), "")
	})
}
