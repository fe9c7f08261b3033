package backendtest

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs/backend"
)

// EndLife does what an agent does that begins after a crash at a moment: it attaches each volume, whose file holds "new" once
// one was adopted at fence 3, and lets each look at it further; then it removes all that is there, for good.
func EndLife(t *testing.T, moment string, b backend.Backend, each func(h backend.Held, at string)) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	ctx := t.Context()
	held, staged, err := b.List(ctx)
	must(err)
	for _, h := range held {
		at, err := b.Attach(ctx, h.ID, h.Fence+10)
		if err != nil {
			t.Errorf("%s: attach: %v", moment, err)
			continue
		}
		if got, err := os.ReadFile(filepath.Join(at, "file")); h.Fence >= 3 && string(got) != "new" {
			t.Errorf("%s: at fence %d it holds %q, %v", moment, h.Fence, got, err)
		}
		each(h, at)
		must(b.Remove(ctx, h.ID, h.Fence+10))
	}
	for _, s := range staged {
		must(b.Discard(ctx, s.Migration))
	}
	must(b.Purge(ctx, time.Now().Add(time.Hour)))
}
