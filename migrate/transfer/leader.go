package transfer

import (
	"context"
	"io"
	"slices"
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
		var err error
		if set, err = l.feed.Changes(l.ctx); err != nil {
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
	r.sum = sumSmall(r.content)
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
		n.src.dirty = true
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
	case n.kind == kindFile && (made || old != body || n.sum != r.sum || n.chunks != nil):
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
	s.stamp = r.stamp.ns()
	s.dirty = unstable || time.Unix(0, s.stamp.ctime).After(l.synced.Add(-racyTime))
}

// tellBig sends what changed of a file in pieces.
func (l *leader) tellBig(r *reading, body string) error {
	n := r.node
	fd, err := openQuietly(r.dir.fd, r.at.name, 0)
	if err == nil {
		defer dirfd.Close(fd)
		var st unix.Stat_t
		if err = unix.Fstat(fd, &st); err == nil && (inodeKey{uint64(st.Dev), st.Ino}) != n.src.key {
			err = errGone
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
	if err := l.step(64, func(b []byte) []byte { return appendStepOpen(b, n.id, r.meta.size, fresh) }); err != nil {
		return err
	}
	if err := l.flush(); err != nil {
		return err
	}
	unstable := fd < 0
	if fd >= 0 {
		if unstable, err = l.pieces(r, fd, oldEnd); err != nil {
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
	return l.put(outgoing{typ: framePieceEnd, head: pieceEnd{n.sum, body}.encode()})
}

// pieces sends the chunks that are not as they were.
func (l *leader) pieces(r *reading, fd int, oldEnd int64) (unstable bool, err error) {
	n := r.node
	p := &pieceReader{l: l, r: r, fd: fd, fresh: n.chunks == nil}
	if r.ranges == nil || p.fresh || n.src.dirty {
		err = p.all()
	} else {
		err = p.some(r.ranges, oldEnd)
	}
	if err != nil {
		return false, err
	}
	return p.short || unchanged(fd, r.stamp) != nil, nil
}

// pieceReader compares an open file with what was sent of it.
type pieceReader struct {
	l     *leader
	r     *reading
	fd    int
	fresh bool // nothing was sent
	short bool // it ended before its size
}

// all compares all chunks.
func (p *pieceReader) all() error {
	n := p.r.node
	before := slices.Clone(n.chunks)
	c := newChunks(p.fd, p.r.meta.size)
	for {
		index, length, segs, err := c.next()
		if err == io.ErrUnexpectedEOF {
			p.short, err = true, io.EOF
		}
		if err != nil && err != io.EOF {
			return fault("read "+p.r.at.path(), err)
		}
		for len(before) > 0 && (err == io.EOF || before[0].index < index) {
			if err := p.hole(before[0].index); err != nil {
				return err
			}
			before = before[1:]
		}
		if err == io.EOF {
			return nil
		}
		if len(before) > 0 && before[0].index == index {
			before = before[1:]
		}
		if err := p.chunk(c, index, length, segs, nil); err != nil {
			return err
		}
	}
}

// some compares the chunks in which there are ranges, and those at the old and the new end.
func (p *pieceReader) some(ranges []feed.Range, oldEnd int64) error {
	size := p.r.meta.size
	var indexes []int64
	for _, g := range ranges {
		end := min(g.Off+g.Len, size)
		if g.Len < 0 || g.Off > size || g.Off+g.Len < g.Off {
			end = size
		}
		for i := max(0, g.Off) / chunkSize; i*chunkSize < end; i++ {
			indexes = append(indexes, i)
		}
	}
	if oldEnd != size {
		indexes = append(indexes, max(0, oldEnd-1)/chunkSize, max(0, size-1)/chunkSize)
		ranges = nil // what a cut and a growth leave between is no range of a feed
	}
	slices.Sort(indexes)
	for _, index := range slices.Compact(indexes) {
		if index*chunkSize >= size {
			continue
		}
		c := newChunks(p.fd, min(size, (index+1)*chunkSize))
		c.pos = index * chunkSize
		got, length, segs, err := c.next()
		switch {
		case err == io.EOF || err == nil && got != index:
			err = p.hole(index)
		case err == io.ErrUnexpectedEOF:
			p.short = true
			err = p.hole(index)
		case err == nil:
			err = p.chunk(c, index, length, segs, ranges)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// hole sends that a chunk is all hole, if it was not.
func (p *pieceReader) hole(index int64) error {
	n := p.r.node
	if _, found := findChunk(n.chunks, index); !found {
		return nil
	}
	n.setChunk(index, sum{})
	length := int(min(chunkSize, p.r.meta.size-index*chunkSize))
	return p.l.put(outgoing{typ: framePiece, head: appendPieceHead(nil, index, sum{}, []pieceSpan{{0, length, true}})})
}

// chunk sends a chunk if it has another sum than it had: of it what lies in the ranges, or all if there are none.
func (p *pieceReader) chunk(c *chunks, index int64, length int, segs []segment, ranges []feed.Range) error {
	n := p.r.node
	buf := p.l.pool.get()
	buf.b = slices.Grow(buf.b, length)[:length]
	err := c.read(index, buf.b, segs)
	if err == io.ErrUnexpectedEOF { // the rest counts as zeros, until the next round
		p.short = true
		segs = []segment{{0, length}}
		clear(buf.b)
		err = readSome(p.fd, buf.b, index*chunkSize)
	}
	if err != nil {
		p.l.pool.release(buf)
		return fault("read "+p.r.at.path(), err)
	}
	s := sumChunk(buf.b)
	var old sum
	if i, found := findChunk(n.chunks, index); found {
		old = n.chunks[i].sum
	}
	if s == old && (!p.fresh || s != (sum{})) {
		p.l.pool.release(buf)
		return nil
	}
	spans := spansOf(segs, length, p.fresh || old == (sum{}))
	if !p.fresh && ranges != nil {
		spans = clipped(spans, index*chunkSize, ranges)
	}
	n.setChunk(index, s)
	buf.b = squeezeSpans(buf.b, spans)
	p.l.tree.bytes += int64(len(buf.b))
	return p.l.put(outgoing{framePiece, appendPieceHead(nil, index, s, spans), buf})
}

// readSome reads what there is.
func readSome(fd int, b []byte, off int64) error {
	for len(b) > 0 {
		n, err := unix.Pread(fd, b, off)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			return err
		}
		b, off = b[n:], off+int64(n)
	}
	return nil
}

// spansOf makes spans of a chunk's segments, with the holes between them if something may lie there.
func spansOf(segs []segment, length int, empty bool) []pieceSpan {
	var all []pieceSpan
	at := 0
	for _, g := range segs {
		if !empty && g.off > at {
			all = append(all, pieceSpan{at, g.off - at, true})
		}
		all = append(all, pieceSpan{g.off, g.len, false})
		at = g.off + g.len
	}
	if !empty && at < length {
		all = append(all, pieceSpan{at, length - at, true})
	}
	return all
}

// clipped cuts spans to the ranges of a file.
func clipped(spans []pieceSpan, base int64, ranges []feed.Range) []pieceSpan {
	var all []pieceSpan
	for _, g := range spans {
		for _, r := range merged(ranges) {
			from := max(int64(g.off), r.Off-base)
			to := min(int64(g.off+g.len), r.Off+r.Len-base)
			if from < to {
				all = append(all, pieceSpan{int(from), int(to - from), g.hole})
			}
		}
	}
	if len(all) > 2*maxSegments {
		return spans
	}
	return all
}

// merged sorts ranges and joins those that touch.
func merged(ranges []feed.Range) []feed.Range {
	ranges = slices.Clone(ranges)
	slices.SortFunc(ranges, func(a, b feed.Range) int { return int(min(1, max(-1, a.Off-b.Off))) })
	var all []feed.Range
	for _, r := range ranges {
		if n := len(all); n > 0 && r.Off <= all[n-1].Off+all[n-1].Len {
			all[n-1].Len = max(all[n-1].Len, r.Off+r.Len-all[n-1].Off)
			continue
		}
		all = append(all, r)
	}
	return all
}

func squeezeSpans(b []byte, spans []pieceSpan) []byte {
	at := 0
	for _, g := range spans {
		if g.hole {
			continue
		}
		copy(b[at:], b[g.off:g.off+g.len])
		at += g.len
	}
	return b[:at]
}
