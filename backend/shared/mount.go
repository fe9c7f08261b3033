package shared

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/durable"
	"github.com/mobyfs/mobyfs/internal/failpoint"
)

// have notes durably that this node has the volume: the place where it is shown exists.
func (b *Backend) have(id mobyfs.VolumeID) error { return durable.Mkdir(b.Path(id), 0o700) }

// leave is the end of have.
func (b *Backend) leave(id mobyfs.VolumeID) error {
	if err := b.hide(id); err != nil {
		return err
	}
	return durable.Remove("shared.leave", b.Path(id))
}

// show mounts the volume's data at Path, unless it is there already and can be written to. A mount that was made
// read-only (the watchdog does so when a session is over) gives way to a new one.
func (b *Backend) show(id mobyfs.VolumeID) error {
	from, at := b.Bytes(id), b.Path(id)
	if shown, err := isShown(from, at); shown || err != nil {
		return err
	}
	if err := b.hide(id); err != nil {
		return err
	}
	failpoint.Reach("shared.mount.before")
	err := unix.Mount(from, at, "", unix.MS_BIND, "")
	failpoint.Reach("shared.mount.after")
	if err != nil {
		return fmt.Errorf("mount %s at %s: %w", from, at, err)
	}
	return nil
}

// isShown reports whether what is at a place is that directory, and not read-only.
func isShown(from, at string) (bool, error) {
	want, err := os.Stat(from)
	if err != nil {
		return false, err
	}
	has, err := os.Stat(at)
	if err != nil || !os.SameFile(want, has) {
		return false, nil
	}
	var st unix.Statfs_t
	if err := unix.Statfs(at, &st); err != nil {
		return false, nil
	}
	return st.Flags&unix.ST_RDONLY == 0, nil
}

// hide takes away whatever is mounted at Path. What is still open in it there stays so until it is closed.
func (b *Backend) hide(id mobyfs.VolumeID) error {
	for {
		err := unix.Unmount(b.Path(id), unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		switch {
		case err == nil:
		case errors.Is(err, unix.EINVAL), errors.Is(err, fs.ErrNotExist): // nothing is mounted there
			return nil
		default:
			return fmt.Errorf("unmount %s: %w", b.Path(id), err)
		}
	}
}
