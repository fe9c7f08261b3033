package transfer

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/dirfd"
	"github.com/mobyfs/mobyfs/migrate/feed"
)

// leader sends a tree that changes, in rounds, each of which sends what changed since the one before.
type leader struct {
	*sender
	find   *changeFinder
	feed   feed.Feed // nil: everything is compared each time
	why    string    // there is no feed
	fresh  bool      // the tree was looked at, and no round has sent it yet
	frozen bool

	synced time.Time // just before what the kernel held back was last written out
	began  time.Time // when the present round began to look
	last   time.Time // when the one before did
	looked time.Duration
	used   string // the feed of this round
	later  []naming
}

// look finds out what changed since the last time.
func (l *leader) look() error {
	l.last, l.began = l.began, time.Now()
	set := feed.Set{All: true, Why: l.why}
	l.synced = l.began
	switch {
	case l.feed != nil && l.find.round > 0:
		ask := l.feed.Changes
		if l.frozen {
			ask = l.feed.Last
		}
		var err error
		if set, err = ask(l.ctx); err != nil {
			return fault("ask what changed", err)
		}
		l.used = l.feed.Name()
		if set.All {
			l.used = "rescan: " + set.Why
		}
	default:
		l.used = "rescan"
		if l.why != "" {
			l.used += ": " + l.why
		}
	}
	if set.All && !l.frozen {
		if err := writeOut(l.root); err != nil {
			return err
		}
	}
	err := l.find.look(l.ctx, set)
	l.looked = time.Since(l.began)
	l.fresh = true
	return err
}

// round sends what look found.
func (l *leader) round() error {
	l.fresh = false
	r := l.find.settleNames()
	for _, g := range r.gone {
		k := stepUnname
		if g.node.links == 0 {
			k = stepRemove
		}
		if err := l.step(512, func(b []byte) []byte { return appendSpot(b, k, g.at.dir.id, g.at.name) }); err != nil {
			return err
		}
	}
	if err := l.names(r.fresh); err != nil {
		return err
	}
	if err := l.contents(); err != nil {
		return err
	}
	for _, n := range l.later { // second names of what is new
		if n.node.src.sent {
			if err := l.name(n); err != nil {
				return err
			}
		} else {
			l.find.forget(n.at, n.node)
		}
	}
	l.later = nil
	return l.flush()
}

// step appends a step of about that size to the batch.
func (l *leader) step(size int, add func([]byte) []byte) error {
	if err := l.flushIfDue(size); err != nil {
		return err
	}
	l.batch.b = add(l.batch.b)
	return nil
}

func (l *leader) name(n naming) error {
	return l.step(512, func(b []byte) []byte { return appendStepName(b, n.at.dir.id, n.at.name, n.node.id) })
}

// names makes new directories and gives what is known new names. What else is new is made with its content.
func (l *leader) names(fresh []naming) error {
	first := map[*inode]spot{} // where what is new will be made
	for _, v := range l.find.visits {
		if !v.node.src.sent {
			first[v.node] = v.at
		}
	}
	for _, n := range fresh {
		switch {
		case n.node.src.sent:
			if err := l.name(n); err != nil {
				return err
			}
		case n.node.kind == kindDir:
			m := meta{kind: kindDir, mode: 0o700}
			if err := l.make(n.at, n.node, string(m.appendBody(nil))); err != nil {
				return err
			}
		case n.at != first[n.node]:
			l.later = append(l.later, n)
		}
	}
	return nil
}

func (l *leader) make(at spot, n *inode, body string) error {
	n.id = l.find.nextID
	l.find.nextID++
	n.src.sent = true
	return l.step(len(body)+512, func(b []byte) []byte { return appendStepMake(b, at.dir.id, at.name, n.kind, body) })
}

// handle is an open directory that several goroutines read in.
type handle struct {
	fd   int
	refs atomic.Int32
}

func (h *handle) release() {
	if h != nil && h.refs.Add(-1) == 0 {
		dirfd.Close(h.fd)
	}
}

// readings are visits that a helper carries out.
type readings struct {
	all    []reading
	filled chan struct{}
}

// reading is what a visit found.
type reading struct {
	visit
	dir      *handle
	meta     meta
	stamp    stamp
	blocks   int64
	content  []byte
	sum      sum
	unstable bool // it changed while it was read
	err      error
}

// contents visits what may have changed, with helpers that read ahead.
func (l *leader) contents() error {
	ctx, cancel := context.WithCancel(l.ctx)
	work, order := make(chan *readings, 2*workers), make(chan *readings, 2*workers)
	var wg sync.WaitGroup
	wg.Go(func() { l.plan(ctx, work, order) })
	for range workers {
		wg.Go(func() {
			var attrs attrReader
			for b := range work {
				for i := range b.all {
					if ctx.Err() == nil {
						b.all[i].read(&attrs)
					}
				}
				close(b.filled)
			}
		})
	}
	var err error
	for b := range order {
		<-b.filled
		for i := range b.all {
			if err == nil {
				if err = ctxErr(ctx); err == nil {
					err = l.tell(&b.all[i])
				}
			}
			b.all[i].dir.release()
		}
		if err != nil {
			cancel()
		}
	}
	cancel()
	wg.Wait()
	return err
}

// plan opens the directories of the visits and passes those on.
func (l *leader) plan(ctx context.Context, work, order chan<- *readings) {
	defer close(order)
	defer close(work)
	var now *readings
	pass := func() {
		if now != nil {
			work <- now // both are read until they are closed
			order <- now
			now = nil
		}
	}
	var dir *inode
	var h *handle
	defer func() { h.release() }()
	for _, v := range l.find.visits {
		if ctx.Err() != nil {
			break
		}
		r := reading{visit: v}
		at := v.at.dir
		if v.node == l.find.top {
			at = l.find.top
		}
		if at != dir || h == nil {
			h.release()
			dir, h = at, nil
			h, r.err = l.open(at)
		}
		if r.dir = h; h != nil {
			h.refs.Add(1)
		}
		if now == nil {
			now = &readings{filled: make(chan struct{})}
		}
		if now.all = append(now.all, r); len(now.all) == batchSize {
			pass()
		}
	}
	pass()
}

// open returns nil if a directory is gone.
func (l *leader) open(n *inode) (*handle, error) {
	fd, _, err := l.find.open(n)
	if err != nil || fd < 0 {
		return nil, err
	}
	if fd == l.root {
		if fd, err = dirfd.Open(l.root, "."); err != nil {
			return nil, err
		}
	}
	h := &handle{fd: fd}
	h.refs.Store(1)
	return h, nil
}

// read reads what is at the visit's place, and small contents.
func (r *reading) read(attrs *attrReader) {
	if r.err != nil {
		return
	}
	if r.dir == nil {
		r.err = errGone
		return
	}
	if r.node.kind == kindFile || r.node.kind == kindDir {
		r.err = r.readOpen(attrs)
	} else {
		r.err = r.readEntry(attrs)
	}
	if isGone(r.err) || r.err == unix.ENODATA || r.err == unix.EINVAL || r.err == unix.ENXIO {
		r.err = errGone // or another thing by now, which the next round finds
	}
}

func (r *reading) entry() string {
	if r.at.dir == nil {
		return "."
	}
	return r.at.name
}

// take fills what a stat told, if it is of the same inode.
func (r *reading) take(st *unix.Stat_t) error {
	if r.fill(st) != r.node.src.key || r.meta.kind != r.node.kind {
		return errGone
	}
	return nil
}

func (r *reading) fill(st *unix.Stat_t) inodeKey {
	var it item
	it.take(st)
	r.meta, r.stamp, r.blocks = it.meta, it.stamp, it.blocks
	return inodeKey{it.dev, it.ino}
}

func (r *reading) readOpen(attrs *attrReader) error {
	flags := 0
	if r.node.kind == kindDir {
		flags = unix.O_DIRECTORY
	}
	fd, err := openQuietly(r.dir.fd, r.entry(), flags)
	if err != nil {
		return err
	}
	defer dirfd.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if err := r.take(&st); err != nil {
		return err
	}
	if r.meta.attrs, err = attrs.ofFile(fd); err != nil {
		return err
	}
	if r.node.kind == kindDir || r.big() {
		return nil
	}
	r.content = make([]byte, r.meta.size)
	n, err := readUpTo(fd, r.content)
	if err != nil {
		return err
	}
	r.content, r.meta.size = r.content[:n], int64(n)
	r.sum = sumSmallBlocks(r.content)
	if unchanged(fd, r.stamp) != nil {
		r.unstable = true
	}
	return nil
}

// big reports whether a file's content comes in pieces.
func (r *reading) big() bool {
	return r.meta.kind == kindFile && (r.meta.size > smallFile || r.blocks*512 < r.meta.size)
}

// readUpTo reads what there is, len(b) bytes at most.
func readUpTo(fd int, b []byte) (n int, err error) {
	for n < len(b) {
		k, err := unix.Pread(fd, b[n:], int64(n))
		if err == unix.EINTR {
			continue
		}
		if err != nil || k == 0 {
			return n, err
		}
		n += k
	}
	return n, nil
}

func (r *reading) readEntry(attrs *attrReader) error {
	var st unix.Stat_t
	err := unix.Fstatat(r.dir.fd, r.entry(), &st, unix.AT_SYMLINK_NOFOLLOW)
	if err == nil {
		err = r.take(&st)
	}
	if err == nil && r.node.kind == kindSymlink {
		r.meta.target, err = readlink(r.dir.fd, r.at.name)
	}
	if err == nil {
		r.meta.attrs, err = attrs.ofEntry(r.dir.fd, r.at.name)
	}
	return err
}

// tell sends what a visit found, if it is new.
func (l *leader) tell(r *reading) error {
	n := r.node
	if r.err == errGone {
		if l.frozen {
			return notStill(r.at)
		}
		n.src.partial = true
		if !n.src.sent {
			l.find.forget(r.at, n)
		}
		return nil
	}
	if r.err != nil {
		return fault("read "+r.at.path(), r.err)
	}
	if r.unstable && l.frozen {
		return notStill(r.at)
	}
	r.meta.name = ""
	body := string(r.meta.appendBody(nil))
	if len(body) > maxMeta-512 {
		return mobyfs.Errorf(mobyfs.CodeInvalid, "the attributes of %q are larger than 1 MiB together", r.at.path())
	}
	made := !n.src.sent
	if made {
		if err := l.make(r.at, n, body); err != nil {
			return err
		}
	}
	if r.big() {
		return l.tellBig(r, body)
	}
	old := n.body
	n.body = body
	l.remember(r, r.unstable)
	switch {
	case n.kind == kindFile && (made || old != body || n.sum != r.sum):
		n.sum, n.chunks = r.sum, nil
		l.tree.bytes += int64(len(r.content))
		l.tree.files++
		return l.step(len(body)+len(r.content)+64, func(b []byte) []byte { return appendStepSmall(b, n, r.content) })
	case n.kind != kindFile && old != body && (!made || n.kind == kindDir):
		return l.step(len(body)+64, func(b []byte) []byte { return appendStepDress(b, n) })
	}
	return nil
}

// remember notes as what an inode was read. If its time is younger than the moment from which on a write to mapped memory
// may have gone without a new time, it is read again in the next round.
func (l *leader) remember(r *reading, unstable bool) {
	s := r.node.src
	s.stamp, s.partial = r.stamp.ns(), false
	s.dirty = unstable || time.Unix(0, s.stamp.ctime).After(l.synced.Add(-racyTime))
}

// tellBig sends what changed of a file in pieces.
func (l *leader) tellBig(r *reading, body string) error {
	n := r.node
	fd, err := openQuietly(r.dir.fd, r.at.name, 0)
	if err == nil {
		defer dirfd.Close(fd)
		var st unix.Stat_t
		if err = unix.Fstat(fd, &st); err == nil && ((inodeKey{uint64(st.Dev), st.Ino}) != n.src.key || st.Mode&unix.S_IFMT != unix.S_IFREG) {
			err = errGone // numbers of inodes are given out again, such as to a fifo
		}
	}
	if err != nil && !isGone(err) {
		return fault("read "+r.at.path(), err)
	}
	if err != nil && l.frozen {
		return notStill(r.at)
	}
	if err != nil {
		fd = -1 // what was made stays empty until the next round
	}
	fresh := n.chunks == nil
	oldEnd := n.src.stamp.size
	n.cutChunks(r.meta.size)
	if fresh {
		l.find.blocks.cut(n, 0)
	} else if r.meta.size < oldEnd {
		l.find.blocks.cut(n, r.meta.size)
	}
	if err := l.step(64, func(b []byte) []byte { return appendStepOpen(b, n.id, r.meta.size, fresh) }); err != nil {
		return err
	}
	if err := l.flush(); err != nil {
		return err
	}
	short, unstable := fd < 0, fd < 0
	var again []feed.Range
	if fd >= 0 {
		if short, unstable, again, err = l.pieces(r, fd, oldEnd); err != nil {
			return err
		}
	}
	if unstable && l.frozen {
		return notStill(r.at)
	}
	n.body, n.sum = body, sumOfChunks(n.chunks)
	if n.chunks == nil {
		n.chunks = []chunkRecord{} // it came in pieces
	}
	l.tree.files++
	l.remember(r, unstable)
	n.src.partial, n.src.again = short, again
	return l.put(outgoing{typ: framePieceEnd, head: pieceEnd{n.sum, body}.encode()})
}
