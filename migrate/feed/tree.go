package feed

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// watched are the file systems that tell this kernel of all that is done to them, and whose inodes can be found again.
var watched = map[int64]string{
	unix.EXT4_SUPER_MAGIC: "ext4", unix.XFS_SUPER_MAGIC: "xfs", unix.BTRFS_SUPER_MAGIC: "btrfs",
	unix.F2FS_SUPER_MAGIC: "f2fs", unix.TMPFS_MAGIC: "tmpfs",
}

// tree is a feed that knows from fanotify which entries changed, and of big files perhaps which ranges.
type tree struct {
	feeds   *Feeds
	dir     string
	root    int
	handle  string      // of root
	at      unix.Stat_t // of root
	kind    string      // of file system
	pids    func() ([]int, error)
	tracker *tracker
	dirty   *dirty
	narrow  narrower
}

// narrower knows which ranges of a file changed. Files are known by their handles.
type narrower interface {
	name() string
	// look takes up what a file is now, writing out first what the kernel holds back of it. last says that it is not asked for
	// again after this time.
	look(handle string, file int, last bool) error
	// looked is called once all files have been looked at.
	looked() error
	// changed are the ranges that may differ from what a file was when it was looked at before; !ok: it never was, or
	// nobody knows. After it the look counts as the one before.
	changed(handle string) (r []Range, ok bool)
	close()
}

// whole never knows.
type whole struct{}

func (whole) name() string                   { return "fanotify" }
func (whole) look(string, int, bool) error   { return nil }
func (whole) looked() error                  { return nil }
func (whole) changed(string) ([]Range, bool) { return nil, false }
func (whole) close()                         {}

func (f *Feeds) armTree(dir string, o Options) (_ *tree, why string, err error) {
	root, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, "", fmt.Errorf("open %s: %w", dir, err)
	}
	t := &tree{feeds: f, dir: dir, root: root, pids: o.PIDs, narrow: whole{}}
	defer func() {
		if err != nil {
			_ = t.Close()
		}
	}()
	if t.pids == nil {
		t.pids = allPIDs
	}
	if err := t.known(); err != nil {
		return nil, "", err
	}
	if t.tracker, err = f.tracker(t.at.Dev, dir); err != nil {
		return nil, "", err
	}
	t.dirty = t.tracker.subscribe(root, t.handle)
	t.narrow, why = t.narrower(o)
	if err := t.baseline(); err != nil {
		t.narrow.close()
		t.narrow, why = whole{}, "events of "+t.kind+" ("+err.Error()+")"
	}
	return t, why, nil
}

// known finds out on what kind of file system the tree lies, and that its inodes can be opened by their handles.
func (t *tree) known() error {
	var sf unix.Statfs_t
	if err := errors.Join(unix.Fstat(t.root, &t.at), unix.Fstatfs(t.root, &sf)); err != nil {
		return fmt.Errorf("look at %s: %w", t.dir, err)
	}
	t.kind = watched[sf.Type]
	if t.kind == "" {
		return fmt.Errorf("a file system of type %#x may change behind this kernel's back", sf.Type)
	}
	var err error
	if t.handle, err = handleOf(t.root, "", 0); err == nil {
		var fd int
		if fd, err = openHandle(t.root, t.handle, unix.O_PATH); err == nil {
			return unix.Close(fd)
		}
	}
	return fmt.Errorf("open by handle on %s: %w", t.kind, err)
}

// narrower chooses what finds the ranges of big files.
func (t *tree) narrower(o Options) (narrower, string) {
	events := "events of " + t.kind
	if o.eventsOnly {
		return whole{}, events
	}
	switch t.kind {
	case "btrfs":
		g, err := newGenerations(t.root)
		if err != nil {
			return whole{}, events + "; not in which transactions extents were written: " + err.Error()
		}
		return g, events + ", and in which transactions extents were written"
	case "ext4", "xfs":
	default:
		return whole{}, events
	}
	if !o.clonesOnly {
		b, err := newBlocks(t.at.Dev, t.kind)
		if err == nil {
			return b, events + ", and which of the device's blocks are written"
		}
		events += "; not which blocks are written: " + err.Error()
	}
	if t.kind != "xfs" {
		return whole{}, events
	}
	c, err := newClones(t.root, cmp.Or(o.Scratch, selfPath(t.root)), t.kind)
	if err != nil {
		return whole{}, events + "; not where clones lie: " + err.Error()
	}
	return c, events + "; but where clones of big files lie"
}

// baseline looks at all big files, so that already their first change is told as ranges.
func (t *tree) baseline() error {
	if _, none := t.narrow.(whole); none {
		return nil
	}
	handles := map[string]bool{}
	err := eachFile(t.root, func(at int, name string, st *unix.Stat_t) error {
		if st.Size < bigFile {
			return nil
		}
		handle, err := handleOf(at, name, 0)
		if err != nil || handles[handle] {
			return unless(gone(err), err)
		}
		handles[handle] = true
		return t.look(handle, false)
	})
	for range 2 { // what was written out just now is of the first time, and thus of before
		if err == nil {
			err = t.narrow.looked()
		}
	}
	for handle := range handles {
		t.narrow.changed(handle)
	}
	return err
}

// look has the narrower look at a file that may be gone.
func (t *tree) look(handle string, last bool) error {
	fd, err := openHandle(t.root, handle, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW|unix.O_NOATIME)
	if err != nil {
		return unless(gone(err), err)
	}
	defer func() { _ = unix.Close(fd) }()
	return t.narrow.look(handle, fd, last)
}

func (t *tree) Name() string { return t.narrow.name() }

func (t *tree) Changes(ctx context.Context) (Set, error) { return t.changes(ctx, false) }

func (t *tree) Last(ctx context.Context) (Set, error) { return t.changes(ctx, true) }

func (t *tree) changes(ctx context.Context, last bool) (Set, error) {
	if err := context.Cause(ctx); err != nil {
		return Set{}, err
	}
	var at unix.Stat_t
	if err := unix.Stat(t.dir, &at); err != nil || at.Dev != t.at.Dev || at.Ino != t.at.Ino {
		return all("the tree is not where it was when its feed was armed"), nil
	}
	if why := t.nested(); why != "" {
		return all(why), nil
	}
	held, err := t.held() // before the events: what is closed meanwhile has one
	if err != nil {
		return all("find out who holds files open: " + err.Error()), nil
	}
	seen := t.tracker.take(t.dirty)
	if seen.why != "" {
		return all(seen.why), nil
	}
	set, err := t.resolve(ctx, seen, held, last)
	switch {
	case ctx.Err() != nil:
		return Set{}, context.Cause(ctx)
	case err != nil:
		return all(err.Error()), nil
	}
	return set, nil
}

// held are the handles of files of the file system that may be written without an event.
func (t *tree) held() (map[string]bool, error) {
	pids, err := t.pids()
	if err != nil {
		return nil, err
	}
	held := map[string]bool{}
	err = holders(t.at.Dev, pids, func(handle string) { held[handle] = true })
	return held, err
}

func (t *tree) Close() error {
	if t.tracker != nil {
		t.tracker.unsubscribe(t.dirty)
		t.feeds.giveBack(t.at.Dev)
	}
	t.narrow.close()
	return unix.Close(t.root)
}
