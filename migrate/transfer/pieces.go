package transfer

import (
	"cmp"
	"io"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/mobyfs/mobyfs/migrate/feed"
)

// pieces sends the chunks that are not as they were. short tells that the file ended before its size; unstable that it changed while
// it was read; again what of that is to be looked at in the next round, whatever is told then.
func (l *leader) pieces(r *reading, fd int, oldEnd int64) (short, unstable bool, again []feed.Range, err error) {
	p := &pieceReader{l: l, r: r, fd: fd, fresh: r.node.chunks == nil}
	if r.ranges == nil || p.fresh {
		err = p.all()
	} else {
		err = p.some(r.ranges, oldEnd)
	}
	return p.short, p.short || unchanged(fd, r.stamp) != nil, p.again, err
}

// pieceReader compares an open file with what was sent of it.
type pieceReader struct {
	l     *leader
	r     *reading
	fd    int
	fresh bool         // nothing was sent
	short bool         // it ended before its size
	again []feed.Range // that was read without having been told
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
		if err := p.chunk(p.load(c, index, length, segs), nil); err != nil {
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
	ranges = feed.Union(ranges)
	if oldEnd != size {
		for _, end := range []int64{oldEnd, size} {
			index := max(0, end-1) / chunkSize
			indexes = append(indexes, index)
			p.again = append(p.again, feed.Range{Off: index * chunkSize, Len: chunkSize})
		}
		ranges = nil // what a cut and a growth leave between is no range of a feed
	}
	indexes = slices.DeleteFunc(indexes, func(index int64) bool { return index*chunkSize >= size })
	slices.Sort(indexes)
	return p.each(slices.Compact(indexes), ranges, func(c loaded) error { return p.chunk(c, ranges) })
}

// loaded is a chunk as it was read. Whoever has it releases buf.
type loaded struct {
	index  int64
	length int
	segs   []segment
	spans  []pieceSpan // what differs, if only that is in buf
	buf    *buffer     // nil if it is all hole
	sum    sum
	blocks []uint64
	short  bool // the file ended before the chunk did
	err    error
}

// each calls do with the chunks of the indexes, in order, some of which are read ahead at once: what lies in the ranges, or all if there
// are none. It ends with the first error.
func (p *pieceReader) each(indexes []int64, ranges []feed.Range, do func(loaded) error) (err error) {
	ahead, stop := make(chan chan loaded, workers), make(chan struct{})
	go func() {
		defer close(ahead)
		for _, index := range indexes {
			one := make(chan loaded, 1)
			select {
			case ahead <- one:
				go func() {
					c, ok := p.loadBlocks(index, ranges)
					if !ok {
						c = p.loadAt(index)
					}
					one <- c
				}()
			case <-stop:
				return
			}
		}
	}()
	for one := range ahead {
		switch c := <-one; {
		case err != nil && c.buf != nil:
			p.l.pool.release(c.buf)
		case err == nil:
			if err = do(c); err != nil {
				close(stop)
			}
		}
	}
	return err
}

// loadBlocks reads those blocks of a chunk that lie in ranges, if the others are known. ok is false where the whole chunk must be looked
// at: also where a block is all zeros, which may be a hole, or the file ends early.
func (p *pieceReader) loadBlocks(index int64, ranges []feed.Range) (c loaded, ok bool) {
	base := index * chunkSize
	length := int(min(chunkSize, p.r.meta.size-base))
	was := p.l.find.blocks.of(p.r.node, index)
	if ranges == nil || len(was) != blocksIn(length) {
		return c, false
	}
	c = loaded{index: index, length: length, buf: p.l.pool.get(), blocks: slices.Clone(was)}
	defer func() {
		if !ok {
			p.l.pool.release(c.buf)
		}
	}()
	b := slices.Grow(c.buf.b, length)[:length]
	at := 0
	for _, g := range wholeBlocks(length, inChunk(ranges, base)) {
		run := b[at : at+int(g.Len)]
		if readFull(p.fd, run, base+g.Off) != nil {
			return c, false
		}
		for i := g.Off / blockSize; len(run) > 0; i++ {
			block := run[:min(blockSize, len(run))]
			run = run[len(block):]
			h := hashBlock(block)
			if h == 0 {
				return c, false
			}
			if h != was[i] {
				c.blocks[i] = h
				at += copy(b[at:], block)
			}
		}
	}
	c.spans = clipped([]pieceSpan{{0, length, false}}, differing(was, c.blocks))
	c.buf.b, c.sum = b[:at], sumOfBlocks(c.blocks)
	return c, true
}

// loadAt reads the chunk of an index, which begins before the file's size.
func (p *pieceReader) loadAt(index int64) loaded {
	c := newChunks(p.fd, min(p.r.meta.size, (index+1)*chunkSize))
	c.pos = index * chunkSize
	got, length, segs, err := c.next()
	switch {
	case err == io.EOF || err == nil && got != index:
		return loaded{index: index}
	case err == io.ErrUnexpectedEOF:
		return loaded{index: index, short: true}
	case err != nil:
		return loaded{index: index, err: err}
	}
	return p.load(c, index, length, segs)
}

// load reads a chunk whose data lies in segs.
func (p *pieceReader) load(c *chunks, index int64, length int, segs []segment) loaded {
	r := loaded{index: index, length: length, segs: segs, buf: p.l.pool.get()}
	b := slices.Grow(r.buf.b, length)[:length]
	r.err = c.read(index, b, segs)
	if r.err == io.ErrUnexpectedEOF { // the rest counts as zeros, until the next round
		r.short = true
		r.segs = []segment{{0, length}}
		clear(b)
		r.err = readSome(p.fd, b, index*chunkSize)
	}
	r.buf.b, r.blocks = b, sumBlocks(b)
	r.sum = sumOfBlocks(r.blocks)
	return r
}

// hole sends that a chunk is all hole, if it was not.
func (p *pieceReader) hole(index int64) error {
	n := p.r.node
	if _, found := findChunk(n.chunks, index); !found {
		return nil
	}
	n.setChunk(index, sum{})
	p.l.find.blocks.forget(n, index)
	length := int(min(chunkSize, p.r.meta.size-index*chunkSize))
	return p.l.put(outgoing{typ: framePiece, head: appendPieceHead(nil, index, sum{}, []pieceSpan{{0, length, true}})})
}

// onlyTold takes for unchanged what lies in no range. It may have changed since those were told; the next ones tell of that, unless it is as
// it was by then.
func (c *loaded) onlyTold(was []uint64, ranges []feed.Range) {
	now := c.blocks
	c.blocks = slices.Clone(was)
	for _, g := range wholeBlocks(c.length, inChunk(ranges, c.index*chunkSize)) {
		from, to := g.Off/blockSize, (g.Off+g.Len+blockSize-1)/blockSize
		copy(c.blocks[from:to], now[from:to])
	}
	c.sum = sumOfBlocks(c.blocks)
}

// chunk sends a chunk if it has another sum than it had: of it the blocks that differ from those that were sent, if those are known. Else,
// of a tree that stands still, what lies in the ranges; and else all. While the tree changes, ranges are older than what was read, and
// do not tell all that differs.
func (p *pieceReader) chunk(c loaded, ranges []feed.Range) error {
	p.short = p.short || c.short
	if c.buf == nil && c.err == nil {
		return p.hole(c.index)
	}
	n, known := p.r.node, &p.l.find.blocks
	was := known.of(n, c.index)
	if ranges != nil && c.spans == nil && c.err == nil && len(was) == len(c.blocks) {
		c.onlyTold(was, ranges)
	}
	var old sum
	if i, found := findChunk(n.chunks, c.index); found {
		old = n.chunks[i].sum
	}
	if same := c.sum == old && (!p.fresh || c.sum != (sum{})); same || c.err != nil {
		if c.err == nil && c.sum != (sum{}) && was == nil {
			known.keep(n, c.index, c.blocks)
		}
		if c.buf != nil {
			p.l.pool.release(c.buf)
		}
		return fault("read "+p.r.at.path(), c.err)
	}
	spans := c.spans
	if spans == nil {
		empty := p.fresh || old == (sum{})
		spans = spansOf(c.segs, c.length, empty)
		switch {
		case was != nil: // also if it was all zeros: what of it is new may be what was not told
			spans = clipped(spans, differing(was, c.blocks))
		case empty:
		case p.l.frozen && ranges != nil:
			spans = clipped(spans, inChunk(ranges, c.index*chunkSize))
		}
		c.buf.b = squeezeSpans(c.buf.b, spans)
	}
	n.setChunk(c.index, c.sum)
	known.keep(n, c.index, c.blocks)
	p.l.tree.bytes += int64(len(c.buf.b))
	return p.l.put(outgoing{framePiece, appendPieceHead(nil, c.index, c.sum, spans), c.buf})
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

// clipped cuts spans of a chunk to ranges of it. Both are in order.
func clipped(spans []pieceSpan, ranges []feed.Range) []pieceSpan {
	var all []pieceSpan
	for _, g := range spans {
		for len(ranges) > 0 && ranges[0].Off+ranges[0].Len <= int64(g.off) {
			ranges = ranges[1:]
		}
		for _, r := range ranges {
			from, to := max(int64(g.off), r.Off), min(int64(g.off+g.len), r.Off+r.Len)
			if from >= to {
				break
			}
			all = append(all, pieceSpan{int(from), int(to - from), g.hole})
		}
	}
	if len(all) > 2*maxSegments {
		return spans
	}
	return all
}

// inChunk are those of a file's ranges, which are in order and apart, that reach into the chunk at base, relative to it.
func inChunk(ranges []feed.Range, base int64) []feed.Range {
	first, _ := slices.BinarySearchFunc(ranges, base, func(r feed.Range, base int64) int { return cmp.Compare(r.Off+r.Len, base+1) })
	all := []feed.Range{}
	for _, r := range ranges[first:] {
		if r.Off >= base+chunkSize {
			break
		}
		all = append(all, feed.Range{Off: r.Off - base, Len: r.Len})
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
