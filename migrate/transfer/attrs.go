package transfer

import (
	"bytes"
	"errors"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// procPath names an entry of an open directory by a path, for system calls that know no handle of a directory. The
// last element is the only one that could be a symbolic link, and the l… calls do not follow it.
func procPath(dir int, name string) string { return procFD(dir) + "/" + name }

func procFD(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// attrReader reads extended attributes; its buffers grow as needed and are used again.
type attrReader struct {
	names []byte
	value []byte
}

// ofFile reads the carried attributes of an open file or directory.
func (r *attrReader) ofFile(fd int) ([]attr, error) {
	return r.read(
		func(b []byte) (int, error) { return unix.Flistxattr(fd, b) },
		func(name string, b []byte) (int, error) { return unix.Fgetxattr(fd, name, b) },
	)
}

// ofEntry reads those of an entry of a directory without opening or following it.
func (r *attrReader) ofEntry(dir int, name string) ([]attr, error) {
	path := procPath(dir, name)
	return r.read(
		func(b []byte) (int, error) { return unix.Llistxattr(path, b) },
		func(attr string, b []byte) (int, error) { return unix.Lgetxattr(path, attr, b) },
	)
}

func (r *attrReader) read(list func([]byte) (int, error), get func(string, []byte) (int, error)) ([]attr, error) {
	n, err := grow(&r.names, list)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return nil, nil
	}
	if err != nil || n == 0 {
		return nil, err
	}
	var all []attr
	for name := range bytes.SplitSeq(r.names[:n], []byte{0}) {
		if !carried(string(name)) {
			continue
		}
		a := attr{name: string(name)}
		n, err := grow(&r.value, func(b []byte) (int, error) { return get(a.name, b) })
		if err != nil {
			return nil, err
		}
		a.value = bytes.Clone(r.value[:n])
		all = append(all, a)
	}
	slices.SortFunc(all, func(a, b attr) int { return strings.Compare(a.name, b.name) })
	return all, nil
}

// grow calls with a buffer that is large enough in the end.
func grow(buf *[]byte, call func([]byte) (int, error)) (int, error) {
	for {
		if len(*buf) == 0 {
			*buf = make([]byte, 4<<10)
		}
		n, err := call(*buf)
		if err != unix.ERANGE || len(*buf) > 1<<20 {
			return n, err
		}
		*buf = make([]byte, 8*len(*buf))
	}
}
