package feed

import (
	"context"

	"golang.org/x/sys/unix"

	"github.com/mobyfs/mobyfs/internal/dirfd"
)

// namesOf calls each with all paths in the tree whose inodes have the given numbers. It reads names only, so 100,000 files take some
// ten milliseconds. What comes or goes meanwhile is in one's choice; it has events of its own.
func namesOf(ctx context.Context, root int, inodes map[uint64]bool, each func(path string)) error {
	return walk(ctx, root, func(_ int, dir string, e dirfd.Entry) (below bool, err error) {
		if inodes[e.Inode] {
			each(join(dir, e.Name))
		}
		return e.Type == unix.DT_DIR || e.Type == unix.DT_UNKNOWN, nil
	})
}

// walk calls each with the entries of the tree, each in its open directory at, whose path is dir. What each says to be a directory is
// walked too, unless it is none or none any more.
func walk(ctx context.Context, root int, each func(at int, dir string, e dirfd.Entry) (below bool, err error)) error {
	buf := make([]byte, 64<<10)
	todo := []string{""}
	for len(todo) > 0 {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		dir := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		fd, err := openBelow(root, dir)
		if gone(err) || err == unix.ENOTDIR || err == unix.ELOOP || err == unix.EXDEV {
			continue
		}
		if err != nil {
			return err
		}
		entries, err := dirfd.List(fd, buf)
		for _, e := range entries {
			below := false
			if err == nil {
				below, err = each(fd, dir, e)
			}
			if below {
				todo = append(todo, join(dir, e.Name))
			}
		}
		dirfd.Close(fd)
		if err != nil {
			return err
		}
	}
	return nil
}

// openBelow opens a directory of the tree that lies on the root's file system, through no symbolic link.
func openBelow(root int, path string) (int, error) {
	how := unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC | unix.O_NOFOLLOW,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	}
	if path == "" {
		path = "."
	}
	for {
		fd, err := unix.Openat2(root, path, &how)
		if err != unix.EINTR && err != unix.EAGAIN {
			return fd, err
		}
	}
}

// eachFile calls each with the regular files of the tree, each by its name in an open directory. One that has several names comes
// several times.
func eachFile(root int, each func(at int, name string, st *unix.Stat_t) error) error {
	return walk(context.Background(), root, func(at int, _ string, e dirfd.Entry) (below bool, err error) {
		var st unix.Stat_t
		switch {
		case e.Type == unix.DT_DIR:
			return true, nil
		case e.Type != unix.DT_REG && e.Type != unix.DT_UNKNOWN:
			return false, nil
		case unix.Fstatat(at, e.Name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil: // gone: it has an event
			return false, nil
		case st.Mode&unix.S_IFMT == unix.S_IFREG:
			return false, each(at, e.Name, &st)
		}
		return st.Mode&unix.S_IFMT == unix.S_IFDIR, nil
	})
}
