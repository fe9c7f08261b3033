package transfer

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mobyfs/mobyfs"
)

func TestPullBringsEverything(t *testing.T) {
	src := t.TempDir()
	buildZoo(t, src)
	f := newFleet(t, src).start(t)
	want := describe(t, src)
	var reports []mobyfs.Progress
	into := t.TempDir()
	receipt, err := f.client.Pull(t.Context(), f.from(), into, func(p mobyfs.Progress) { reports = append(reports, p) })
	if err != nil {
		t.Fatal(err)
	}
	if d := diff(want, describe(t, into)); d != "" {
		t.Errorf("the trees differ:\n%s", d)
	}
	if d := diff(want, describe(t, src)); d != "" {
		t.Errorf("the source changed:\n%s", d)
	}
	for _, dir := range []string{src, into} {
		digest, p, err := Digest(t.Context(), dir, "")
		if err != nil || digest != receipt.Digest {
			t.Errorf("Digest of %s: got %s, %v, want %s", dir, digest, err, receipt.Digest)
		}
		if p.Files != receipt.Progress.Files || p.Bytes != receipt.Progress.Bytes {
			t.Errorf("Progress of %s: got %+v, want that of the receipt %+v", dir, p, receipt.Progress)
		}
	}
	if len(reports) == 0 || reports[len(reports)-1] != receipt.Progress {
		t.Errorf("the last report is %+v, want the receipt's %+v", reports, receipt.Progress)
	}
	for _, name := range []string{"sparse", "all hole", "small hole", "huge"} {
		if is, was := blocks(t, filepath.Join(into, name)), blocks(t, filepath.Join(src, name)); is > was+64<<10 {
			t.Errorf("%s takes %d bytes on disk, %d at the source: its holes were filled", name, is, was)
		}
	}
	within(t, soon, "the server released the tree", f.allReleased)
}

func TestPullOfAnEmptyVolume(t *testing.T) {
	src := t.TempDir()
	must(t, unix.Chmod(src, 0o711))
	setTime(t, src, 1_000_000_000, 77)
	f := newFleet(t, src).start(t)
	into, receipt, err := f.pullInto(t)
	if err != nil {
		t.Fatal(err)
	}
	if d := diff(describe(t, src), describe(t, into)); d != "" {
		t.Error(d)
	}
	if receipt.Progress != (mobyfs.Progress{}) || receipt.Digest == "" {
		t.Errorf("got receipt %+v", receipt)
	}
}

func TestPullBetweenFileSystems(t *testing.T) {
	needRoot(t)
	src := t.TempDir()
	buildZoo(t, src)
	into := t.TempDir()
	must(t, unix.Mount("none", into, "tmpfs", 0, "size=64m"))
	defer func() { must(t, unix.Unmount(into, unix.MNT_DETACH)) }()
	f := newFleet(t, src).start(t)
	if _, err := f.client.Pull(t.Context(), f.from(), into, nil); err != nil {
		t.Fatal(err)
	}
	if d := diff(describe(t, src), describe(t, into)); d != "" {
		t.Error(d)
	}
}

func TestPullIntoADirectoryWithDefaultACL(t *testing.T) {
	needRoot(t)
	src := smallTree(t)
	f := newFleet(t, src).start(t)
	into := t.TempDir()
	must(t, unix.Setxattr(into, aclDefault, acl(4321), 0))
	must(t, unix.Chmod(into, 0o2755)) // and set-gid, which new directories inherit
	if _, err := f.client.Pull(t.Context(), f.from(), into, nil); err != nil {
		t.Fatal(err)
	}
	if d := diff(describe(t, src), describe(t, into)); d != "" {
		t.Error(d)
	}
}

func TestPullOfTreeDeeperThanAnyPath(t *testing.T) {
	src := t.TempDir()
	fd, err := unix.Open(src, unix.O_DIRECTORY, 0)
	must(t, err)
	name := string(make([]byte, 0, 100)) + "dddddddddddddddddddddddddddddddddddddddddddddddddd"
	for range 200 { // 10 000 bytes of path
		must(t, unix.Mkdirat(fd, name, 0o755))
		next, err := unix.Openat(fd, name, unix.O_DIRECTORY, 0)
		must(t, err)
		must(t, unix.Close(fd))
		fd = next
	}
	out, err := unix.Openat(fd, "bottom", unix.O_CREAT|unix.O_WRONLY, 0o644)
	must(t, err)
	must(t, unix.Linkat(fd, "bottom", fd, "other name", 0))
	must(t, unix.Close(out))
	must(t, unix.Close(fd))
	f := newFleet(t, src).start(t)
	_, receipt, err := f.pullInto(t)
	if err != nil {
		t.Fatal(err)
	}
	if want, _, err := Digest(t.Context(), src, ""); err != nil || want != receipt.Digest {
		t.Errorf("got digest %s, want %s, %v", receipt.Digest, want, err)
	}
}

func TestPullOfTreeBeyondTheLimitOfDepthIsRefused(t *testing.T) {
	src := t.TempDir()
	fd, err := unix.Open(src, unix.O_DIRECTORY, 0)
	must(t, err)
	for range maxDepth + 1 {
		must(t, unix.Mkdirat(fd, "d", 0o755))
		next, err := unix.Openat(fd, "d", unix.O_DIRECTORY, 0)
		must(t, err)
		must(t, unix.Close(fd))
		fd = next
	}
	must(t, unix.Close(fd))
	f := newFleet(t, src).start(t)
	_, _, err = f.pullInto(t)
	if mobyfs.CodeOf(err) != mobyfs.CodeInvalid {
		t.Errorf("got %v, want CodeInvalid", err)
	}
}

func TestPullNeedsAnEmptyDirectory(t *testing.T) {
	f := newFleet(t, smallTree(t)).start(t)
	into := t.TempDir()
	must(t, os.WriteFile(filepath.Join(into, "precious"), []byte("x"), 0o600))
	_, err := f.client.Pull(t.Context(), f.from(), into, nil)
	if mobyfs.CodeOf(err) != mobyfs.CodeInvalid {
		t.Errorf("got %v, want CodeInvalid", err)
	}
	link := filepath.Join(t.TempDir(), "link")
	must(t, os.Symlink(t.TempDir(), link))
	if _, err := f.client.Pull(t.Context(), f.from(), link, nil); err == nil {
		t.Error("it pulled through a symbolic link")
	}
	if data, err := os.ReadFile(filepath.Join(into, "precious")); err != nil || string(data) != "x" {
		t.Errorf("the file that was there: %q, %v", data, err)
	}
}
