package transfer

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"sync"
	"sync/atomic"

	"github.com/mobyfs/mobyfs"
)

// frameType says what a frame's payload is. Each frame is its type (one byte), the length of the payload (four,
// big-endian) and the payload. protocol.md tells which follows which.
type frameType byte

const (
	frameHello   frameType = 1  // client: protocol, ticket
	framePlan    frameType = 2  // server: what will come
	frameGo      frameType = 3  // client: there is room for it
	frameBatch   frameType = 4  // server: entries, small files with their content
	frameChunk   frameType = 5  // server: a chunk of the file that the last batch ended with
	frameFileEnd frameType = 6  // server: the sum of that file
	frameTrailer frameType = 7  // server: the digest; nothing follows
	frameDone    frameType = 8  // client: the same digest was read back
	frameError   frameType = 9  // either: code, text, hint; nothing follows
	frameAlive   frameType = 10 // either: nothing, but soon
)

const frameHead = 5

// limitOf is the greatest payload of a type.
func limitOf(t frameType) int {
	switch t {
	case frameBatch, frameChunk, frameSteps, framePiece, frameHeld:
		return maxFrame
	case frameOffered:
		return maxLuggage
	case framePieceEnd:
		return maxMeta + 64
	case frameRoundEnd:
		return maxText + 512
	case frameRound:
		return 1
	case frameHello, frameFollow:
		return maxTicket + 16
	case frameError:
		return 3 * maxText
	case framePlan, frameTrailer, frameFileEnd:
		return 256
	default:
		return 0
	}
}

// buffer is a payload that several goroutines may hold. The last release makes it free for the next frame.
type buffer struct {
	b    []byte
	refs atomic.Int32
}

// pool keeps the buffers of one stream.
type pool struct{ free sync.Pool }

func (p *pool) get() *buffer {
	b, ok := p.free.Get().(*buffer)
	if !ok {
		b = &buffer{b: make([]byte, 0, chunkSize+64<<10)}
	}
	b.b = b.b[:0]
	b.refs.Store(1)
	return b
}

func (p *pool) release(b *buffer) {
	if b.refs.Add(-1) == 0 {
		p.free.Put(b)
	}
}

// readFrame reads one frame into buf. io.EOF stands for an end between two frames; a payload larger than its type
// may have is CodeCorrupt, and nothing is allocated for it.
func readFrame(r io.Reader, buf *buffer) (frameType, error) {
	var head [frameHead]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, err
	}
	t, n := frameType(head[0]), binary.BigEndian.Uint32(head[1:])
	if int64(n) > int64(limitOf(t)) {
		return 0, corrupt("a frame of type %d and %d bytes", t, n)
	}
	if cap(buf.b) < int(n) {
		buf.b = make([]byte, 0, n)
	}
	buf.b = buf.b[:n]
	if _, err := io.ReadFull(r, buf.b); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return 0, err
	}
	return t, nil
}

// frameWriter writes frames to a connection whose writes are buffered. Its methods may be called at once.
type frameWriter struct {
	mu sync.Mutex
	w  io.Writer
	// flush sends what is buffered.
	flush func() error
}

// write writes a frame whose payload is head and then body.
func (w *frameWriter) write(t frameType, head, body []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	h := make([]byte, frameHead, 64+len(head))
	h[0] = byte(t)
	binary.BigEndian.PutUint32(h[1:], uint32(len(head)+len(body)))
	if _, err := w.w.Write(append(h, head...)); err != nil {
		return err
	}
	_, err := w.w.Write(body)
	return err
}

// send writes a frame and flushes.
func (w *frameWriter) send(t frameType, payload []byte) error {
	if err := w.write(t, payload, nil); err != nil {
		return err
	}
	return w.flushNow()
}

func (w *frameWriter) flushNow() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.flush()
}

// hello is the first frame.
type hello struct {
	protocol uint64
	ticket   string
}

func (h hello) encode() []byte {
	return appendString(binary.AppendUvarint([]byte(magic), h.protocol), h.ticket)
}

const magic = "mobyfs pull "

func decodeHello(b []byte) (hello, error) {
	d := decoder{b: b}
	if string(d.bytes(len(magic))) != magic {
		return hello{}, corrupt("it does not begin as a pull")
	}
	h := hello{protocol: d.uint(math.MaxUint64), ticket: d.string(maxTicket)}
	return h, decoded("hello", d.end(nil))
}

// plan says what the tree holds, as counted just before.
type plan struct {
	entries int64 // exact
	bytes   int64 // of content, holes not counted; an estimate
	space   int64 // bytes of disk; an estimate
	sizes   int64 // sum of the sizes of all files; exact
}

func (p plan) encode() []byte {
	var b []byte
	for _, v := range []int64{p.entries, p.bytes, p.space, p.sizes} {
		b = binary.AppendUvarint(b, uint64(v))
	}
	return b
}

func decodePlan(b []byte) (plan, error) {
	d := decoder{b: b}
	n := func() int64 { return int64(d.uint(math.MaxInt64)) }
	p := plan{entries: n(), bytes: n(), space: n(), sizes: n()}
	return p, decoded("plan", d.end(nil))
}

// encodeError makes of an error what crosses: code, text, hint.
func encodeError(err error) []byte {
	b := appendString(nil, cut(string(mobyfs.CodeOf(err))))
	return appendString(appendString(b, cut(err.Error())), cut(mobyfs.HintOf(err)))
}

func cut(s string) string { return s[:min(len(s), maxText)] }

// decodeError makes an error of what crossed. A code that this end does not know, or none, is CodeInternal.
func decodeError(b []byte) error {
	d := decoder{b: b}
	code, text, hint := mobyfs.Code(d.string(maxText)), d.string(maxText), d.string(maxText)
	if err := d.end(nil); err != nil {
		return decoded("error", err)
	}
	switch code {
	case mobyfs.CodeInvalid, mobyfs.CodeNotFound, mobyfs.CodeExists, mobyfs.CodeInUse, mobyfs.CodeMoving,
		mobyfs.CodeStaleFence, mobyfs.CodeDenied, mobyfs.CodeUnavailable, mobyfs.CodeNoSpace, mobyfs.CodeCorrupt:
	default:
		code = mobyfs.CodeInternal
	}
	return &mobyfs.Error{Code: code, Text: fmt.Sprintf("%.*s", maxText, text), Hint: hint}
}

func decoded(what string, err error) error {
	if err == nil {
		return nil
	}
	return corrupt("the %s: %w", what, err)
}

// appendChunkHead begins a chunk's payload; the data of the segments follows.
func appendChunkHead(b []byte, index int64, s sum, segs []segment) []byte {
	b = append(binary.AppendUvarint(b, uint64(index)), s[:]...)
	b = binary.AppendUvarint(b, uint64(len(segs)))
	for _, g := range segs {
		b = binary.AppendUvarint(b, uint64(g.off))
		b = binary.AppendUvarint(b, uint64(g.len))
	}
	return b
}

// chunk is a decoded chunk.
type chunk struct {
	index int64
	sum   sum
	segs  []segment
	data  []byte // of all segments, one after the other; points into the frame
}

// decodeChunk takes only segments that lie inside a chunk, in order, none empty, and just their data.
func decodeChunk(b []byte) (chunk, error) {
	d := decoder{b: b}
	c := chunk{index: int64(d.uint(math.MaxInt64 / chunkSize)), sum: d.sum()}
	n := d.uint(maxSegments)
	total, at := 0, 0
	for ; n > 0 && d.err == nil; n-- {
		g := segment{off: int(d.uint(chunkSize)), len: int(d.uint(chunkSize))}
		if g.off < at || g.len == 0 || g.off+g.len > chunkSize {
			return c, corrupt("a chunk has data from %d to %d after %d", g.off, g.off+g.len, at)
		}
		at = g.off + g.len
		total += g.len
		c.segs = append(c.segs, g)
	}
	c.data = d.bytes(total)
	return c, decoded("chunk", d.end(nil))
}

// end is the length that a file must have at least for the chunk to lie in it.
func (c *chunk) end() int64 {
	last := c.segs[len(c.segs)-1]
	return c.index*chunkSize + int64(last.off+last.len)
}

// op says what an entry of a batch is.
type op byte

const (
	opEntry op = 'e' // metadata alone
	opSmall op = 's' // a file, followed by its content and sum
	opBig   op = 'b' // a file, whose chunks and end follow in frames of their own: the last of its batch
	opLeave op = 'l' // the end of a directory; no metadata
	opLinks op = 128 // added: other names of it will follow
)

// appendOp appends an entry to a batch.
func appendOp(b []byte, o op, rec []byte) []byte {
	return append(binary.AppendUvarint(append(b, byte(o)), uint64(len(rec))), rec...)
}

// step is a decoded entry of a batch.
type step struct {
	op      op
	links   bool
	rec     []byte // the entry, encoded; points into the frame, as do its attributes and content
	meta    meta
	content []byte
	sum     sum
}

// nextStep takes the next entry from a batch.
func nextStep(d *decoder) (step, error) {
	o := op(d.byte())
	s := step{op: o &^ opLinks, links: o&opLinks != 0}
	if s.op == opLeave {
		return s, decoded("batch", d.err)
	}
	s.rec = d.bytes(int(d.uint(maxMeta)))
	if d.err != nil {
		return s, decoded("batch", d.err)
	}
	var err error
	if s.meta, err = decodeMeta(s.rec); err != nil {
		return s, decoded("entry", err)
	}
	switch isFile := s.meta.kind == kindFile; {
	case s.op == opEntry && !isFile:
	case s.op == opBig && isFile:
		if len(d.b) != 0 {
			return s, corrupt("entries follow a big file in its batch")
		}
	case s.op == opSmall && isFile && s.meta.size <= smallFile:
		s.content, s.sum = d.bytes(int(s.meta.size)), d.sum()
	default:
		return s, corrupt("operation %q of a %q with %d bytes", s.op, s.meta.kind, s.meta.size)
	}
	if s.links && (s.meta.kind == kindDir || s.meta.kind == kindLink) {
		return s, corrupt("more names of a %q", s.meta.kind)
	}
	return s, decoded("batch", d.err)
}

// ctxErr is the reason why ctx ended, or nil.
func ctxErr(ctx context.Context) error {
	if ctx.Err() == nil {
		return nil
	}
	return context.Cause(ctx)
}
