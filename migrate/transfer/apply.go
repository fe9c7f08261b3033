package transfer

import (
	"errors"

	"golang.org/x/sys/unix"
)

// Creating entries and giving them what their metadata says. All names are single elements, looked up in an open
// directory without following symbolic links, so nothing can be made elsewhere.

// touch sets the time of the last change of what name is in a directory.
func touch(dir int, name string, m *meta) error {
	times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Sec: m.sec, Nsec: int64(m.nsec)}}
	if err := unix.UtimesNanoAt(dir, name, times, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	return kept(dir, name, m)
}

// dress gives an open file or directory its owner, attributes and mode. What is right already is left alone, which
// is the common case and saves half the time. The order matters: a change of owner clears the set-id bits and file
// capabilities, and an ACL changes the mode.
func dress(fd int, m *meta) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Uid != m.uid || st.Gid != m.gid {
		if err := unix.Fchown(fd, int(m.uid), int(m.gid)); err != nil {
			return err
		}
	}
	for _, a := range m.attrs {
		if err := unix.Fsetxattr(fd, a.name, a.value, 0); err != nil {
			return attrError(fd, a, err)
		}
	}
	if len(m.attrs) > 0 || st.Mode&0o7777 != m.mode || m.mode&0o6000 != 0 {
		return unix.Fchmod(fd, m.mode)
	}
	return nil
}

// makeSpecial makes an entry that is neither a file nor a directory, complete.
func makeSpecial(dir int, m *meta) error {
	if err := makeNode(dir, m); err != nil {
		return made(dir, m, err)
	}
	if err := unix.Fchownat(dir, m.name, int(m.uid), int(m.gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	return finishEntry(dir, m)
}

// finishEntry gives an entry that has its owner the rest of its metadata.
func finishEntry(dir int, m *meta) error {
	for _, a := range m.attrs {
		if err := unix.Lsetxattr(procPath(dir, m.name), a.name, a.value, 0); err != nil {
			return attrError(dir, a, err)
		}
	}
	if m.kind != kindSymlink { // whose mode is always 0777; and this call would follow it
		if err := unix.Fchmodat(dir, m.name, m.mode, 0); err != nil {
			return err
		}
	}
	return touch(dir, m.name, m)
}

func makeNode(dir int, m *meta) error {
	switch m.kind {
	case kindSymlink:
		return unix.Symlinkat(m.target, dir, m.name)
	case kindFifo:
		return unix.Mknodat(dir, m.name, unix.S_IFIFO|0o600, 0)
	case kindSocket:
		return unix.Mknodat(dir, m.name, unix.S_IFSOCK|0o600, 0)
	case kindChar:
		return unix.Mknodat(dir, m.name, unix.S_IFCHR|0o600, int(unix.Mkdev(m.major, m.minor)))
	case kindBlock:
		return unix.Mknodat(dir, m.name, unix.S_IFBLK|0o600, int(unix.Mkdev(m.major, m.minor)))
	default:
		return corrupt("%q as an entry of its own", m.kind)
	}
}

// attributeError says that an extended attribute could not be set.
type attributeError struct {
	name string
	err  error
}

func (e *attributeError) Error() string { return "set the attribute " + e.name + ": " + e.err.Error() }

func (e *attributeError) Unwrap() error { return e.err }

// bare takes from the open directory, into which a tree will come, the default ACL that a parent may have given it:
// all that is made in it would get one too.
func bare(fd int) error {
	err := unix.Fremovexattr(fd, aclDefault)
	if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	return err
}

// dressExactly is dress of what may have had other attributes before.
func dressExactly(fd int, m *meta) error {
	var r attrReader
	have, err := r.ofFile(fd)
	if err != nil {
		return err
	}
	for _, a := range have {
		if !hasAttr(m.attrs, a.name) {
			if err := unix.Fremovexattr(fd, a.name); err != nil && err != unix.ENODATA {
				return attrError(fd, a, err)
			}
		}
	}
	if len(have) > 0 && len(m.attrs) == 0 { // an ACL leaves its mask in the mode
		if err := unix.Fchmod(fd, m.mode); err != nil {
			return err
		}
	}
	return dress(fd, m)
}

func hasAttr(all []attr, name string) bool {
	for _, a := range all {
		if a.name == name {
			return true
		}
	}
	return false
}

// dressEntry is dressExactly of an entry that is neither a file nor a directory, with its time.
func dressEntry(dir int, m *meta) error {
	var r attrReader
	have, err := r.ofEntry(dir, m.name)
	if err != nil {
		return err
	}
	path := procPath(dir, m.name)
	for _, a := range have {
		if !hasAttr(m.attrs, a.name) {
			if err := unix.Lremovexattr(path, a.name); err != nil && err != unix.ENODATA {
				return attrError(dir, a, err)
			}
		}
	}
	if err := unix.Fchownat(dir, m.name, int(m.uid), int(m.gid), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	return finishEntry(dir, m)
}
