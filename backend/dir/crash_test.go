package dir

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/failpoint/killtest"
)

// life makes a volume, lets it leave and come back over its own older bytes, and removes it: every change that
// this package makes on disk happens once. Each step may be repeated from the start of the life, as an agent does
// after a restart; check is told what must be true after it.
func life(ctx context.Context, b *Backend, check func(step string, err error)) {
	check("create", b.Create(ctx, vol, mobyfs.VolumeSpec{}))
	if path, err := b.Attach(ctx, vol, 1); err != nil {
		check("attach", err)
	} else {
		check("write", os.WriteFile(filepath.Join(path, "file"), []byte("old"), 0o600))
	}
	check("grow", b.Grow(ctx, vol, 1<<30))
	if _, release, err := b.Export(ctx, vol, 2); err != nil {
		check("export", err)
	} else {
		release()
	}
	if _, release, err := b.Show(ctx, vol); err != nil {
		check("show", err)
	} else {
		release()
	}
	for _, seal := range []bool{false, true, true} { // Stage empties an unsealed try and a sealed one
		dir, err := b.Stage(ctx, vol, mig, mobyfs.VolumeSpec{})
		check("stage", err)
		check("write", os.WriteFile(filepath.Join(dir, "file"), []byte("new"), 0o600))
		if seal {
			check("seal", b.Seal(ctx, mig, mobyfs.Receipt{Digest: "d"}))
		}
	}
	_, err := b.Reopen(ctx, vol, mig)
	check("reopen", err)
	check("seal", b.Seal(ctx, mig, mobyfs.Receipt{Digest: "d"}))
	check("adopt", b.Adopt(ctx, vol, mig, 3))
	check("remove", b.Remove(ctx, vol, 4))
}

// TestLife is what TestKilledAtAnyMomentIsRepaired kills.
func TestLife(t *testing.T) {
	root := os.Getenv("DIR_TEST_ROOT")
	if root == "" {
		root = t.TempDir()
	}
	life(t.Context(), open(t, root), func(step string, err error) {
		if err != nil {
			t.Fatalf("%s: %v", step, err)
		}
	})
}

// TestKilledAtAnyMomentIsRepaired kills the life of a volume before and after each durable change and asks what a
// restarted agent finds: a state that the steps lead through, bytes that are old or new and never mixed or empty,
// and a life that can be lived to its end.
func TestKilledAtAnyMomentIsRepaired(t *testing.T) {
	child := killtest.Build(t)
	moments := killtest.Moments(t)
	if len(moments) < 20 {
		t.Fatalf("only %v were found in the sources", moments)
	}
	for _, moment := range moments {
		if isAfterlife(moment) {
			continue
		}
		root := t.TempDir()
		if !child.Run("TestLife", moment, "DIR_TEST_ROOT="+root) {
			t.Errorf("%s: the life of a volume does not reach it", moment)
			continue
		}
		b := open(t, root)
		checkSane(t, moment, b)
		finish(t, moment, b)
	}
}

// checkSane checks what is here after a crash, without changing it.
func checkSane(t *testing.T, moment string, b *Backend) {
	t.Helper()
	held, staged, err := b.List(t.Context())
	if err != nil {
		t.Fatalf("%s: %v", moment, err)
	}
	if len(held) > 1 || len(staged) > 1 {
		t.Errorf("%s: here are %v and %v", moment, held, staged)
	}
	removed := removedBytesAfterCrash(t, b)
	for _, h := range held {
		if _, err := b.load(h.ID); err != nil {
			t.Errorf("%s: %v", moment, err)
		}
		want := "old"
		switch {
		case h.Fence >= 3:
			want = "new"
		case h.Fence == 0:
			want = ""
		}
		got, _ := os.ReadFile(filepath.Join(b.Path(h.ID), "file"))
		if string(got) != want && !(h.Fence == 1 && len(got) == 0) { // killed after attach, before the write
			t.Errorf("%s: at fence %d the volume holds %q, want %q", moment, h.Fence, got, want)
		}
		if h.Fence >= 3 && removed["old"] == 0 {
			t.Errorf("%s: the old bytes have vanished", moment)
		}
	}
	for _, s := range staged {
		if s.Volume != vol {
			t.Errorf("%s: staged is %+v", moment, s)
		}
		if got, _ := os.ReadFile(filepath.Join(b.staged(mig), "data", "file")); s.Receipt != nil && string(got) != "new" {
			t.Errorf("%s: sealed bytes are %q", moment, got)
		}
	}
	if len(held) == 0 && removed["old"]+removed["new"] == 0 && !strings.HasPrefix(moment, "dir.create") {
		t.Errorf("%s: the volume is neither here nor in the trash", moment)
	}
}

// removedBytesAfterCrash counts the volumes in the trash by their content.
func removedBytesAfterCrash(t *testing.T, b *Backend) map[string]int {
	t.Helper()
	entries, err := b.inTrash()
	must(t, err)
	found := map[string]int{}
	for _, e := range entries {
		data, _ := os.ReadFile(filepath.Join(e.path, "data", "file"))
		found[string(data)]++
	}
	return found
}

// finish does what a restarted agent does: it looks at what is here and goes on to the end of the life.
func finish(t *testing.T, moment string, b *Backend) {
	t.Helper()
	ctx := t.Context()
	held, staged, err := b.List(ctx)
	must(t, err)
	switch {
	case len(staged) == 1 && staged[0].Receipt != nil: // sealed: all that is left is to commit and adopt
		must(t, b.Adopt(ctx, vol, mig, 3))
		must(t, b.Remove(ctx, vol, 4))
	case len(held) == 1 && held[0].Fence >= 3:
		must(t, b.Adopt(ctx, vol, mig, held[0].Fence))
		must(t, b.Remove(ctx, vol, 4))
	case len(held) == 0 && removedBytesAfterCrash(t, b)["new"] > 0 && len(staged) == 0: // removed already
		must(t, b.Remove(ctx, vol, 4))
	default:
		life(ctx, b, func(step string, err error) {
			late := step == "attach" && mobyfs.CodeOf(err) == mobyfs.CodeStaleFence // it was exported already
			if err != nil && !late {
				t.Errorf("%s: repeat %s: %v", moment, step, err)
			}
		})
	}
	held, staged, err = b.List(ctx)
	if err != nil || len(held) != 0 || len(staged) != 0 {
		t.Errorf("%s: at the end there are %v and %v, %v", moment, held, staged, err)
	}
	must(t, b.Purge(ctx, time.Now().Add(time.Hour)))
	for _, dir := range []string{b.volumes(), b.incoming(), b.trash()} {
		if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
			t.Errorf("%s: %s still holds %v, %v", moment, dir, left, err)
		}
	}
}
