package conformance

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs/test/fleet"
)

func TestC11EmptyBodyIsRefusedAndCountsNothing(t *testing.T) {
	onBoth(t, func(t *testing.T, on *host) {
		on.direct(t)
		volume := on.volume(t, "c11")
		on.do(t, "Create", "Name", volume)
		on.do(t, "Mount", "Name", volume, "ID", "one")
		for _, call := range []string{"Create", "Mount", "Unmount", "Remove"} {
			for _, body := range []string{"", "\n"} {
				s := on.wire(t, 1, on.asDocker("VolumeDriver."+call, body))[0]
				if s.Status != 200 || *s.answer(t).Err == "" || s.Took > 1000 {
					t.Errorf("%s %q: got %+v", call, body, s)
				}
			}
		}
		if got := on.uses(t, volume); len(got) != 1 || got["one"] != 1 {
			t.Errorf("counted are %v, want one", got)
		}
		if strings.Contains(list(t), `"name": ""`) {
			t.Error("there is a volume without a name")
		}
		on.do(t, "Unmount", "Name", volume, "ID", "one")
	})
}

func TestC12EmptyBodyOnGetAndPathIsCut(t *testing.T) {
	onBoth(t, func(t *testing.T, on *host) {
		on.direct(t)
		for _, s := range on.wire(t, 1, on.asDocker("VolumeDriver.Get", ""), on.asDocker("VolumeDriver.Path", ""), on.asDocker("VolumeDriver.Get", "\n"), asPodman("VolumeDriver.Get", "")) {
			if s.Bytes != 0 || s.Failed == "" {
				t.Errorf("got %+v, want not a byte", s)
			}
		}
	})
}

func TestC13CreateAgainAfterTheAnswerWasLost(t *testing.T) {
	onBoth(t, func(t *testing.T, on *host) {
		on.direct(t)
		volume := on.volume(t, "c13")
		create := on.asDocker("VolumeDriver.Create", args("Name", volume, "Opts", map[string]string{"size": "5MiB"}))
		on.wire(t, 1, create.leave(2000)) // the work is done, and the answer is not read
		if !exists(t, volume) {
			t.Fatal("after 2 s there is no volume")
		}
		on.wire(t, 1, create)[0].succeeded(t)
		if n := strings.Count(list(t), `"`+volume+`"`); n != 1 {
			t.Errorf("there are %d volumes, want 1", n)
		}
	})
}

func TestC14MountWhoseCallerIsGoneIsTakenBack(t *testing.T) {
	onBoth(t, func(t *testing.T, on *host) {
		on.direct(t)
		volume := on.volume(t, "c14")
		on.do(t, "Create", "Name", volume)
		for i := range 20 {
			on.wire(t, 1, on.asDocker("VolumeDriver.Mount", args("Name", volume, "ID", fmt.Sprint("gone-", i))).leave(0))
		}
		fleet.Eventually(t, 2*time.Second, func() string {
			if uses := on.uses(t, volume); len(uses) > 0 {
				return fmt.Sprintf("counted are %v", uses)
			}
			return ""
		})
		free(t, volume)
	})
}

// TestC15NoCallOfAKeptConnectionArrivesEmpty: a call that breaks in transit is what Docker repeats without its body.
func TestC15NoCallOfAKeptConnectionArrivesEmpty(t *testing.T) {
	calls := 1000
	if *long {
		calls = 10_000
	}
	onBoth(t, func(t *testing.T, on *host) {
		on.direct(t)
		volume := on.volume(t, "c15")
		on.do(t, "Create", "Name", volume)
		mustBe(t, "the client made", on.sh(t, "hosttool pace %s %s %d", socket, volume, calls), fmt.Sprint(calls, " calls"))
	})
}

// TestC17KilledInTheMiddleOfAMount: whether the use was written down or not, the next Mount of that ID makes it one.
func TestC17KilledInTheMiddleOfAMount(t *testing.T) {
	bootstrap(t)
	t.Cleanup(func() { the.UseBinaries(t, "bin") })
	the.UseBinaries(t, "bin-failpoints")
	onBoth(t, func(t *testing.T, on *host) {
		on.direct(t)
		volume := on.volume(t, "c17")
		on.do(t, "Create", "Name", volume)
		mount := on.asDocker("VolumeDriver.Mount", args("Name", volume, "ID", "one"))
		for _, moment := range []string{"agent.mounts.before", "agent.mounts.after"} {
			on.sh(t, "echo %s > /run/mobyfs.kill-at", moment)
			if s := on.wire(t, 1, mount)[0]; s.Status != 0 {
				t.Errorf("%s: the Mount was answered: %+v", moment, s)
			}
			on.wire(t, 1, mount)[0].succeeded(t)
			if uses := on.uses(t, volume); len(uses) != 1 || uses["one"] != 1 {
				t.Errorf("%s: counted are %v, want one once", moment, uses)
			}
			on.do(t, "Unmount", "Name", volume, "ID", "one")
			on.hasUses(t, volume, 0)
		}
	})
}
