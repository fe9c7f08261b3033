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

// isAfterlife says which moments TestAfterlife reaches.
func isAfterlife(moment string) bool {
	return strings.HasPrefix(moment, "dir.undelete") || strings.HasPrefix(moment, "dir.purge")
}

// TestAfterlife is what TestKilledUndeleteLeavesTheVolumeHereOrInTheTrash kills.
func TestAfterlife(t *testing.T) {
	root := os.Getenv("DIR_TEST_ROOT")
	if root == "" {
		root = t.TempDir()
		live(t, root)
	}
	b, ctx := open(t, root), context.Background()
	must(t, b.Undelete(ctx, vol, 2, 3))
	must(t, b.Remove(ctx, vol, 4))
	must(t, b.Purge(ctx, time.Now().Add(time.Hour)))
}

// live makes a volume and removes it.
func live(t *testing.T, root string) {
	t.Helper()
	b := open(t, root)
	must(t, b.Create(t.Context(), vol, mobyfs.VolumeSpec{}))
	at, err := b.Attach(t.Context(), vol, 1)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(at, "file"), []byte("data"), 0o600))
	must(t, b.Remove(t.Context(), vol, 2))
}

func TestKilledUndeleteLeavesTheVolumeHereOrInTheTrash(t *testing.T) {
	child := killtest.Build(t)
	for _, moment := range killtest.Moments(t) {
		if !isAfterlife(moment) {
			continue
		}
		root := t.TempDir()
		live(t, root)
		if !child.Run("TestAfterlife", moment, "DIR_TEST_ROOT="+root) {
			t.Errorf("%s: it is not reached", moment)
			continue
		}
		b := open(t, root)
		switch err := b.Undelete(t.Context(), vol, 2, 3); {
		case strings.HasPrefix(moment, "dir.purge.before"): // it was removed once more, at fence 4
			if mobyfs.CodeOf(err) != mobyfs.CodeNotFound {
				t.Errorf("%s: got %v", moment, err)
			}
			must(t, b.Undelete(t.Context(), vol, 4, 5))
		case strings.HasPrefix(moment, "dir.purge"): // half of it may be deleted
			if again := b.Undelete(t.Context(), vol, 4, 5); mobyfs.CodeOf(err) != mobyfs.CodeNotFound || mobyfs.CodeOf(again) != mobyfs.CodeNotFound {
				t.Errorf("%s: got %v, %v", moment, err, again)
			}
			must(t, b.Purge(t.Context(), time.Time{}))
			if left, _ := os.ReadDir(b.trash()); len(left) > 0 {
				t.Errorf("%s: left are %v", moment, left)
			}
			continue
		default:
			must(t, err)
		}
		if got, err := os.ReadFile(filepath.Join(b.Path(vol), "file")); err != nil || string(got) != "data" {
			t.Errorf("%s: got %q, %v", moment, got, err)
		}
	}
}
