package dir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/durable"
	"github.com/mobyfs/mobyfs/internal/failpoint"
)

// record is volume.json.
type record struct {
	ID       mobyfs.VolumeID `json:"id"`
	Fence    mobyfs.Fence    `json:"fence"`
	Exported bool            `json:"exported,omitempty"` // at this fence: only a higher one attaches again
}

// Create makes an empty volume whose data is 0755 and root's, as Docker's copy of an image's content into a fresh
// volume needs it. Killed on the way it leaves nothing that counts as a volume.
func (b *Backend) Create(_ context.Context, id mobyfs.VolumeID, spec mobyfs.VolumeSpec) error {
	if err := CheckVolume(id); err != nil {
		return err
	}
	if spec = spec.WithDefaults(); spec.Backend != b.Name() {
		return mobyfs.Errorf(mobyfs.CodeInvalid, "volume %s wants backend %q; this is %q", id, spec.Backend, b.Name())
	}
	if _, err := b.load(id); mobyfs.CodeOf(err) != mobyfs.CodeNotFound {
		return err
	}
	return fault(fmt.Sprintf("create volume %s", id), b.create(id))
}

func (b *Backend) create(id mobyfs.VolumeID) error {
	h, err := newHalf(b.volume(id), 0o755)
	if err != nil {
		return err
	}
	if err := durable.WriteJSON("dir.create.record", recordIn(h), record{ID: id}, 0o600); err != nil {
		return err
	}
	return durable.Rename("dir.create", h, b.volume(id))
}

// Attach checks and raises the fence; a plain directory is always in its place.
func (b *Backend) Attach(_ context.Context, id mobyfs.VolumeID, fence mobyfs.Fence) (string, error) {
	r, err := b.pass(id, fence, "attach")
	if err != nil {
		return "", err
	}
	if r.Exported && fence == r.Fence {
		return "", mobyfs.Errorf(mobyfs.CodeStaleFence,
			"attach volume %s: it was given to a migration at fence %v; only a newer decision attaches it again", id, fence)
	}
	if r.Exported || fence > r.Fence {
		err = durable.WriteJSON("dir.attach", recordIn(b.volume(id)), record{ID: id, Fence: fence}, 0o600)
	}
	if err != nil {
		return "", fault(fmt.Sprintf("attach volume %s", id), err)
	}
	return b.Path(id), nil
}

// Detach does nothing, for Attach put nothing anywhere.
func (b *Backend) Detach(_ context.Context, id mobyfs.VolumeID) error { return CheckVolume(id) }

// Export notes durably that the volume is given away at the fence. While it is being read it can't be removed.
func (b *Backend) Export(_ context.Context, id mobyfs.VolumeID, fence mobyfs.Fence) (string, func(), error) {
	r, err := b.pass(id, fence, "export")
	if err != nil {
		return "", nil, err
	}
	if !r.Exported || fence > r.Fence {
		next := record{ID: id, Fence: fence, Exported: true}
		if err := durable.WriteJSON("dir.export", recordIn(b.volume(id)), next, 0o600); err != nil {
			return "", nil, fault(fmt.Sprintf("export volume %s", id), err)
		}
	}
	b.read(id, 1)
	return b.Path(id), sync.OnceFunc(func() { b.read(id, -1) }), nil
}

// Remove moves the volume into the trash under the fence it was removed with. CodeInUse while an export of it is
// not released.
func (b *Backend) Remove(_ context.Context, id mobyfs.VolumeID, fence mobyfs.Fence) error {
	r, err := b.pass(id, fence, "remove")
	if mobyfs.CodeOf(err) == mobyfs.CodeNotFound {
		return nil
	}
	if err != nil {
		return err
	}
	if err := b.checkUnread(id, "remove"); err != nil {
		return err
	}
	if fence > r.Fence {
		r.Fence = fence
		if err := durable.WriteJSON("dir.remove.record", recordIn(b.volume(id)), r, 0o600); err != nil {
			return fault(fmt.Sprintf("remove volume %s", id), err)
		}
	}
	err = durable.Rename("dir.remove", b.volume(id), b.trashName(string(id)))
	return fault(fmt.Sprintf("remove volume %s", id), err)
}

// pass loads the record of a volume and lets a fence pass that is not lower than the highest seen.
func (b *Backend) pass(id mobyfs.VolumeID, fence mobyfs.Fence, doing string) (record, error) {
	r, err := b.load(id)
	if err != nil {
		return r, err
	}
	return r, checkFence(id, r.Fence, fence, doing)
}

func checkFence(id mobyfs.VolumeID, seen, fence mobyfs.Fence, doing string) error {
	if fence >= seen || failpoint.Without("fence") {
		return nil
	}
	return mobyfs.Errorf(mobyfs.CodeStaleFence, "%s volume %s: fence %v is older than %v, which was seen here",
		doing, id, fence, seen)
}

// load reads the record of a volume. CodeNotFound if the volume is not here. A volume without a record that can be
// read is CodeCorrupt: its fence is unknown, so nothing may be done with it, and its bytes stay.
func (b *Backend) load(id mobyfs.VolumeID) (record, error) {
	if err := CheckVolume(id); err != nil {
		return record{}, err
	}
	if here, err := exists(b.volume(id)); err != nil || !here {
		if err == nil {
			err = mobyfs.Errorf(mobyfs.CodeNotFound, "volume %s is not here", id)
		}
		return record{}, err
	}
	var r record
	err := durable.ReadJSON(recordIn(b.volume(id)), &r)
	if err == nil && r.ID != id {
		err = fmt.Errorf("it tells of volume %q", r.ID)
	}
	if err == nil {
		var data bool
		if data, err = exists(b.Path(id)); err == nil && !data {
			err = errors.New("its directory data is gone")
		}
	}
	if err != nil {
		return r, mobyfs.Errorf(mobyfs.CodeCorrupt, "read the record of volume %s: %w", id, err).
			WithHint("somebody changed %s; put volume.json and data back as they were, or move all of it away", b.volume(id))
	}
	return r, nil
}

func recordIn(dir string) string { return filepath.Join(dir, "volume.json") }

// read counts a reader of the volume in or out.
func (b *Backend) read(id mobyfs.VolumeID, by int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.readers[id] += by; b.readers[id] == 0 {
		delete(b.readers, id)
	}
}

func (b *Backend) checkUnread(id mobyfs.VolumeID, doing string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.readers[id] == 0 {
		return nil
	}
	return mobyfs.Errorf(mobyfs.CodeInUse, "%s volume %s: a migration is reading it", doing, id).
		WithHint("try again once it has ended")
}

// seenInTrash is the highest fence of the volumes with the ID in the trash, 0 if there is none. What has been
// removed by a newer decision can't come back by an older one.
func (b *Backend) seenInTrash(id mobyfs.VolumeID) (mobyfs.Fence, error) {
	entries, err := b.inTrash()
	if err != nil {
		return 0, err
	}
	var highest mobyfs.Fence
	for _, e := range entries {
		var r record
		if e.id != string(id) || durable.ReadJSON(recordIn(e.path), &r) != nil {
			continue
		}
		highest = max(highest, r.Fence)
	}
	return highest, nil
}

// isNone reports whether err says that a file is not there.
func isNone(err error) bool { return errors.Is(err, fs.ErrNotExist) }
