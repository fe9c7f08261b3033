package btrfs

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/backend"
	"github.com/mobyfs/mobyfs/backend/backendtest"
)

const (
	vol   = mobyfs.VolumeID("01jcx0000000000000000000va")
	other = mobyfs.VolumeID("01jcx0000000000000000000vb")
	mig   = mobyfs.MigrationID("01jcx0000000000000000000m1")
)

var small = mobyfs.VolumeSpec{Backend: mobyfs.BtrfsBackend, SizeBytes: 32 << 20}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", name, err, out)
	}
}

func open(t *testing.T, root string) backend.Backend {
	t.Helper()
	b, err := Open(root)
	must(t, err)
	return b
}

// hostDisk mounts a btrfs, as the disk of a host. It ends with the test.
func hostDisk(t *testing.T) string {
	t.Helper()
	image, at := filepath.Join(t.TempDir(), "disk"), t.TempDir()
	must(t, os.WriteFile(image, nil, 0o600))
	must(t, os.Truncate(image, 1<<30))
	run(t, "mkfs.btrfs", "-q", image)
	run(t, "mount", "-o", "loop", image, at)
	t.Cleanup(func() {
		if err := unix.Unmount(at, 0); err != nil {
			t.Error(err)
			_ = unix.Unmount(at, unix.MNT_DETACH)
		}
	})
	return at
}

// suite runs the suite with the temporary directories of its tests on a disk.
func suite(t *testing.T, disk string, spec mobyfs.VolumeSpec) {
	t.Setenv("TMPDIR", disk)
	t.Run("suite", func(t *testing.T) { backendtest.RunWith(t, spec, open) })
}

func TestBackend(t *testing.T) { suite(t, hostDisk(t), small) }

func TestBackendWithoutSizes(t *testing.T) { suite(t, hostDisk(t), mobyfs.VolumeSpec{}) }

// TestBackendWithQuotasThatCountSharedBytes is about hosts on which somebody has turned on the older kind of quotas, the only
// one before Linux 6.7.
func TestBackendWithQuotasThatCountSharedBytes(t *testing.T) {
	disk := hostDisk(t)
	run(t, "btrfs", "quota", "enable", disk)
	suite(t, disk, small)
}

func TestBtrfsIsOfferedOnlyWhereTheRootLiesOnIt(t *testing.T) {
	at := t.TempDir()
	run(t, "mount", "-t", "tmpfs", "none", at)
	defer func() { must(t, unix.Unmount(at, 0)) }()
	root := filepath.Join(at, "not", "there", "yet")
	if _, err := Open(root); mobyfs.CodeOf(err) != mobyfs.CodeUnavailable || mobyfs.HintOf(err) == "" {
		t.Errorf("on tmpfs: got %v, want CodeUnavailable and a hint", err)
	}
	if left, err := os.ReadDir(at); err != nil || len(left) > 0 {
		t.Errorf("what was refused left %v, %v", left, err)
	}
	open(t, filepath.Join(hostDisk(t), "not", "there", "yet"))
}

// TestSubvolumesThatAContainerMakesGiveNoRoom writes into a subvolume within the volume.
func TestSubvolumesThatAContainerMakesGiveNoRoom(t *testing.T) {
	b := open(t, filepath.Join(hostDisk(t), "mobyfs"))
	must(t, b.Create(t.Context(), vol, small))
	at, err := b.Attach(t.Context(), vol, 1)
	must(t, err)
	in, err := os.Open(at)
	must(t, err)
	must(t, createSubvolume(in, "own"))
	must(t, in.Close())
	_, err = fill(filepath.Join(at, "own", "file"), 2*small.SizeBytes)
	if !errors.Is(err, unix.EDQUOT) {
		t.Errorf("writing %d MiB into it: got %v, want EDQUOT", 2*small.SizeBytes>>20, err)
	}
	must(t, b.Remove(t.Context(), vol, 2))
	must(t, b.Purge(t.Context(), time.Now().Add(time.Hour)))
	if left, err := filepath.Glob(filepath.Join(filepath.Dir(filepath.Dir(filepath.Dir(at))), "trash", "*")); err != nil || len(left) > 0 {
		t.Errorf("left are %v, %v", left, err)
	}
}

func fill(path string, most int64) (written int64, err error) {
	f, err := os.Create(path)
	if err != nil {
		return 0, err
	}
	for ; written < most && err == nil; written += 1 << 20 {
		if _, err = f.Write(bytes.Repeat([]byte("mobyfs!\n"), 1<<17)); err == nil {
			err = unix.Fdatasync(int(f.Fd()))
		}
	}
	return written, errors.Join(err, f.Close())
}

// TestQuotasThatWereTurnedOffAreOnAfterTheNextAttach also is about volumes from before there were quotas.
func TestQuotasThatWereTurnedOffAreOnAfterTheNextAttach(t *testing.T) {
	disk := hostDisk(t)
	b := open(t, filepath.Join(disk, "mobyfs"))
	must(t, b.Create(t.Context(), vol, small))
	must(t, b.Create(t.Context(), other, mobyfs.VolumeSpec{Backend: mobyfs.BtrfsBackend})) // of no size
	run(t, "btrfs", "quota", "disable", disk)
	used, err := b.Usage(t.Context(), vol)
	if err != nil || used.Inodes != 1 {
		t.Errorf("without quotas the files are counted: got %+v, %v", used, err)
	}
	for id, want := range map[mobyfs.VolumeID]error{vol: unix.EDQUOT, other: nil} {
		at, err := b.Attach(t.Context(), id, 1)
		must(t, err)
		if _, err := fill(filepath.Join(at, "file"), 2*small.SizeBytes); !errors.Is(err, want) {
			t.Errorf("volume %s: got %v, want %v", id, err, want)
		}
	}
}

// TestDfShowsTheDiskAndUsageTheVolume holds what the package says of df.
func TestDfShowsTheDiskAndUsageTheVolume(t *testing.T) {
	disk := hostDisk(t)
	b := open(t, filepath.Join(disk, "mobyfs"))
	must(t, b.Create(t.Context(), vol, small))
	at, err := b.Attach(t.Context(), vol, 1)
	must(t, err)
	var here, there unix.Statfs_t
	must(t, unix.Statfs(at, &here))
	must(t, unix.Statfs(disk, &there))
	if here.Blocks != there.Blocks {
		t.Errorf("df shows %d blocks in the volume and %d on the disk", here.Blocks, there.Blocks)
	}
	if _, err := fill(filepath.Join(at, "file"), 8<<20); err != nil {
		t.Fatal(err)
	}
	unix.Sync()
	used, err := b.Usage(t.Context(), vol)
	if err != nil || used.Bytes < 8<<20 || used.Bytes > 9<<20 {
		t.Errorf("8 MiB are used: got %+v, %v", used, err)
	}
}

// TestGroupsOfVolumesThatAreGoneAreClearedAway counts what quotas leave behind.
func TestGroupsOfVolumesThatAreGoneAreClearedAway(t *testing.T) {
	disk := hostDisk(t)
	b := open(t, filepath.Join(disk, "mobyfs"))
	for range 3 {
		must(t, b.Create(t.Context(), vol, small))
		at, err := b.Attach(t.Context(), vol, 1)
		must(t, err)
		must(t, os.WriteFile(filepath.Join(at, "file"), make([]byte, 1<<20), 0o600))
		must(t, b.Remove(t.Context(), vol, 1))
	}
	must(t, b.Create(t.Context(), other, small))
	must(t, b.Purge(t.Context(), time.Now().Add(time.Hour)))
	run(t, "mount", "-o", "remount,commit=1", disk)
	run(t, "btrfs", "subvolume", "sync", disk) // the kernel deletes what is in them behind our back
	must(t, b.Purge(t.Context(), time.Now().Add(time.Hour)))
	must(t, b.Create(t.Context(), vol, small))
	must(t, b.Remove(t.Context(), vol, 1))
	must(t, b.Purge(t.Context(), time.Now().Add(time.Hour)))
	f, err := os.Open(disk)
	must(t, err)
	defer f.Close()
	left, err := qgroups(f, upper(0), upper(1<<48-1))
	if err != nil || len(left) > 2 {
		t.Errorf("of one volume and one that was just deleted the groups are %v, %v", left, err)
	}
}

func TestPlainDirectoryInItsPlaceIsNoVolume(t *testing.T) {
	b := open(t, filepath.Join(hostDisk(t), "mobyfs"))
	must(t, b.Create(t.Context(), vol, small))
	must(t, os.Remove(b.Path(vol)))
	must(t, os.Mkdir(b.Path(vol), 0o755))
	if _, err := b.Attach(t.Context(), vol, 1); mobyfs.CodeOf(err) != mobyfs.CodeCorrupt || mobyfs.HintOf(err) == "" {
		t.Errorf("got %v, want CodeCorrupt and a hint", err)
	}
}
