package transfer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/pki"
	"github.com/mobyfs/mobyfs/migrate/feed"
)

// liveFleet offers dir as one that is in use. freeze stops what writes; thawed counts.
type liveFleet struct {
	*fleet
	freeze func()
	feed   func(dir string) feed.Feed
	round  func(ctx context.Context, n int) error

	mu     sync.Mutex
	frozen int
	thawed []string
}

func newLiveFleet(t testing.TB, dir string, freeze func()) *liveFleet {
	t.Helper()
	l := &liveFleet{fleet: newFleet(t, dir), freeze: freeze}
	plain := l.server.Offer
	l.server.Offer = func(ctx context.Context, peer pki.Identity, ticket string) (Offered, error) {
		o, err := plain(ctx, peer, ticket)
		o.Live, o.Luggage = true, []byte("a container")
		o.Feed, o.Round = l.feed, l.round
		o.Freeze = func(context.Context) (int, error) {
			if l.freeze != nil {
				l.freeze()
			}
			l.mu.Lock()
			defer l.mu.Unlock()
			l.frozen++
			return l.frozen, nil
		}
		o.Unfreeze = func(_ context.Context, reason string) {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.thawed = append(l.thawed, reason)
		}
		return o, err
	}
	l.start(t)
	return l
}

// newLiveFleetTold offers dir as one that is in use, and is told what changes.
func newLiveFleetTold(t testing.TB, dir string, told func(dir string) feed.Feed) *liveFleet {
	t.Helper()
	l := newLiveFleet(t, dir, nil)
	l.feed = told // offers come later
	return l
}

// freezes is how often the source was frozen.
func (l *liveFleet) freezes() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.frozen
}

func (l *liveFleet) thaws() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.thawed)
}

func (l *liveFleet) follow(t testing.TB, o mobyfs.FollowOptions) (mobyfs.Follower, string) {
	t.Helper()
	into := t.TempDir()
	f, err := l.client.Follow(t.Context(), l.from(), into, o)
	must(t, err)
	t.Cleanup(func() { _ = f.Close() })
	return f, into
}

// sameTrees compares two trees by other means than the code under test, and their digests with the receipt's.
func sameTrees(t testing.TB, src, into string, r mobyfs.Receipt) {
	t.Helper()
	if d := diff(describe(t, src), describe(t, into)); d != "" {
		t.Fatalf("the trees differ:\n%s", d)
	}
	for _, dir := range []string{src, into} {
		if got := digestAs(t, dir, r.Digest); got != r.Digest {
			t.Fatalf("the digest of %s is %s, that of the receipt %s", dir, got, r.Digest)
		}
	}
}

func TestSourceHearsOfEachRoundButTheLastAndMayEndTheSession(t *testing.T) {
	src := t.TempDir()
	must(t, os.WriteFile(filepath.Join(src, "rows"), []byte("1"), 0o600))
	l := newLiveFleet(t, src, nil)
	var heard []int
	l.round = func(_ context.Context, n int) error {
		if heard = append(heard, n); n == 3 {
			return mobyfs.Errorf(mobyfs.CodeInvalid, "three are enough")
		}
		return nil
	}
	f, _ := l.follow(t, mobyfs.FollowOptions{})
	for range 3 {
		_, err := f.Round(t.Context())
		must(t, err)
	}
	if _, err := f.Round(t.Context()); mobyfs.CodeOf(err) != mobyfs.CodeInvalid || !strings.Contains(err.Error(), "three are enough") {
		t.Errorf("got %v", err)
	}
	heard = nil
	f, _ = l.follow(t, mobyfs.FollowOptions{})
	_, err := f.Round(t.Context())
	must(t, err)
	_, err = f.Freeze(t.Context())
	must(t, err)
	if !slices.Equal(heard, []int{0}) {
		t.Errorf("it heard of rounds %v, want the first one only", heard)
	}
}

func TestLiveSessionBringsOneOfEverything(t *testing.T) {
	src := t.TempDir()
	buildZoo(t, src)
	l := newLiveFleet(t, src, nil)
	f, into := l.follow(t, mobyfs.FollowOptions{})
	if got := string(f.Luggage()); got != "a container" {
		t.Errorf("got luggage %q", got)
	}
	for i := range 2 {
		r, err := f.Round(t.Context())
		must(t, err)
		if r.Number != i || r.Feed == "" {
			t.Errorf("got round %+v, want number %d and its feed", r, i)
		}
		if i == 1 && r.Bytes > 0 {
			t.Errorf("the second round brought %d bytes though nothing changed", r.Bytes)
		}
	}
	// Change the kind, metadata and names of what is there.
	in := func(name string) string { return filepath.Join(src, name) }
	must(t, os.Rename(in("sub"), in("empty/sub moved")))
	must(t, os.Rename(in("deep"), in("sub")))
	must(t, os.Remove(in("link")))
	must(t, os.Mkdir(in("link"), 0o711))
	must(t, unix.Removexattr(in("small"), "user.comment"))
	must(t, unix.Removexattr(in("acl"), aclDefault))
	must(t, unix.Removexattr(in("setgid"), aclAccess))
	must(t, os.Lchown(in("null"), 3, 4))
	must(t, unix.Lremovexattr(in("null"), "trusted.of.device"))
	must(t, os.Truncate(in("big"), 100))
	must(t, os.Truncate(in("just small"), 3<<20))
	must(t, os.WriteFile(in("acl/capable"), []byte("x"), 0o600))
	must(t, unix.Setxattr(in("acl/capable"), "security.capability", capability, 0))
	setTime(t, src, 1_200_000_000, 5)
	receipt, err := f.Freeze(t.Context())
	must(t, err)
	must(t, f.Close())
	if receipt.Freeze != 1 {
		t.Errorf("got freeze %d, want 1", receipt.Freeze)
	}
	sameTrees(t, src, into, receipt)
	within(t, soon, "the server released the tree", l.allReleased)
	if n := l.thaws(); n != 0 {
		t.Errorf("%d thaws after a proven move, want none", n)
	}
}

func TestLiveMoveOfATreeThatChangesAllTheTimeIsExact(t *testing.T) {
	changing(t, nil)
}

func TestLiveMoveThatIsToldWhatChangesIsExact(t *testing.T) {
	changing(t, armed(t))
}

// TestDirectoryThatMovesAfterTheFeedWasAsked: the round finds it at its new place, and is told of the old one in the next
// round only.
func TestDirectoryThatMovesAfterTheFeedWasAsked(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(at func(string) string) error
		told   []string // in the round after the change
		later  []string // in the last one
		moved  [2]string
	}{
		"to another directory": {
			change: func(at func(string) string) error {
				return errors.Join(os.Rename(at("a/x"), at("b/y")), os.WriteFile(at("b/y/f"), []byte("changed"), 0o600))
			},
			told: []string{"b"}, later: []string{"a", "b", "b/y", "b/y/f"}, moved: [2]string{"a/x", "b/y"},
		},
		"and another gets its name": {
			change: func(at func(string) string) error {
				return errors.Join(os.Rename(at("a/x"), at("b/y")), os.Rename(at("b/z"), at("a/x")))
			},
			told: []string{"b"}, later: []string{"a", "b"}, moved: [2]string{"", "b/y"},
		},
		"and what it left is gone": {
			change: func(at func(string) string) error {
				return errors.Join(os.Rename(at("a/x"), at("b/y")), os.Remove(at("a")))
			},
			told: []string{"", "b"}, later: []string{"", "b"}, moved: [2]string{"a", "b/y"},
		},
		"into what lay in it": {
			change: func(at func(string) string) error {
				return errors.Join(os.Rename(at("a/x/q"), at("b/q")), os.Rename(at("a/x"), at("b/q/y")))
			},
			told: []string{"b"}, later: []string{"a", "a/x", "b", "b/q"}, moved: [2]string{"a/x", "b/q/y"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			src := t.TempDir()
			at := func(p string) string { return filepath.Join(src, p) }
			must(t, errors.Join(os.MkdirAll(at("a/x/q/deep"), 0o700), os.MkdirAll(at("b/z"), 0o700)))
			for _, p := range []string{"a/x/f", "a/x/q/g", "a/x/q/deep/h", "b/z/i"} {
				must(t, os.WriteFile(at(p), []byte(p), 0o600))
			}
			told := &toldFeed{}
			l := newLiveFleetTold(t, src, func(string) feed.Feed { return told })
			session, into := l.follow(t, mobyfs.FollowOptions{})
			round := func(paths ...string) {
				t.Helper()
				told.next = feed.Set{Paths: map[string][]feed.Range{}}
				for _, p := range paths {
					told.next.Paths[p] = nil
				}
				_, err := session.Round(t.Context())
				must(t, err)
			}
			round()
			must(t, tc.change(at))
			round(tc.told...)
			if _, err := os.Stat(filepath.Join(into, tc.moved[1], "f")); err != nil {
				t.Errorf("the round did not bring it: %v", err)
			}
			if left := filepath.Join(into, tc.moved[0]); left != into {
				if _, err := os.Lstat(left); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("%s is still there: %v", tc.moved[0], err)
				}
			}
			round(tc.later...)
			receipt, err := session.Freeze(t.Context())
			must(t, err)
			must(t, session.Close())
			sameTrees(t, src, into, receipt)
		})
	}
}

// armed arms the feeds of directories.
func armed(t *testing.T) func(dir string) feed.Feed {
	feeds := feed.New(slog.New(slog.DiscardHandler))
	return func(dir string) feed.Feed {
		f, why := feeds.Arm(dir, feed.Options{PIDs: func() ([]int, error) { return []int{os.Getpid()}, nil }})
		t.Logf("the feed is %s: %s", f.Name(), why)
		return f
	}
}

// changing moves trees while a writer changes them until they are frozen.
func changing(t *testing.T, told func(dir string) feed.Feed) {
	seeds := 12
	if testing.Short() {
		seeds = 3
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			src := t.TempDir()
			w := newWriter(t, src, uint64(seed))
			for range 300 {
				w.step()
			}
			stop, ended := make(chan struct{}), make(chan struct{})
			go func() {
				defer close(ended)
				for {
					select {
					case <-stop:
						return
					default:
						w.step()
					}
				}
			}()
			var once sync.Once
			freeze := func() { once.Do(func() { close(stop); <-ended }) }
			defer freeze()
			l := newLiveFleet(t, src, freeze)
			l.feed = told
			f, into := l.follow(t, mobyfs.FollowOptions{})
			for range 1 + seed%5 {
				_, err := f.Round(t.Context())
				must(t, err)
			}
			receipt, err := f.Freeze(t.Context())
			must(t, err)
			must(t, f.Close())
			w.close()
			sameTrees(t, src, into, receipt)
		})
	}
}

// writer changes a tree in every way that a container can.
type writer struct {
	t    testing.TB
	dir  string
	r    *rand.Rand
	maps map[string][]byte
}

func newWriter(t testing.TB, dir string, seed uint64) *writer {
	return &writer{t: t, dir: dir, r: rand.New(rand.NewPCG(seed, 7)), maps: map[string][]byte{}}
}

func (w *writer) close() {
	for _, m := range w.maps {
		_ = unix.Munmap(m)
	}
}

// path is one of few names, so that names meet.
func (w *writer) path() string {
	p := w.dir
	for range w.r.IntN(3) {
		p = filepath.Join(p, fmt.Sprintf("d%d", w.r.IntN(3)))
	}
	return filepath.Join(p, fmt.Sprintf("f%d", w.r.IntN(8)))
}

func (w *writer) dirPath() string {
	p := w.dir
	for range 1 + w.r.IntN(3) {
		p = filepath.Join(p, fmt.Sprintf("d%d", w.r.IntN(3)))
	}
	return p
}

// step makes one change. Many fail, because what they need is not there; that is no matter.
func (w *writer) step() {
	r, p := w.r, w.path()
	switch r.IntN(20) {
	case 0:
		_ = os.MkdirAll(w.dirPath(), 0o755)
	case 1:
		w.write(p, random(r.IntN(3000), r.Uint64()))
	case 2:
		w.write(p, random(smallFile+r.IntN(5*chunkSize/2), r.Uint64()))
	case 3, 4, 5:
		if f, err := w.open(p); err == nil {
			_, _ = f.WriteAt(random(1+r.IntN(9000), r.Uint64()), r.Int64N(3*chunkSize))
			_ = f.Close()
		}
	case 6:
		_ = os.Truncate(p, r.Int64N(4*chunkSize))
	case 7:
		_ = os.Rename(p, w.path())
	case 8:
		_ = os.Rename(w.dirPath(), w.dirPath())
	case 9:
		_ = os.Link(p, w.path())
	case 10:
		_ = os.Remove(p)
	case 11:
		if r.IntN(6) == 0 {
			_ = os.RemoveAll(w.dirPath())
		}
	case 12:
		_ = os.Chmod(p, os.FileMode(r.IntN(0o1000)))
	case 13:
		_ = os.Lchown(p, r.IntN(5), r.IntN(5))
	case 14:
		if r.IntN(2) == 0 {
			_ = unix.Lsetxattr(p, "user.x", random(r.IntN(50), r.Uint64()), 0)
		} else {
			_ = unix.Lremovexattr(p, "user.x")
		}
	case 15:
		w.mapped(p)
	case 16:
		for _, m := range w.maps { // without a call that any file system sees
			m[r.IntN(len(m))] = byte(r.IntN(256))
		}
	case 17:
		if f, err := w.open(p); err == nil {
			mode := uint32(0)
			if r.IntN(2) == 0 {
				mode = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE
			}
			_ = unix.Fallocate(int(f.Fd()), mode, r.Int64N(3*chunkSize), 1+r.Int64N(chunkSize))
			_ = f.Close()
		}
	case 18:
		_ = os.Symlink(fmt.Sprint("target", r.IntN(100)), p)
	case 19:
		_ = unix.Mkfifo(p, 0o600)
	}
}

// write replaces a file.
func (w *writer) write(p string, content []byte) {
	if st, err := os.Lstat(p); err == nil && !st.Mode().IsRegular() {
		return
	}
	_ = os.WriteFile(p, content, 0o644)
}

// open opens a file for writing, and no fifo, which would wait for its other end.
func (w *writer) open(p string) (*os.File, error) {
	if st, err := os.Lstat(p); err == nil && !st.Mode().IsRegular() {
		return nil, os.ErrInvalid
	}
	return os.OpenFile(p, os.O_RDWR, 0)
}

// mapped maps a page of a file of its own, which nothing else cuts.
func (w *writer) mapped(string) {
	p := filepath.Join(w.dir, fmt.Sprintf("mapped%d", w.r.IntN(3)))
	if w.maps[p] != nil {
		return
	}
	f, err := os.OpenFile(p, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return
	}
	defer f.Close()
	must(w.t, f.Truncate(2*chunkSize))
	m, err := unix.Mmap(int(f.Fd()), chunkSize/2, chunkSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	must(w.t, err)
	w.maps[p] = m
}

func TestBrokenSessionThawsTheSource(t *testing.T) {
	src := smallTree(t)
	for name, hurt := range map[string]func(f mobyfs.Follower, into string){
		"what arrived is damaged": func(_ mobyfs.Follower, into string) {
			must(t, os.WriteFile(filepath.Join(src, "d", "f"), []byte("other"), 0o644))
			must(t, os.RemoveAll(filepath.Join(into, "d")))
		},
		"the session is closed": func(f mobyfs.Follower, _ string) {
			must(t, os.WriteFile(filepath.Join(src, "d", "f"), random(64<<20, 1), 0o644))
			time.AfterFunc(50*time.Millisecond, func() { f.(*follower).p.bundle.Break() })
		},
	} {
		l := newLiveFleet(t, src, func() { time.Sleep(100 * time.Millisecond) })
		f, into := l.follow(t, mobyfs.FollowOptions{})
		_, err := f.Round(t.Context())
		must(t, err)
		hurt(f, into)
		if r, err := f.Freeze(t.Context()); err == nil {
			t.Errorf("%s: got receipt %+v, want an error", name, r)
		}
		must(t, f.Close())
		within(t, soon, "the source was thawed: "+name, func() bool { return l.thaws() == 1 })
	}
}

func TestVolumeInUseIsNotPulled(t *testing.T) {
	l := newLiveFleet(t, smallTree(t), nil)
	_, _, err := l.pullInto(t)
	if mobyfs.CodeOf(err) != mobyfs.CodeInUse {
		t.Errorf("got %v, want CodeInUse", err)
	}
}

func TestChangeRightAfterAReadIsSeen(t *testing.T) {
	src := t.TempDir()
	p := filepath.Join(src, "f")
	must(t, os.WriteFile(p, random(2*chunkSize, 1), 0o600))
	f, err := os.OpenFile(p, os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	m, err := unix.Mmap(int(f.Fd()), 0, chunkSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	must(t, err)
	defer func() { must(t, unix.Munmap(m)) }()
	m[0] ^= 1 // from now on the page can be written without a new time
	l := newLiveFleet(t, src, func() { m[1] ^= 1 })
	session, into := l.follow(t, mobyfs.FollowOptions{})
	m[2] ^= 1
	_, err = session.Round(t.Context())
	must(t, err)
	m[3] ^= 1
	r, err := session.Freeze(t.Context())
	must(t, err)
	must(t, session.Close())
	sameTrees(t, src, into, r)
}

func TestFollowGoesOnWhereAnEarlierSessionOfTheMigrationEnded(t *testing.T) {
	src := smallTree(t)
	l := newLiveFleet(t, src, nil)
	o := mobyfs.FollowOptions{Journal: filepath.Join(t.TempDir(), "journal")}
	first, into := l.follow(t, o)
	_, err := first.Round(t.Context())
	must(t, err)
	must(t, first.Close())
	other := l.from()
	other.Migration = "m2"
	if _, err := l.client.Follow(t.Context(), other, into, mobyfs.FollowOptions{Journal: filepath.Join(t.TempDir(), "journal")}); mobyfs.CodeOf(err) != mobyfs.CodeInvalid {
		t.Errorf("into what another migration left: got %v, want CodeInvalid", err)
	}
	must(t, os.Remove(filepath.Join(src, "z")))
	second, err := l.client.Follow(t.Context(), l.from(), into, o)
	must(t, err)
	r, err := second.Freeze(t.Context())
	must(t, err)
	must(t, second.Close())
	sameTrees(t, src, into, r)
}
