package transfer

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mobyfs/mobyfs"
)

func TestCopyIsTheSameTree(t *testing.T) {
	needRoot(t)
	src := t.TempDir()
	buildZoo(t, src)
	into := filepath.Join(t.TempDir(), "into")
	must(t, os.Mkdir(into, 0o700))
	want := describe(t, src)
	receipt, err := Copy(t.Context(), src, into, nil)
	must(t, err)
	if got := describe(t, into); got != want {
		t.Errorf("the copy is another tree:\n%s", diff(want, got))
	}
	if got := describe(t, src); got != want {
		t.Errorf("the directory itself was changed:\n%s", diff(want, got))
	}
	digest, _, err := Digest(t.Context(), into, receipt.Digest)
	must(t, err)
	if digest != receipt.Digest {
		t.Errorf("the copy has the digest %s, the receipt says %s", digest, receipt.Digest)
	}
}

func TestCopyIsRefused(t *testing.T) {
	needRoot(t)
	full := t.TempDir()
	must(t, unix.Mount("none", full, "tmpfs", 0, "size=1m"))
	t.Cleanup(func() { must(t, unix.Unmount(full, unix.MNT_DETACH)) })
	big := t.TempDir()
	must(t, os.WriteFile(filepath.Join(big, "big"), make([]byte, 4<<20), 0o600))
	mounted := smallTree(t)
	must(t, os.Mkdir(filepath.Join(mounted, "m"), 0o755))
	must(t, unix.Mount("none", filepath.Join(mounted, "m"), "tmpfs", 0, "size=1m"))
	t.Cleanup(func() { must(t, unix.Unmount(filepath.Join(mounted, "m"), unix.MNT_DETACH)) })
	link := filepath.Join(t.TempDir(), "link")
	must(t, os.Symlink(big, link))
	for name, c := range map[string]struct {
		from, into string
		want       mobyfs.Code
	}{
		"no room":            {big, full, mobyfs.CodeNoSpace},
		"another mount":      {mounted, t.TempDir(), mobyfs.CodeInvalid},
		"not empty":          {big, smallTree(t), mobyfs.CodeInvalid},
		"nothing is there":   {filepath.Join(big, "none"), t.TempDir(), mobyfs.CodeInvalid},
		"a symbolic link":    {link, t.TempDir(), mobyfs.CodeInvalid},
		"no directory at it": {filepath.Join(big, "big"), t.TempDir(), mobyfs.CodeInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Copy(t.Context(), c.from, c.into, nil); mobyfs.CodeOf(err) != c.want {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}

// TestCopyOfWhatChangesIsNone: a file that was read already is written to before the end.
func TestCopyOfWhatChangesIsNone(t *testing.T) {
	for name, change := range map[string]func(dir string) error{
		"in its place": func(dir string) error {
			f, err := os.OpenFile(filepath.Join(dir, "a"), os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = f.WriteAt([]byte("x"), 0)
			return err
		},
		"and its time is set back": func(dir string) error {
			info, err := os.Stat(filepath.Join(dir, "a"))
			if err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(dir, "a"), []byte("others"), 0o600); err != nil {
				return err
			}
			return os.Chtimes(filepath.Join(dir, "a"), info.ModTime(), info.ModTime())
		},
		"a new file": func(dir string) error { return os.WriteFile(filepath.Join(dir, "b"), nil, 0o600) },
		"its mode":   func(dir string) error { return os.Chmod(filepath.Join(dir, "a"), 0o640) },
		"nothing":    func(string) error { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			dir, into := t.TempDir(), t.TempDir()
			must(t, os.WriteFile(filepath.Join(dir, "a"), []byte("before"), 0o600))
			changed := false
			_, err := Copy(t.Context(), dir, into, func(p mobyfs.Progress) {
				if p.Files > 0 && !changed { // it has arrived
					changed = true
					must(t, change(dir))
				}
			})
			if !changed {
				t.Fatal("nobody was told of progress")
			}
			if want := mobyfs.CodeInUse; name != "nothing" && mobyfs.CodeOf(err) != want || name == "nothing" && err != nil {
				t.Errorf("got %v", err)
			}
		})
	}
}
