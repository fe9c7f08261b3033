package shared

import (
	"context"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/backend"
	"github.com/mobyfs/mobyfs/backend/dir"
)

var _ backend.Trash = (*Backend)(nil)

// Undelete takes the volume out of the trash of the shared directory, at a higher fence. Killed before its fence lies beside the bytes as
// a file, it stands in volume.json, and the next try raises it.
func (b *Backend) Undelete(ctx context.Context, id mobyfs.VolumeID, removed, fence mobyfs.Fence) error {
	if err := dir.CheckVolume(id); err != nil {
		return err
	}
	in, err := b.open()
	if err != nil {
		return err
	}
	if err := in.Undelete(ctx, id, removed, fence); err != nil {
		return err
	}
	if err := b.raise(id, fence, "undelete"); err != nil {
		return err
	}
	return b.have(id)
}

// PurgeOldest deletes the volume that has been longest in the trash of the shared directory.
func (b *Backend) PurgeOldest(ctx context.Context) (mobyfs.VolumeID, error) {
	in, err := b.open()
	if err != nil {
		return "", err
	}
	return in.PurgeOldest(ctx)
}
