package agent

import (
	"errors"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs"
)

// TestUndeletedVolumeHasItsBytesAgain also is about a control that can't be told at first, and an agent that begins anew.
func TestUndeletedVolumeHasItsBytesAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, "h1", "h2")
		h1, h2 := r.nodes["h1"], r.nodes["h2"]
		h1.create("pgdata", nil)
		write(t, h1.mount("pgdata", "a"), "rows", "1,2,3")
		h1.unmount("pgdata", "a")
		settled()
		if err := h1.agent.Remove(t.Context(), "pgdata"); err != nil {
			t.Fatal(err)
		}
		pass(5 * time.Second)
		h1.create("pgdata", nil) // another volume has the name for a while
		if err := h1.agent.Remove(t.Context(), "pgdata"); err != nil {
			t.Fatal(err)
		}
		pass(5 * time.Second)
		h1.create("shop", nil)
		write(t, h1.mount("shop", "a"), "rows", "4,5,6")
		h1.unmount("shop", "a")
		if err := h1.agent.Remove(t.Context(), "shop"); err != nil {
			t.Fatal(err)
		}
		pass(5 * time.Second)
		lost := false
		r.cluster.hook(func(_, call string) error {
			if call == "Created" && !lost {
				lost = true
				return errors.New("the connection was lost")
			}
			return nil
		}, nil)
		r.cluster.undelete("shop")
		settled()
		h1.restart()
		pass(time.Minute)
		if v := r.cluster.volume("shop"); v.Returning() || !lost {
			t.Errorf("got %+v; the connection was lost: %v", v, lost)
		}
		if got := read(t, h2.mount("shop", "b"), "rows"); got != "4,5,6" {
			t.Errorf("on the other node it holds %q", got)
		}
	})
}

func TestVolumeThatTheTrashHasNoMoreIsGoneAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, "h1")
		h1 := r.nodes["h1"]
		h1.create("pgdata", nil)
		if err := h1.agent.Remove(t.Context(), "pgdata"); err != nil {
			t.Fatal(err)
		}
		pass(2 * time.Hour)
		r.cluster.undelete("pgdata")
		pass(time.Minute)
		if v := r.cluster.volume("pgdata"); v.ID != "" {
			t.Errorf("control has %+v", v)
		}
		if _, err := h1.agent.Get(t.Context(), "pgdata"); mobyfs.CodeOf(err) != mobyfs.CodeNotFound {
			t.Errorf("got %v, want CodeNotFound", err)
		}
	})
}
