// Package dirfd opens and lists directories by handle, one path element at a time, so that nothing that a
// container puts into a tree (symbolic links, names, depth) leads a walk out of it.
package dirfd

import (
	"bytes"
	"encoding/binary"
	"strings"

	"golang.org/x/sys/unix"
)

// Entry is a name in a directory.
type Entry struct {
	Name string // bytes as they are on disk, not always UTF-8
	Type uint8  // unix.DT_*; unix.DT_UNKNOWN where the file system does not tell

	Inode uint64 // its number; of a mount point that of the directory below the mount
}

// OpenRoot opens the directory at path, which must not be a symbolic link itself.
func OpenRoot(path string) (int, error) { return Open(unix.AT_FDCWD, path) }

// Open opens the directory name in the directory at. It never follows a symbolic link at its end: that is
// unix.ENOTDIR or unix.ELOOP. The caller closes the handle.
func Open(at int, name string) (int, error) {
	return OpenFile(at, name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
}

// OpenFile is openat(2) with O_NOFOLLOW, O_CLOEXEC and O_NONBLOCK always set, begun anew when a signal
// interrupts it.
func OpenFile(at int, name string, flags int, mode uint32) (int, error) {
	for {
		fd, err := unix.Openat(at, name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NONBLOCK, mode)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

// List returns all names in an open directory except . and .., in no order. It may be called once per handle: it
// reads from where the handle stands.
func List(fd int, buf []byte) ([]Entry, error) {
	var entries []Entry
	for {
		part, err := Next(fd, buf, entries)
		if err != nil || len(part) == len(entries) {
			return part, err
		}
		entries = part
	}
}

// Next appends to entries what one getdents64(2) brings; nothing appended means the end. buf is scratch of 4 KiB
// or more.
func Next(fd int, buf []byte, entries []Entry) ([]Entry, error) {
	for {
		n, err := unix.Getdents(fd, buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n <= 0 {
			return entries, err
		}
		before := len(entries)
		entries = parse(buf[:n], entries)
		if len(entries) > before {
			return entries, nil
		}
	}
}

// parse takes apart linux_dirent64 records: inode, offset (8 bytes each), length (2), type (1), name, NUL.
func parse(b []byte, entries []Entry) []Entry {
	const head = 19
	var names strings.Builder // one allocation for all names of a batch
	names.Grow(len(b))
	for len(b) >= head {
		size := int(binary.NativeEndian.Uint16(b[16:]))
		if size < head || size > len(b) {
			return entries
		}
		name := b[head:size]
		if i := bytes.IndexByte(name, 0); i >= 0 {
			name = name[:i]
		}
		if s := string(name); s != "." && s != ".." {
			at := names.Len()
			names.Write(name)
			entries = append(entries, Entry{names.String()[at:], b[18], binary.NativeEndian.Uint64(b)})
		}
		b = b[size:]
	}
	return entries
}

// Close closes a handle that nothing was written through, so that there is no error to miss.
func Close(fd int) { _ = unix.Close(fd) }
