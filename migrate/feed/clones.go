package feed

import (
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// maxClones bounds how many files are kept open as clones.
const maxClones = 4096

// clones finds what changed in files on a file system that shares extents (reflink). A clone keeps its blocks, and a write to a
// block that is shared goes elsewhere: what lies where it lay when the clone was made has not changed. Clones have no names, so
// that none is left when the process ends. Files that are moved within themselves meanwhile count as changed as a whole.
type clones struct {
	root  int    // of the tree
	dir   string // where they lie
	files map[string]*clone

	shifts  *shifts
	shifted uint64
}

// clone is a file as it was. next is set between look and changed.
type clone struct {
	fd   int
	list []extent
	next *clone

	shifted uint64  // how often content had been moved then
	emptied []Range // as of placed
}

// newClones fails where files can't be cloned into dir.
func newClones(root int, dir, kind string) (*clones, error) {
	var a, b unix.Stat_t
	if err := unix.Stat(dir, &b); err != nil {
		return nil, fmt.Errorf("look at %s: %w", dir, err)
	}
	if err := unix.Fstat(root, &a); err != nil || a.Dev != b.Dev {
		return nil, fmt.Errorf("%s lies on another file system", dir)
	}
	c := &clones{root: root, dir: dir, files: map[string]*clone{}}
	probe, err := c.file()
	if err != nil {
		return nil, err
	}
	defer func() { _ = unix.Close(probe) }()
	if _, err := unix.Pwrite(probe, make([]byte, 4096), 0); err != nil {
		return nil, fmt.Errorf("write to a file in %s: %w", dir, err)
	}
	made, err := c.clone(probe)
	if err != nil {
		return nil, err
	}
	_ = unix.Close(made.fd)
	c.shifts, err = watchShifts(kind)
	return c, err
}

// file makes a file without a name.
func (c *clones) file() (int, error) {
	fd, err := unix.Open(c.dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return -1, fmt.Errorf("make a file in %s: %w", c.dir, err)
	}
	return fd, nil
}

func (c *clones) clone(of int) (*clone, error) {
	fd, err := c.file()
	if err != nil {
		return nil, err
	}
	made := &clone{fd: fd}
	if err = unix.IoctlFileClone(fd, of); err != nil {
		err = fmt.Errorf("clone a file: %w", err)
	} else if made.list, err = fiemap(fd); err != nil {
		err = fmt.Errorf("look where a clone lies: %w", err)
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return made, nil
}

func (c *clones) name() string { return "fiemap" }

// look makes no clone the last time: that takes the longer the more pieces a file lies in, and the one before still keeps its blocks.
func (c *clones) look(handle string, file int, last bool) error {
	old := c.files[handle]
	if old == nil && len(c.files) >= maxClones {
		return nil
	}
	var made *clone
	var err error
	if last {
		made = &clone{fd: -1}
		made.list, err = fiemap(file)
	} else {
		_ = unix.Fdatasync(file) // so that writers need not wait for it while the file is cloned
		made, err = c.clone(file)
	}
	if err != nil { // no room, say: then nobody knows of this file
		c.forget(handle)
		return nil
	}
	if old == nil {
		old = &clone{fd: -1}
		c.files[handle] = old
	}
	old.next = made
	return nil
}

// looked lets go of files that are gone, whose room their clones would keep.
func (c *clones) looked() error {
	c.shifted = c.shifts.now()
	for handle := range c.files {
		fd, err := openHandle(c.root, handle, unix.O_PATH)
		if gone(err) {
			c.forget(handle)
		} else if err == nil {
			_ = unix.Close(fd)
		}
	}
	return nil
}

func (c *clones) changed(handle string) (r []Range, ok bool) {
	old := c.files[handle]
	if old == nil || old.next == nil {
		c.forget(handle)
		return nil, false
	}
	now := old.next
	now.shifted = c.shifted
	c.files[handle] = now
	if old.fd < 0 {
		return nil, false
	}
	_ = unix.Close(old.fd)
	if old.shifted != now.shifted {
		return nil, false
	}
	compare(old.list, now.list, func(off, end, place int64) {
		if r = addRange(r, off, end); place < 0 {
			now.emptied = addRange(now.emptied, off, end)
		}
	}, func(int64, int64, int64) {})
	return Union(r, old.emptied), true
}

func (c *clones) forget(handle string) {
	old := c.files[handle]
	if old == nil {
		return
	}
	delete(c.files, handle)
	for _, o := range []*clone{old, old.next} {
		if o != nil && o.fd >= 0 {
			_ = unix.Close(o.fd)
		}
	}
}

func (c *clones) close() {
	for handle := range c.files {
		c.forget(handle)
	}
	c.shifts.close()
}

// selfPath is a name of an open directory that stays right when the directory is renamed.
func selfPath(fd int) string { return "/proc/" + strconv.Itoa(os.Getpid()) + "/fd/" + strconv.Itoa(fd) }
