package feed

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// subvolume makes a subvolume with a tree in it.
func subvolume(t testing.TB, at, name string) string {
	t.Helper()
	path := filepath.Join(at, name)
	run(t, "btrfs", "subvolume", "create", path)
	return path
}

func TestEventsInASubvolume(t *testing.T) {
	at := disk(t, "btrfs", 1<<30, "")
	must(t, os.MkdirAll(filepath.Join(at, "volumes"), 0o755))
	manySeeds(t, subvolume(t, filepath.Join(at, "volumes"), "data"), "fanotify+generations", Options{})
}

// TestEventsWhereOnlyASubvolumeIsMounted is about hosts whose root file system is a subvolume: nothing above it can be marked.
func TestEventsWhereOnlyASubvolumeIsMounted(t *testing.T) {
	at := disk(t, "btrfs", 1<<30, "")
	subvolume(t, at, "host")
	only := t.TempDir()
	run(t, "mount", "-o", "subvol=host", deviceOf(t, at), only)
	t.Cleanup(func() { run(t, "umount", only) })
	before := mountsOf(t)
	manySeeds(t, subvolume(t, only, "data"), "fanotify+generations", Options{})
	if after := mountsOf(t); after != before {
		t.Errorf("mounts before:\n%s\nafter:\n%s", before, after)
	}
}

func deviceOf(t *testing.T, path string) string {
	t.Helper()
	device, err := deviceUnder(path)
	must(t, err)
	return device
}

func mountsOf(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mountinfo")
	must(t, err)
	var own []string
	for line := range strings.Lines(string(b)) {
		if strings.Contains(line, "btrfs") {
			own = append(own, line)
		}
	}
	return strings.Join(own, "")
}

// TestEventsOfOtherSubvolumesAreDropped writes into a subvolume beside the armed one, whose inodes have the same numbers.
func TestEventsOfOtherSubvolumesAreDropped(t *testing.T) {
	at := disk(t, "btrfs", 512<<20, "")
	one, two := subvolume(t, at, "one"), subvolume(t, at, "two")
	for _, dir := range []string{one, two} {
		must(t, os.WriteFile(filepath.Join(dir, "file"), []byte("x"), 0o600))
	}
	f := arm(t, one, "fanotify+generations", Options{})
	must(t, os.WriteFile(filepath.Join(two, "file"), []byte("y"), 0o600))
	if s := changes(t, f); s.All || len(s.Paths) != 0 {
		t.Errorf("one was told of %v", s)
	}
	must(t, os.WriteFile(filepath.Join(one, "file"), []byte("z"), 0o600))
	if s := changes(t, f); s.All || len(s.Paths) != 1 {
		t.Errorf("one was told of %v, want its file", s)
	}
}

// TestSubvolumesInATreeAreAll makes a subvolume in the armed tree, as a container may. What is held open in it nobody finds.
func TestSubvolumesInATreeAreAll(t *testing.T) {
	at := disk(t, "btrfs", 512<<20, "")
	tree := subvolume(t, at, "tree")
	must(t, os.MkdirAll(filepath.Join(tree, "a", "b"), 0o755))
	subvolume(t, at, "beside")
	inside := arm(t, filepath.Join(tree, "a"), "fanotify+generations", Options{})
	f := arm(t, tree, "fanotify+generations", Options{})
	if s := changes(t, f); s.All {
		t.Errorf("without any: got %v", s)
	}
	subvolume(t, filepath.Join(tree, "a", "b"), "own")
	subvolume(t, tree, "ab") // its name begins as a's, but it does not lie there
	for _, f := range []Feed{f, inside} {
		if s := changes(t, f); !s.All || !strings.Contains(s.Why, "a/b/own") {
			t.Errorf("got %v, want all, for a/b/own", s)
		}
	}
	run(t, "btrfs", "subvolume", "delete", filepath.Join(tree, "a", "b", "own"))
	if s := changes(t, inside); s.All {
		t.Errorf("once it is gone: got %v", s)
	}
	if s := changes(t, f); !s.All {
		t.Errorf("with the other: got %v", s)
	}
	run(t, "btrfs", "subvolume", "delete", filepath.Join(tree, "ab"))
	if s := changes(t, f); s.All {
		t.Errorf("once all are gone: got %v", s)
	}
}

// TestAnotherFileSystemIsNotTakenForTheTop mounts a btrfs on another: marks go to the one that was asked for.
func TestAnotherFileSystemIsNotTakenForTheTop(t *testing.T) {
	at := disk(t, "btrfs", 512<<20, "")
	other := disk(t, "btrfs", 512<<20, "")
	subvolume(t, other, "sub")
	in := filepath.Join(at, "in")
	must(t, os.Mkdir(in, 0o755))
	run(t, "mount", "-o", "subvol=sub", deviceOf(t, other), in)
	t.Cleanup(func() { must(t, unix.Unmount(in, 0)) })
	f := arm(t, in, "fanotify+generations", Options{})
	must(t, os.WriteFile(filepath.Join(in, "file"), []byte("x"), 0o600))
	if s := changes(t, f); s.All || len(s.Paths) != 2 {
		t.Errorf("got %v, want the root and the file", s)
	}
}

// FuzzRootRefs reads any bytes as what a search found: nothing panics, and no name is longer than its item.
func FuzzRootRefs(f *testing.F) {
	item := make([]byte, 32+18)
	item[28], item[32+16] = 18+3, 3
	f.Add(append(item, "own"...), 1)
	f.Add(item, 2)
	f.Fuzz(func(t *testing.T, b []byte, n int) {
		refs, err := readRootRefs(b, min(n, 1000))
		used := 0
		for _, r := range refs {
			used += 32 + 18 + len(r.name)
		}
		if used > len(b) || err == nil && n > 0 && len(refs) != min(n, 1000) {
			t.Errorf("%d bytes are %d places of %d bytes, %v", len(b), len(refs), used, err)
		}
	})
}
