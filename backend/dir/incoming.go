package dir

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/durable"
)

// staging is staged.json.
type staging struct {
	Migration mobyfs.MigrationID `json:"migration"`
	Volume    mobyfs.VolumeID    `json:"volume"`
	Size      int64              `json:"size,omitempty"`    // that the volume will have, in bytes
	Receipt   *mobyfs.Receipt    `json:"receipt,omitempty"` // set once the bytes are complete
}

// Stage makes an empty directory for what the migration brings. Of an earlier try, sealed bytes go to the trash
// and others are deleted.
func (b *Backend) Stage(ctx context.Context, id mobyfs.VolumeID, m mobyfs.MigrationID, spec mobyfs.VolumeSpec) (string, error) {
	if err := CheckVolume(id); err != nil {
		return "", err
	}
	spec = spec.WithDefaults()
	spec.UID, spec.GID, spec.Mode = 0, 0, "0700" // what the migration brings says whose it is
	if err := b.medium.Check(spec); err != nil {
		return "", err
	}
	doing := fmt.Sprintf("stage migration %s", m)
	old, err := b.loadStaged(m)
	switch {
	case mobyfs.CodeOf(err) == mobyfs.CodeInvalid:
		return "", err
	case err == nil && old.Receipt != nil:
		if err = b.medium.Close(b.staged(m)); err == nil {
			err = durable.Rename("dir.stage.trash", b.staged(m), b.trashName(string(old.Volume)))
		}
	default:
		err = b.Discard(ctx, m)
	}
	if err != nil {
		return "", fault(doing, err)
	}
	size, err := b.stage(ctx, id, m, spec)
	if err != nil {
		return "", fault(doing, err)
	}
	if err := b.medium.Open(b.staged(m), size); err != nil {
		return "", fault(doing, err)
	}
	return filepath.Join(b.staged(m), "data"), nil
}

func (b *Backend) stage(ctx context.Context, id mobyfs.VolumeID, m mobyfs.MigrationID, spec mobyfs.VolumeSpec) (size int64, err error) {
	h, size, err := b.newHalf(ctx, b.staged(m), spec)
	if err != nil {
		return 0, err
	}
	if err := durable.WriteJSON("dir.stage.record", stagingIn(h), staging{Migration: m, Volume: id, Size: size}, 0o600); err != nil {
		return 0, err
	}
	return size, durable.Rename("dir.stage", h, b.staged(m))
}

// Reopen takes the receipt away first: killed after that, the bytes are staged and not sealed.
func (b *Backend) Reopen(_ context.Context, id mobyfs.VolumeID, m mobyfs.MigrationID) (string, error) {
	doing := fmt.Sprintf("take up migration %s", m)
	s, err := b.loadStaged(m)
	if err != nil {
		return "", err
	}
	if s.Volume != id {
		return "", mobyfs.Errorf(mobyfs.CodeInvalid, "%s: it brought volume %s, not %s", doing, s.Volume, id)
	}
	if s.Receipt != nil {
		s.Receipt = nil
		if err := durable.WriteJSON("dir.reopen", stagingIn(b.staged(m)), s, 0o600); err != nil {
			return "", fault(doing, err)
		}
	}
	if err := b.medium.Open(b.staged(m), s.Size); err != nil {
		return "", fault(doing, err)
	}
	return filepath.Join(b.staged(m), "data"), nil
}

// Seal adds the receipt to what is known of the staged bytes. Whoever brought them has made them durable.
func (b *Backend) Seal(_ context.Context, m mobyfs.MigrationID, receipt mobyfs.Receipt) error {
	s, err := b.loadStaged(m)
	if err != nil {
		return err
	}
	if s.Receipt != nil && s.Receipt.Digest != receipt.Digest {
		return mobyfs.Errorf(mobyfs.CodeInvalid, "seal migration %s: it was sealed with digest %s, now it is %s",
			m, s.Receipt.Digest, receipt.Digest)
	}
	if s.Receipt != nil {
		return nil
	}
	s.Receipt = &receipt
	err = durable.WriteJSON("dir.seal", stagingIn(b.staged(m)), s, 0o600)
	return fault(fmt.Sprintf("seal migration %s", m), err)
}

// Adopt gives the sealed bytes their fence while they still are staged, moves older bytes out of the way and then
// renames once. Killed between these, the volume is not here and the sealed bytes are: repeating it ends it.
func (b *Backend) Adopt(_ context.Context, id mobyfs.VolumeID, m mobyfs.MigrationID, fence mobyfs.Fence) error {
	if err := checkMigration(m); err != nil {
		return err
	}
	r, err := b.pass(id, fence, "adopt")
	older := err == nil
	switch {
	case older && r.Fence == fence:
		return fault(fmt.Sprintf("adopt volume %s", id), b.forgetStaging(id))
	case !older && mobyfs.CodeOf(err) != mobyfs.CodeNotFound:
		return err
	}
	s, err := b.adoptable(id, m, fence)
	if err != nil {
		return err
	}
	if older {
		done, err := b.shut(id, "adopt")
		if err != nil {
			return err
		}
		defer done()
	}
	return fault(fmt.Sprintf("adopt volume %s", id), b.adopt(id, s, fence, older))
}

// adoptable is what is staged, if it is sealed, is of the volume, and nothing newer was removed.
func (b *Backend) adoptable(id mobyfs.VolumeID, m mobyfs.MigrationID, fence mobyfs.Fence) (staging, error) {
	s, err := b.loadStaged(m)
	switch {
	case err != nil:
		return s, err
	case s.Volume != id:
		return s, mobyfs.Errorf(mobyfs.CodeInvalid, "adopt volume %s: migration %s brought volume %s", id, m, s.Volume)
	case s.Receipt == nil:
		return s, mobyfs.Errorf(mobyfs.CodeNotFound, "adopt volume %s: what migration %s brought is not complete", id, m)
	}
	removed, err := b.seenInTrash(id)
	if err != nil {
		return s, err
	}
	return s, checkFence(id, removed, fence, "adopt")
}

func (b *Backend) adopt(id mobyfs.VolumeID, s staging, fence mobyfs.Fence, older bool) error {
	m := s.Migration
	next := record{ID: id, Fence: fence, Size: s.Size}
	if err := durable.WriteJSON("dir.adopt.record", recordIn(b.staged(m)), next, 0o600); err != nil {
		return err
	}
	if older {
		if err := durable.Rename("dir.adopt.trash", b.volume(id), b.trashName(string(id))); err != nil {
			return err
		}
	}
	if err := durable.Rename("dir.adopt", b.staged(m), b.volume(id)); err != nil {
		return err
	}
	return b.forgetStaging(id)
}

// forgetStaging removes the note of the migration from a volume that was adopted.
func (b *Backend) forgetStaging(id mobyfs.VolumeID) error {
	path := stagingIn(b.volume(id))
	if _, err := os.Lstat(path); isNone(err) {
		return nil
	}
	return durable.Remove("dir.adopt.forget", path)
}

// Discard takes what was staged out of sight in one step and then deletes it. When ctx ends meanwhile, the rest is
// deleted by the next Discard or Purge.
func (b *Backend) Discard(ctx context.Context, m mobyfs.MigrationID) error {
	if err := checkMigration(m); err != nil {
		return err
	}
	doing := fmt.Sprintf("discard migration %s", m)
	here, err := exists(b.staged(m))
	if err != nil {
		return fault(doing, err)
	}
	if here {
		if err := b.medium.Close(b.staged(m)); err != nil {
			return fault(doing, err)
		}
		if err := durable.Rename("dir.discard", b.staged(m), b.trashName("."+string(m))); err != nil {
			return fault(doing, err)
		}
	}
	return fault(doing, b.deleteDiscarded(ctx, m))
}

// loadStaged reads what is known of a staged migration. CodeNotFound if there is none.
func (b *Backend) loadStaged(m mobyfs.MigrationID) (staging, error) {
	if err := checkMigration(m); err != nil {
		return staging{}, err
	}
	if here, err := exists(b.staged(m)); err != nil || !here {
		if err == nil {
			err = mobyfs.Errorf(mobyfs.CodeNotFound, "nothing of migration %s is here", m)
		}
		return staging{}, err
	}
	var s staging
	err := durable.ReadJSON(stagingIn(b.staged(m)), &s)
	if err == nil && s.Migration != m {
		err = fmt.Errorf("it tells of migration %q", s.Migration)
	}
	if err != nil {
		return s, mobyfs.Errorf(mobyfs.CodeCorrupt, "read what is staged for migration %s: %w", m, err).
			WithHint("the migration has to begin anew")
	}
	return s, nil
}

func stagingIn(dir string) string { return filepath.Join(dir, "staged.json") }
