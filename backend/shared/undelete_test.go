package shared

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/mobyfs/mobyfs"
)

// TestRemovedVolumeComesBackOnAnyNode removes a volume on one node and takes it out of the trash on another: there is one trash.
func TestRemovedVolumeComesBackOnAnyNode(t *testing.T) {
	h1, h2 := two(t)
	must(t, h1.Remove(t.Context(), vol, 3))
	wantCode(t, h2.Undelete(t.Context(), vol, 2, 4), mobyfs.CodeNotFound) // at another fence than it was removed at
	for range 2 {
		must(t, h2.Undelete(t.Context(), vol, 3, 4))
	}
	if held, _, err := h2.List(t.Context()); len(held) != 1 || held[0].Fence != 4 || err != nil {
		t.Errorf("the node that undeleted it lists %v, %v", held, err)
	}
	if held, _, err := h1.List(t.Context()); len(held) != 0 || err != nil {
		t.Errorf("the node that removed it lists %v, %v", held, err)
	}
	_, err := h1.Attach(t.Context(), vol, 3)
	wantCode(t, err, mobyfs.CodeStaleFence)
	path, err := h2.Attach(t.Context(), vol, 4)
	must(t, err)
	if got, err := os.ReadFile(filepath.Join(path, "rows")); string(got) != "1,2,3" {
		t.Errorf("got %q, %v", got, err)
	}
}

// TestUndeleteKilledBeforeItsFenceLiesBesideTheBytes takes away what comes after the rename.
func TestUndeleteKilledBeforeItsFenceLiesBesideTheBytes(t *testing.T) {
	h1, h2 := two(t)
	must(t, h1.Remove(t.Context(), vol, 3))
	must(t, h1.in.Undelete(t.Context(), vol, 3, 4))
	must(t, h1.Undelete(t.Context(), vol, 3, 4))
	_, err := h2.Attach(t.Context(), vol, 3)
	wantCode(t, err, mobyfs.CodeStaleFence)
	_, err = h1.Attach(t.Context(), vol, 4)
	must(t, err)
}

// TestNothingComesBackWhileTheSharedDirectoryIsAway must not be taken for an empty trash: then the volume would be forgotten.
func TestNothingComesBackWhileTheSharedDirectoryIsAway(t *testing.T) {
	h1, _ := two(t)
	must(t, h1.Remove(t.Context(), vol, 3))
	away := h1.root + ".away"
	must(t, os.Rename(h1.root, away))
	must(t, os.Mkdir(h1.root, 0o700))
	wantCode(t, h1.Undelete(t.Context(), vol, 3, 4), mobyfs.CodeUnavailable)
	must(t, os.Remove(h1.root))
	must(t, os.Rename(away, h1.root))
	must(t, h1.Undelete(t.Context(), vol, 3, 4))
}
