package transfer

import (
	"errors"
	"io"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mobyfs/mobyfs/internal/dirfd"
)

// want says how much a scan reads of each entry.
type want int

const (
	wantLive    want = iota // as wantStat, of a tree that changes: what is gone meanwhile is left out
	wantStat                // sizes and inode numbers
	wantMeta                // all but the content of files
	wantContent             // small files' content as well
)

// item is one step of a scan: an entry of the tree, or the end of a directory. It and what it points to are valid
// until visit returns.
type item struct {
	meta            // not filled by wantStat, but for kind, name and size
	leave   bool    // the end of the directory dir; nothing else is set
	dir     *opened // where the entry lies; for a directory, itself
	dev     uint64
	ino     uint64
	nlink   uint64
	blocks  int64 // of 512 bytes
	stamp   stamp
	inline  bool // a regular file whose content and sum follow
	content []byte
	sum     sum

	typ      uint8 // unix.DT_*, of an entry that a helper is to fill
	ready    bool
	from, to int // content, in the batch's buffer
	err      error
}

// opened is a directory that a scan is in.
type opened struct {
	fd     int
	parent *opened
	name   string
	stamp  stamp
	depth  int
}

// path is the directory's path below the root, for messages.
func (d *opened) path(name string) string {
	for ; d != nil && d.parent != nil; d = d.parent {
		name = d.name + "/" + name
	}
	return strings.TrimSuffix(name, "/")
}

// path is the item's path below the root, for messages.
func (it *item) path() string {
	if it.kind == kindDir || it.leave {
		return it.dir.path("")
	}
	return it.dir.path(it.name)
}

// stamp is what changes whenever a file or directory does.
type stamp struct {
	size         int64
	mtime, ctime unix.Timespec
}

func stampOf(st *unix.Stat_t) stamp { return stamp{st.Size, st.Mtim, st.Ctim} }

// take fills what lstat(2) tells.
func (it *item) take(st *unix.Stat_t) {
	it.kind = kinds[st.Mode&unix.S_IFMT]
	it.mode, it.uid, it.gid = st.Mode&0o7777, st.Uid, st.Gid
	it.sec, it.nsec = st.Mtim.Sec, uint32(st.Mtim.Nsec)
	it.dev, it.ino, it.nlink, it.blocks = uint64(st.Dev), st.Ino, uint64(st.Nlink), st.Blocks
	it.stamp = stampOf(st)
	switch it.kind {
	case kindFile:
		it.size = st.Size
	case kindChar, kindBlock:
		it.major, it.minor = unix.Major(st.Rdev), unix.Minor(st.Rdev)
	}
}

// sparse reports whether a file has fewer blocks than its size needs.
func (it *item) sparse() bool { return it.blocks*512 < it.size }

// fill reads an entry that is no directory.
func (s *scanner) fill(it *item, b *batch, attrs *attrReader) error {
	if it.typ == unix.DT_REG && s.want == wantContent {
		return s.fillFile(it, b, attrs)
	}
	var st unix.Stat_t
	err := unix.Fstatat(it.dir.fd, it.name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if err != nil {
		return err
	}
	if uint8(st.Mode&unix.S_IFMT>>12) != it.typ {
		return errChanged
	}
	it.take(&st)
	if s.want >= wantMeta && it.kind == kindSymlink {
		it.target, err = readlink(it.dir.fd, it.name)
	}
	if s.want >= wantMeta && err == nil {
		it.attrs, err = attrs.ofEntry(it.dir.fd, it.name)
	}
	return err
}

// fillFile reads a regular file, and its content if that is small and there is no second name that needs it too.
func (s *scanner) fillFile(it *item, b *batch, attrs *attrReader) error {
	fd, err := openQuietly(it.dir.fd, it.name, 0)
	if err != nil {
		return err
	}
	defer dirfd.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return errChanged
	}
	it.take(&st)
	if it.attrs, err = attrs.ofFile(fd); err != nil {
		return err
	}
	if it.size > smallFile || it.nlink > 1 || it.sparse() {
		return nil
	}
	it.from = len(b.buf)
	it.to = it.from + int(it.size)
	b.buf = slices.Grow(b.buf, int(it.size))[:it.to]
	if err := readFull(fd, b.buf[it.from:], 0); err != nil {
		return err
	}
	it.inline, it.sum = true, sumSmall(b.buf[it.from:])
	return unchanged(fd, it.stamp)
}

// openFile opens a regular file that was visited. It must be closed with unix.Close.
func (it *item) openFile() (int, error) {
	fd, err := openQuietly(it.dir.fd, it.name, 0)
	if err == nil {
		if err = unchanged(fd, it.stamp); err != nil {
			dirfd.Close(fd)
		}
	}
	return fd, err
}

// unchanged tells whether an open file is as the stamp says.
func unchanged(fd int, s stamp) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if stampOf(&st) != s {
		return errChanged
	}
	return nil
}

// openQuietly opens for reading and leaves the time of access alone where that is allowed.
func openQuietly(at int, name string, flags int) (int, error) {
	fd, err := dirfd.OpenFile(at, name, unix.O_RDONLY|unix.O_NOATIME|flags, 0)
	if err == unix.EPERM {
		fd, err = dirfd.OpenFile(at, name, unix.O_RDONLY|flags, 0)
	}
	return fd, err
}

func readlink(at int, name string) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(at, name, buf)
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

// errGone is told of an entry of a live tree that was there a moment ago.
var errGone = errors.New("gone")

// errChanged is told of an entry that is another than a moment ago.
var errChanged = errors.New("changed")

// entryError names the entry that an error is about. An entry that was listed and is gone, or is something else now,
// or shorter, has changed.
func entryError(d *opened, name string, err error) error {
	switch {
	case err == errChanged, errors.Is(err, io.ErrUnexpectedEOF), err == unix.ENOENT, err == unix.ENOTDIR,
		err == unix.ELOOP, err == unix.ENODATA:
		return changed(d.path(name))
	default:
		return fault("read "+d.path(name), err)
	}
}
