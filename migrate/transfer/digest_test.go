package transfer

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mobyfs/mobyfs"
)

func digestOf(t testing.TB, dir string) string { return digestAs(t, dir, "") }

// digestAs is the digest of a directory, made as another was.
func digestAs(t testing.TB, dir, as string) string {
	t.Helper()
	d, _, err := Digest(t.Context(), dir, as)
	must(t, err)
	return d
}

// keepTimes runs change and sets the times of the entry and its directory back.
func keepTimes(t testing.TB, path string, change func() error) {
	t.Helper()
	var before, dir unix.Stat_t
	wasThere := unix.Lstat(path, &before) == nil
	must(t, unix.Lstat(filepath.Dir(path), &dir))
	must(t, change())
	if _, err := os.Lstat(path); err == nil && wasThere {
		setTime(t, path, before.Mtim.Sec, before.Mtim.Nsec)
	}
	setTime(t, filepath.Dir(path), dir.Mtim.Sec, dir.Mtim.Nsec)
}

func TestDigestFollowsEveryAttribute(t *testing.T) {
	src := t.TempDir()
	buildZoo(t, src)
	must(t, os.RemoveAll(filepath.Join(src, "sub"))) // and with it some hundred files
	must(t, os.Mkdir(filepath.Join(src, "sub"), 0o755))
	must(t, os.Link(filepath.Join(src, "small"), filepath.Join(src, "sub", "linked")))
	must(t, os.WriteFile(filepath.Join(src, "sub", "equal"), []byte("hello"), 0o644))
	base := digestOf(t, src)
	if again := digestOf(t, src); again != base {
		t.Fatalf("two digests of one tree: %s and %s", base, again)
	}

	in := func(dir, name string) string { return filepath.Join(dir, name) }
	for _, tc := range []struct {
		what, name string
		change     func(path string) error
	}{
		{"content of a small file", "zero bytes", func(p string) error { return overwrite(p, 0, '1') }},
		{"one bit of a small file", "small", func(p string) error { return overwrite(p, 4, 'O') }},
		{"last byte of a big file", "big", func(p string) error { return overwrite(p, 5*chunkSize+12344, 1) }},
		{"a chunk of zeros", "zeros", func(p string) error { return overwrite(p, chunkSize, 1) }},
		{"size of a file of zeros", "zeros", func(p string) error { return os.Truncate(p, chunkSize+1) }},
		{"size of a hole", "all hole", func(p string) error { return os.Truncate(p, 5<<30+1) }},
		{"a byte in a hole", "huge", func(p string) error { return overwrite(p, 1<<40, 1) }},
		{"data moved to another chunk", "sparse", moveChunk},
		{"name", "small", func(p string) error { return os.Rename(p, p+"2") }},
		{"mode", "small", func(p string) error { return unix.Chmod(p, 0o641) }},
		{"set-user-id bit", "setuid", func(p string) error { return unix.Chmod(p, 0o755) }},
		{"sticky bit", "z-sticky", func(p string) error { return unix.Chmod(p, 0o2777) }},
		{"mode of a directory", "empty", func(p string) error { return unix.Chmod(p, 0o700) }},
		{"user", "small", func(p string) error { return os.Lchown(p, 1, -1) }},
		{"group", "small", func(p string) error { return os.Lchown(p, -1, 1) }},
		{"owner of a symbolic link", "link", func(p string) error { return os.Lchown(p, 1, 1) }},
		{"owner of the root", ".", func(p string) error { return os.Lchown(p, 1, 1) }},
		{"target", "absolute", func(p string) error { return remake(p, func() error { return os.Symlink("/etc/group", p) }) }},
		{"attribute changed", "small", func(p string) error { return unix.Setxattr(p, "user.comment", []byte("x"), 0) }},
		{"attribute added", "big", func(p string) error { return unix.Setxattr(p, "user.new", nil, 0) }},
		{"attribute removed", "small", func(p string) error { return unix.Removexattr(p, "user.empty") }},
		{"trusted attribute", "small", func(p string) error { return unix.Removexattr(p, "trusted.secret") }},
		{"attribute of a symbolic link", "link", func(p string) error { return unix.Lremovexattr(p, "trusted.of.link") }},
		{"attribute of the root", ".", func(p string) error { return unix.Removexattr(p, "user.root") }},
		{"capability", "just big", func(p string) error { return unix.Setxattr(p, "security.capability", capability, 0) }},
		{"ACL", "setgid", func(p string) error { return unix.Setxattr(p, aclAccess, acl(78), 0) }},
		{"default ACL", "acl", func(p string) error { return unix.Removexattr(p, aclDefault) }},
		{"device number", "null", func(p string) error { return remakeNode(p, unix.S_IFCHR|0o666, 1, 5) }},
		{"kind of device", "null", func(p string) error { return remakeNode(p, unix.S_IFBLK|0o666, 1, 3) }},
		{"fifo to socket", "fifo", func(p string) error { return remakeNode(p, unix.S_IFSOCK|0o620, 0, 0) }},
		{"file to directory", "zero bytes", func(p string) error { return remake(p, func() error { return os.Mkdir(p, 0o644) }) }},
		{"entry gone", "dangling", os.Remove},
		{"empty directory gone", "empty", os.Remove},
		{"entry new", "new entry", func(p string) error { return os.WriteFile(p, nil, 0o644) }},
		{"hard link made a file of its own", "sub/linked", unlink},
		{"hard link to a file of equal content", "sub/equal", func(p string) error {
			return remake(p, func() error { return os.Link(filepath.Join(filepath.Dir(p), "linked"), p) })
		}},
		{"moved into a directory", "dangling", func(p string) error { return os.Rename(p, filepath.Join(filepath.Dir(p), "empty", "dangling")) }},
	} {
		dir := copyTree(t, src)
		if got := digestOf(t, dir); got != base {
			t.Fatalf("the digest of a copy is %s, want %s\n%s", got, base, diff(describe(t, src), describe(t, dir)))
		}
		path := in(dir, tc.name)
		keepTimes(t, path, func() error { return tc.change(path) })
		if digestOf(t, dir) == base {
			t.Errorf("%s of %q changed, the digest did not", tc.what, tc.name)
		}
		must(t, os.RemoveAll(dir))
	}

	for _, tc := range []struct {
		what, name string
		sec, nsec  int64
	}{
		{"time of a file", "small", 1_600_000_000, 123_456_788},
		{"time of a file before 1970", "zero bytes", -1_000_001, 1},
		{"time of a symbolic link", "link", 1_500_000_000, 43},
		{"time of a directory", "empty", 1_400_000_000, 2},
		{"time of the root", ".", 1_300_000_000, 0},
	} {
		dir := copyTree(t, src)
		setTime(t, in(dir, tc.name), tc.sec, tc.nsec)
		if digestOf(t, dir) == base {
			t.Errorf("%s changed, the digest did not", tc.what)
		}
		must(t, os.RemoveAll(dir))
	}
}

func overwrite(path string, off int64, b byte) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteAt([]byte{b}, off)
	return err
}

// moveChunk moves the data at the start of chunk 8 to chunk 7.
func moveChunk(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	buf := make([]byte, 4096)
	if _, err := f.ReadAt(buf, 8*chunkSize); err != nil {
		return err
	}
	if _, err := f.WriteAt(buf, 7*chunkSize); err != nil {
		return err
	}
	_, err = f.WriteAt(make([]byte, 4096), 8*chunkSize)
	return err
}

func remake(path string, do func() error) error {
	if err := os.Remove(path); err != nil {
		return err
	}
	return do()
}

func remakeNode(path string, mode uint32, major, minor uint32) error {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return err
	}
	err := remake(path, func() error { return unix.Mknod(path, mode, int(unix.Mkdev(major, minor))) })
	if err == nil {
		err = os.Lchown(path, int(st.Uid), int(st.Gid))
	}
	return err
}

// unlink gives a name with a shared inode one of its own, equal in all else.
func unlink(path string) error {
	alone := path + ".alone"
	if out, err := exec.Command("cp", "-a", path, alone).CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return os.Rename(alone, path)
}

func TestDigestIgnoresHolesAndReading(t *testing.T) {
	src := t.TempDir()
	buildZoo(t, src)
	base := digestOf(t, src)
	filled := filepath.Join(src, "sparse")
	before := blocks(t, filled)
	keepTimes(t, filled, func() error {
		data, err := os.ReadFile(filled)
		if err != nil {
			return err
		}
		f, err := os.OpenFile(filled, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		if _, err := f.Write(data); err != nil { // zeros where holes were
			return err
		}
		return f.Sync()
	})
	if blocks(t, filled) <= before {
		t.Fatal("the holes were not filled; this test tests nothing")
	}
	ts := []unix.Timespec{{Sec: 1, Nsec: 1}, {Nsec: unix.UTIME_OMIT}}
	must(t, unix.UtimesNanoAt(unix.AT_FDCWD, filepath.Join(src, "small"), ts, 0))
	if got := digestOf(t, src); got != base {
		t.Errorf("got %s, want %s as before", got, base)
	}
}

func TestDigestOfNoDirectory(t *testing.T) {
	dir := smallTree(t)
	must(t, os.Symlink(dir, filepath.Join(dir, "link")))
	for _, path := range []string{filepath.Join(dir, "nothing"), filepath.Join(dir, "z"), filepath.Join(dir, "link")} {
		if d, _, err := Digest(t.Context(), path, ""); err == nil {
			t.Errorf("the digest of %s is %s", path, d)
		}
	}
}

// A digest is kept in records and compared between versions of mobyfs. If this fails, the definition has changed:
// give it a new prefix.
func TestDigestHasNotChangedItsDefinition(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "file"), []byte("content"), 0o644))
	must(t, os.Link(filepath.Join(dir, "file"), filepath.Join(dir, "link")))
	must(t, os.Symlink("file", filepath.Join(dir, "sym")))
	sparse(t, filepath.Join(dir, "sparse"), 3*chunkSize, chunkSize)
	must(t, unix.Setxattr(filepath.Join(dir, "file"), "user.a", []byte("b"), 0))
	for _, name := range []string{"file", "sym", "sparse", "."} {
		setTime(t, filepath.Join(dir, name), 1_700_000_000, 1)
	}
	must(t, unix.Chmod(filepath.Join(dir, "file"), 0o644))
	must(t, unix.Chmod(filepath.Join(dir, "sparse"), 0o644))
	must(t, unix.Chmod(dir, 0o755))
	for _, want := range []string{
		"mfs1-a0bfd030168e03048c1b90e91600da3de0edfe5bcffdbd21604d3d195db2ec9b",
		"mfs2-981f47e4475ab288673c33a8c5f1b64e9072df1f61987aa35f4573ccb42e607b",
	} {
		if got, _, err := Digest(t.Context(), dir, want); err != nil || got != want {
			t.Errorf("got %s, %v, want %s", got, err, want)
		}
	}
}

func TestChangeWhileReadingIsNoticed(t *testing.T) {
	for what, change := range map[string]func(dir string) error{
		"a big file grows":           func(d string) error { return overwrite(filepath.Join(d, "b-big"), 40*chunkSize+1, 1) },
		"a big file shrinks":         func(d string) error { return os.Truncate(filepath.Join(d, "b-big"), 39*chunkSize) },
		"a big file is written":      func(d string) error { return overwrite(filepath.Join(d, "b-big"), 0, 1) },
		"a big file is removed":      func(d string) error { return os.Remove(filepath.Join(d, "z", "big")) },
		"a file is removed":          func(d string) error { return os.Remove(filepath.Join(d, "z", "file")) },
		"a file is added":            func(d string) error { return os.WriteFile(filepath.Join(d, "z", "new"), nil, 0o600) },
		"a file is added at the top": func(d string) error { return os.WriteFile(filepath.Join(d, "a-new"), nil, 0o600) },
		"a file is renamed":          func(d string) error { return os.Rename(filepath.Join(d, "z", "file"), filepath.Join(d, "z", "f2")) },
		"a file becomes a link": func(d string) error {
			p := filepath.Join(d, "z", "big")
			return remake(p, func() error { return os.Symlink("/etc/passwd", p) })
		},
		"a directory is removed": func(d string) error { return os.RemoveAll(filepath.Join(d, "z")) },
	} {
		dir := t.TempDir()
		must(t, os.Mkdir(filepath.Join(dir, "z"), 0o755))
		must(t, os.WriteFile(filepath.Join(dir, "b-big"), random(40*chunkSize, 1), 0o600))
		must(t, os.WriteFile(filepath.Join(dir, "z", "big"), random(chunkSize, 2), 0o600))
		must(t, os.WriteFile(filepath.Join(dir, "z", "file"), []byte("x"), 0o600))
		root, err := unix.Open(dir, unix.O_DIRECTORY, 0)
		must(t, err)
		done := false
		w := &frameWriter{flush: func() error { return nil }, w: writerFunc(func(b []byte) (int, error) {
			if len(b) == chunkSize && !done {
				done = true
				must(t, change(dir))
			}
			return len(b), nil
		})}
		_, err = send(t.Context(), root, w)
		must(t, unix.Close(root))
		if mobyfs.CodeOf(err) != mobyfs.CodeInUse || mobyfs.HintOf(err) == "" {
			t.Errorf("%s: got %v, want CodeInUse and a hint", what, err)
		}
		must(t, os.RemoveAll(dir))
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }
