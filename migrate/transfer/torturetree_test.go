package transfer

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// amount is how many of something a tree has: few, or as many as the torture is about.
func amount(few, many int) int {
	if *full {
		return many
	}
	return few
}

// buildTorture fills dir with what every file system keeps: the zoo, a directory of many entries and one of many directories, a
// file of many names, names of all bytes, 1 TiB of hole, attributes up to a block.
func buildTorture(t *testing.T, dir string) {
	t.Helper()
	buildZoo(t, dir)
	in := func(parts ...string) string { return filepath.Join(append([]string{dir}, parts...)...) }
	for _, d := range []string{"many", "dirs", "linked", "names"} {
		must(t, os.Mkdir(in(d), 0o755))
	}
	for i := range amount(1000, 1_000_000) {
		must(t, unix.Mknod(in("many", fmt.Sprintf("entry-%07d", i)), unix.S_IFREG|0o640, 0))
	}
	for i := range amount(100, 70_000) {
		must(t, os.Mkdir(in("dirs", fmt.Sprint(i)), 0o711))
	}
	must(t, os.WriteFile(in("linked", "first"), []byte("of many names"), 0o600))
	for i := range amount(200, 60_000) {
		must(t, os.Link(in("linked", "first"), in("linked", fmt.Sprintf("name-%06d", i))))
	}
	for c := 1; c < 256; c++ {
		if c != '/' {
			must(t, os.WriteFile(in("names", string([]byte{'n', byte(c)})), []byte{byte(c)}, 0o644))
			must(t, os.WriteFile(in("names", strings.Repeat(string([]byte{byte(c)}), 255)), nil, 0o644))
		}
	}
	sparse(t, in("tebibyte"), 1<<40, 0, 1<<39+4096, 1<<40-4096)
	must(t, os.WriteFile(in("dressed"), nil, 0o644))
	for i := range 16 {
		must(t, unix.Setxattr(in("dressed"), fmt.Sprintf("user.%d", i), random(150, uint64(i)), 0))
	}
	must(t, unix.Setxattr(in("dressed"), "user."+strings.Repeat("ä", 120), []byte("a long name"), 0))
}

// changeTorture changes something of each kind, another in each round.
func changeTorture(t *testing.T, dir string, round int) {
	t.Helper()
	in := func(parts ...string) string { return filepath.Join(append([]string{dir}, parts...)...) }
	name := fmt.Sprintf("entry-%07d", round)
	must(t, os.Rename(in("many", name), in("names", name)))
	must(t, os.Remove(in("linked", fmt.Sprintf("name-%06d", round))))
	must(t, os.Link(in("linked", "first"), in("dirs", fmt.Sprint(round), "again")))
	must(t, os.Rename(in("dirs", fmt.Sprint(round)), in("many", fmt.Sprint("dir", round))))
	must(t, overwrite(in("tebibyte"), int64(round)<<33, byte(round)))
	must(t, unix.Setxattr(in("dressed"), "user.0", random(140, uint64(round)), 0))
	must(t, os.Rename(in("sub"), in("sub away")))
	must(t, os.Rename(in("deep"), in("sub")))
	must(t, os.Rename(in("sub away"), in("deep")))
	must(t, os.WriteFile(in(fmt.Sprint("new", round)), random(round*1000, uint64(round)), 0o604))
}

// extreme is something that not every file system can keep.
type extreme struct {
	name  string
	entry string // that can't be kept
	large bool   // so much that without -torture-full it is only moved to where it is refused
	// make makes it in an empty directory. The error is the file system's that can't keep it.
	make func(dir string) error
}

// extremes are those of the file systems that are known here: links, sizes and attributes that are too large for ext4, targets and
// devices that are for xfs, and so on.
func extremes() []extreme {
	attributes := func(n, size int) func(string) error {
		return func(dir string) error {
			p := filepath.Join(dir, "dressed")
			if err := os.WriteFile(p, []byte("x"), 0o600); err != nil {
				return err
			}
			for i := range n {
				if err := unix.Setxattr(p, fmt.Sprintf("user.%d", i), random(size, uint64(i)), 0); err != nil {
					return err
				}
			}
			return nil
		}
	}
	return []extreme{
		{"names of one file", "name-", true, func(dir string) error {
			p := filepath.Join(dir, "first")
			if err := os.WriteFile(p, []byte("x"), 0o600); err != nil {
				return err
			}
			for i := range amount(66_000, 1_000_000) {
				if err := os.Link(p, filepath.Join(dir, fmt.Sprintf("name-%06d", i))); err != nil {
					return err
				}
			}
			return nil
		}},
		{"an attribute of 64 KiB", "dressed", false, attributes(1, 64<<10)},
		{"an attribute of 15 KiB", "dressed", false, attributes(1, 15<<10)},
		{"ten attributes of 1 KiB", "dressed", false, attributes(10, 1<<10)},
		{"a target of 4,000 bytes", "link", false, func(dir string) error {
			return os.Symlink(strings.Repeat("l", 4000), filepath.Join(dir, "link"))
		}},
		{"a device of a great number", "device", false, func(dir string) error {
			return unix.Mknod(filepath.Join(dir, "device"), unix.S_IFBLK|0o600, int(unix.Mkdev(8, 1_000_000)))
		}},
		{"a file of 100 TiB", "hole", false, func(dir string) error {
			p := filepath.Join(dir, "hole")
			if err := os.WriteFile(p, nil, 0o600); err != nil {
				return err
			}
			return os.Truncate(p, 100<<40)
		}},
		{"a small file of the year 2600", "late", false, late(10)},
		{"a big file of the year 2600", "late", false, late(3 * chunkSize)},
		{"a directory of the year 2600", "late", false, func(dir string) error {
			p := filepath.Join(dir, "late")
			if err := os.Mkdir(p, 0o700); err != nil {
				return err
			}
			return setLate(p)
		}},
	}
}

func late(size int) func(dir string) error {
	return func(dir string) error {
		p := filepath.Join(dir, "late")
		if err := os.WriteFile(p, random(size, 1), 0o600); err != nil {
			return err
		}
		return setLate(p)
	}
}

// setLate sets a time that not every file system can keep: then it keeps another without an error.
func setLate(path string) error {
	at := time.Date(2600, 1, 1, 0, 0, 0, 0, time.UTC)
	ts := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Sec: at.Unix()}}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, path, ts, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return err
	}
	if st.Mtim.Sec != at.Unix() {
		return fmt.Errorf("%s has the time %v", path, time.Unix(st.Mtim.Unix()))
	}
	return nil
}
