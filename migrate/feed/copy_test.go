package feed

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// entry is all that a test knows of one path.
type entry struct {
	inode       uint64
	mode        uint32
	uid         uint32
	mtime       unix.Timespec
	xattr, link string
	data        []byte
}

// differs tells what differs between two entries, but for their inodes.
func (e *entry) differs(f *entry) string {
	switch {
	case e == nil && f == nil:
		return ""
	case e == nil || f == nil:
		return fmt.Sprintf("there: %v, copied: %v", e != nil, f != nil)
	case e.mode != f.mode || e.uid != f.uid:
		return fmt.Sprintf("mode %o and %o, owner %d and %d", e.mode, f.mode, e.uid, f.uid)
	case e.mtime != f.mtime:
		return fmt.Sprintf("time %v and %v", e.mtime, f.mtime)
	case e.xattr != f.xattr || e.link != f.link:
		return fmt.Sprintf("attribute %q and %q, link %q and %q", e.xattr, f.xattr, e.link, f.link)
	case len(e.data) != len(f.data):
		return fmt.Sprintf("size %d and %d", len(e.data), len(f.data))
	}
	for i := range e.data {
		if e.data[i] != f.data[i] {
			return fmt.Sprintf("content from byte %d on", i)
		}
	}
	return ""
}

// look reads an entry; nil if there is none. If ranges are given, the rest of the content is old's.
func look(path string, old *entry, ranges []Range) (*entry, error) {
	var st unix.Stat_t
	err := unix.Lstat(path, &st)
	if gone(err) || err == unix.ENOTDIR {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	e := &entry{inode: st.Ino, mode: st.Mode, uid: st.Uid, mtime: st.Mtim}
	value := make([]byte, 256)
	if n, err := unix.Lgetxattr(path, "user.test", value); err == nil {
		e.xattr = string(value[:n])
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		e.link, err = os.Readlink(path)
	case unix.S_IFREG:
		if old == nil || ranges == nil {
			e.data, err = os.ReadFile(path)
			break
		}
		e.data = make([]byte, st.Size)
		copy(e.data, old.data)
		var f *os.File
		if f, err = os.Open(path); err != nil {
			break
		}
		defer f.Close() //nolint:errcheck // it was only read
		for _, r := range ranges {
			if r.Off < st.Size {
				if _, err := f.ReadAt(e.data[r.Off:min(r.Off+r.Len, st.Size)], r.Off); err != nil && err != io.EOF {
					return nil, err
				}
			}
		}
	}
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	return e, err
}

// copied is a copy of a tree that is kept up with what a feed tells and nothing else.
type copied struct {
	root    string
	entries map[string]*entry
	read    int64 // bytes of content that were read since the first time
}

func copyOf(root string) (*copied, error) {
	c := &copied{root: root, entries: map[string]*entry{}}
	err := c.tree("")
	c.read = 0
	return c, err
}

// tree reads all at and below a path.
func (c *copied) tree(path string) error {
	e, err := look(filepath.Join(c.root, path), nil, nil)
	if err != nil {
		return err
	}
	c.drop(path)
	if e == nil {
		return nil
	}
	c.entries[path] = e
	c.read += int64(len(e.data))
	if e.mode&unix.S_IFMT != unix.S_IFDIR {
		return nil
	}
	return c.names(path)
}

// names compares the names in a directory, and reads what is new there.
func (c *copied) names(dir string) error {
	list, err := os.ReadDir(filepath.Join(c.root, dir))
	if err != nil {
		return unless(errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENOTDIR), err)
	}
	there := map[string]bool{}
	for _, d := range list {
		path := join(dir, d.Name())
		there[path] = true
		var st unix.Stat_t
		if unix.Lstat(filepath.Join(c.root, path), &st) != nil {
			continue
		}
		if old := c.entries[path]; old == nil || old.inode != st.Ino || old.mode&unix.S_IFMT != st.Mode&unix.S_IFMT {
			if err := c.tree(path); err != nil {
				return err
			}
		}
	}
	for path := range c.entries {
		if path != "" && parent(path) == dir && !there[path] {
			c.drop(path)
		}
	}
	return nil
}

// drop forgets a path and all below it.
func (c *copied) drop(path string) {
	delete(c.entries, path)
	for p := range c.entries {
		if path == "" || strings.HasPrefix(p, path+"/") {
			delete(c.entries, p)
		}
	}
}

// apply brings the copy up to what a feed told.
func (c *copied) apply(s Set) error {
	if s.All {
		return c.tree("")
	}
	for _, path := range slices.Sorted(maps.Keys(s.Paths)) {
		ranges := s.Paths[path]
		e, err := look(filepath.Join(c.root, path), c.entries[path], ranges)
		if err != nil {
			return err
		}
		if e == nil || c.entries[path] != nil && c.entries[path].mode&unix.S_IFMT != e.mode&unix.S_IFMT {
			c.drop(path)
		}
		if e == nil {
			continue
		}
		c.entries[path] = e
		if ranges == nil {
			c.read += int64(len(e.data))
		}
		for _, r := range ranges {
			c.read += r.Len
		}
		if e.mode&unix.S_IFMT == unix.S_IFDIR {
			if err := c.names(path); err != nil {
				return err
			}
		}
	}
	return nil
}

// differences compares the copy with another, and counts the 4 KiB blocks in which they differ.
func (c *copied) differences(d *copied) (list []string, blocks int64) {
	paths := maps.Clone(c.entries)
	maps.Copy(paths, d.entries)
	for _, p := range slices.Sorted(maps.Keys(paths)) {
		a, b := c.entries[p], d.entries[p]
		if what := a.differs(b); what != "" {
			list = append(list, fmt.Sprintf("%q: %s", p, what))
		}
		if a == nil {
			continue
		}
		for off := 0; off < len(a.data); off += 4096 {
			end := min(off+4096, len(a.data))
			if b == nil || end > len(b.data) || !bytes.Equal(a.data[off:end], b.data[off:end]) {
				blocks++
			}
		}
	}
	return list, blocks
}
