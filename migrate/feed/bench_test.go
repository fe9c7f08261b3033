//go:build bench

package feed

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestBenchFeeds prints what it costs to be told of 1 % of 200,000 files, and of 1 % of a file of 4 GiB, and how much slower a
// writer is while a feed is armed. The disks lie in TMPDIR.
func TestBenchFeeds(t *testing.T) {
	for _, kind := range []string{"ext4", "xfs", "btrfs"} {
		dir := filepath.Join(disk(t, kind, 12<<30, ""), "tree")
		must(t, os.Mkdir(dir, 0o755))
		benchFiles(t, kind, filepath.Join(dir, "files"))
		benchBig(t, kind, filepath.Join(dir, "big"))
	}
}

func benchFiles(t *testing.T, kind, dir string) {
	must(t, os.Mkdir(dir, 0o755))
	path := func(i int) string { return filepath.Join(dir, fmt.Sprintf("%03d/%03d", i/1000, i%1000)) }
	for i := range 200_000 {
		if i%1000 == 0 {
			must(t, os.Mkdir(filepath.Dir(path(i)), 0o755))
		}
		must(t, os.WriteFile(path(i), make([]byte, 1000), 0o600))
	}
	f, why := quiet().Arm(dir, Options{})
	for range 3 {
		for range 2000 {
			must(t, os.WriteFile(path(rand.IntN(200_000)), make([]byte, 1000), 0o600))
		}
		begin := time.Now()
		s := changes(t, f)
		took := time.Since(begin)
		begin = time.Now()
		must(t, filepath.WalkDir(dir, func(_ string, d os.DirEntry, err error) error {
			if err == nil {
				_, err = d.Info()
			}
			return err
		}))
		t.Logf("%s, 2,000 of 200,000 files, %s (%s): %d paths in %v; looking at all: %v", kind, f.Name(), why, len(s.Paths), took, time.Since(begin))
	}
	must(t, f.Close())
}

func benchBig(t *testing.T, kind, path string) {
	must(t, os.Mkdir(path, 0o755))
	name := filepath.Join(path, "file")
	file, err := os.Create(name)
	must(t, err)
	page := make([]byte, 1<<20)
	for i := range page {
		page[i] = byte(i)
	}
	for range 4096 {
		_, err := file.Write(page)
		must(t, err)
	}
	must(t, file.Sync())
	loop := func() time.Duration {
		begin := time.Now()
		for range 200_000 {
			_, err := file.WriteAt(page[:4096], int64(rand.IntN(1000))*4096)
			must(t, err)
		}
		return time.Since(begin)
	}
	loop()
	free := loop()
	begin := time.Now()
	f, _ := quiet().Arm(path, Options{})
	arming := time.Since(begin)
	armed := loop()
	t.Logf("%s, %s: armed in %v; 200,000 writes of 4 KiB take %v, armed %v: %.2f times", kind, f.Name(), arming, free, armed, armed.Seconds()/free.Seconds())
	changes(t, f)
	changes(t, f)
	for range 3 {
		for range 5242 {
			_, err := file.WriteAt(page[:8192], int64(rand.IntN(4<<30/8192))*8192)
			must(t, err)
		}
		begin := time.Now()
		must(t, unix.Fdatasync(int(file.Fd())))
		flushed := time.Since(begin)
		begin = time.Now()
		s := changes(t, f)
		var told int64
		for _, r := range s.Paths["file"] {
			told += r.Len
		}
		t.Logf("%s, 1 %% of 4 GiB, %s: %d MiB in %d ranges, in %v after %v of fdatasync", kind, f.Name(), told>>20, len(s.Paths["file"]), time.Since(begin), flushed)
	}
	must(t, file.Close())
	must(t, f.Close())
}
