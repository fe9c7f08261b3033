package loop

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/backend"
	"github.com/mobyfs/mobyfs/backend/backendtest"
	"github.com/mobyfs/mobyfs/internal/failpoint/killtest"
)

const (
	vol = mobyfs.VolumeID("01jcx0000000000000000000va")
	mig = mobyfs.MigrationID("01jcx0000000000000000000m1")
)

var small = mobyfs.VolumeSpec{Backend: mobyfs.LoopBackend, SizeBytes: 32 << 20}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// life takes a volume through all that is mounted and unmounted for it.
func life(ctx context.Context, t *testing.T, b backend.Backend) {
	t.Helper()
	must(t, b.Create(ctx, vol, small))
	at, err := b.Attach(ctx, vol, 1)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(at, "file"), []byte("old"), 0o600))
	must(t, b.Grow(ctx, vol, 48<<20))
	must(t, b.Detach(ctx, vol))
	dir, err := b.Stage(ctx, vol, mig, small)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "file"), []byte("new"), 0o600))
	must(t, b.Seal(ctx, mig, mobyfs.Receipt{Digest: "d"}))
	must(t, b.Adopt(ctx, vol, mig, 3))
	must(t, b.Remove(ctx, vol, 4))
}

// TestLife is what TestKilledAtAnyMomentLeavesNoLoopDeviceBehind kills.
func TestLife(t *testing.T) {
	root := os.Getenv("LOOP_TEST_ROOT")
	if root == "" {
		root = t.TempDir()
	}
	b := open(t, root)
	life(t.Context(), t, b)
	must(t, b.Purge(t.Context(), time.Now().Add(time.Hour)))
}

// TestKilledAtAnyMomentLeavesNoLoopDeviceBehind kills the life of a volume around everything that happens to loop devices
// and mounts, and at the steps of package dir around them. Whoever opens the backend next finds what is mounted, can use and
// remove the volume, and then no mount and no loop device is left.
func TestKilledAtAnyMomentLeavesNoLoopDeviceBehind(t *testing.T) {
	child := killtest.Build(t)
	for _, moment := range []string{
		"loop.mkfs.before", "loop.mkfs.after", "loop.configure.after", "loop.mount.before", "loop.mount.after",
		"dir.create.before", "dir.create.after", "dir.grow.before", "dir.grow.after", "loop.allocate.after",
		"dir.stage.before", "dir.stage.after", "dir.seal.after", "dir.adopt.before", "dir.adopt.after", "dir.remove.after",
	} {
		root := t.TempDir()
		if !child.Run("TestLife", moment, "LOOP_TEST_ROOT="+root) {
			t.Errorf("%s: the life of a volume does not reach it", moment)
			continue
		}
		b := open(t, root)
		backendtest.EndLife(t, moment, b, func(h backend.Held, at string) {
			if err := b.Grow(t.Context(), h.ID, 64<<20); err != nil {
				t.Errorf("%s: grow: %v", moment, err)
			}
			if err := os.WriteFile(filepath.Join(at, "big"), make([]byte, 50<<20), 0o600); err != nil {
				t.Errorf("%s: write 50 MiB after it has grown to 64: %v", moment, err)
			}
		})
		if left := devicesBelow(t, root); len(left) > 0 {
			t.Errorf("%s: left are %v", moment, left)
		}
	}
}

// devicesBelow lists mounts and loop devices of a directory.
func devicesBelow(t *testing.T, root string) []string {
	t.Helper()
	var all []string
	for _, pattern := range []string{"/sys/block/loop*/loop/backing_file", "/proc/self/mountinfo"} {
		files, err := filepath.Glob(pattern)
		must(t, err)
		for _, f := range files {
			text, _ := os.ReadFile(f) // it may go meanwhile
			for line := range strings.Lines(string(text)) {
				if strings.Contains(line, root+"/") {
					all = append(all, line)
				}
			}
		}
	}
	slices.Sort(all)
	return all
}
