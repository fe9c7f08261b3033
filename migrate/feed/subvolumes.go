package feed

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// nested is why a tree can't be vouched for: subvolumes of btrfs lie in it, as containers may make them. Their files are of devices
// of their own, so nobody finds out which of them are held open. "" if there are none.
func (t *tree) nested() string {
	if t.kind != "btrfs" {
		return ""
	}
	found, err := subvolumesBelow(t.root, t.at.Ino)
	switch {
	case err != nil:
		return err.Error()
	case len(found) > 0:
		return fmt.Sprintf("%d subvolumes lie in it, one at %s", len(found), found[0])
	}
	return ""
}

// subvolumesBelow lists the subvolumes that lie below a directory, but not those in them, by their paths in the one that it is in.
func subvolumesBelow(dir int, ino uint64) ([]string, error) {
	lookup := inoLookup{object: ino}
	if err := ioctl(dir, ioctlInoLookup, unsafe.Pointer(&lookup)); err != nil {
		return nil, fmt.Errorf("ask for the number of a subvolume: %w", err)
	}
	tree, at := lookup.tree, lookup.path()
	var found []string
	for from := uint64(0); ; {
		refs, err := rootRefs(dir, tree, from)
		if err != nil {
			return nil, fmt.Errorf("ask for the subvolumes in a subvolume: %w", err)
		}
		for _, r := range refs {
			parent := inoLookup{tree: tree, object: r.dir}
			err := ioctl(dir, ioctlInoLookup, unsafe.Pointer(&parent))
			if err != nil && err != unix.ENOENT { // its directory is gone, and with it the subvolume
				return nil, fmt.Errorf("find a subvolume: %w", err)
			}
			if err == nil && strings.HasPrefix(parent.path(), at) {
				found = append(found, parent.path()+r.name)
			}
			from = r.id + 1
		}
		if len(refs) == 0 {
			return found, nil
		}
	}
}

// rootRef is the place of a subvolume: its name in a directory.
type rootRef struct {
	id, dir uint64
	name    string
}

// rootRefs lists some of the subvolumes in another, by their numbers from one on; none if there are no more.
func rootRefs(fd int, tree, from uint64) ([]rootRef, error) {
	search := treeSearch{searchKey: searchKey{
		tree: rootTree, minObject: tree, maxObject: tree, minOffset: from, maxOffset: ^uint64(0), maxTransaction: ^uint64(0),
		minType: rootRefKey, maxType: rootRefKey, items: 64,
	}}
	if err := ioctl(fd, ioctlTreeSearch, unsafe.Pointer(&search)); err != nil {
		return nil, err
	}
	return readRootRefs(search.found[:], int(search.items))
}

// readRootRefs reads what a search found: of each item a head of 32 bytes, the directory's number, another number, the length of
// the name and the name.
func readRootRefs(b []byte, n int) ([]rootRef, error) {
	var refs []rootRef
	for range n {
		if len(b) < 32 {
			return nil, errSearch
		}
		id, size := binary.NativeEndian.Uint64(b[16:]), int(binary.NativeEndian.Uint32(b[28:]))
		if b = b[32:]; size < 18 || size > len(b) {
			return nil, errSearch
		}
		item := b[:size]
		b = b[size:]
		length := int(binary.LittleEndian.Uint16(item[16:]))
		if length > len(item)-18 {
			return nil, errSearch
		}
		refs = append(refs, rootRef{id, binary.LittleEndian.Uint64(item), string(item[18 : 18+length])})
	}
	return refs, nil
}

var errSearch = errors.New("what btrfs found can't be read")

// Numbers and structures of linux/btrfs.h and linux/btrfs_tree.h.
const (
	ioctlTreeSearch = 0xd0009411
	ioctlInoLookup  = 0xd0009412
	rootTree        = 1
	rootRefKey      = 156
)

type inoLookup struct {
	tree, object uint64 // tree 0 is the one of the file that is asked
	name         [4080]byte
}

// path is where a directory lies in its subvolume, with a slash at its end; "" is the subvolume itself.
func (l *inoLookup) path() string {
	path, _, _ := bytes.Cut(l.name[:], []byte{0})
	return string(path)
}

type searchKey struct {
	tree                                       uint64
	minObject, maxObject, minOffset, maxOffset uint64
	minTransaction, maxTransaction             uint64
	minType, maxType, items, _                 uint32
	_                                          [4]uint64
}

type treeSearch struct {
	searchKey
	found [4096 - unsafe.Sizeof(searchKey{})]byte
}
