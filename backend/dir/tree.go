package dir

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/backend"
	"github.com/mobyfs/mobyfs/internal/dirfd"
)

// deepest is how many levels of directories deleteTree holds open. Deeper ones, which a container can make at will,
// it moves up first.
const deepest = 64

// deleteTree deletes a directory and all below it, by handles: no symbolic link in it is followed. It stops soon
// after ctx ends; what is left can be deleted by calling it again.
func deleteTree(ctx context.Context, path string) error {
	top, err := dirfd.OpenRoot(path)
	if err == unix.ENOENT {
		return nil
	}
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer dirfd.Close(top)
	d := deletion{ctx: ctx, top: top, buf: make([]byte, 32<<10)}
	if err := d.empty(top, 0); err != nil {
		return err
	}
	return os.Remove(path)
}

type deletion struct {
	ctx   context.Context
	top   int
	moved int // directories that were moved up, so far
	buf   []byte
}

// empty deletes all entries of an open directory, and goes over it again until there are none: removing names
// from a directory may hide others from whoever reads it meanwhile, and the top gets new ones.
func (d *deletion) empty(fd, depth int) error {
	for found := true; found; {
		found = false
		if _, err := unix.Seek(fd, 0, unix.SEEK_SET); err != nil {
			return err
		}
		for {
			entries, err := dirfd.Next(fd, d.buf, nil)
			if err != nil {
				return err
			}
			if len(entries) == 0 {
				break
			}
			found = true
			for _, e := range entries {
				if err := d.remove(fd, e, depth); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (d *deletion) remove(fd int, e dirfd.Entry, depth int) error {
	if err := d.ctx.Err(); err != nil {
		return err
	}
	if e.Type != unix.DT_DIR {
		err := unix.Unlinkat(fd, e.Name, 0)
		if err == nil || err == unix.ENOENT {
			return nil
		}
		if e.Type != unix.DT_UNKNOWN {
			return entryError("unlink", e, err)
		}
	}
	switch err := unix.Unlinkat(fd, e.Name, unix.AT_REMOVEDIR); err {
	case nil, unix.ENOENT:
		return nil
	case unix.ENOTEMPTY, unix.EEXIST:
	default:
		return entryError("unlink", e, err)
	}
	if depth == deepest {
		d.moved++
		err := unix.Renameat(fd, e.Name, d.top, ".deep"+strconv.Itoa(os.Getpid())+"."+strconv.Itoa(d.moved))
		return entryError("move up", e, err)
	}
	sub, err := dirfd.Open(fd, e.Name)
	if err != nil {
		return entryError("open", e, err)
	}
	err = d.empty(sub, depth+1)
	dirfd.Close(sub)
	if err != nil {
		return err
	}
	return entryError("unlink", e, unix.Unlinkat(fd, e.Name, unix.AT_REMOVEDIR))
}

func entryError(op string, e dirfd.Entry, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s %q: %w", op, e.Name, err)
}

// Usage adds up the blocks of all files and directories of the volume. A file with several names counts once.
// Containers may change the tree meanwhile: what vanishes is not counted.
func (b *Backend) Usage(ctx context.Context, id mobyfs.VolumeID) (backend.Usage, error) {
	if _, err := b.load(id); err != nil {
		return backend.Usage{}, err
	}
	if used, known, err := b.medium.Used(b.volume(id)); known || err != nil {
		return used, fault(fmt.Sprintf("measure volume %s", id), err)
	}
	u := usage{ctx: ctx, buf: make([]byte, 32<<10), seen: map[[2]uint64]bool{}}
	parent, err := dirfd.OpenRoot(filepath.Dir(b.Path(id)))
	if err != nil {
		return backend.Usage{}, fault(fmt.Sprintf("measure volume %s", id), err)
	}
	defer dirfd.Close(parent)
	if err := u.add(parent, "data"); err != nil {
		return backend.Usage{}, fmt.Errorf("measure volume %s: %w", id, err)
	}
	return u.Usage, nil
}

type usage struct {
	ctx  context.Context
	buf  []byte
	seen map[[2]uint64]bool // device and inode of files that have several names
	backend.Usage
}

// add counts the entry name of an open directory and all below it.
func (u *usage) add(at int, name string) error {
	if err := u.ctx.Err(); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstatat(at, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return unlessGone(err)
	}
	isDir := st.Mode&unix.S_IFMT == unix.S_IFDIR
	if st.Nlink > 1 && !isDir {
		key := [2]uint64{uint64(st.Dev), st.Ino}
		if u.seen[key] {
			return nil
		}
		u.seen[key] = true
	}
	u.Bytes += st.Blocks * 512
	u.Inodes++
	if !isDir {
		return nil
	}
	fd, err := dirfd.Open(at, name)
	if err != nil {
		return unlessGone(err)
	}
	defer dirfd.Close(fd)
	entries, err := dirfd.List(fd, u.buf)
	if err != nil {
		return unlessGone(err)
	}
	for _, e := range entries {
		if err := u.add(fd, e.Name); err != nil {
			return err
		}
	}
	return nil
}

// unlessGone passes on an error unless it says that the entry was removed or replaced meanwhile.
func unlessGone(err error) error {
	if err == unix.ENOENT || err == unix.ENOTDIR || err == unix.ELOOP {
		return nil
	}
	return err
}
