package conformance

import (
	"slices"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs/test/fleet"
)

// TestC24OnlyDockersActivateIsANewLife: what dockerd counted twice is at most one use for the next dockerd.
func TestC24OnlyDockersActivateIsANewLife(t *testing.T) {
	onBoth(t, func(t *testing.T, on *host) {
		on.direct(t)
		volume := on.volume(t, "c24")
		on.start(t, volume, volume)
		var id string
		for id = range on.uses(t, volume) {
			on.do(t, "Mount", "Name", volume, "ID", id)
		}
		on.wire(t, 1, asPodman("Plugin.Activate", ""))[0].succeeded(t)
		if got := on.uses(t, volume)[id]; got != 2 {
			t.Errorf("after Podman's Activate the use is counted %d times, want 2", got)
		}
		on.killDockerd(t)
		on.docker(t, "volume", "ls")
		fleet.Eventually(t, time.Minute, func() string {
			if on.uses(t, volume)[id] > 1 {
				return "after a new dockerd's Activate the use is still counted twice"
			}
			return ""
		})
	})
}

func TestC26CapabilitiesAreGlobalAndQuick(t *testing.T) {
	onBoth(t, func(t *testing.T, on *host) {
		on.direct(t)
		best := time.Minute
		for range 3 {
			last := 0
			for _, s := range on.wire(t, 50, slices.Repeat([]request{on.asDocker("VolumeDriver.Capabilities", "{}")}, 1000)...) {
				if a := s.answer(t); s.Status != 200 || a.Capabilities.Scope != "global" {
					t.Errorf("got %+v", s)
				}
				last = max(last, s.Began+s.Took)
			}
			best = min(best, time.Duration(last)*time.Millisecond)
		}
		if best >= time.Second {
			t.Errorf("1000 calls took %v", best)
		}
	})
}
