// Package loop is the backend that keeps each volume in a file system of its own: ext4 or xfs, in an image that is
// mounted through a loop device. It works on any file system that can set room aside (fallocate).
//
// What lies where, below the root, is as package dir keeps it, and in each entry:
//
//	image   the file system; its whole size is set aside when it is made or grown
//	data/   where it is mounted while somebody uses it; an empty directory otherwise
//
// Because the room is set aside, a disk of the host that runs full does not reach a volume: what the kernel wrote it can
// write back, and no file system is aborted. For the same reason no volume gives room back while it lives (discard is off).
//
// An image is never under two loop devices at once, which would destroy it. It is looked for by device and inode among all
// loop devices of the host before one is made, so one that a container still keeps alive is found again. A loop device goes
// by itself with its last mount, whoever ends that; so neither a crash nor kill -9 leaves any behind.
package loop

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/backend"
	"github.com/mobyfs/mobyfs/backend/dir"
)

// Open makes the root and what belongs in it where they are missing. CodeUnavailable if this host lacks what loop volumes
// need: the hint says what.
func Open(root string) (*dir.Backend, error) {
	if _, err := os.Stat(control); err != nil {
		return nil, mobyfs.Errorf(mobyfs.CodeUnavailable, "this host has no loop devices: %w", err).WithHint("load the kernel's module loop")
	}
	for _, tool := range []string{"mkfs.ext4", "resize2fs"} {
		if _, err := exec.LookPath(tool); err != nil {
			return nil, mobyfs.Errorf(mobyfs.CodeUnavailable, "this host can't make file systems: %w", err).WithHint("install e2fsprogs")
		}
	}
	return dir.OpenOn(root, &medium{})
}

type medium struct {
	devices sync.Mutex // held from looking for the loop device of an image until it is mounted
}

// Name is the word for this backend in VolumeSpec.Backend.
func (*medium) Name() string { return mobyfs.LoopBackend }

// Check refuses a volume that no file system can be made for here.
func (*medium) Check(spec mobyfs.VolumeSpec) error {
	if err := spec.CheckLayout(); err != nil {
		return err
	}
	if _, err := exec.LookPath("mkfs.xfs"); spec.Filesystem == "xfs" && err != nil {
		return mobyfs.Errorf(mobyfs.CodeUnavailable, "this host can't make file systems of xfs: %w", err).WithHint("install xfsprogs, or use ext4")
	}
	return nil
}

// Make sets the room aside before anything is written, so what does not fit is refused at once.
func (m *medium) Make(ctx context.Context, entry string, spec mobyfs.VolumeSpec) (int64, error) {
	if err := os.Mkdir(filepath.Join(entry, "data"), 0o700); err != nil {
		return 0, err
	}
	if err := makeImage(ctx, imageIn(entry), spec); err != nil {
		return 0, err
	}
	if err := m.Open(entry, 0); err != nil {
		return 0, err
	}
	// mkfs.ext4 makes it; fsck would make it again when it needs it. Docker copies an image's files only into a volume
	// that is empty.
	err := os.Remove(filepath.Join(entry, "data", "lost+found"))
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	return spec.SizeBytes, errors.Join(err, m.Close(entry))
}

// Open mounts the image at data, unless it is there already. The size is the image's own.
func (m *medium) Open(entry string, _ int64) error {
	m.devices.Lock()
	defer m.devices.Unlock()
	image, at := imageIn(entry), filepath.Join(entry, "data")
	kind, err := kindOf(image)
	if err != nil {
		return err
	}
	has, err := deviceOf(image)
	if err != nil {
		return err
	}
	if has != nil {
		defer has.Close()
		shown, err := has.isMountedAt(at)
		if err != nil {
			return err
		}
		if shown {
			return checkWritable(image, at)
		}
	}
	if err := unmountAll(at); err != nil { // whatever was mounted there, it is not this volume
		return err
	}
	if has == nil {
		reserve(image)
		if has, err = attach(image); err != nil {
			return err
		}
		defer has.Close()
	}
	return has.mount(kind, at)
}

// Close ends the mount; the loop device goes with it.
func (*medium) Close(entry string) error { return unmountAll(filepath.Join(entry, "data")) }

// Grow sets more room aside, then tells the loop device and the file system. Each of these may be repeated.
func (m *medium) Grow(ctx context.Context, entry string, bytes int64) error {
	image := imageIn(entry)
	if err := allocate(image, bytes); err != nil {
		return err
	}
	dev, err := deviceOf(image)
	if err != nil {
		return err
	}
	if dev == nil {
		return fmt.Errorf("%s is not open", image)
	}
	defer dev.Close()
	if err := dev.refresh(); err != nil {
		return err
	}
	kind, err := kindOf(image)
	if err != nil {
		return err
	}
	switch {
	case kind == "xfs":
		return run(ctx, "xfs_growfs", filepath.Join(entry, "data"))
	case mayResize():
		return run(ctx, "resize2fs", dev.path())
	}
	dev.Close()
	return m.growClosed(ctx, entry)
}

// growClosed grows an ext4 where this process may not do so while it is mounted. CodeDenied if it has to stay mounted.
func (m *medium) growClosed(ctx context.Context, entry string) (err error) {
	refused := func(err error) error {
		return mobyfs.Errorf(mobyfs.CodeDenied, "grow an ext4 that is in use: mobyfs has not the capability CAP_SYS_RESOURCE here: %w", err).
			WithHint("end the containers that use the volume, or let mobyfs have the capability")
	}
	if err := m.Close(entry); err != nil {
		return refused(err)
	}
	defer func() { err = errors.Join(err, m.Open(entry, 0)) }()
	dev, err := deviceOf(imageIn(entry))
	if err != nil {
		return err
	}
	if dev != nil {
		defer dev.Close()
		return refused(errors.New("a container has it mounted"))
	}
	return run(ctx, "resize2fs", "-f", imageIn(entry)) // -f asks for no fsck, which would make lost+found; it was closed in order
}

// mayResize reports whether the kernel lets this process grow an ext4 that is mounted.
func mayResize() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	return unix.Capget(&header, &sets[0]) == nil && sets[0].Effective&(1<<unix.CAP_SYS_RESOURCE) != 0
}

// Used is what the image and its mount point take on the host's disk: all that is set aside.
func (*medium) Used(entry string) (backend.Usage, bool, error) {
	var st unix.Stat_t
	if err := unix.Stat(imageIn(entry), &st); err != nil {
		return backend.Usage{}, false, fmt.Errorf("look at %s: %w", imageIn(entry), err)
	}
	return backend.Usage{Bytes: st.Blocks * 512, Inodes: 2}, true, nil
}

// Drop has nothing to do: an image is a file.
func (*medium) Drop(string) error { return nil }

func imageIn(entry string) string { return filepath.Join(entry, imageName) }

// checkWritable is an error for a file system that the kernel has stopped writing to.
func checkWritable(image, at string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(at, &st); err != nil {
		return fmt.Errorf("look at the file system at %s: %w", at, err)
	}
	if st.Flags&unix.ST_RDONLY != 0 {
		return mobyfs.Errorf(mobyfs.CodeCorrupt, "the kernel found an error in the file system at %s and writes to it no more", at).
			WithHint("end its containers, unmount it, and run e2fsck or xfs_repair on %s", image)
	}
	return nil
}

// unmountAll ends all mounts at a place. CodeInUse if one of them has files open.
func unmountAll(at string) error {
	for {
		switch err := unix.Unmount(at, unix.UMOUNT_NOFOLLOW); err {
		case nil:
		case unix.EINVAL, unix.ENOENT: // nothing is mounted there
			return nil
		case unix.EBUSY:
			return mobyfs.Errorf(mobyfs.CodeInUse, "unmount %s: a process of this host has files open there", at).
				WithHint("fuser -vm %s tells which", at)
		default:
			return fmt.Errorf("unmount %s: %w", at, err)
		}
	}
}
