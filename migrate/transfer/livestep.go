package transfer

import (
	"encoding/binary"
	"math"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/migrate/feed"
)

// liveProtocol is what a live session speaks within a bundle of any protocol that knows them.
const liveProtocol = 3

// Frames of live sessions; protocol.md tells which follows which.
const (
	frameFollow   frameType = 20 // client, first: as hello
	frameOffered  frameType = 21 // server: luggage
	frameRound    frameType = 23 // client: begin a round; 1: freeze, and it is the last
	frameSteps    frameType = 24 // server: what changed
	framePiece    frameType = 25 // server: what changed in a chunk of the file that is open
	framePieceEnd frameType = 26 // server: the sum of that file
	frameRoundEnd frameType = 27 // server
)

// stepKind says what a live step does.
type stepKind byte

const (
	stepUnname stepKind = 'u' // directory, name: what has it lives on
	stepRemove stepKind = 'r' // directory, name: what has it, if it has no other
	stepName   stepKind = 'n' // directory, name, inode
	stepMake   stepKind = 'm' // directory, name, kind, body: the next inode. Of a file the content follows
	stepDress  stepKind = 'a' // inode, body: no file
	stepSmall  stepKind = 's' // inode, body, content, sum
	stepOpen   stepKind = 'b' // inode, size, whether it begins as one hole: pieces and their end follow, and nothing before in the frame
)

// liveStep is a decoded step.
type liveStep struct {
	kind    stepKind
	dir     uint64
	name    string
	id      uint64
	meta    meta
	body    string
	content []byte // points into the frame
	sum     sum
	size    int64
	fresh   bool
}

func appendSpot(b []byte, k stepKind, dir uint64, name string) []byte {
	return appendString(binary.AppendUvarint(append(b, byte(k)), dir), name)
}

func appendStepName(b []byte, dir uint64, name string, id uint64) []byte {
	return binary.AppendUvarint(appendSpot(b, stepName, dir, name), id)
}

func appendStepMake(b []byte, dir uint64, name string, k kind, body string) []byte {
	return appendString(append(appendSpot(b, stepMake, dir, name), byte(k)), body)
}

func appendStepDress(b []byte, n *inode) []byte {
	b = binary.AppendUvarint(append(b, byte(stepDress)), n.id)
	return appendString(append(b, byte(n.kind)), n.body)
}

func appendStepSmall(b []byte, n *inode, content []byte) []byte {
	b = appendString(binary.AppendUvarint(append(b, byte(stepSmall)), n.id), n.body)
	b = append(binary.AppendUvarint(b, uint64(len(content))), content...)
	return append(b, n.sum[:]...)
}

func appendStepOpen(b []byte, id uint64, size int64, fresh bool) []byte {
	b = binary.AppendUvarint(append(b, byte(stepOpen)), id)
	b = binary.AppendUvarint(b, uint64(size))
	if fresh {
		return append(b, 1)
	}
	return append(b, 0)
}

// nextLiveStep takes the next step from a frame. Names are single elements and metadata is in range; whether there is such an
// inode is for the caller to know.
func nextLiveStep(d *decoder) (liveStep, error) {
	s := liveStep{kind: stepKind(d.byte())}
	switch s.kind {
	case stepUnname, stepRemove, stepName, stepMake:
		s.dir, s.name = d.uint(math.MaxInt64), d.string(255)
		if d.err == nil {
			if err := checkName(s.name); err != nil {
				return s, decoded("step", err)
			}
		}
		if s.kind == stepName {
			s.id = d.uint(math.MaxInt64)
		}
		if s.kind == stepMake {
			return s, decoded("step", s.takeBody(d, kind(d.byte())))
		}
	case stepDress:
		s.id = d.uint(math.MaxInt64)
		return s, decoded("step", s.takeBody(d, kind(d.byte())))
	case stepSmall:
		s.id = d.uint(math.MaxInt64)
		if err := s.takeBody(d, kindFile); err != nil {
			return s, decoded("step", err)
		}
		s.content, s.sum = d.bytes(int(d.uint(smallFile))), d.sum()
		if d.err == nil && int64(len(s.content)) != s.meta.size {
			return s, corrupt("a content of %d bytes for a file of %d", len(s.content), s.meta.size)
		}
	case stepOpen:
		s.id, s.size, s.fresh = d.uint(math.MaxInt64), int64(d.uint(math.MaxInt64)), d.byte() == 1
		if d.err == nil && len(d.b) > 0 {
			return s, corrupt("steps follow the opening of a file")
		}
	default:
		if d.err == nil {
			return s, corrupt("there is no step %q", s.kind)
		}
	}
	return s, decoded("step", d.err)
}

func (s *liveStep) takeBody(d *decoder, k kind) error {
	s.body = d.string(maxMeta)
	if d.err != nil {
		return d.err
	}
	if k == kindLink {
		return corrupt("an inode can't be another name")
	}
	var err error
	s.meta, err = decodeBody(k, s.body)
	return err
}

// piece is what changed in one chunk of a file.
type piece struct {
	index int64
	sum   sum         // of the whole chunk as it is then
	segs  []pieceSpan // in order
	data  []byte      // of those that are no holes, one after the other; points into the frame
}

type pieceSpan struct {
	off, len int
	hole     bool
}

func appendPieceHead(b []byte, index int64, s sum, segs []pieceSpan) []byte {
	b = append(binary.AppendUvarint(b, uint64(index)), s[:]...)
	b = binary.AppendUvarint(b, uint64(len(segs)))
	for _, g := range segs {
		b = binary.AppendUvarint(b, uint64(g.off))
		n := uint64(g.len) << 1
		if g.hole {
			n |= 1
		}
		b = binary.AppendUvarint(b, n)
	}
	return b
}

// decodePiece takes only stretches that lie inside a chunk, in order, none empty, and just their data.
func decodePiece(b []byte) (piece, error) {
	d := decoder{b: b}
	p := piece{index: int64(d.uint(math.MaxInt64/chunkSize - 1)), sum: d.sum()}
	total, at := 0, 0
	for n := d.uint(2*maxSegments + 1); n > 0 && d.err == nil; n-- {
		off, l := int(d.uint(chunkSize)), d.uint(2*chunkSize+1)
		g := pieceSpan{off, int(l >> 1), l&1 == 1}
		if g.off < at || g.len == 0 || g.off+g.len > chunkSize {
			return p, corrupt("a piece goes from %d to %d after %d", g.off, g.off+g.len, at)
		}
		at = g.off + g.len
		if !g.hole {
			total += g.len
		}
		p.segs = append(p.segs, g)
	}
	p.data = d.bytes(total)
	return p, decoded("piece", d.end(nil))
}

// ranges are where in the chunk something came.
func (p *piece) ranges() []feed.Range {
	all := make([]feed.Range, len(p.segs))
	for i, g := range p.segs {
		all[i] = feed.Range{Off: int64(g.off), Len: int64(g.len)}
	}
	return all
}

// end is the offset in the file after the last stretch.
func (p *piece) end() int64 {
	if len(p.segs) == 0 {
		return p.index * chunkSize
	}
	last := p.segs[len(p.segs)-1]
	return p.index*chunkSize + int64(last.off+last.len)
}

// pieceEnd ends a file's pieces.
type pieceEnd struct {
	sum  sum
	body string
}

func (e pieceEnd) encode() []byte { return appendString(append([]byte(nil), e.sum[:]...), e.body) }

func decodePieceEnd(b []byte) (pieceEnd, error) {
	d := decoder{b: b}
	e := pieceEnd{sum: d.sum(), body: d.string(maxMeta)}
	return e, decoded("end of a file", d.end(nil))
}

// roundEnd says what a round was, as seen from the source.
type roundEnd struct {
	last   bool
	freeze int           // its number, of the last round
	digest string        // of the last round
	paused time.Duration // it took to freeze
	looked time.Duration // it took to find out what changed
	since  time.Duration // from when the round before began to look until this one did
	feed   string
}

func (e roundEnd) encode() []byte {
	b := []byte{0}
	if e.last {
		b[0] = 1
	}
	b = appendString(binary.AppendUvarint(b, uint64(e.freeze)), e.digest)
	for _, d := range []time.Duration{e.paused, e.looked, e.since} {
		b = binary.AppendUvarint(b, uint64(max(0, d)))
	}
	return appendString(b, cut(e.feed))
}

func decodeRoundEnd(b []byte) (roundEnd, error) {
	d := decoder{b: b}
	e := roundEnd{last: d.byte() == 1, freeze: int(d.uint(math.MaxInt32)), digest: d.string(200)}
	n := func() time.Duration { return time.Duration(d.uint(math.MaxInt64)) }
	e.paused, e.looked, e.since = n(), n(), n()
	e.feed = d.string(maxText)
	return e, decoded("end of a round", d.end(nil))
}

// offeredFrame checks the luggage that will cross.
func offeredFrame(o *Offered) ([]byte, error) {
	if len(o.Luggage) > maxLuggage {
		return nil, mobyfs.Errorf(mobyfs.CodeInvalid, "what the destination is to be told takes %d bytes, more than %d", len(o.Luggage), maxLuggage)
	}
	return append([]byte(nil), o.Luggage...), nil
}
