package feed

import (
	"encoding/binary"
	"errors"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A handle names an inode for as long as it exists, whatever becomes of its names (name_to_handle_at(2)). As a key it is the four
// bytes of its type and then its own.

// handleOf returns the handle of the entry name in the directory at, or of at itself if name is empty.
func handleOf(at int, name string, flags int) (string, error) {
	if name == "" {
		flags |= unix.AT_EMPTY_PATH
	}
	h, _, err := unix.NameToHandleAt(at, name, flags)
	if err != nil {
		return "", err
	}
	key := binary.NativeEndian.AppendUint32(make([]byte, 0, 4+h.Size()), uint32(h.Type()))
	return string(append(key, h.Bytes()...)), nil
}

// openHandle opens what a handle names through the mount that fd lies on. unix.ESTALE: it does not exist any more.
func openHandle(fd int, key string, flags int) (int, error) {
	if len(key) < 4 {
		return -1, unix.ESTALE
	}
	kind := int32(binary.NativeEndian.Uint32([]byte(key[:4])))
	h := unix.NewFileHandle(kind, []byte(key[4:]))
	for {
		got, err := unix.OpenByHandleAt(fd, h, flags|unix.O_CLOEXEC)
		if err != unix.EINTR {
			return got, err
		}
	}
}

// pathOf is where an open file lies now, as seen by this process.
func pathOf(fd int) (string, error) {
	return os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
}

// below returns path relative to root, and whether it lies there. root itself is "".
func below(root, path string) (string, bool) {
	if path == root {
		return "", true
	}
	rest, ok := strings.CutPrefix(path, strings.TrimSuffix(root, "/")+"/")
	return rest, ok
}

// join is the path of an entry of a directory.
func join(dir, name string) string {
	switch {
	case name == ".":
		return dir
	case dir == "":
		return name
	}
	return dir + "/" + name
}

// parent is the path of the directory in which path is an entry.
func parent(path string) string {
	dir := path[:max(strings.LastIndexByte(path, '/'), 0)]
	return dir
}

// gone tells of an error that the thing does not exist any more.
func gone(err error) bool { return errors.Is(err, unix.ESTALE) || errors.Is(err, unix.ENOENT) }
