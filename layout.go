package mobyfs

import (
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

// The backends that this version knows. A node has those for which it has what they need.
const (
	DefaultBackend = "dir"    // a plain directory: its size is a promise, and nothing bounds it
	LoopBackend    = "loop"   // a file system of its own in an image, all of whose size is set aside
	BtrfsBackend   = "btrfs"  // a subvolume of the btrfs that mobyfs' directory lies on, with a quota
	SharedBackend  = "shared" // a directory that all nodes see, such as a mount of NFS
)

// Backends lists them.
func Backends() []string { return []string{DefaultBackend, LoopBackend, BtrfsBackend, SharedBackend} }

// BoundsSize reports whether a volume of a backend holds no more than its size. Such a volume never shrinks.
func BoundsSize(backend string) bool { return backend == LoopBackend || backend == BtrfsBackend }

// BackendRoot is where a backend keeps its volumes below the root of all on a node.
func BackendRoot(root, backend string) string {
	if BoundsSize(backend) {
		return root + "/" + backend
	}
	return root
}

// DefaultLoopSize is the size of a loop volume for which none is asked.
const DefaultLoopSize = 1 << 30

// The least that a file system is made in, and that a subvolume is bound to: its own trees count.
const (
	minExt4  = 32 << 20
	minXFS   = 300 << 20
	minBtrfs = 1 << 20
)

// CheckLayout tells what is wrong with how a volume is to be made, or nil. It is for a spec WithDefaults.
func (s VolumeSpec) CheckLayout() error {
	if !slices.Contains(Backends(), s.Backend) {
		return Errorf(CodeInvalid, "there is no backend %.40q", s.Backend).WithHint("leave it out, or use dir, loop, btrfs or shared")
	}
	if s.Filesystem != "" && s.Backend != LoopBackend {
		return Errorf(CodeInvalid, "a volume of backend %s has no file system of its own", s.Backend).
			WithHint("leave fs out, or use backend %s", LoopBackend)
	}
	if s.UID < 0 || s.GID < 0 || s.UID >= 1<<31 || s.GID >= 1<<31 {
		return Errorf(CodeInvalid, "%d:%d is no owner", s.UID, s.GID).WithHint("give uid and gid as numbers from 0")
	}
	if _, err := s.RootMode(); err != nil {
		return err
	}
	if s.SizeBytes < 0 {
		return Errorf(CodeInvalid, "its size is negative").WithHint("leave it out, or write it as 10G or 512MiB")
	}
	if s.Backend == LoopBackend {
		return s.checkImage()
	}
	if s.Backend == BtrfsBackend && s.SizeBytes > 0 && s.SizeBytes < minBtrfs {
		return Errorf(CodeInvalid, "%s are too little for a subvolume of btrfs", FormatSize(s.SizeBytes)).
			WithHint("give it %s or more", FormatSize(minBtrfs))
	}
	return nil
}

// maxPath is the longest path that Linux takes, in bytes.
const maxPath = 4095

// CheckFrom tells what is wrong with a spec, as it was asked for, whose volume is to begin as a copy, or nil.
func (s VolumeSpec) CheckFrom() error {
	switch {
	case s.From == "":
		return nil
	case !path.IsAbs(s.From) || path.Clean(s.From) != s.From || s.From == "/" || len(s.From) > maxPath || strings.ContainsRune(s.From, 0):
		return Errorf(CodeInvalid, "from=%.200q is not the path of a directory to copy", s.From).
			WithHint("give its whole path, without . or .. in it, such as from=/var/lib/docker/volumes/pgdata/_data")
	case s.Mode != "" || s.UID != 0 || s.GID != 0:
		return Errorf(CodeInvalid, "a copy of %s has the mode and the owner that it has there", s.From).WithHint("leave mode, uid and gid out")
	case s.Backend == SharedBackend:
		return Errorf(CodeInvalid, "a volume of backend %s can't begin as a copy", s.Backend).
			WithHint("copy %s into it with a container that mounts both", s.From)
	default:
		return nil
	}
}

func (s VolumeSpec) checkImage() error {
	least := int64(minExt4)
	switch s.Filesystem {
	case "", "ext4":
	case "xfs":
		least = minXFS
	default:
		return Errorf(CodeInvalid, "there is no file system %.40q for a volume", s.Filesystem).WithHint("leave fs out, or use ext4 or xfs")
	}
	if s.SizeBytes < least {
		return Errorf(CodeInvalid, "%s are too little for a file system of its own", FormatSize(s.SizeBytes)).
			WithHint("give it %s or more", FormatSize(least))
	}
	return nil
}

// RootMode is the mode of the volume's root directory when it is made.
func (s VolumeSpec) RootMode() (fs.FileMode, error) {
	if s.Mode == "" {
		return 0o755, nil
	}
	n, err := strconv.ParseUint(s.Mode, 8, 32)
	if err != nil || n > 0o7777 {
		return 0, Errorf(CodeInvalid, "mode=%.40q is no mode of a directory", s.Mode).WithHint("write it in octal, such as 0750 or 1777")
	}
	mode := fs.FileMode(n & 0o777)
	for bit, name := range map[uint64]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if n&bit != 0 {
			mode |= name
		}
	}
	return mode, nil
}
