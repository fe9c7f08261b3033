package dir

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/backend"
	"github.com/mobyfs/mobyfs/backend/backendtest"
)

const (
	vol = mobyfs.VolumeID("01jcx0000000000000000000va")
	mig = mobyfs.MigrationID("01jcx0000000000000000000m1")
)

func open(t *testing.T, root string) *Backend {
	t.Helper()
	b, err := Open(root)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestBackend(t *testing.T) {
	backendtest.Run(t, func(t *testing.T, root string) backend.Backend { return open(t, root) })
}

func TestOpenKeepsStrangersOut(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0))
	root := filepath.Join(t.TempDir(), "a", "root")
	open(t, root)
	info, err := os.Stat(root)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("got %v, %v, want mode 0700", info, err)
	}
}

func TestFreshVolumeIgnoresTheUmask(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o077))
	b := open(t, t.TempDir())
	must(t, b.Create(t.Context(), vol, mobyfs.VolumeSpec{}))
	info, err := os.Stat(b.Path(vol))
	if err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("got %v, %v, want mode 0755", info, err)
	}
	st := info.Sys().(*syscall.Stat_t)
	if int(st.Uid) != os.Getuid() || int(st.Gid) != os.Getgid() {
		t.Errorf("owner is %d:%d, want that of this process", st.Uid, st.Gid)
	}
}

func TestOpenClearsAwayWhatIsHalfMade(t *testing.T) {
	root := t.TempDir()
	b := open(t, root)
	must(t, b.Create(t.Context(), vol, mobyfs.VolumeSpec{}))
	_, err := b.Stage(t.Context(), vol, mig, mobyfs.VolumeSpec{})
	must(t, err)
	half1, half2 := half(b.volume("01jcx0000000000000000000vb")), half(b.staged("01jcx0000000000000000000m2"))
	must(t, os.MkdirAll(filepath.Join(half1, "data"), 0o700))
	must(t, os.MkdirAll(filepath.Join(half2, "data"), 0o700))
	temp1, temp2 := filepath.Join(b.volume(vol), ".volume.json123"), filepath.Join(b.staged(mig), ".staged.json9")
	must(t, os.WriteFile(temp1, []byte("{"), 0o600))
	must(t, os.WriteFile(temp2, []byte("{"), 0o600))
	b = open(t, root)
	for _, path := range []string{half1, half2, temp1, temp2} {
		if _, err := os.Lstat(path); !isNone(err) {
			t.Errorf("%s is still there (%v)", path, err)
		}
	}
	held, staged, err := b.List(t.Context())
	if err != nil || len(held) != 1 || len(staged) != 1 {
		t.Errorf("List: got %v, %v, %v, want the volume and the migration", held, staged, err)
	}
}

func TestHalfMadeDirectoryThatHoldsBytesIsLeftAlone(t *testing.T) {
	root := t.TempDir()
	b := open(t, root)
	data := filepath.Join(half(b.volume(vol)), "data")
	must(t, os.MkdirAll(data, 0o700))
	must(t, os.WriteFile(filepath.Join(data, "precious"), []byte("x"), 0o600))
	if _, err := Open(root); err == nil {
		t.Error("Open says nothing of bytes where there can't be any")
	}
	if _, err := os.Stat(filepath.Join(data, "precious")); err != nil {
		t.Error(err)
	}
}

// removedBytes lists the contents of the file "file" of all that is in the trash.
func removedBytes(t *testing.T, b *Backend) []string {
	t.Helper()
	entries, err := b.inTrash()
	must(t, err)
	var all []string
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(e.path, "data", "file"))
		must(t, err)
		all = append(all, string(data))
	}
	return all
}

func TestNothingOfAVolumeVanishesBeforePurge(t *testing.T) {
	b := open(t, t.TempDir())
	ctx := t.Context()
	must(t, b.Create(ctx, vol, mobyfs.VolumeSpec{}))
	must(t, os.WriteFile(filepath.Join(b.Path(vol), "file"), []byte("first"), 0o600))
	for _, content := range []string{"never adopted", "second"} { // staging a sealed migration anew keeps its bytes
		dir, err := b.Stage(ctx, vol, mig, mobyfs.VolumeSpec{})
		must(t, err)
		must(t, os.WriteFile(filepath.Join(dir, "file"), []byte(content), 0o600))
		must(t, b.Seal(ctx, mig, mobyfs.Receipt{Digest: content}))
	}
	must(t, b.Adopt(ctx, vol, mig, 5))
	must(t, b.Remove(ctx, vol, 6))
	must(t, b.Purge(ctx, time.Now().Add(-time.Minute)))
	got := strings.Join(removedBytes(t, b), ", ")
	if want := "never adopted, first, second"; got != want {
		t.Errorf("in the trash: got %q, want %q", got, want)
	}
	must(t, b.Purge(ctx, time.Now().Add(time.Minute)))
	if got := removedBytes(t, b); got != nil {
		t.Errorf("after Purge the trash holds %q", got)
	}
}

func TestPurgeLeavesForeignNamesAlone(t *testing.T) {
	b := open(t, t.TempDir())
	path := filepath.Join(b.trash(), "notes")
	must(t, os.Mkdir(path, 0o700))
	must(t, b.Purge(t.Context(), time.Now().Add(time.Hour)))
	if _, err := os.Stat(path); err != nil {
		t.Error(err)
	}
}

func TestDamagedVolumeIsListedAndNotTouched(t *testing.T) {
	for name, damage := range map[string]func(dir string) error{
		"record gone":      func(dir string) error { return os.Remove(recordIn(dir)) },
		"record cut":       func(dir string) error { return os.Truncate(recordIn(dir), 3) },
		"record of others": func(dir string) error { return os.WriteFile(recordIn(dir), []byte(`{"id":"x"}`), 0o600) },
		"data gone":        func(dir string) error { return os.RemoveAll(filepath.Join(dir, "data")) },
		"data is a link": func(dir string) error {
			return errors.Join(os.RemoveAll(filepath.Join(dir, "data")), os.Symlink("/etc", filepath.Join(dir, "data")))
		},
	} {
		b := open(t, t.TempDir())
		ctx := t.Context()
		must(t, b.Create(ctx, vol, mobyfs.VolumeSpec{}))
		must(t, damage(b.volume(vol)))
		_, attachErr := b.Attach(ctx, vol, 9)
		_, _, exportErr := b.Export(ctx, vol, 9)
		for what, err := range map[string]error{
			"create": b.Create(ctx, vol, mobyfs.VolumeSpec{}), "attach": attachErr, "export": exportErr,
			"remove": b.Remove(ctx, vol, 9),
		} {
			if mobyfs.CodeOf(err) != mobyfs.CodeCorrupt || mobyfs.HintOf(err) == "" {
				t.Errorf("%s: %s: got %v, want CodeCorrupt and a hint", name, what, err)
			}
		}
		held, _, err := b.List(ctx)
		if err != nil || len(held) != 1 || held[0] != (backend.Held{ID: vol}) {
			t.Errorf("%s: List: got %v, %v", name, held, err)
		}
	}
}

func TestNoSpaceIsSaidSo(t *testing.T) {
	root := t.TempDir()
	must(t, unix.Mount("none", root, "tmpfs", 0, "size=64k"))
	defer func() { must(t, unix.Unmount(root, unix.MNT_DETACH)) }()
	b := open(t, root)
	must(t, b.Create(t.Context(), vol, mobyfs.VolumeSpec{}))
	err := os.WriteFile(filepath.Join(b.Path(vol), "fill"), make([]byte, 1<<20), 0o600)
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("the file system took 1 MiB: %v", err)
	}
	_, err = b.Stage(t.Context(), vol, mig, mobyfs.VolumeSpec{})
	if mobyfs.CodeOf(err) != mobyfs.CodeNoSpace || mobyfs.HintOf(err) == "" {
		t.Errorf("stage: got %v, want CodeNoSpace and a hint", err)
	}
	_, err = b.Attach(t.Context(), vol, 2)
	if mobyfs.CodeOf(err) != mobyfs.CodeNoSpace {
		t.Errorf("attach: got %v, want CodeNoSpace", err)
	}
	must(t, os.Remove(filepath.Join(b.Path(vol), "fill")))
	if _, err := b.Stage(t.Context(), vol, mig, mobyfs.VolumeSpec{}); err != nil {
		t.Errorf("stage after room was made: %v", err)
	}
	if held, _, err := b.List(t.Context()); err != nil || len(held) != 1 || held[0].Fence != 0 {
		t.Errorf("List: got %v, %v, want the volume with fence 0", held, err)
	}
}

func TestDeletionFollowsNoLinks(t *testing.T) {
	b := open(t, t.TempDir())
	outside := t.TempDir()
	must(t, os.WriteFile(filepath.Join(outside, "precious"), []byte("x"), 0o600))
	must(t, b.Create(t.Context(), vol, mobyfs.VolumeSpec{}))
	data := b.Path(vol)
	must(t, os.Symlink(outside, filepath.Join(data, "link")))
	must(t, os.Symlink("../../../..", filepath.Join(data, "up")))
	must(t, os.Mkdir(filepath.Join(data, "sub"), 0o000))
	must(t, unix.Mkfifo(filepath.Join(data, "fifo"), 0o600))
	used, err := b.Usage(t.Context(), vol)
	if err != nil || used.Bytes > 1<<20 || used.Inodes != 5 {
		t.Errorf("Usage: got %+v, %v", used, err)
	}
	must(t, b.Remove(t.Context(), vol, 1))
	must(t, b.Purge(t.Context(), time.Now().Add(time.Hour)))
	if _, err := os.Stat(filepath.Join(outside, "precious")); err != nil {
		t.Error(err)
	}
	if entries, err := os.ReadDir(b.trash()); err != nil || len(entries) != 0 {
		t.Errorf("the trash holds %v, %v", entries, err)
	}
}

func TestTreeDeeperThanAnyPathIsDeleted(t *testing.T) {
	b := open(t, t.TempDir())
	must(t, b.Create(t.Context(), vol, mobyfs.VolumeSpec{}))
	name := strings.Repeat("d", 100)
	fd, err := unix.Open(b.Path(vol), unix.O_DIRECTORY, 0)
	must(t, err)
	for range 300 { // 30 000 bytes of path
		must(t, unix.Mkdirat(fd, name, 0o700))
		next, err := unix.Openat(fd, name, unix.O_DIRECTORY, 0)
		must(t, err)
		must(t, unix.Close(fd))
		fd = next
	}
	must(t, unix.Close(fd))
	if _, err := b.Usage(t.Context(), vol); err != nil {
		t.Error(err)
	}
	must(t, b.Remove(t.Context(), vol, 1))
	must(t, b.Purge(t.Context(), time.Now().Add(time.Hour)))
	if entries, err := os.ReadDir(b.trash()); err != nil || len(entries) != 0 {
		t.Errorf("the trash holds %v, %v", entries, err)
	}
}

// endsAfter is a context that ends after Err was asked n times.
type endsAfter struct {
	context.Context
	n int
}

func (c *endsAfter) Err() error {
	if c.n--; c.n < 0 {
		return context.Canceled
	}
	return nil
}

func TestDeletionStopsInTheMiddle(t *testing.T) {
	b := open(t, t.TempDir())
	dir, err := b.Stage(t.Context(), vol, mig, mobyfs.VolumeSpec{})
	must(t, err)
	for i := range 100 {
		must(t, os.WriteFile(filepath.Join(dir, strings.Repeat("f", i+1)), nil, 0o600))
	}
	if err := b.Discard(&endsAfter{t.Context(), 20}, mig); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want that it was canceled", err)
	}
	if _, staged, err := b.List(t.Context()); err != nil || len(staged) != 0 {
		t.Errorf("half-deleted bytes are listed: %v, %v", staged, err)
	}
	if entries, err := os.ReadDir(b.trash()); err != nil || len(entries) != 1 {
		t.Errorf("the trash holds %v, %v; the rest should be there", entries, err)
	}
	must(t, b.Purge(t.Context(), time.Unix(0, 0)))
	if entries, err := os.ReadDir(b.trash()); err != nil || len(entries) != 0 {
		t.Errorf("the trash holds %v, %v", entries, err)
	}
}
