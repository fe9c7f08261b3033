package transfer

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// needRoot fails where the kinds of files that these tests are about can't be made.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test makes device nodes, owners and trusted attributes: run it as root")
	}
}

// acl is the on-disk form of a POSIX ACL with one named user: user::rwx, user:<uid>:r--, group::r-x, mask::rwx,
// other::---.
func acl(uid uint32) []byte {
	b := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range []struct {
		tag, perm uint16
		id        uint32
	}{{1, 7, ^uint32(0)}, {2, 4, uid}, {4, 5, ^uint32(0)}, {16, 7, ^uint32(0)}, {32, 0, ^uint32(0)}} {
		b = binary.LittleEndian.AppendUint16(b, e.tag)
		b = binary.LittleEndian.AppendUint16(b, e.perm)
		b = binary.LittleEndian.AppendUint32(b, e.id)
	}
	return b
}

// capability is a file capability (version 2, effective): cap_net_bind_service.
var capability = []byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}

func random(n int, seed uint64) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), 1})
	_, _ = r.Read(b)
	return b
}

// setTime sets the time of the last change of what is at path, not following it.
func setTime(t testing.TB, path string, sec, nsec int64) {
	t.Helper()
	ts := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Sec: sec, Nsec: nsec}}
	must(t, unix.UtimesNanoAt(unix.AT_FDCWD, path, ts, unix.AT_SYMLINK_NOFOLLOW))
}

// buildZoo fills dir with one of everything that a volume may hold.
func buildZoo(t testing.TB, dir string) {
	t.Helper()
	needRoot(t)
	defer syscall.Umask(syscall.Umask(0))
	in := func(parts ...string) string { return filepath.Join(append([]string{dir}, parts...)...) }
	file := func(name string, content []byte, mode uint32) {
		must(t, os.WriteFile(in(name), content, 0o600))
		must(t, unix.Chmod(in(name), mode))
	}
	for _, d := range []string{"empty", "sub", "sub/deeper", "acl", "locked", "z-sticky"} {
		must(t, os.MkdirAll(in(d), 0o755))
	}
	file("zero bytes", nil, 0o644)
	file("small", []byte("hello"), 0o640)
	file("-rf", []byte("a name that looks like an option"), 0o644)
	file("new\nline", nil, 0o644)
	file("bad utf8 \xff\xfe\x80", []byte("x"), 0o644)
	file(strings.Repeat("n", 255), []byte("longest name"), 0o644)
	file("ünïcödé", []byte("x"), 0o644)
	file("no permissions", []byte("x"), 0)
	file("setuid", []byte("#!/bin/sh"), 0o4755)
	file("setgid", []byte("#!/bin/sh"), 0o2711)
	file("exactly one chunk", random(chunkSize, 1), 0o644)
	file("one chunk and one byte", random(chunkSize+1, 2), 0o644)
	file("big", random(5*chunkSize+12345, 3), 0o600)
	file("just small", random(smallFile, 4), 0o600)
	file("just big", random(smallFile+1, 5), 0o600)
	file("zeros", make([]byte, 3*chunkSize/2), 0o600)
	file("sub/capable", []byte("binary"), 0o755)
	must(t, unix.Setxattr(in("sub/capable"), "security.capability", capability, 0))

	// Owners; after a change of owner the set-id bits have to be set again.
	must(t, os.Lchown(in("setuid"), 1000, 1001))
	must(t, unix.Chmod(in("setuid"), 0o4755))
	must(t, os.Lchown(in("small"), 4_000_000_000, 123_456))

	// Attributes.
	must(t, unix.Setxattr(in("small"), "user.comment", []byte("with\x00NUL"), 0))
	must(t, unix.Setxattr(in("small"), "user.empty", nil, 0))
	must(t, unix.Setxattr(in("small"), "trusted.secret", []byte("t"), 0))
	must(t, unix.Setxattr(in("big"), "user.big", random(2000, 6), 0))
	must(t, unix.Setxattr(in("sub"), "user.dir", []byte("d"), 0))
	must(t, unix.Setxattr(in("acl"), aclDefault, acl(1234), 0))
	must(t, unix.Setxattr(in("acl"), aclAccess, acl(99), 0))
	file("acl/inherits", []byte("x"), 0o660) // gets an ACL from its directory
	file("acl/big one", random(100_000, 7), 0o600)
	must(t, os.Mkdir(in("acl", "sub"), 0o700))
	must(t, unix.Setxattr(in("setgid"), aclAccess, acl(77), 0))

	// Links.
	must(t, os.Link(in("small"), in("sub", "deeper", "small again")))
	must(t, os.Link(in("small"), in("a first name of small")))
	must(t, os.Link(in("big"), in("sub", "big again")))
	must(t, os.Link(in("zero bytes"), in("sub", "zero again")))
	must(t, os.Symlink("small", in("link")))
	must(t, os.Link(in("link"), in("sub", "link again")))
	must(t, os.Symlink("/etc/passwd", in("absolute")))
	must(t, os.Symlink("../../../../../../etc", in("outside")))
	must(t, os.Symlink("nowhere\xff", in("dangling")))
	must(t, os.Symlink(strings.Repeat("l", 1000), in("long")))
	must(t, os.Lchown(in("link"), 55, 66))
	must(t, unix.Lsetxattr(in("link"), "trusted.of.link", []byte("v"), 0))

	// Specials.
	must(t, unix.Mkfifo(in("fifo"), 0o620))
	must(t, os.Link(in("fifo"), in("sub", "fifo again")))
	must(t, unix.Mknod(in("socket"), unix.S_IFSOCK|0o755, 0))
	must(t, unix.Mknod(in("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	must(t, unix.Mknod(in("block"), unix.S_IFBLK|0o660, int(unix.Mkdev(259, 200_000))))
	must(t, os.Lchown(in("fifo"), 7, 8))
	must(t, unix.Lsetxattr(in("null"), "trusted.of.device", []byte("v"), 0))

	// Holes: at the start, in the middle of a chunk, over whole chunks, at the end, nothing but.
	sparse(t, in("sparse"), 9*chunkSize+777, 4096, 64<<10, 3*chunkSize+8192, 8*chunkSize)
	sparse(t, in("all hole"), 5<<30)
	sparse(t, in("small hole"), 20_000, 16384)
	sparse(t, in("huge"), 1<<42, 1<<41, 1<<42-4096)

	deep := in("deep")
	for range 60 {
		deep = filepath.Join(deep, "d")
	}
	must(t, os.MkdirAll(deep, 0o750))
	must(t, os.WriteFile(filepath.Join(deep, "bottom"), []byte("x"), 0o600))
	for i := range 300 { // more than fit into one batch of a scan
		file(fmt.Sprintf("sub/n%03d", i), random(i*7, uint64(i)), 0o644)
	}

	// Times last: nanoseconds, before 1970, after 2038.
	setTime(t, in("small"), 1_600_000_000, 123_456_789)
	setTime(t, in("zero bytes"), -1_000_000, 1)
	setTime(t, in("big"), 4_102_444_800, 999_999_999)
	setTime(t, in("link"), 1_500_000_000, 42)
	setTime(t, in("dangling"), 1_500_000_001, 43)
	setTime(t, in("fifo"), 1_500_000_002, 44)
	setTime(t, in("null"), 1_500_000_003, 45)
	must(t, unix.Chmod(in("locked"), 0))
	must(t, unix.Chmod(in("z-sticky"), 0o3777))
	must(t, os.Lchown(in("z-sticky"), 12, 34))
	must(t, unix.Chmod(in("z-sticky"), 0o3777))
	for i, d := range []string{"empty", "sub/deeper", "sub", "acl/sub", "acl", "deep/d", "locked"} {
		setTime(t, in(d), 1_400_000_000+int64(i), int64(i)*1000+1)
	}
	must(t, unix.Chmod(dir, 0o1775))
	must(t, os.Lchown(dir, 999, 998))
	must(t, unix.Setxattr(dir, "user.root", []byte("r"), 0))
	setTime(t, dir, 1_300_000_000, 987_654_321)
}

// sparse makes a file of the size that is a hole but for 4096 bytes at each of the offsets.
func sparse(t testing.TB, path string, size int64, offsets ...int64) {
	t.Helper()
	f, err := os.Create(path)
	must(t, err)
	defer f.Close()
	must(t, f.Truncate(size))
	for i, off := range offsets {
		_, err := f.WriteAt(random(int(min(4096, size-off)), uint64(i)+100), off)
		must(t, err)
	}
	must(t, f.Sync())
}

// describe writes down everything about a tree, one line an entry, by other means than the code under test: paths,
// lstat, whole contents. Trees are equal if and only if their descriptions are.
func describe(t testing.TB, root string) string {
	t.Helper()
	var lines []string
	first := map[uint64]string{}
	must(t, filepath.Walk(root, func(path string, info os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		line := fmt.Sprintf("%q %o %d:%d mtime=%d.%09d", rel, st.Mode, st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec)
		if !info.IsDir() {
			line += fmt.Sprintf(" nlink=%d", st.Nlink)
			if st.Nlink > 1 && first[st.Ino] != "" {
				line += fmt.Sprintf(" same as %q", first[st.Ino])
			} else {
				first[st.Ino] = rel
			}
		}
		switch st.Mode & syscall.S_IFMT {
		case syscall.S_IFREG:
			line += fmt.Sprintf(" size=%d content=%s", st.Size, describeContent(t, path, st.Size))
		case syscall.S_IFLNK:
			target, err := os.Readlink(path)
			must(t, err)
			line += fmt.Sprintf(" target=%q", target)
		case syscall.S_IFCHR, syscall.S_IFBLK:
			line += fmt.Sprintf(" dev=%x", st.Rdev)
		}
		lines = append(lines, line+describeAttrs(t, path))
		return nil
	}))
	return strings.Join(lines, "\n") + "\n"
}

func describeAttrs(t testing.TB, path string) string {
	t.Helper()
	size, err := unix.Llistxattr(path, nil)
	must(t, err)
	if size == 0 {
		return ""
	}
	buf := make([]byte, size)
	n, err := unix.Llistxattr(path, buf)
	must(t, err)
	names := strings.Split(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00")
	slices.Sort(names)
	var out string
	value := make([]byte, 64<<10)
	for _, name := range names {
		if name == "security.selinux" || strings.HasPrefix(name, "trusted.SGI_ACL_") {
			continue
		}
		n, err := unix.Lgetxattr(path, name, value)
		must(t, err)
		out += fmt.Sprintf(" %s=%x", name, sha256.Sum256(value[:n]))
	}
	return out
}

// describeContent hashes a file's content as any reader sees it; of files too large to read, what is not hole.
func describeContent(t testing.TB, path string, size int64) string {
	t.Helper()
	f, err := os.Open(path)
	must(t, err)
	defer f.Close()
	h := sha256.New()
	if size < 100<<20 {
		_, err := io.Copy(h, f)
		must(t, err)
		return fmt.Sprintf("%x", h.Sum(nil))
	}
	buf := make([]byte, 4096)
	for pos := int64(0); ; pos += 4096 {
		pos, err = f.Seek(pos, unix.SEEK_DATA)
		if err != nil {
			break
		}
		pos &^= 4095
		n, err := f.ReadAt(buf, pos)
		if err != io.EOF {
			must(t, err)
		}
		if !bytes.Equal(buf[:n], make([]byte, n)) {
			fmt.Fprintf(h, "%d %x\n", pos, sha256.Sum256(buf[:n]))
		}
	}
	return fmt.Sprintf("data:%x", h.Sum(nil))
}

// diff shows the lines in which two descriptions differ.
func diff(want, got string) string {
	if want == got {
		return ""
	}
	var out strings.Builder
	w, g := lines(want), lines(got)
	only := func(sign, text string, other map[string]bool) {
		for l := range strings.SplitSeq(text, "\n") {
			if !other[l] {
				fmt.Fprintf(&out, "%s %.300s\n", sign, l)
			}
		}
	}
	only("-", want, g)
	only("+", got, w)
	return out.String()
}

func lines(text string) map[string]bool {
	all := map[string]bool{}
	for l := range strings.SplitSeq(text, "\n") {
		all[l] = true
	}
	return all
}

// blocks is the disk space of a file.
func blocks(t testing.TB, path string) int64 {
	t.Helper()
	var st unix.Stat_t
	must(t, unix.Lstat(path, &st))
	return st.Blocks * 512
}

// smallTree makes a tree of a few kilobytes with a file that is sent in chunks.
func smallTree(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	must(t, os.Mkdir(filepath.Join(dir, "d"), 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "d", "f"), []byte("content"), 0o644))
	must(t, os.Link(filepath.Join(dir, "d", "f"), filepath.Join(dir, "d", "g")))
	must(t, os.Symlink("d", filepath.Join(dir, "e")))
	sparse(t, filepath.Join(dir, "s"), 3*chunkSize, 0, 2*chunkSize+4096)
	must(t, os.WriteFile(filepath.Join(dir, "z"), random(300, 9), 0o600))
	setTime(t, dir, 1_000_000_000, 5)
	return dir
}

// copyTree copies a tree with cp, as an independent means.
func copyTree(t testing.TB, from string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "copy")
	if out, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
		t.Fatalf("cp: %v\n%s", err, out)
	}
	return to
}

// within polls until ok or the time is up.
func within(t testing.TB, d time.Duration, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(d); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", d, what)
		}
	}
}
