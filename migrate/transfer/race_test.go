package transfer

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mobyfs/mobyfs/internal/dirfd"
)

const races = 20

// precious is a directory outside of the tree, with a file that nobody may read, change or add to.
func precious(t *testing.T) (dir string, unchanged func()) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "outside")
	must(t, os.MkdirAll(dir, 0o750))
	must(t, os.WriteFile(filepath.Join(dir, "f00"), []byte("the secret"), 0o640))
	look := func() string {
		var all string
		for _, path := range []string{dir, filepath.Join(dir, "f00")} {
			var s unix.Stat_t
			must(t, unix.Lstat(path, &s))
			all += fmt.Sprintf("%o %d:%d %d %v %d\n", s.Mode, s.Uid, s.Gid, s.Size, s.Mtim, s.Nlink)
		}
		entries, err := os.ReadDir(dir)
		must(t, err)
		return fmt.Sprint(all, len(entries))
	}
	before := look()
	return dir, func() {
		t.Helper()
		if after := look(); after != before {
			t.Errorf("outside of the tree there was\n%s\nand is\n%s", before, after)
		}
	}
}

// swap puts links to outside in place of the directories of a tree, and takes them away, until stopped.
func swap(root, outside string) (stop func()) {
	ending := make(chan struct{})
	var swapping sync.WaitGroup
	swapping.Go(func() {
		for {
			for i := range 4 {
				dir := filepath.Join(root, fmt.Sprintf("d%02d", i))
				select {
				case <-ending:
					return
				default:
				}
				if os.Rename(dir, dir+".away") == nil { // an attempt that loses the race is as good as none
					_ = os.Symlink(outside, dir)
					_ = os.Remove(dir)
					_ = os.Rename(dir+".away", dir)
				}
			}
		}
	})
	return func() { close(ending); swapping.Wait() }
}

// wide makes a tree of four directories with files in them.
func wide(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	for i := range 4 {
		dir := filepath.Join(root, fmt.Sprintf("d%02d", i))
		must(t, os.Mkdir(dir, 0o700))
		for n := range 30 {
			must(t, os.WriteFile(filepath.Join(dir, fmt.Sprintf("f%02d", n)), []byte("content"), 0o600))
		}
	}
	return root
}

// Whoever can write into the directory that a pull fills, and swaps directories for links while it does, makes the pull
// fail; nothing outside is written, nor are its owner, mode or times.
func TestAttackLinksSwappedUnderAReceiver(t *testing.T) {
	pl, stream := streamOf(t, wide(t))
	outside, unchanged := precious(t)
	failed := 0
	for range races {
		into := t.TempDir()
		stop := swap(into, outside)
		if _, err := receiveStream(t.Context(), stream, pl, into); err != nil {
			failed++
		}
		stop()
		unchanged()
	}
	t.Logf("of %d pulls %d failed", races, failed)
}

// Whoever can write into a volume while it is read for another node, and swaps directories for links, gets nothing of what
// they lead to sent.
func TestAttackLinksSwappedUnderASender(t *testing.T) {
	tree := wide(t)
	outside, unchanged := precious(t)
	stop := swap(tree, outside)
	defer stop()
	failed := 0
	for range races {
		root, err := dirfd.OpenRoot(tree)
		must(t, err)
		var out bytes.Buffer
		if _, err := send(t.Context(), root, &frameWriter{w: &out, flush: func() error { return nil }}); err != nil {
			failed++
		}
		dirfd.Close(root)
		if bytes.Contains(out.Bytes(), []byte("the secret")) {
			t.Fatal("what lies outside of the volume was sent")
		}
	}
	unchanged()
	t.Logf("of %d readings %d failed", races, failed)
}
