// Package btrfs is the backend that keeps each volume in a subvolume of the btrfs that its root lies on. It asks the kernel
// for all it needs; no other program is run.
//
// What lies where, below the root, is as package dir keeps it; data of each entry is a subvolume. Its size is kept by groups
// of quotas (qgroups): one of the subvolume, 0/<id>, which the kernel makes, and above it 1000/<id>, which has the limit. With
// simple quotas (Linux 6.7) the kernel puts a subvolume that a container makes within the volume into the same upper group, so
// nobody gets room that way; with the older ones, which count shared bytes too, it does not.
//
// Quotas are turned on for the whole file system when the first volume is made, if they are not: simple ones where the kernel
// has them. Where somebody turned them off later, the next Attach turns them on again.
//
// What a container sees with df is the whole file system, for btrfs shows no quota there. Usage tells what a volume takes, as of
// the last commit of the file system: every 30 s, or when it is synced.
package btrfs

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/backend"
	"github.com/mobyfs/mobyfs/backend/dir"
	"github.com/mobyfs/mobyfs/internal/failpoint"
)

// Open makes the root and what belongs in it where they are missing. CodeUnavailable if it does not lie on btrfs.
func Open(root string) (*dir.Backend, error) {
	on, err := IsOn(root)
	if err != nil {
		return nil, err
	}
	if !on {
		return nil, mobyfs.Errorf(mobyfs.CodeUnavailable, "%s does not lie on btrfs", root).
			WithHint("mount a btrfs at mobyfs' directory, or use backend loop for volumes whose size is kept")
	}
	return dir.OpenOn(root, &medium{root: root})
}

// IsOn reports whether a path, or the nearest directory above it that is there, lies on btrfs.
func IsOn(path string) (bool, error) {
	for {
		var st unix.Statfs_t
		err := unix.Statfs(path, &st)
		if err == nil {
			return st.Type == unix.BTRFS_SUPER_MAGIC, nil
		}
		if parent := filepath.Dir(path); err == unix.ENOENT && parent != path {
			path = parent
			continue
		}
		return false, fmt.Errorf("look at the file system of %s: %w", path, err)
	}
}

// level is that of the groups that have the limits. A number of their own tells them from what others make.
const level = 1000

// upper is the group that bounds the volume in a subvolume.
func upper(subvolume uint64) uint64 { return level<<48 | subvolume }

type medium struct {
	root   string
	quotas sync.Mutex // held while groups are made and cleared away
}

// Name is the word for this backend in VolumeSpec.Backend.
func (*medium) Name() string { return mobyfs.BtrfsBackend }

// Check refuses a size that is less than a subvolume takes when it is empty.
func (*medium) Check(spec mobyfs.VolumeSpec) error { return spec.CheckLayout() }

// Make makes the subvolume and bounds it. Killed between, it lies in a half-made entry and goes with it.
func (m *medium) Make(_ context.Context, entry string, spec mobyfs.VolumeSpec) (int64, error) {
	in, err := os.Open(entry)
	if err != nil {
		return 0, err
	}
	defer in.Close()
	err = createSubvolume(in, "data")
	failpoint.Reach("btrfs.create.after")
	if err != nil {
		return 0, err
	}
	return spec.SizeBytes, m.bound(entry, spec.SizeBytes)
}

// Open sees to it that the volume's size is kept. Its bytes are always at data.
func (m *medium) Open(entry string, size int64) error { return m.bound(entry, size) }

// bound gives the volume's subvolume its groups and its limit. All of it may be repeated.
func (m *medium) bound(entry string, size int64) error {
	m.quotas.Lock()
	defer m.quotas.Unlock()
	data, id, err := openSubvolume(entry)
	if err != nil {
		return err
	}
	defer data.Close()
	if limit, err := limitOf(data, id); err != nil || limit == size && limit > 0 {
		return err
	}
	if err := turnOn(data); err != nil {
		return err
	}
	if err := createQgroup(data, upper(id)); err != nil { // 0/<id> the kernel makes with the subvolume, or when quotas are turned on
		return err
	}
	failpoint.Reach("btrfs.qgroup.after")
	if err := assignQgroup(data, id, upper(id), true); err != nil {
		return fmt.Errorf("assign the volume to its group of quotas: %w", err)
	}
	err = limitQgroup(data, upper(id), size)
	failpoint.Reach("btrfs.limit.after")
	return err
}

// openSubvolume opens data of an entry. CodeCorrupt if it is no subvolume.
func openSubvolume(entry string) (*os.File, uint64, error) {
	data, err := os.OpenFile(filepath.Join(entry, "data"), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, 0, err
	}
	info, err := data.Stat()
	if err != nil {
		return nil, 0, errors.Join(err, data.Close())
	}
	var st unix.Stat_t
	if err = unix.Fstat(int(data.Fd()), &st); err == nil && st.Ino != firstInode {
		err = mobyfs.Errorf(mobyfs.CodeCorrupt, "%s is a %v but no subvolume of btrfs", data.Name(), info.Mode().Type()).
			WithHint("somebody replaced it; move its bytes away, or into a subvolume in its place")
	}
	var id uint64
	if err == nil {
		id, err = subvolumeID(data)
	}
	if err != nil {
		return nil, 0, errors.Join(err, data.Close())
	}
	return data, id, nil
}

// turnOn turns quotas on. Those that are on, of either kind, stay as they are.
func turnOn(f *os.File) error {
	if _, on, err := qgroupItem(f, qgroupStatusKey, 0); on || err != nil {
		return err
	}
	err := enableQuota(f, quotaEnableSimple)
	if err == unix.EINVAL || err == unix.ENOTTY { // before Linux 6.7
		err = enableQuota(f, quotaEnable)
	}
	failpoint.Reach("btrfs.quota.after")
	if err != nil && err != unix.EEXIST {
		return fmt.Errorf("turn the quotas of btrfs on: %w", err)
	}
	return nil
}

// limitOf is the size that a volume is bound to, 0 if to none.
func limitOf(f *os.File, id uint64) (int64, error) {
	item, known, err := qgroupItem(f, qgroupLimitKey, upper(id))
	if err != nil || !known || len(item) < 16 || binary.LittleEndian.Uint64(item)&limitReferenced == 0 {
		return 0, err
	}
	return max(0, int64(binary.LittleEndian.Uint64(item[8:]))), nil // -1 is no limit
}

// Close has nothing to do.
func (*medium) Close(string) error { return nil }

// Grow raises the limit.
func (m *medium) Grow(_ context.Context, entry string, bytes int64) error {
	return m.bound(entry, bytes)
}

// Used is what the kernel has counted. Files are not counted: a btrfs makes as many as it has room for.
func (*medium) Used(entry string) (backend.Usage, bool, error) {
	data, id, err := openSubvolume(entry)
	if err != nil {
		return backend.Usage{}, false, err
	}
	defer data.Close()
	item, known, err := qgroupItem(data, qgroupInfoKey, upper(id))
	if err != nil || !known || len(item) < 16 {
		return backend.Usage{}, false, err
	}
	return backend.Usage{Bytes: int64(binary.LittleEndian.Uint64(item[8:]))}, true, nil
}

// Drop deletes the subvolume in one step, however much is in it. Where a container has made others in it, the files are
// deleted one by one afterwards, like those of a directory.
func (m *medium) Drop(entry string) error {
	in, err := os.Open(entry)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer in.Close()
	err = destroySubvolume(in, "data")
	failpoint.Reach("btrfs.destroy.after")
	switch err {
	case nil, unix.ENOENT, unix.ENOTEMPTY, unix.EINVAL: // or it is no subvolume
	default:
		return fmt.Errorf("delete the subvolume in %s: %w", entry, err)
	}
	m.sweep(in)
	return nil
}

// sweep deletes the groups of subvolumes that are gone. The kernel keeps those that still count something until it has
// cleaned up; a later sweep takes them.
func (m *medium) sweep(f *os.File) {
	m.quotas.Lock()
	defer m.quotas.Unlock()
	all, err := qgroups(f, upper(0), upper(1<<48-1))
	if err != nil {
		return // they cost nothing but a look at them
	}
	for _, group := range all {
		id := group &^ (uint64(level) << 48)
		if hasSubvolume(f, id) {
			continue
		}
		_ = assignQgroup(f, id, group, false)
		_ = destroyQgroup(f, id) // newer kernels have done so
		_ = destroyQgroup(f, group)
	}
}
