package transfer

import (
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/dirfd"
	"github.com/mobyfs/mobyfs/internal/pki"
	"github.com/mobyfs/mobyfs/migrate/bundle"
)

// journaled are options with a journal of the test's.
func journaled(t testing.TB) mobyfs.FollowOptions {
	return mobyfs.FollowOptions{Journal: filepath.Join(t.TempDir(), "journal")}
}

// bringVia moves the tree in one session through a proxy that lets limit bytes pass, all if negative, and tells how many did.
func (l *liveFleet) bringVia(t testing.TB, limit int64, into string, o mobyfs.FollowOptions) (mobyfs.Receipt, int64, error) {
	t.Helper()
	p := newProxy(t, l.addr, limit, false)
	from := l.from()
	from.Address = p.addr
	f, err := l.client.Follow(t.Context(), from, into, o)
	if err != nil {
		return mobyfs.Receipt{}, p.passed(), err
	}
	r, err := f.Freeze(t.Context())
	must(t, f.Close())
	return r, p.passed(), err
}

// bigTree has content that does not get smaller when it is packed, in files of many sizes.
func bigTree(t testing.TB, mib int) string {
	t.Helper()
	src := t.TempDir()
	buildZoo(t, src)
	must(t, os.Mkdir(filepath.Join(src, "data"), 0o750))
	for i := range mib / 8 {
		must(t, os.WriteFile(filepath.Join(src, "data", fmt.Sprintf("table%d", i)), random(7<<20+i*1111, uint64(i)), 0o640))
		for k := range 32 {
			must(t, os.WriteFile(filepath.Join(src, fmt.Sprintf("row%d-%d", i, k)), random(30_000+k, uint64(1000*i+k)), 0o600))
		}
	}
	return src
}

// slack is what a session says that is no content of files: metadata, and the conversation.
const slack = 1 << 20

func TestCutSessionSendsOnlyWhatIsMissing(t *testing.T) {
	src := bigTree(t, 96)
	l := newLiveFleet(t, src, nil)
	r := rand.New(rand.NewPCG(1, 2))
	_, whole, err := l.bringVia(t, -1, t.TempDir(), mobyfs.FollowOptions{})
	must(t, err)
	rounds := 3
	if testing.Short() {
		rounds = 1
	}
	for range rounds {
		into, o := t.TempDir(), journaled(t)
		var came int64
		for cuts := 0; ; cuts++ {
			limit := r.Int64N(whole)
			if cuts == 2 {
				limit = -1
			}
			receipt, passed, err := l.bringVia(t, limit, into, o)
			came += passed
			if err == nil {
				t.Logf("after %d cuts %d KiB came, of a tree of %d KiB", cuts, came>>10, whole>>10)
				sameTrees(t, src, into, receipt)
				if most := whole + int64(cuts)*(32<<20); came > most {
					t.Errorf("%d bytes came with %d cuts, want %d at most", came, cuts, most)
				}
				break
			}
			if mobyfs.CodeOf(err) != mobyfs.CodeUnavailable {
				t.Fatalf("cut after %d bytes: got %v, want CodeUnavailable", limit, err)
			}
		}
	}
}

func TestSessionThatGoesOnSendsOnlyWhatChanged(t *testing.T) {
	src := bigTree(t, 32)
	in := func(name string) string { return filepath.Join(src, name) }
	l := newLiveFleet(t, src, nil)
	into, o := t.TempDir(), journaled(t)
	for _, step := range []struct {
		what   string
		change func()
		most   int64 // bytes of content that may come
	}{
		{"everything is new", func() {}, 64 << 20},
		{"nothing changed", func() {}, 0},
		{"a file is replaced", func() { must(t, os.WriteFile(in("row0-1"), random(40_000, 9), 0o600)) }, 40_000},
		{"a file is cut", func() { must(t, os.Truncate(in("data/table0"), 1<<20+5)) }, 5},
		{"a file grows", func() { must(t, os.Truncate(in("data/table1"), 30<<20)) }, 1 << 20},
		{"a page is written", func() { must(t, overwrite(in("data/table2"), 3<<20+77, 1)) }, 1 << 20},
		{"a big file is renamed", func() { must(t, os.Rename(in("data/table3"), in("moved"))) }, 0},
		{"a directory is renamed", func() { must(t, os.Rename(in("data"), in("tables"))) }, 0},
		{"two files change places", func() {
			must(t, unix.Renameat2(unix.AT_FDCWD, in("row0-2"), unix.AT_FDCWD, in("row0-3"), unix.RENAME_EXCHANGE))
		}, 70_000},
		{"a file gets a second name", func() { must(t, os.Link(in("tables/table0"), in("second"))) }, 0},
		{"its second name is another file's", func() {
			must(t, os.Remove(in("second")))
			must(t, os.Link(in("row0-5"), in("second")))
		}, 0},
		{"two names get files of their own", func() {
			must(t, os.Remove(in("second")))
			must(t, os.WriteFile(in("second"), random(30_005, 5), 0o600))
		}, 30_005},
		{"a file is a directory now", func() {
			must(t, os.Remove(in("row0-4")))
			must(t, os.MkdirAll(in("row0-4/x/y"), 0o755))
		}, 0},
		{"a directory is a file now", func() {
			must(t, os.RemoveAll(in("row0-4")))
			must(t, os.WriteFile(in("row0-4"), []byte("x"), 0o600))
		}, 1},
		{"metadata changed", func() {
			must(t, os.Chmod(in("tables/table1"), 0o400))
			must(t, os.Lchown(in("moved"), 7, 8))
			must(t, unix.Setxattr(in("tables"), "user.x", []byte("y"), 0))
		}, 0},
		{"a link leads elsewhere", func() {
			must(t, os.Remove(in("link")))
			must(t, os.Symlink("nowhere", in("link")))
		}, 0},
	} {
		step.change()
		p := newProxy(t, l.addr, -1, false)
		from := l.from()
		from.Address = p.addr
		f, err := l.client.Follow(t.Context(), from, into, o)
		must(t, err)
		r, err := f.Round(t.Context())
		if err != nil {
			t.Fatalf("%s: %v", step.what, err)
		}
		must(t, f.Close())
		if r.Bytes > step.most {
			t.Errorf("%s: %d bytes of content came, want %d at most", step.what, r.Bytes, step.most)
		}
		if n := p.passed(); n > step.most+slack {
			t.Errorf("%s: %d bytes came over the network, want %d at most", step.what, n, step.most+slack)
		}
	}
	receipt, passed, err := l.bringVia(t, -1, into, o)
	must(t, err)
	sameTrees(t, src, into, receipt)
	if passed > slack {
		t.Errorf("the last session brought %d bytes though nothing had changed, want %d at most", passed, slack)
	}
}

func TestSessionsCutAgainAndAgainWhileTheTreeChangesEndExact(t *testing.T) {
	seeds := 8
	if testing.Short() {
		seeds = 3
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			src := t.TempDir()
			w := newWriter(t, src, uint64(100+seed))
			defer w.close()
			r := rand.New(rand.NewPCG(uint64(seed), 3))
			l := newLiveFleet(t, src, nil)
			into, o := t.TempDir(), journaled(t)
			for range 6 {
				for range 150 {
					w.step()
				}
				receipt, _, err := l.bringVia(t, 3000+r.Int64N(16<<20), into, o)
				if err == nil { // small enough to pass
					sameTrees(t, src, into, receipt)
				}
			}
			receipt, _, err := l.bringVia(t, -1, into, o)
			must(t, err)
			sameTrees(t, src, into, receipt)
		})
	}
}

func TestWhatLiesThereIsReadAndNotTrusted(t *testing.T) {
	src := bigTree(t, 8)
	l := newLiveFleet(t, src, nil)
	for what, hurt := range map[string]func(into, journal string){
		"a byte of a file differs, its times do not": func(into, _ string) {
			p := filepath.Join(into, "data", "table0")
			keepTimes(t, p, func() error { return overwrite(p, 2<<20, 0) })
		},
		"a small file differs, its times do not": func(into, _ string) {
			p := filepath.Join(into, "row0-7")
			keepTimes(t, p, func() error { return overwrite(p, 20_000, 0) })
		},
		"a file is as long as it should be, and empty": func(into, _ string) { must(t, remade(filepath.Join(into, "data", "table0"), 7<<20)) },
		"a small file is as long as it should be":      func(into, _ string) { must(t, remade(filepath.Join(into, "row0-8"), 30_008)) },
		"a file is longer":                             func(into, _ string) { must(t, os.Truncate(filepath.Join(into, "row0-9"), 9<<20)) },
		"a big file is short":                          func(into, _ string) { must(t, os.Truncate(filepath.Join(into, "data", "table0"), 10)) },
		"there is what no round brought":               func(into, _ string) { must(t, os.MkdirAll(filepath.Join(into, ".mobyfs-moving-X", "3"), 0o700)) },
		"two files are one": func(into, _ string) {
			must(t, os.Remove(filepath.Join(into, "row0-1")))
			must(t, os.Link(filepath.Join(into, "row0-2"), filepath.Join(into, "row0-1")))
		},
		"all is gone":          func(into, _ string) { must(t, os.RemoveAll(filepath.Join(into, "data"))) },
		"the journal is torn":  func(_, journal string) { must(t, os.WriteFile(journal, []byte("m"), 0o600)) },
		"the journal is empty": func(_, journal string) { must(t, os.Truncate(journal, 0)) },
	} {
		into, o := t.TempDir(), journaled(t)
		f, err := l.client.Follow(t.Context(), l.from(), into, o)
		must(t, err)
		_, err = f.Round(t.Context())
		must(t, err)
		must(t, f.Close())
		hurt(into, o.Journal)
		receipt, passed, err := l.bringVia(t, -1, into, o)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		sameTrees(t, src, into, receipt)
		if most := int64(8<<20 + slack); passed > most {
			t.Errorf("%s: %d bytes came, want %d at most", what, passed, most)
		}
	}
}

// remade makes a file one hole.
func remade(path string, size int64) error {
	if err := os.Truncate(path, 0); err != nil {
		return err
	}
	return os.Truncate(path, size)
}

func TestWhatAnotherMigrationLeftIsNotTouched(t *testing.T) {
	src := smallTree(t)
	l := newLiveFleet(t, src, nil)
	o := journaled(t)
	_, into, err := func() (mobyfs.Receipt, string, error) {
		into := t.TempDir()
		r, _, err := l.bringVia(t, -1, into, o)
		return r, into, err
	}()
	must(t, err)
	before := describe(t, into)
	other := l.from()
	other.Migration = "m2"
	for what, o := range map[string]mobyfs.FollowOptions{"the other's journal": o, "a journal that is not there": journaled(t), "no journal": {}} {
		for range 2 {
			f, err := l.client.Follow(t.Context(), other, into, o)
			if err == nil {
				_ = f.Close()
			}
			if mobyfs.CodeOf(err) != mobyfs.CodeInvalid || mobyfs.HintOf(err) == "" {
				t.Errorf("%s: got %v, want CodeInvalid and a hint", what, err)
			}
		}
	}
	if d := diff(before, describe(t, into)); d != "" {
		t.Errorf("it was touched:\n%s", d)
	}
	if noted, err := os.ReadFile(o.Journal); err != nil || string(noted) != "m1\n" {
		t.Errorf("the journal says %q, %v", noted, err)
	}
	other.Migration = "m1"
	f, err := l.client.Follow(t.Context(), other, into, mobyfs.FollowOptions{TakeUp: true})
	must(t, err)
	must(t, f.Close())
}

func TestHostileHoldingsAreRefused(t *testing.T) {
	root := appendOp(nil, opEntry, (&meta{kind: kindDir}).appendTo(nil))
	entry := func(m meta) []byte { return appendOp(nil, opEntry, m.appendTo(nil)) }
	file := entry(meta{kind: kindFile, name: "f", size: 5 << 20})
	for what, frame := range map[string][]byte{
		"no root":                     file,
		"a name that leads out":       entry(meta{kind: kindDir, name: ".."}),
		"names out of order":          slices.Concat(entry(meta{kind: kindFile, name: "g"}), file),
		"a name of a directory":       slices.Concat(entry(meta{kind: kindDir, name: "d"}), []byte{byte(opLeave)}, entry(meta{kind: kindLink, name: "e", link: 1})),
		"a name of what is not there": entry(meta{kind: kindLink, name: "e", link: 7}),
		"an end of no directory":      {byte(opLeave), byte(opLeave)},
		"sums of no file":             appendSums(nil, []chunkRecord{{1, sum{1}}}),
		"sums out of order":           slices.Concat(file, appendSums(nil, []chunkRecord{{1, sum{1}}, {1, sum{2}}})),
		"the sum of nothing":          slices.Concat(file, appendSums(nil, []chunkRecord{{1, sum{}}})),
		"sums that are cut":           slices.Concat(file, appendSums(nil, []chunkRecord{{1, sum{1}}})[:9]),
		"an entry after the root":     slices.Concat([]byte{byte(opLeave)}, file),
		"a step that there is not":    {'?'},
		"an end in a directory":       entry(meta{kind: kindDir, name: "d"}),
		"an entry of no kind":         appendOp(nil, opEntry, []byte{'x', 1, 'a'}),
	} {
		h := &held{}
		var err error
		if what != "no root" {
			err = h.take(root)
		}
		if err == nil {
			err = h.take(frame)
		}
		if err == nil {
			_, err = h.finder(0)
		}
		if mobyfs.CodeOf(err) != mobyfs.CodeCorrupt {
			t.Errorf("%s: got %v, want CodeCorrupt", what, err)
		}
	}
}

func TestColdPullThatWasCutIsGoneOnWith(t *testing.T) {
	src := bigTree(t, 64)
	f := newFleet(t, src).start(t)
	into, from := t.TempDir(), f.from()
	from.Address = newProxy(t, f.addr, 50<<20, false).addr
	if _, err := f.client.Pull(t.Context(), from, into, nil); mobyfs.CodeOf(err) != mobyfs.CodeUnavailable {
		t.Fatalf("cut in the middle: got %v, want CodeUnavailable", err)
	}
	rest := newProxy(t, f.addr, -1, false)
	from.Address = rest.addr
	session, err := f.client.Follow(t.Context(), from, into, mobyfs.FollowOptions{TakeUp: true})
	must(t, err)
	receipt, err := session.Freeze(t.Context())
	must(t, err)
	must(t, session.Close())
	sameTrees(t, src, into, receipt)
	if n := rest.passed(); n > 48<<20 {
		t.Errorf("after a cut at 50 of 72 MiB %d bytes came", n)
	}
	if receipt.Freeze != 0 {
		t.Errorf("got freeze %d of what stands still, want none", receipt.Freeze)
	}
}

// serveWithoutGoingOn answers one live session as a node does that knows no way to go on, up to the last round.
func serveWithoutGoingOn(t *testing.T, l net.Listener, cfg *tls.Config, src string) error {
	c, err := l.Accept()
	if err != nil {
		return err
	}
	conn, err := (&bundle.Acceptor{TLS: cfg, Admit: admit, Idle: soon}).Accept(t.Context(), c)
	if err != nil {
		return err
	}
	defer conn.Close()
	w := &frameWriter{w: conn, flush: conn.Flush}
	root, err := dirfd.OpenRoot(src)
	if err != nil {
		return err
	}
	defer dirfd.Close(root)
	s, stop := startSender(t.Context(), root, w)
	lead := &leader{sender: s, find: newChangeFinder(root)}
	defer func() { _ = stop() }()
	buf := &buffer{}
	for {
		typ, err := readFrame(conn, buf)
		switch {
		case err != nil:
			return err
		case typ == frameDone:
			return nil
		case typ == frameAlive:
		case typ == frameFollow:
			if err = lead.look(); err == nil {
				err = errors.Join(w.send(frameOffered, nil), w.send(framePlan, lead.find.count.encode()))
			}
		case typ == frameRound:
			end := roundEnd{last: buf.b[0] == 1} // whatever else it may mean
			lead.frozen = end.last
			err = lead.answer(&end)
		default:
			err = fmt.Errorf("a frame of type %d", typ)
		}
		if err != nil {
			return err
		}
	}
}

func TestFollowingANodeThatCanNotGoOnBeginsAnew(t *testing.T) {
	src := smallTree(t)
	f := newFleet(t, src)
	cfg, err := f.member(t, pki.RoleNode, "h1").ServerTLS()
	must(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	f.addr, f.client.Connections = l.Addr().String(), 1
	served := make(chan error, 1)
	go func() { served <- serveWithoutGoingOn(t, l, cfg, src) }()
	into := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(into, "z", "left"), 0o700))
	must(t, os.WriteFile(filepath.Join(into, "left"), []byte("x"), 0o600))
	session, err := f.client.Follow(t.Context(), f.from(), into, mobyfs.FollowOptions{TakeUp: true})
	must(t, err)
	receipt, err := session.Freeze(t.Context())
	must(t, err)
	must(t, session.Close())
	must(t, <-served)
	sameTrees(t, src, into, receipt)
}
