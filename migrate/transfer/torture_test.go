package transfer

import (
	"flag"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dustin/go-humanize"
	"golang.org/x/sys/unix"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/backend"
	"github.com/mobyfs/mobyfs/backend/btrfs"
	plain "github.com/mobyfs/mobyfs/backend/dir"
	"github.com/mobyfs/mobyfs/backend/loop"
	"github.com/mobyfs/mobyfs/migrate/feed"
)

// full has the torture tests make trees of the sizes that they are about: make torture.
var full = flag.Bool("torture-full", false, "a million names of one file, and a directory of a million entries")

// both makes each pair of backends move the tree cold and live; else a pair does one of them.
var both = flag.Bool("torture-both", false, "move it cold and live between each two")

// endpoint is a backend on a file system of its own: either end of moves. One volume lies there to be moved away, others come.
type endpoint struct {
	name  string
	b     backend.Live
	spec  mobyfs.VolumeSpec
	fence mobyfs.Fence // the last that was given out
	at    string       // where the volume is that moves away
}

const (
	stays = mobyfs.VolumeID("01jcx0000000000000000000va")
	comes = mobyfs.VolumeID("01jcx0000000000000000000vb")
)

// endpoints are all backends on all file systems. Disks are as large as holes are cheap.
func endpoints(t *testing.T) []*endpoint {
	t.Helper()
	disk, volume := int64(8<<30), int64(320<<20)
	if *full {
		disk, volume = 160<<30, 40<<30
	}
	root := func(kind string) string { return filepath.Join(mountDisk(t, kind, disk), "mobyfs") }
	open := func(b *plain.Backend, err error) backend.Live {
		must(t, err)
		return b
	}
	sized := func(name, fs string) mobyfs.VolumeSpec {
		return mobyfs.VolumeSpec{Backend: name, SizeBytes: volume, Filesystem: fs}
	}
	return []*endpoint{
		{name: "dir on ext4", b: open(plain.Open(root("ext4"))), spec: mobyfs.VolumeSpec{Backend: "dir"}},
		{name: "dir on xfs", b: open(plain.Open(root("xfs"))), spec: mobyfs.VolumeSpec{Backend: "dir"}},
		{name: "btrfs", b: open(btrfs.Open(root("btrfs"))), spec: sized(mobyfs.BtrfsBackend, "")},
		{name: "loop of ext4", b: open(loop.Open(root("ext4"))), spec: sized(mobyfs.LoopBackend, "ext4")},
		{name: "loop of xfs", b: open(loop.Open(root("ext4"))), spec: sized(mobyfs.LoopBackend, "xfs")},
	}
}

// mountDisk mounts a new file system, as the disk of a host. It ends with the test.
func mountDisk(t testing.TB, kind string, bytes int64) string {
	t.Helper()
	needRoot(t)
	image, at := filepath.Join(t.TempDir(), "disk"), t.TempDir()
	must(t, os.WriteFile(image, nil, 0o600))
	must(t, os.Truncate(image, bytes))
	sh(t, append(map[string][]string{
		"ext4": {"mkfs.ext4", "-q", "-F"}, "xfs": {"mkfs.xfs", "-q"}, "btrfs": {"mkfs.btrfs", "-q"},
	}[kind], image)...)
	sh(t, "mount", "-o", "loop", image, at)
	t.Cleanup(func() {
		if err := unix.Unmount(at, 0); err != nil {
			t.Errorf("unmount %s: %v", kind, err)
			_ = unix.Unmount(at, unix.MNT_DETACH)
		}
	})
	return at
}

func sh(t testing.TB, args ...string) {
	t.Helper()
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%q: %v: %s", args, err, out)
	}
}

// next is a fence that was not given out yet.
func (e *endpoint) next() mobyfs.Fence {
	e.fence++
	return e.fence
}

// create makes the volume that moves away.
func (e *endpoint) create(t *testing.T) string {
	t.Helper()
	must(t, e.b.Create(t.Context(), stays, e.spec))
	var err error
	e.at, err = e.b.Attach(t.Context(), stays, e.next())
	must(t, err)
	return e.at
}

// remove removes a volume and what the trash has of it.
func (e *endpoint) remove(t *testing.T, id mobyfs.VolumeID) {
	t.Helper()
	must(t, e.b.Remove(t.Context(), id, e.next()))
	must(t, e.b.Purge(t.Context(), time.Now().Add(time.Hour)))
}

// move moves a volume over a real session, as agents do, and returns where it is then. On an error nothing of it is left. change
// is called between the rounds of a live move.
func move(t *testing.T, from, to *endpoint, live bool, change func()) (string, mobyfs.Receipt, error) {
	t.Helper()
	ctx := t.Context()
	into, err := to.b.Stage(ctx, comes, "m1", to.spec)
	must(t, err)
	bring := pullCold
	if live {
		bring = followLive
	}
	receipt, err := bring(t, from, into, change)
	if err != nil {
		must(t, to.b.Discard(ctx, "m1"))
		return "", receipt, err
	}
	must(t, to.b.Seal(ctx, "m1", receipt))
	fence := to.next()
	must(t, to.b.Adopt(ctx, comes, "m1", fence))
	at, err := to.b.Attach(ctx, comes, fence)
	must(t, err)
	return at, receipt, nil
}

func pullCold(t *testing.T, from *endpoint, into string, _ func()) (mobyfs.Receipt, error) {
	t.Helper()
	must(t, from.b.Detach(t.Context(), stays))
	src, release, err := from.b.Export(t.Context(), stays, from.next())
	must(t, err)
	defer func() {
		release()
		_, err := from.b.Attach(t.Context(), stays, from.next())
		must(t, err)
	}()
	f := newFleet(t, src).start(t)
	receipt, err := f.client.Pull(t.Context(), f.from(), into, nil)
	within(t, soon, "the server released the tree", f.allReleased)
	return receipt, err
}

func followLive(t *testing.T, from *endpoint, into string, change func()) (receipt mobyfs.Receipt, err error) {
	t.Helper()
	src, release, err := from.b.Show(t.Context(), stays)
	must(t, err)
	defer release()
	feeds := feed.New(slog.New(slog.DiscardHandler))
	l := newLiveFleetTold(t, src, func(dir string) feed.Feed {
		f, _ := feeds.Arm(dir, feed.Options{})
		return f
	})
	f, err := l.client.Follow(t.Context(), l.from(), into, mobyfs.FollowOptions{})
	if err == nil {
		if _, err = f.Round(t.Context()); err == nil {
			change()
			receipt, err = f.Freeze(t.Context())
		} else if l.freezes() != 0 {
			t.Error("the source was frozen for what can't arrive")
		}
		must(t, f.Close())
	}
	within(t, soon, "the server released the tree", l.allReleased)
	return receipt, err
}

// TestTortureTreeIsEqualAfterEachMove moves one tree between each two backends, cold and live, and compares by other means than
// the code under test.
func TestTortureTreeIsEqualAfterEachMove(t *testing.T) {
	all := endpoints(t)
	for j, from := range all {
		t.Run("from "+from.name, func(t *testing.T) {
			buildTorture(t, from.create(t))
			for i, to := range all {
				t.Run("to "+to.name, func(t *testing.T) {
					cold := (i+j)%2 == 0
					if *both || *full || cold {
						moveTorture(t, from, to, false, func() {})
					}
					if *both || *full || !cold {
						moveTorture(t, from, to, true, func() { changeTorture(t, from.at, i+1) })
					}
				})
			}
			from.remove(t, stays)
		})
	}
}

func moveTorture(t *testing.T, from, to *endpoint, live bool, change func()) {
	t.Helper()
	begin := time.Now()
	at, receipt, err := move(t, from, to, live, change)
	if err != nil {
		t.Errorf("%s: %v", moved(from, to, live), err)
		return
	}
	took := time.Since(begin)
	want := describe(t, from.at)
	if d := diff(want, describe(t, at)); d != "" {
		t.Errorf("%s: the trees differ:\n%.3000s", moved(from, to, live), d)
	}
	if got := digestAs(t, at, receipt.Digest); got != receipt.Digest {
		t.Errorf("%s: the digest is %s, that of the receipt %s", moved(from, to, live), got, receipt.Digest)
	}
	t.Logf("%-35s %s entries equal, %v", moved(from, to, live), humanize.Comma(int64(strings.Count(want, "\n"))), took.Round(10*time.Millisecond))
	must(t, to.b.Detach(t.Context(), comes))
	to.remove(t, comes)
}

func moved(from, to *endpoint, live bool) string {
	if live {
		return from.name + " → " + to.name + ", live"
	}
	return from.name + " → " + to.name + ", cold"
}

// TestWhatAFileSystemCanNotKeepIsRefusedInWords moves volumes each with one thing that not every file system can keep. What can be
// made at the destination must arrive there; what can't must be refused, with the entry named, before anything is committed or
// frozen.
func TestWhatAFileSystemCanNotKeepIsRefusedInWords(t *testing.T) {
	all := endpoints(t)[:3] // one of each file system
	for _, x := range extremes() {
		t.Run(x.name, func(t *testing.T) {
			fits := map[*endpoint]bool{}
			for _, e := range all {
				fits[e] = x.make(e.create(t)) == nil
				e.remove(t, stays)
			}
			for _, from := range all {
				if !fits[from] {
					t.Logf("%s can't keep it", from.name)
					continue
				}
				must(t, x.make(from.create(t)))
				for _, to := range all {
					if x.large && fits[to] && !*full {
						continue
					}
					moveExtreme(t, from, to, false, fits[to], x.entry)
					moveExtreme(t, from, to, true, fits[to], x.entry)
				}
				from.remove(t, stays)
			}
		})
	}
}

func moveExtreme(t *testing.T, from, to *endpoint, live, fits bool, entry string) {
	t.Helper()
	at, _, err := move(t, from, to, live, func() {})
	if !fits {
		t.Logf("%-35s %v", moved(from, to, live), err)
		if mobyfs.CodeOf(err) != mobyfs.CodeInvalid || mobyfs.HintOf(err) == "" || !strings.Contains(err.Error(), "can't keep it") || !strings.Contains(err.Error(), entry) {
			t.Errorf("%s: got %q, %v, want CodeInvalid, a hint and the entry %q", moved(from, to, live), mobyfs.CodeOf(err), err, entry)
		}
		held, staged, err := to.b.List(t.Context())
		must(t, err)
		for _, h := range held {
			if h.ID == comes {
				t.Errorf("%s: the volume is there", moved(from, to, live))
			}
		}
		if len(staged) > 0 {
			t.Errorf("%s: staged is %v", moved(from, to, live), staged)
		}
		return
	}
	if err != nil {
		t.Errorf("%s: %v", moved(from, to, live), err)
		return
	}
	if d := diff(describe(t, from.at), describe(t, at)); d != "" {
		t.Errorf("%s: the trees differ:\n%.3000s", moved(from, to, live), d)
	}
	t.Logf("%-35s equal", moved(from, to, live))
	must(t, to.b.Detach(t.Context(), comes))
	to.remove(t, comes)
}
