package btrfs

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/backend"
	"github.com/mobyfs/mobyfs/backend/backendtest"
	"github.com/mobyfs/mobyfs/internal/failpoint/killtest"
)

// life takes a volume through all that this package does for it.
func life(ctx context.Context, t *testing.T, b backend.Backend) {
	t.Helper()
	must(t, b.Create(ctx, vol, small))
	at, err := b.Attach(ctx, vol, 1)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(at, "file"), []byte("old"), 0o600))
	must(t, b.Grow(ctx, vol, 48<<20))
	dir, err := b.Stage(ctx, vol, mig, small)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "file"), []byte("new"), 0o600))
	must(t, b.Seal(ctx, mig, mobyfs.Receipt{Digest: "d"}))
	must(t, b.Adopt(ctx, vol, mig, 3))
	must(t, b.Remove(ctx, vol, 4))
	must(t, b.Purge(ctx, time.Now().Add(time.Hour)))
}

// TestLife is what TestKilledAtAnyMomentLeavesNoSubvolumeBehind kills.
func TestLife(t *testing.T) {
	root := os.Getenv("BTRFS_TEST_ROOT")
	if root == "" {
		root = filepath.Join(hostDisk(t), "mobyfs")
	}
	life(t.Context(), t, open(t, root))
}

// TestKilledAtAnyMomentLeavesNoSubvolumeBehind kills the life of a volume around everything that is done to subvolumes and
// quotas. Whoever opens the backend next finds volumes that are whole and bound to their size, and can remove all of it.
func TestKilledAtAnyMomentLeavesNoSubvolumeBehind(t *testing.T) {
	child := killtest.Build(t)
	disk := hostDisk(t)
	for _, moment := range []string{
		"btrfs.create.after", "btrfs.quota.after", "btrfs.qgroup.after", "btrfs.limit.after", "btrfs.destroy.after",
		"dir.create.before", "dir.create.after", "dir.grow.before", "dir.grow.after",
		"dir.stage.before", "dir.stage.after", "dir.seal.after", "dir.adopt.trash.after", "dir.adopt.after", "dir.remove.after",
	} {
		root := filepath.Join(disk, moment)
		if moment == "btrfs.quota.after" {
			run(t, "btrfs", "quota", "disable", disk)
		}
		if !child.Run("TestLife", moment, "BTRFS_TEST_ROOT="+root) {
			t.Errorf("%s: the life of a volume does not reach it", moment)
			continue
		}
		backendtest.EndLife(t, moment, open(t, root), func(h backend.Held, at string) {
			if written, err := fill(filepath.Join(at, "big"), 2*h.SizeBytes); err == nil {
				t.Errorf("%s: a volume of %d MiB took %d MiB", moment, h.SizeBytes>>20, written>>20)
			}
		})
		for _, sub := range []string{"volumes", "incoming", "trash"} {
			if left, err := os.ReadDir(filepath.Join(root, sub)); err != nil || len(left) > 0 {
				t.Errorf("%s: %s still holds %v, %v", moment, sub, left, err)
			}
		}
	}
}
