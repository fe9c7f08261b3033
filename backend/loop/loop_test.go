package loop

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/backend"
	"github.com/mobyfs/mobyfs/backend/backendtest"
)

func open(t *testing.T, root string) backend.Backend {
	t.Helper()
	b, err := Open(root)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestBackendOnExt4(t *testing.T) {
	backendtest.RunWith(t, mobyfs.VolumeSpec{SizeBytes: 64 << 20}, open)
}

func TestBackendOnXFS(t *testing.T) {
	backendtest.RunWith(t, mobyfs.VolumeSpec{SizeBytes: 300 << 20, Filesystem: "xfs"}, open)
}

// hostDisk mounts a small ext4 for a root, as the disk of a host. It ends with the test.
func hostDisk(t *testing.T, bytes int64) string {
	t.Helper()
	image, at := filepath.Join(t.TempDir(), "disk"), t.TempDir()
	must(t, os.WriteFile(image, nil, 0o600))
	must(t, os.Truncate(image, bytes))
	must(t, run(t.Context(), "mkfs.ext4", "-q", "-F", image))
	must(t, run(t.Context(), "mount", "-o", "loop", image, at))
	t.Cleanup(func() {
		if err := unix.Unmount(at, 0); err != nil {
			t.Error(err)
			_ = unix.Unmount(at, unix.MNT_DETACH)
		}
	})
	return at
}

// TestFullDiskOfTheHostLeavesVolumesWhole fills the host's disk to the last byte and then the volume: all that the volume
// promised can still be written, synced and read back.
func TestFullDiskOfTheHostLeavesVolumesWhole(t *testing.T) {
	disk := hostDisk(t, 200<<20)
	b := open(t, filepath.Join(disk, "mobyfs"))
	ctx := t.Context()
	must(t, b.Create(ctx, vol, mobyfs.VolumeSpec{SizeBytes: 64 << 20, Backend: b.Name()}))
	at, err := b.Attach(ctx, vol, 1)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(at, "early"), bytes.Repeat([]byte("a"), 20<<20), 0o600))
	must(t, os.Remove(filepath.Join(at, "early")))
	trim := run(ctx, "fstrim", at) // what a container can do must not give the room away
	fill(t, filepath.Join(disk, "fill"))
	want := bytes.Repeat([]byte("mobyfs!\n"), 50<<20/8)
	f, err := os.Create(filepath.Join(at, "file"))
	must(t, err)
	_, err = f.Write(want)
	must(t, errors.Join(err, f.Sync(), f.Close()))
	must(t, b.Detach(ctx, vol))
	at, err = b.Attach(ctx, vol, 1)
	must(t, err)
	if got, err := os.ReadFile(filepath.Join(at, "file")); err != nil || !bytes.Equal(got, want) {
		t.Errorf("read back %d bytes, %v (fstrim said: %v)", len(got), err, trim)
	}
	err = b.Create(ctx, "01jcx0000000000000000000vb", mobyfs.VolumeSpec{SizeBytes: 64 << 20, Backend: b.Name()})
	if mobyfs.CodeOf(err) != mobyfs.CodeNoSpace || mobyfs.HintOf(err) == "" {
		t.Errorf("create on a full disk: got %v, want CodeNoSpace and a hint", err)
	}
	if err := b.Grow(ctx, vol, 1<<30); mobyfs.CodeOf(err) != mobyfs.CodeNoSpace {
		t.Errorf("grow on a full disk: got %v, want CodeNoSpace", err)
	}
	must(t, os.Remove(filepath.Join(disk, "fill")))
	must(t, b.Remove(ctx, vol, 2))
	must(t, b.Purge(ctx, time.Now().Add(time.Hour)))
}

func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	must(t, err)
	for _, piece := range []int{1 << 20, 4096} {
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, piece))
		}
		if !errors.Is(err, unix.ENOSPC) {
			t.Fatal(err)
		}
	}
	must(t, f.Close())
}

// TestImageIsNeverUnderTwoLoopDevices ends the mount of a volume behind the backend's back while something else keeps
// its file system alive, as a container does.
func TestImageIsNeverUnderTwoLoopDevices(t *testing.T) {
	root := t.TempDir()
	b := open(t, root)
	ctx := t.Context()
	must(t, b.Create(ctx, vol, small))
	at, err := b.Attach(ctx, vol, 1)
	must(t, err)
	container := t.TempDir()
	must(t, unix.Mount(at, container, "", unix.MS_BIND, ""))
	defer func() { _ = unix.Unmount(container, 0) }()
	must(t, os.WriteFile(filepath.Join(container, "file"), []byte("seen"), 0o600))
	must(t, unix.Unmount(at, 0))
	b = open(t, root)
	at, err = b.Attach(ctx, vol, 2)
	must(t, err)
	if got, err := os.ReadFile(filepath.Join(at, "file")); err != nil || string(got) != "seen" {
		t.Errorf("got %q, %v", got, err)
	}
	if left := devicesBelow(t, root); len(left) != 2 { // one device and one mount
		t.Errorf("the volume has %q", left)
	}
	must(t, unix.Unmount(container, 0))
	must(t, b.Remove(ctx, vol, 3))
	must(t, b.Purge(ctx, time.Now().Add(time.Hour)))
	if left := devicesBelow(t, root); len(left) != 0 {
		t.Errorf("left are %q", left)
	}
}

func TestVolumeInUseIsNotDetached(t *testing.T) {
	b := open(t, t.TempDir())
	ctx := t.Context()
	must(t, b.Create(ctx, vol, small))
	at, err := b.Attach(ctx, vol, 1)
	must(t, err)
	f, err := os.Create(filepath.Join(at, "file"))
	must(t, err)
	for what, err := range map[string]error{"detach": b.Detach(ctx, vol), "remove": b.Remove(ctx, vol, 1)} {
		if mobyfs.CodeOf(err) != mobyfs.CodeInUse || mobyfs.HintOf(err) == "" {
			t.Errorf("%s: got %v, want CodeInUse and a hint", what, err)
		}
	}
	must(t, f.Close())
	must(t, b.Detach(ctx, vol))
	must(t, b.Remove(ctx, vol, 1))
}

func TestDfShowsTheSize(t *testing.T) {
	for fs, size := range map[string]int64{"ext4": 256 << 20, "xfs": 300 << 20} {
		b := open(t, t.TempDir())
		must(t, b.Create(t.Context(), vol, mobyfs.VolumeSpec{Backend: b.Name(), SizeBytes: size, Filesystem: fs}))
		at, err := b.Attach(t.Context(), vol, 1)
		must(t, err)
		var st unix.Statfs_t
		must(t, unix.Statfs(at, &st))
		if shown := int64(st.Blocks) * st.Frsize; shown > size || shown < size*7/10 {
			t.Errorf("%s: df shows %d MiB of %d", fs, shown>>20, size>>20)
		}
		must(t, b.Remove(t.Context(), vol, 1))
	}
}

func TestWhatIsNoImageIsNotMounted(t *testing.T) {
	root := t.TempDir()
	b := open(t, root)
	must(t, b.Create(t.Context(), vol, small))
	image := filepath.Join(root, "volumes", string(vol), imageName)
	must(t, os.WriteFile(image, make([]byte, 1<<20), 0o600))
	_, err := b.Attach(t.Context(), vol, 1)
	if mobyfs.CodeOf(err) != mobyfs.CodeCorrupt || mobyfs.HintOf(err) == "" {
		t.Errorf("got %v, want CodeCorrupt and a hint", err)
	}
}
