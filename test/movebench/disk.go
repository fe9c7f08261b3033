//go:build bench

package movebench

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// format makes a file system on each host, in an image whose room is set aside, so that both disks have all their blocks
// when it begins. They end with the test.
func (l *lab) format(t *testing.T, fs string, bytes int64) {
	t.Helper()
	for _, s := range []*side{l.a, l.b} {
		image := filepath.Join(l.dir, s.name+".img")
		s.disk = filepath.Join(l.dir, s.name)
		must(t, os.MkdirAll(s.disk, 0o755))
		f, err := os.Create(image)
		must(t, err)
		must(t, unix.Fallocate(int(f.Fd()), 0, 0, bytes))
		must(t, f.Close())
		switch fs {
		case "ext4": // lazily made tables would be written while we measure
			must(t, command("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", "-i", "8192", image))
		default:
			must(t, command("mkfs."+fs, "-q", "-f", image))
		}
		must(t, command("mount", "-o", "loop,discard", image, s.disk))
		t.Cleanup(func() {
			if err := command("umount", s.disk); err != nil {
				t.Error(err)
			}
			_ = os.Remove(image)
		})
	}
}

// room makes an empty place on the destination, where nothing waits to be written.
func (l *lab) room(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(l.b.disk, "into")
	l.clear(t, dir)
	must(t, os.Mkdir(dir, 0o755))
	must(t, syncfs(dir))
	return dir
}

// clear removes a tree, a subvolume or nothing.
func (l *lab) clear(t *testing.T, dir string) {
	t.Helper()
	if err := unix.Statfs(dir, new(unix.Statfs_t)); err != nil {
		return
	}
	if st := new(unix.Stat_t); unix.Stat(dir, st) == nil && st.Ino == 256 { // a subvolume of btrfs
		must(t, command("btrfs", "-q", "subvolume", "delete", "--commit-after", dir))
		return
	}
	must(t, os.RemoveAll(dir))
}

func syncfs(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Syncfs(int(f.Fd())); err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	return nil
}
