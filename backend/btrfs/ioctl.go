package btrfs

import (
	"encoding/binary"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Numbers, structures and constants of linux/btrfs.h and linux/btrfs_tree.h. They are the same on all architectures that
// mobyfs is built for.
const (
	ioctlSubvolCreate = 0x5000940e
	ioctlSnapDestroy  = 0x5000940f
	ioctlTreeSearch   = 0xd0009411
	ioctlInoLookup    = 0xd0009412
	ioctlQuotaCtl     = 0xc0109428
	ioctlQgroupAssign = 0x40189429
	ioctlQgroupCreate = 0x4010942a
	ioctlQgroupLimit  = 0x8030942b

	quotaEnable       = 1
	quotaEnableSimple = 4

	limitReferenced = 1 << 0

	rootTree        = 1
	rootItemKey     = 132
	quotaTree       = 8
	qgroupInfoKey   = 242
	qgroupLimitKey  = 244
	qgroupStatusKey = 240

	firstInode = 256 // of every subvolume: its root directory
)

type volArgs struct {
	fd   int64
	name [4088]byte
}

type qgroupLimit struct{ flags, maxReferenced, maxExclusive, reservedReferenced, reservedExclusive uint64 }

type qgroupLimitArgs struct {
	id    uint64
	limit qgroupLimit
}

type searchArgs struct {
	tree                                       uint64
	minObject, maxObject, minOffset, maxOffset uint64
	minTransaction, maxTransaction             uint64
	minType, maxType, items, _                 uint32
	_                                          [4]uint64
	buf                                        [4096 - 104]byte
}

type inoLookupArgs struct {
	tree, object uint64
	name         [4080]byte
}

func ioctl(f *os.File, request uintptr, arg unsafe.Pointer) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), request, uintptr(arg))
	if errno != 0 {
		return errno
	}
	return nil
}

// createSubvolume makes an empty subvolume in an open directory.
func createSubvolume(in *os.File, name string) error {
	var args volArgs
	copy(args.name[:len(args.name)-1], name)
	if err := ioctl(in, ioctlSubvolCreate, unsafe.Pointer(&args)); err != nil {
		return fmt.Errorf("make a subvolume in %s: %w", in.Name(), err)
	}
	return nil
}

// destroySubvolume deletes a subvolume with all that is in it, except others that are in it: then it is ENOTEMPTY.
func destroySubvolume(in *os.File, name string) error {
	var args volArgs
	copy(args.name[:len(args.name)-1], name)
	return ioctl(in, ioctlSnapDestroy, unsafe.Pointer(&args))
}

// subvolumeID is the number of the subvolume that a file or directory is in. It is never used again.
func subvolumeID(f *os.File) (uint64, error) {
	args := inoLookupArgs{object: firstInode}
	if err := ioctl(f, ioctlInoLookup, unsafe.Pointer(&args)); err != nil {
		return 0, fmt.Errorf("ask for the subvolume of %s: %w", f.Name(), err)
	}
	return args.tree, nil
}

// hasSubvolume reports whether a subvolume of the file system has that number; one that the kernel is deleting has it still.
func hasSubvolume(f *os.File, id uint64) bool {
	args := searchArgs{tree: rootTree, minObject: id, maxObject: id, maxOffset: ^uint64(0), maxTransaction: ^uint64(0),
		minType: rootItemKey, maxType: rootItemKey, items: 1}
	err := ioctl(f, ioctlTreeSearch, unsafe.Pointer(&args))
	return err != nil || args.items > 0
}

func enableQuota(f *os.File, command uint64) error {
	args := [2]uint64{command, 0}
	return ioctl(f, ioctlQuotaCtl, unsafe.Pointer(&args))
}

func createQgroup(f *os.File, id uint64) error {
	args := [2]uint64{1, id}
	if err := ioctl(f, ioctlQgroupCreate, unsafe.Pointer(&args)); err != nil && err != unix.EEXIST {
		return fmt.Errorf("make a group of quotas: %w", err)
	}
	return nil
}

func destroyQgroup(f *os.File, id uint64) error {
	args := [2]uint64{0, id}
	return ioctl(f, ioctlQgroupCreate, unsafe.Pointer(&args))
}

// assignQgroup makes a group a member of another, or ends that.
func assignQgroup(f *os.File, member, of uint64, assigned bool) error {
	args := [3]uint64{0, member, of}
	if assigned {
		args[0] = 1
	}
	err := ioctl(f, ioctlQgroupAssign, unsafe.Pointer(&args))
	if assigned && err == unix.EEXIST {
		return nil
	}
	return err
}

// limitQgroup bounds what a group may take. The kernel takes 2^64-1 for no bound.
func limitQgroup(f *os.File, id uint64, bytes int64) error {
	args := qgroupLimitArgs{id: id, limit: qgroupLimit{flags: limitReferenced, maxReferenced: ^uint64(0)}}
	if bytes > 0 {
		args.limit.maxReferenced = uint64(bytes)
	}
	if err := ioctl(f, ioctlQgroupLimit, unsafe.Pointer(&args)); err != nil {
		return fmt.Errorf("bound a group of quotas: %w", err)
	}
	return nil
}

// qgroupItem reads an item of the tree of quotas as of the last commit of the file system. known is false if there is none,
// or quotas are off.
func qgroupItem(f *os.File, kind uint32, id uint64) (item []byte, known bool, err error) {
	args := searchArgs{tree: quotaTree, minOffset: id, maxOffset: id, maxTransaction: ^uint64(0), minType: kind, maxType: kind, items: 1}
	switch err := ioctl(f, ioctlTreeSearch, unsafe.Pointer(&args)); {
	case err == unix.ENOENT:
		return nil, false, nil
	case err != nil:
		return nil, false, fmt.Errorf("read the quotas of %s: %w", f.Name(), err)
	case args.items == 0:
		return nil, false, nil
	}
	const header = 32
	size := min(binary.NativeEndian.Uint32(args.buf[28:]), uint32(len(args.buf)-header))
	return args.buf[header : header+size], true, nil
}

// qgroups lists the numbers of all groups from one to another.
func qgroups(f *os.File, from, to uint64) ([]uint64, error) {
	var all []uint64
	for {
		args := searchArgs{tree: quotaTree, minOffset: from, maxOffset: to, maxTransaction: ^uint64(0), minType: qgroupInfoKey, maxType: qgroupInfoKey, items: 64}
		switch err := ioctl(f, ioctlTreeSearch, unsafe.Pointer(&args)); {
		case err == unix.ENOENT, err == nil && args.items == 0:
			return all, nil
		case err != nil:
			return nil, err
		}
		at := 0
		for range args.items {
			id := binary.NativeEndian.Uint64(args.buf[at+16:])
			at += 32 + int(binary.NativeEndian.Uint32(args.buf[at+28:]))
			all, from = append(all, id), id+1
		}
	}
}
