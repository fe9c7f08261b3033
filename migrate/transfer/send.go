package transfer

import (
	"context"
	"io"
	"math"
	"sync"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/dirfd"
)

// survey counts a tree before it is sent. alive is called now and then while it lasts.
func survey(ctx context.Context, root int, alive func() error) (plan, error) {
	c := newCounter()
	last := time.Now()
	err := scan(ctx, root, wantStat, func(it *item) error {
		if c.entries%batchSize == 0 && time.Since(last) > aliveEvery {
			last = time.Now()
			if err := alive(); err != nil {
				return err
			}
		}
		c.add(it)
		return nil
	})
	return c.plan, err
}

// counter adds up what a scan finds.
type counter struct {
	plan
	seen map[[2]uint64]bool // files of several names, each of which counts once
}

func newCounter() *counter { return &counter{seen: map[[2]uint64]bool{}} }

func (c *counter) add(it *item) {
	if it.leave {
		return
	}
	c.entries++
	if it.nlink > 1 && it.kind != kindDir {
		key := [2]uint64{it.dev, it.ino}
		if c.seen[key] {
			return
		}
		c.seen[key] = true
	}
	c.space += it.blocks * 512
	if it.kind == kindFile {
		if c.sizes > math.MaxInt64-it.size {
			c.sizes = math.MaxInt64 // no limit: sparse files can be as large as that
		} else {
			c.sizes += it.size
		}
		c.bytes += min(it.size, it.blocks*512)
	}
}

// outgoing is a frame that waits to be written.
type outgoing struct {
	typ  frameType
	head []byte
	buf  *buffer // the rest of the payload; nil if there is none
}

// sender sends one tree. One goroutine reads and hashes, a second one encrypts and writes.
type sender struct {
	ctx   context.Context
	root  int
	w     *frameWriter
	out   chan outgoing
	pool  pool
	tree  *tree
	typ   frameType // of batches
	batch *buffer
	since time.Time // the oldest entry of the batch
}

// startSender begins to write what is put. stop waits until all is written, and tells why the sender's context ended, if it did
// before.
func startSender(ctx context.Context, root int, w *frameWriter) (_ *sender, stop func() error) {
	ctx, cancel := context.WithCancelCause(ctx)
	s := &sender{ctx: ctx, root: root, w: w, out: make(chan outgoing, 4), typ: frameSteps, tree: newTree(pullDigest)}
	s.batch = s.pool.get()
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.write(); err != nil {
			cancel(mobyfs.Errorf(mobyfs.CodeUnavailable, "write: %w", err))
		}
	})
	return s, func() error {
		close(s.out)
		wg.Wait()
		cause := ctxErr(ctx)
		cancel(nil)
		return cause
	}
}

// send sends the tree below the open directory root, from its first batch to the trailer.
func send(ctx context.Context, root int, w *frameWriter) (mobyfs.Receipt, error) {
	s, stop := startSender(ctx, root, w)
	s.typ = frameBatch
	err := scan(s.ctx, root, wantContent, s.visit)
	if err == nil {
		err = s.flush()
	}
	receipt := mobyfs.Receipt{Digest: s.tree.digest(), Progress: mobyfs.Progress{
		Files: s.tree.files, Bytes: s.tree.bytes, TotalBytes: s.tree.bytes,
	}}
	if err == nil {
		err = s.put(outgoing{typ: frameTrailer, head: appendString(nil, receipt.Digest)})
	}
	if cause := stop(); cause != nil && mobyfs.CodeOf(err) != mobyfs.CodeInUse {
		err = cause
	}
	return receipt, err
}

// write writes the frames, and flushes when there are none at hand.
func (s *sender) write() error {
	for f := range s.out {
		var body []byte
		if f.buf != nil {
			body = f.buf.b
		}
		if err := s.w.write(f.typ, f.head, body); err != nil {
			return err
		}
		if f.buf != nil {
			s.pool.release(f.buf)
		}
		if len(s.out) == 0 {
			if err := s.w.flushNow(); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *sender) put(f outgoing) error {
	select {
	case s.out <- f:
		return nil
	case <-s.ctx.Done():
		return context.Cause(s.ctx)
	}
}

// visit sends one item.
func (s *sender) visit(it *item) error {
	if it.leave {
		s.tree.add(it, sum{})
		s.batch.b = append(s.batch.b, byte(opLeave))
		return s.flushIfDue(0)
	}
	if s.tree.needsContent(it) {
		return s.visitBig(it)
	}
	rec := s.tree.add(it, it.sum)
	need := len(rec) + len(it.content) + 64
	if err := s.checkMeta(it, rec); err != nil {
		return err
	}
	if err := s.flushIfDue(need); err != nil {
		return err
	}
	if it.kind != kindFile {
		s.batch.b = appendOp(s.batch.b, opEntry|links(it), rec)
		return nil
	}
	s.batch.b = appendOp(s.batch.b, opSmall|links(it), rec)
	s.batch.b = append(append(s.batch.b, it.content...), it.sum[:]...)
	return nil
}

// links is opLinks for an item that may get more names.
func links(it *item) op {
	if it.nlink > 1 && it.kind != kindDir && it.kind != kindLink {
		return opLinks
	}
	return 0
}

func (s *sender) checkMeta(it *item, rec []byte) error {
	if len(rec) <= maxMeta {
		return nil
	}
	return mobyfs.Errorf(mobyfs.CodeInvalid, "the attributes of %q are larger than 1 MiB together", it.dir.path(it.name))
}

// visitBig sends a file in chunks. Its entry must be hashed with the sum, which is known only at the end; the entry
// is sent before.
func (s *sender) visitBig(it *item) error {
	fd, err := it.openFile()
	if err != nil {
		return entryError(it.dir, it.name, err)
	}
	defer dirfd.Close(fd)
	rec := it.meta.appendTo(nil)
	if err := s.checkMeta(it, rec); err != nil {
		return err
	}
	if err := s.flushIfDue(len(rec) + 64); err != nil {
		return err
	}
	s.batch.b = appendOp(s.batch.b, opBig|links(it), rec)
	if err := s.flush(); err != nil {
		return err
	}
	whole, err := s.sendContent(it, fd)
	if err != nil {
		return err
	}
	s.tree.add(it, whole)
	return s.put(outgoing{typ: frameFileEnd, head: whole[:]})
}

func (s *sender) sendContent(it *item, fd int) (sum, error) {
	var whole contentSum
	c := newChunks(fd, it.size)
	for {
		index, n, segs, err := c.next()
		if err == io.EOF {
			if err := unchanged(fd, it.stamp); err != nil {
				return sum{}, entryError(it.dir, it.name, err)
			}
			return whole.sum(), nil
		}
		buf := s.pool.get()
		buf.b = buf.b[:n]
		if err == nil {
			err = c.read(index, buf.b, segs)
		}
		if err != nil {
			return sum{}, entryError(it.dir, it.name, err)
		}
		one := sumChunk(buf.b)
		whole.add(index, one)
		head := appendChunkHead(nil, index, one, segs)
		buf.b = squeeze(buf.b, segs)
		s.tree.bytes += int64(len(buf.b))
		if err := s.put(outgoing{frameChunk, head, buf}); err != nil {
			return sum{}, err
		}
	}
}

// squeeze moves the data of the segments together.
func squeeze(b []byte, segs []segment) []byte {
	at := 0
	for _, g := range segs {
		if at != g.off {
			copy(b[at:], b[g.off:g.off+g.len])
		}
		at += g.len
	}
	return b[:at]
}

// flushIfDue sends the batch if need more bytes would not fit, or if it has waited for long.
func (s *sender) flushIfDue(need int) error {
	if len(s.batch.b) == 0 {
		s.since = time.Now()
		return nil
	}
	if len(s.batch.b)+need <= chunkSize && time.Since(s.since) < aliveEvery {
		return nil
	}
	return s.flush()
}

// flush sends the batch as it is.
func (s *sender) flush() error {
	if len(s.batch.b) == 0 {
		return nil
	}
	full := s.batch
	s.batch = s.pool.get()
	s.since = time.Now()
	return s.put(outgoing{typ: s.typ, buf: full})
}
