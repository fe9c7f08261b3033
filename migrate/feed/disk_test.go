package feed

import (
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// disk mounts a new file system of a kind. It ends with the test.
func disk(t testing.TB, kind string, bytes int64, options string) string {
	t.Helper()
	image, at := filepath.Join(t.TempDir(), "disk"), t.TempDir()
	must(t, os.WriteFile(image, nil, 0o600))
	must(t, os.Truncate(image, bytes))
	args := map[string][]string{"ext4": {"-q", "-F"}, "xfs": {"-q"}, "btrfs": {"-q"}}[kind]
	run(t, "mkfs."+kind, append(args, image)...)
	run(t, "mount", "-o", "loop"+options, image, at)
	t.Cleanup(func() {
		var err error
		for range 100 { // what just let go of it may still be on its way out
			if err = unix.Unmount(at, 0); err != unix.EBUSY {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
		if err != nil {
			t.Errorf("unmount: %v", err)
			_ = unix.Unmount(at, unix.MNT_DETACH)
		}
	})
	return at
}

func run(t testing.TB, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %q: %v: %s", name, args, err, out)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func quiet() *Feeds { return New(slog.New(slog.DiscardHandler)) }

// own is the list of processes that hold files in these tests: this one.
func own() ([]int, error) { return []int{os.Getpid()}, nil }

// arm arms a feed that must be of a kind.
func arm(t testing.TB, dir, want string, o Options) Feed {
	t.Helper()
	o.PIDs = own
	f, why := quiet().Arm(dir, o)
	t.Cleanup(func() { must(t, f.Close()) })
	if f.Name() != want {
		t.Fatalf("armed %q (%s), want %q", f.Name(), why, want)
	}
	return f
}

func changes(t testing.TB, f Feed) Set {
	t.Helper()
	s, err := f.Changes(t.Context())
	must(t, err)
	return s
}
