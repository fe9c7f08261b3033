package dir

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/backend"
	"github.com/mobyfs/mobyfs/internal/durable"
)

var _ backend.Trash = (*Backend)(nil)

// Undelete gives the volume its new fence while it is in the trash, and then renames once. Killed between, it is found there
// by either fence.
func (b *Backend) Undelete(_ context.Context, id mobyfs.VolumeID, removed, fence mobyfs.Fence) error {
	doing := fmt.Sprintf("undelete volume %s", id)
	r, err := b.load(id)
	switch {
	case err == nil && r.Fence == fence:
		return nil
	case err == nil:
		return mobyfs.Errorf(mobyfs.CodeExists, "%s: it is here, at fence %v", doing, r.Fence).
			WithHint("move %s away if it is worth nothing", b.volume(id))
	case mobyfs.CodeOf(err) != mobyfs.CodeNotFound:
		return err
	case fence <= removed:
		return mobyfs.Errorf(mobyfs.CodeStaleFence, "%s: it was removed at fence %v, and %v is no newer one", doing, removed, fence)
	}
	entries, err := b.inTrash()
	if err != nil {
		return fault(doing, err)
	}
	for _, e := range entries {
		var r record
		if e.id != string(id) || durable.ReadJSON(recordIn(e.path), &r) != nil || r.Fence != removed && r.Fence != fence {
			continue
		}
		err := durable.WriteJSON("dir.undelete.record", recordIn(e.path), record{ID: id, Fence: fence, Size: r.Size}, 0o600)
		if err == nil {
			err = durable.Rename("dir.undelete", e.path, b.volume(id))
		}
		if !errors.Is(err, fs.ErrNotExist) { // else it was purged just now
			return fault(doing, err)
		}
	}
	return mobyfs.Errorf(mobyfs.CodeNotFound, "%s: the trash does not have it any more", doing)
}

// PurgeOldest looks at volumes alone: what migrations left is deleted by each Purge.
func (b *Backend) PurgeOldest(ctx context.Context) (mobyfs.VolumeID, error) {
	entries, err := b.inTrash()
	if err != nil {
		return "", err
	}
	entries = slices.DeleteFunc(entries, func(e trashed) bool { return strings.HasPrefix(e.id, ".") })
	if len(entries) == 0 {
		return "", nil
	}
	oldest := slices.MinFunc(entries, func(a, b trashed) int { return cmp.Compare(a.at.UnixNano(), b.at.UnixNano()) })
	return mobyfs.VolumeID(oldest.id), b.deleteEntry(ctx, oldest)
}
