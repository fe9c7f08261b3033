package transfer

import (
	"errors"
	"fmt"
	"time"

	"github.com/dustin/go-humanize"
	"golang.org/x/sys/unix"

	"github.com/mobyfs/mobyfs"
)

// What one file system keeps another may not: so many names of a file, attributes as large as that, a time as late. The kernel
// says so with an error that it has for other things too, or not at all. The functions here tell it as what it is, when the
// entry is made and long before anything is committed.

// cannotKeep says that the file system of an open file or directory can't keep an entry as the source has it, whatever room
// there is. Trying again does not help, so it is CodeInvalid and wraps no error of the kernel.
func cannotKeep(fd int, format string, args ...any) error {
	return mobyfs.Errorf(mobyfs.CodeInvalid, "%s here can't keep it: %s", fileSystem(fd), fmt.Sprintf(format, args...)).
		WithHint("move the volume to where another file system keeps it, or change that entry first")
}

var fileSystems = map[int64]string{
	unix.EXT4_SUPER_MAGIC: "ext4", unix.XFS_SUPER_MAGIC: "xfs", unix.BTRFS_SUPER_MAGIC: "btrfs", unix.F2FS_SUPER_MAGIC: "f2fs",
	unix.TMPFS_MAGIC: "tmpfs", unix.NFS_SUPER_MAGIC: "NFS", unix.OVERLAYFS_SUPER_MAGIC: "overlay",
}

// fileSystem is the name of the kind of file system that an open file lies on.
func fileSystem(fd int) string {
	var st unix.Statfs_t
	if unix.Fstatfs(fd, &st) == nil && fileSystems[st.Type] != "" {
		return fileSystems[st.Type]
	}
	return "the file system"
}

// linked tells what an error of one more name of an entry means.
func linked(dir int, name string, err error) error {
	var st unix.Stat_t
	if err == unix.EMLINK && unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW) == nil {
		return cannotKeep(dir, "%q has %s names there and no more", name, humanize.Comma(int64(st.Nlink)))
	}
	return err
}

// sized tells what an error of giving a file its size means.
func sized(fd int, size int64, err error) error {
	if err == unix.EFBIG {
		return cannotKeep(fd, "it has %s, more than a file may have there", humanize.IBytes(uint64(size)))
	}
	return err
}

// made tells what an error of making an entry in a directory means.
func made(dir int, m *meta, err error) error {
	switch {
	case err == unix.ENAMETOOLONG && m.kind == kindSymlink && len(m.target) > 255:
		return cannotKeep(dir, "it points to a path of %s bytes", humanize.Comma(int64(len(m.target))))
	case err == unix.EINVAL && (m.kind == kindChar || m.kind == kindBlock):
		return cannotKeep(dir, "its device has the number %d:%d", m.major, m.minor)
	case err == unix.EMLINK:
		return cannotKeep(dir, "its directory has more of them than there may be")
	case err == unix.ENAMETOOLONG, err == unix.EILSEQ:
		return cannotKeep(dir, "its name has %d bytes, or some that are refused there", len(m.name))
	}
	return err
}

// attrError tells what an error of setting an attribute of what lies on the file system of fd means. ext4 and btrfs call a value
// that never fits a lack of space.
func attrError(fd int, a attr, err error) error {
	switch {
	case errors.Is(err, unix.EOPNOTSUPP):
		err = errors.New("this file system does not support it")
	case err == unix.E2BIG, err == unix.ERANGE, err == unix.ENOSPC && hasRoom(fd):
		err = cannotKeep(fd, "with this one of %s bytes its attributes are too large", humanize.Comma(int64(len(a.value))))
	}
	return &attributeError{a.name, err}
}

// hasRoom reports whether there is room for the largest attribute many times over.
func hasRoom(fd int) bool {
	var st unix.Statfs_t
	return unix.Fstatfs(fd, &st) == nil && int64(st.Bavail)*st.Bsize > 32*maxAttr
}

// kept tells whether a file system kept the time that was set on an entry of a directory, or on an open file if name is empty.
// Times that it can't keep it changes without an error. Only far ones are looked at; each keeps those from 1970 to 2038.
func kept(dir int, name string, m *meta) error {
	if m.sec >= 0 && m.sec < 1<<31 {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW|unix.AT_EMPTY_PATH); err != nil {
		return err
	}
	if sec, _ := st.Mtim.Unix(); sec != m.sec {
		return cannotKeep(dir, "it was changed last in the year %d by its time", time.Unix(m.sec, 0).UTC().Year())
	}
	return nil
}
