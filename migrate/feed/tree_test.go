package feed

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var seeds = flag.Int("seeds", 1, "of the random writer, for each feed")

// covers lets a writer change a tree for some rounds and keeps a copy up with what the feed tells and nothing else. In some rounds
// the writer goes on while the feed is asked; at the end of each it rests, as when it is frozen, and nothing may be missing.
func covers(t *testing.T, root string, f Feed, w *writer, rounds, steps int) {
	t.Helper()
	c, err := copyOf(root)
	must(t, err)
	var changed int64
	for round := range rounds {
		if round%3 == 2 {
			busily(w, func() {
				for range 2 {
					must(t, c.apply(changes(t, f)))
				}
			})
		}
		for range steps {
			w.step()
		}
		now, err := copyOf(root)
		must(t, err)
		_, differing := now.differences(c)
		changed += differing * 4096
		ask := f.Changes
		if round == rounds-1 {
			ask = f.Last
		}
		s, err := ask(t.Context())
		must(t, err)
		if s.All {
			t.Fatalf("round %d: all: %s", round, s.Why)
		}
		must(t, c.apply(s))
		now, err = copyOf(root)
		must(t, err)
		if missed, _ := now.differences(c); len(missed) > 0 {
			t.Fatalf("round %d: the feed did not tell of\n%q\nafter\n%q\nit told %v", round, missed, w.log, s)
		}
		w.log = nil
	}
	t.Logf("%s: %d changes; told %d KiB of content, %d KiB had changed", f.Name(), w.ops, c.read>>10, changed>>10)
}

// busily lets the writer go on while do runs, and no longer, even if do ends the test.
func busily(w *writer, do func()) {
	var busy sync.WaitGroup
	stop := make(chan struct{})
	busy.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				w.step()
			}
		}
	})
	defer busy.Wait()
	defer close(stop)
	do()
}

// manySeeds runs covers on trees beside each other on one file system.
func manySeeds(t *testing.T, at, want string, o Options) {
	for seed := range *seeds {
		t.Run("", func(t *testing.T) {
			root := filepath.Join(at, t.Name())
			must(t, os.MkdirAll(root, 0o755))
			w := newWriter(t, root, uint64(seed))
			defer w.close()
			covers(t, root, arm(t, root, want, o), w, 9, 40)
		})
	}
}

func TestEventsOnTmpfs(t *testing.T) {
	at := t.TempDir()
	run(t, "mount", "-t", "tmpfs", "tmpfs", at)
	t.Cleanup(func() { run(t, "umount", at) })
	manySeeds(t, at, "fanotify", Options{})
}

func TestEventsOnExt4(t *testing.T) {
	manySeeds(t, disk(t, "ext4", 1<<30, ""), "fanotify", Options{eventsOnly: true})
}

func TestEventsOnXFS(t *testing.T) {
	manySeeds(t, disk(t, "xfs", 1<<30, ""), "fanotify", Options{eventsOnly: true})
}

func TestEventsOnBtrfs(t *testing.T) {
	manySeeds(t, disk(t, "btrfs", 1<<30, ""), "fanotify", Options{eventsOnly: true})
}

func TestClonesOnXFS(t *testing.T) {
	at := disk(t, "xfs", 1<<30, "")
	must(t, os.Mkdir(filepath.Join(at, "scratch"), 0o700))
	manySeeds(t, at, "fiemap", Options{Scratch: filepath.Join(at, "scratch"), clonesOnly: true})
}

func TestBlocksOnXFS(t *testing.T) {
	manySeeds(t, disk(t, "xfs", 1<<30, ""), "fanotify+ebpf", Options{})
}

func TestBlocksOnExt4(t *testing.T) {
	manySeeds(t, disk(t, "ext4", 1<<30, ""), "fanotify+ebpf", Options{})
}

func TestGenerationsOnBtrfs(t *testing.T) {
	manySeeds(t, disk(t, "btrfs", 1<<30, ""), "fanotify+generations", Options{})
}

// TestWhatIsNotWrittenAnewIsTold: what a file shares with another is of an older transaction, a hole is of none, and what is written where
// it lies stays of the transaction in which it was first.
func TestWhatIsNotWrittenAnewIsTold(t *testing.T) {
	dir := filepath.Join(disk(t, "btrfs", 512<<20, ""), "tree")
	must(t, os.Mkdir(dir, 0o755))
	for _, name := range []string{"big", "other", "nocow"} {
		f, err := os.Create(filepath.Join(dir, name))
		must(t, err)
		if name == "nocow" {
			must(t, unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, noCopyOnWrite))
		}
		_, err = f.Write(bytes.Repeat([]byte(name), 1<<20))
		must(t, err)
		must(t, f.Close())
	}
	unix.Sync() // else it is of the transaction that is under way
	f := arm(t, dir, "fanotify+generations", Options{})
	changes(t, f)
	open := func(name string) *os.File {
		t.Helper()
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_RDWR, 0)
		must(t, err)
		return f
	}
	big, other, nocow := open("big"), open("other"), open("nocow")
	defer func() { _, _, _ = big.Close(), other.Close(), nocow.Close() }()

	must(t, unix.Fallocate(int(big.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 1<<20, 64<<10))
	for _, when := range []string{"then", "once more"} {
		set := changes(t, f)
		if got := set.Paths["big"]; len(got) != 1 || got[0] != (Range{1 << 20, 64 << 10}) {
			t.Errorf("of a hole that was made: %s got %v", when, got)
		}
		must(t, os.Chtimes(big.Name(), time.Time{}, time.Unix(1, 0)))
	}
	if got, told := changes(t, f).Paths["big"]; !told || got == nil || len(got) > 0 {
		t.Errorf("of a hole that was told twice: got %v, %v", got, told)
	}
	must(t, unix.IoctlFileCloneRange(int(big.Fd()), &unix.FileCloneRange{Src_fd: int64(other.Fd()), Src_length: 4096, Dest_offset: 2 << 20}))
	if got, told := changes(t, f).Paths["big"]; !told || got != nil {
		t.Errorf("of a file into which was cloned: got %v, %v, want all of it", got, told)
	}
	_, err := nocow.WriteAt(make([]byte, 4096), 1<<20)
	must(t, err)
	if got, told := changes(t, f).Paths["nocow"]; !told || got != nil {
		t.Errorf("of a file that is written where it lies: got %v, %v, want all of it", got, told)
	}
}

// TestNoBlocksOfJournalledData mounts ext4 so that content goes to the journal first: then blocks say nothing in time.
func TestNoBlocksOfJournalledData(t *testing.T) {
	manySeeds(t, disk(t, "ext4", 512<<20, ",data=journal"), "fanotify", Options{})
}

// TestLittleIsToldOfABigFile writes 8 KiB into the middle of a file: what is told is not much more, and holds the place.
func TestLittleIsToldOfABigFile(t *testing.T) {
	for _, tc := range []struct {
		kind, want string
		o          Options
	}{{"ext4", "fanotify+ebpf", Options{}}, {"xfs", "fanotify+ebpf", Options{}}, {"xfs", "fiemap", Options{clonesOnly: true}}, {"btrfs", "fanotify+generations", Options{}}} {
		dir := filepath.Join(disk(t, tc.kind, 512<<20, ""), "tree")
		must(t, os.Mkdir(dir, 0o755))
		path := filepath.Join(dir, "big")
		must(t, os.WriteFile(path, bytes.Repeat([]byte("mobyfs!\n"), 8<<20), 0o600))
		unix.Sync() // else it is of the transaction of btrfs that is under way
		f := arm(t, dir, tc.want, tc.o)
		for round := range 5 {
			big, err := os.OpenFile(path, os.O_WRONLY, 0)
			must(t, err)
			at := int64(round+1) * 10 << 20
			_, err = big.WriteAt(make([]byte, 8192), at)
			must(t, err)
			must(t, big.Close())
			ask := f.Changes
			if round == 4 {
				ask = f.Last
			}
			set, err := ask(t.Context())
			must(t, err)
			ranges, told := set.Paths["big"]
			var bytes int64
			holds := false
			for _, r := range ranges {
				bytes += r.Len
				holds = holds || r.Off <= at && at+8192 <= r.Off+r.Len
			}
			if !told || !holds || bytes > 1<<20 {
				t.Errorf("%s, %s, round %d: got %v, want the 8 KiB at %d", tc.kind, tc.want, round, ranges, at)
			}
		}
	}
}

// TestClonesOfRemovedFilesAreLetGo removes a file: its room must not be kept until the feed is closed.
func TestClonesOfRemovedFilesAreLetGo(t *testing.T) {
	dir := disk(t, "xfs", 512<<20, "")
	path := filepath.Join(dir, "big")
	must(t, os.WriteFile(path, make([]byte, 4<<20), 0o600))
	f := arm(t, dir, "fiemap", Options{clonesOnly: true})
	must(t, os.Remove(path))
	changes(t, f)
	if n := len(f.(*tree).narrow.(*clones).files); n != 0 {
		t.Errorf("%d clones are kept", n)
	}
}

// TestEventsOfOthersAreDropped arms two trees of one file system: each is told of its own changes, and of none between them.
func TestEventsOfOthersAreDropped(t *testing.T) {
	at := disk(t, "ext4", 128<<20, "")
	feeds := quiet()
	var armed []Feed
	for _, name := range []string{"one", "two"} {
		must(t, os.MkdirAll(filepath.Join(at, name, "dir"), 0o755))
		f, why := feeds.Arm(filepath.Join(at, name), Options{PIDs: own, eventsOnly: true})
		if f.Name() != "fanotify" {
			t.Fatalf("got %s (%s)", f.Name(), why)
		}
		armed = append(armed, f)
	}
	if len(feeds.trackers) != 1 {
		t.Errorf("%d trackers watch one file system", len(feeds.trackers))
	}
	must(t, os.WriteFile(filepath.Join(at, "beside"), nil, 0o600))
	must(t, os.WriteFile(filepath.Join(at, "two/dir/file"), []byte("x"), 0o600))
	if s := changes(t, armed[0]); s.All || len(s.Paths) != 0 {
		t.Errorf("one was told of %v", s)
	}
	if s := changes(t, armed[1]); s.All || len(s.Paths) != 2 { // dir and dir/file
		t.Errorf("two was told of %v", s)
	}
	must(t, os.Rename(filepath.Join(at, "two/dir"), filepath.Join(at, "one/came")))
	must(t, os.WriteFile(filepath.Join(at, "one/came/later"), nil, 0o600))
	if _, told := changes(t, armed[0]).Paths["came/later"]; !told {
		t.Error("one was not told of a file in a directory that came from two")
	}
	if s := changes(t, armed[1]); len(s.Paths) != 2 { // its root and dir
		t.Errorf("two was told of %v", s)
	}
	for _, f := range armed {
		must(t, f.Close())
	}
	if len(feeds.trackers) != 0 {
		t.Error("a tracker is left")
	}
}

// TestTreeThatWasReplacedIsNotVouchedFor puts another tree at the place of the armed one.
func TestTreeThatWasReplacedIsNotVouchedFor(t *testing.T) {
	at := disk(t, "ext4", 64<<20, "")
	dir := filepath.Join(at, "tree")
	must(t, os.Mkdir(dir, 0o755))
	f := arm(t, dir, "fanotify", Options{eventsOnly: true})
	must(t, os.Rename(dir, filepath.Join(at, "old")))
	must(t, os.Mkdir(dir, 0o755))
	if s := changes(t, f); !s.All || s.Why == "" {
		t.Errorf("got %v", s)
	}
}

// TestTooManyChangesAreAll has more change than is remembered, and then little.
func TestTooManyChangesAreAll(t *testing.T) {
	d := &dirty{seen: newSeen()}
	for i := range maxDirty + 1 {
		d.add(event{mask: 2, dir: []byte("dir"), name: []byte{byte(i), byte(i >> 8), byte(i >> 16), 1}})
	}
	if d.why == "" || len(d.dirs) != 0 {
		t.Errorf("%d directories are remembered, why: %q", len(d.dirs), d.why)
	}
}

// TestOverflowIsAll tells a tracker that the kernel dropped events.
func TestOverflowIsAll(t *testing.T) {
	at := disk(t, "ext4", 64<<20, "")
	f := arm(t, at, "fanotify", Options{eventsOnly: true})
	tracker := f.(*tree).tracker
	tracker.mu.Lock()
	tracker.event(event{mask: unix.FAN_Q_OVERFLOW})
	tracker.mu.Unlock()
	if s := changes(t, f); !s.All || s.Why == "" {
		t.Errorf("got %v", s)
	}
	if s := changes(t, f); s.All {
		t.Errorf("afterwards got %v", s)
	}
}

// TestNothingTellsOfProc arms a feed where the kernel can't: everything is to be compared, and it says why.
func TestNothingTellsOfProc(t *testing.T) {
	f := arm(t, "/proc/self", "rescan", Options{})
	if s := changes(t, f); !s.All || s.Why == "" {
		t.Errorf("got %v", s)
	}
}

// FuzzEvents reads any bytes as events: nothing panics, and names have no slashes.
func FuzzEvents(f *testing.F) {
	f.Add(append([]byte{24, 0, 0, 0, 3, 0, 24, 0}, make([]byte, 16)...))
	named := append([]byte{24 + 28, 0, 0, 0, 3, 0, 24, 0}, make([]byte, 16)...)
	named = append(named, 2, 0, 28, 0, 1, 2, 3, 4, 5, 6, 7, 8, 4, 0, 0, 0, 1, 0, 0, 0, 9, 9, 9, 9, 'n', 0, 0, 0)
	f.Add(named)
	f.Fuzz(func(t *testing.T, b []byte) {
		_ = events(b, func(e event) {
			if e.dir != nil && (len(e.name) == 0 || len(e.dir) < 4 || bytes.IndexByte(e.name, '/') >= 0) {
				t.Errorf("got %+v", e)
			}
		})
	})
}
