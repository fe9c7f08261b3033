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
	Size     int64           `json:"size,omitempty"`     // in bytes, 0 if none was asked for
	Exported bool            `json:"exported,omitempty"` // at this fence: only a higher one attaches again
}

// Create makes an empty volume whose data is 0755 and root's unless spec says otherwise, as Docker's copy of an image's
// content into a fresh volume needs it. Killed on the way it leaves nothing that counts as a volume.
func (b *Backend) Create(ctx context.Context, id mobyfs.VolumeID, spec mobyfs.VolumeSpec) error {
	if err := CheckVolume(id); err != nil {
		return err
	}
	if spec = spec.WithDefaults(); spec.Backend != b.Name() {
		return mobyfs.Errorf(mobyfs.CodeInvalid, "volume %s wants backend %q; this is %q", id, spec.Backend, b.Name())
	}
	if err := b.medium.Check(spec); err != nil {
		return err
	}
	if _, err := b.load(id); mobyfs.CodeOf(err) != mobyfs.CodeNotFound {
		return err
	}
	return fault(fmt.Sprintf("create volume %s", id), b.create(ctx, id, spec))
}

func (b *Backend) create(ctx context.Context, id mobyfs.VolumeID, spec mobyfs.VolumeSpec) error {
	h, size, err := b.newHalf(ctx, b.volume(id), spec)
	if err != nil {
		return err
	}
	if err := durable.WriteJSON("dir.create.record", recordIn(h), record{ID: id, Size: size}, 0o600); err != nil {
		return err
	}
	return durable.Rename("dir.create", h, b.volume(id))
}

// Attach checks and raises the fence, and then opens the volume; a plain directory is always in its place.
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
		next := record{ID: id, Fence: fence, Size: r.Size}
		err = durable.WriteJSON("dir.attach", recordIn(b.volume(id)), next, 0o600)
	}
	if err == nil {
		u := b.use(id)
		u.mu.Lock()
		defer u.mu.Unlock()
		err = b.medium.Open(b.volume(id), r.Size)
		u.attached = err == nil
	}
	if err != nil {
		return "", fault(fmt.Sprintf("attach volume %s", id), err)
	}
	return b.Path(id), nil
}

// Detach closes the volume, unless a migration reads it: then the end of that does. CodeInUse while something on this
// host has a file of it open.
func (b *Backend) Detach(_ context.Context, id mobyfs.VolumeID) error {
	if err := CheckVolume(id); err != nil {
		return err
	}
	if here, err := exists(b.volume(id)); err != nil || !here {
		return err
	}
	u := b.use(id)
	u.mu.Lock()
	defer u.mu.Unlock()
	u.attached = false
	if u.readers > 0 {
		return nil
	}
	return fault(fmt.Sprintf("detach volume %s", id), b.medium.Close(b.volume(id)))
}

// Export notes durably that the volume is given away at the fence. While it is being read it can't be removed.
func (b *Backend) Export(_ context.Context, id mobyfs.VolumeID, fence mobyfs.Fence) (string, func(), error) {
	r, err := b.pass(id, fence, "export")
	if err != nil {
		return "", nil, err
	}
	if !r.Exported || fence > r.Fence {
		next := record{ID: id, Fence: fence, Size: r.Size, Exported: true}
		if err := durable.WriteJSON("dir.export", recordIn(b.volume(id)), next, 0o600); err != nil {
			return "", nil, fault(fmt.Sprintf("export volume %s", id), err)
		}
	}
	u := b.use(id)
	u.mu.Lock()
	defer u.mu.Unlock()
	if err := b.medium.Open(b.volume(id), r.Size); err != nil {
		return "", nil, fault(fmt.Sprintf("export volume %s", id), err)
	}
	u.readers++
	return b.Path(id), sync.OnceFunc(func() { b.release(id, u) }), nil
}

// Show keeps the volume open and its fence as it is.
func (b *Backend) Show(_ context.Context, id mobyfs.VolumeID) (string, func(), error) {
	r, err := b.load(id)
	if err != nil {
		return "", nil, err
	}
	u := b.use(id)
	u.mu.Lock()
	defer u.mu.Unlock()
	if err := b.medium.Open(b.volume(id), r.Size); err != nil {
		return "", nil, fault(fmt.Sprintf("show volume %s", id), err)
	}
	u.readers++
	return b.Path(id), sync.OnceFunc(func() { b.release(id, u) }), nil
}

// release ends an export or a show. What nobody has attached is closed with the last one; if that can't be, the next Detach or
// Remove says why.
func (b *Backend) release(id mobyfs.VolumeID, u *use) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.readers--; u.readers == 0 && !u.attached {
		_ = b.medium.Close(b.volume(id))
	}
}

// Grow makes the volume as large as that: first its bytes, then the record, so that one that was cut off is repeated.
func (b *Backend) Grow(ctx context.Context, id mobyfs.VolumeID, bytes int64) error {
	r, err := b.load(id)
	if err != nil {
		return err
	}
	switch {
	case bytes == r.Size:
		return nil
	case bytes < r.Size:
		return mobyfs.Errorf(mobyfs.CodeInvalid, "grow volume %s: it has %s, which is more than %s", id,
			mobyfs.FormatSize(r.Size), mobyfs.FormatSize(bytes)).WithHint("a volume never shrinks; make a smaller one and copy the files")
	}
	doing := fmt.Sprintf("grow volume %s to %s", id, mobyfs.FormatSize(bytes))
	u := b.use(id)
	u.mu.Lock()
	defer u.mu.Unlock()
	if err := b.medium.Open(b.volume(id), r.Size); err != nil {
		return fault(doing, err)
	}
	if err := b.medium.Grow(ctx, b.volume(id), bytes); err != nil {
		return fault(doing, err)
	}
	r.Size = bytes
	if err := durable.WriteJSON("dir.grow", recordIn(b.volume(id)), r, 0o600); err != nil {
		return fault(doing, err)
	}
	if !u.attached && u.readers == 0 {
		return fault(doing, b.medium.Close(b.volume(id)))
	}
	return nil
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
	done, err := b.shut(id, "remove")
	if err != nil {
		return err
	}
	defer done()
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

// use is what goes on with a volume in this life.
func (b *Backend) use(id mobyfs.VolumeID) *use {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.uses[id] == nil {
		b.uses[id] = &use{}
	}
	return b.uses[id]
}

// shut closes a volume that is about to go and keeps it closed until done is called. CodeInUse while an export of it is
// not released, or something on this host has a file of it open.
func (b *Backend) shut(id mobyfs.VolumeID, doing string) (done func(), err error) {
	u := b.use(id)
	u.mu.Lock()
	if u.readers > 0 {
		u.mu.Unlock()
		return nil, mobyfs.Errorf(mobyfs.CodeInUse, "%s volume %s: a migration is reading it", doing, id).
			WithHint("try again once it has ended")
	}
	if err := b.medium.Close(b.volume(id)); err != nil {
		u.mu.Unlock()
		return nil, fault(fmt.Sprintf("%s volume %s", doing, id), err)
	}
	u.attached = false
	return u.mu.Unlock, nil
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
