package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/durable"
)

const (
	// ballastSize is as much as etcd needs to begin a new part of its log, and some more to compress a small store.
	ballastSize = 64 << 20
	// diskRoom is how much must be free besides, before the ballast is taken again.
	diskRoom = 4 * diskFloor
)

// ballast is a file that takes room on the disk for the day on which the disk is full: given up then, it lets the store
// delete, compact and start again. Its blocks are real.
type ballast struct {
	dir string
}

func (b ballast) path() string { return filepath.Join(b.dir, "ballast") }

// size is how much room the ballast takes, 0 if it is given up.
func (b ballast) size() int64 {
	info, err := os.Stat(b.path())
	if err != nil {
		return 0
	}
	return info.Size()
}

// take makes the ballast. Killed in between it leaves a file of another name, which the next take replaces.
func (b ballast) take() error {
	making := b.path() + ".new"
	f, err := os.OpenFile(making, os.O_CREATE|os.O_RDWR|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	err = unix.Fallocate(int(f.Fd()), 0, 0, ballastSize)
	if errors.Is(err, unix.EOPNOTSUPP) {
		err = writeBlocks(f)
	}
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(making))
	}
	return durable.Rename("store.ballast", making, b.path())
}

// writeBlocks writes the blocks one after the other, for a filesystem that can't set them aside.
func writeBlocks(f *os.File) error {
	block := make([]byte, 1<<20)
	for i := range block {
		block[i] = byte(i * 31) // no filesystem takes it for a hole
	}
	for range ballastSize / len(block) {
		if _, err := f.Write(block); err != nil {
			return err
		}
	}
	return nil
}

// giveUp frees the room. That there is none is success.
func (b ballast) giveUp() error {
	err := errors.Join(remove(b.path()+".new"), remove(b.path()))
	if err != nil {
		return fmt.Errorf("give up the ballast: %w", err)
	}
	return durable.SyncDir(b.dir)
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// trim gives the ballast up when the disk is full, or takes it when there is room, and tells how the disk is then.
func (b ballast) trim() (Disk, error) {
	d, err := b.disk()
	switch {
	case err != nil:
		return d, err
	case d.Ballast > 0 && d.Free < diskFloor:
		err = b.giveUp()
	case d.Ballast == 0 && d.Free >= ballastSize+diskRoom:
		err = b.take()
	default:
		return d, nil
	}
	after, lookErr := b.disk()
	return after, errors.Join(err, lookErr)
}

// disk tells how the disk is. What is free counts as for those who are not root.
func (b ballast) disk() (Disk, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(b.dir, &st); err != nil {
		return Disk{}, fmt.Errorf("look at the disk of the store: %w", err)
	}
	return Disk{Total: int64(st.Blocks) * st.Bsize, Free: int64(st.Bavail) * st.Bsize, Ballast: b.size()}, nil
}

// ready is nil if the disk has room to start on. Ballast that is needed for that is given up.
func (b ballast) ready() error {
	d, err := b.disk()
	if err != nil || d.Free >= diskFloor {
		return err
	}
	if err := b.giveUp(); err != nil {
		return err
	}
	if d, err = b.disk(); err == nil && d.Free < diskFloor/2 {
		err = diskFull(b.dir, d)
	}
	return err
}

func diskFull(dir string, d Disk) error {
	return mobyfs.Errorf(mobyfs.CodeNoSpace, "the disk of the store is full: %s are left in %s", inMiB(d.Free), dir).
		WithHint("make room there: control starts again by itself then, and nothing that was acknowledged is lost")
}
