package agent

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs"
)

// TestC96MountIsToldOfTheDiskThatHoldsTheReleaseUp: nobody is kept waiting for a volume that can't come.
func TestC96MountIsToldOfTheDiskThatHoldsTheReleaseUp(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, "h1")
		h1 := r.nodes["h1"]
		h1.create("pgdata", nil)
		h1.mount("pgdata", "a")
		state := filepath.Join(h1.root, "state")
		if err := os.Rename(state, state+".away"); err != nil {
			t.Fatal(err)
		}
		if err := h1.agent.Unmount(t.Context(), "pgdata", "a"); err == nil {
			t.Error("an Unmount that can't be written down succeeded")
		}
		settled()
		start := time.Now()
		_, err := h1.agent.Mount(t.Context(), "pgdata", "b")
		wantCode(t, err, mobyfs.CodeInternal, `"pgdata"`)
		if hint := mobyfs.HintOf(err); hint != "check the disk of this host" {
			t.Errorf("the way out is %q", hint)
		}
		if took := time.Since(start); took > controlPatience {
			t.Errorf("it took %v", took)
		}
		if err := os.Rename(state+".away", state); err != nil {
			t.Fatal(err)
		}
		pass(time.Minute)
		h1.mount("pgdata", "c")
	})
}
