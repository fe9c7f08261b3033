package bundle

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/klauspost/compress/zstd"
)

// Blocks are packed where that brings them over sooner. Two things decide: whether the link is so much slower than
// the cores pack that these have time for it (measured, both), and whether this data gets smaller (probed).
const (
	leastPacked = 4 << 10  // smaller blocks go as they are
	probeSize   = 64 << 10 // of a block that follows one that did not get smaller
	lookEvery   = 16       // blocks, while nothing is packed
	fastLink    = 1 << 30  // bytes a second; a core does not pack as much
)

// worthwhile reports whether n bytes are enough less than raw.
func worthwhile(n, raw int) bool { return n < raw-raw/8 }

// packer is the packing of one direction of a bundle.
type packer struct {
	speed  best          // of one core
	on     atomic.Bool   // the link is slow
	doubts atomic.Bool   // the last block did not get smaller
	passed atomic.Uint64 // blocks that were not packed because of the speeds
}

// lanePacker is that of one connection. It is used by one goroutine.
type lanePacker struct {
	all     *packer
	zstd    *zstd.Encoder // made with the first block that is packed
	scratch []byte
}

func (p *packer) lane() *lanePacker { return &lanePacker{all: p} }

// due decides by speeds alone.
func (p *packer) due(link int64) bool {
	one := p.speed.rate()
	if one == 0 {
		one = fastLink // to begin with; the first blocks correct it
	}
	most := one / 2 // packing begins where a core packs twice as much as the link takes
	if p.on.Load() {
		most = one / 4 * 3 // and ends later than it begins, so that it does not come and go
	}
	on := link > 0 && link < most
	p.on.Store(on)
	return on
}

// pack returns the block packed, in a block of its own, or as it is.
func (p *lanePacker) pack(b *block, link func() int64) (*block, error) {
	if b.kind != kindPlain || len(b.data) < leastPacked {
		return b, nil
	}
	rate := link()
	if !p.all.due(rate) {
		return b, p.lookAgain(b, rate)
	}
	if err := p.prepare(); err != nil {
		return nil, err
	}
	if p.all.doubts.Load() && len(b.data) > 2*probeSize {
		middle := (len(b.data) - probeSize) / 2
		if n := len(p.encode(b.data[middle : middle+probeSize])); !worthwhile(n, probeSize) {
			return b, nil
		}
	}
	small := p.encode(b.data)
	p.all.doubts.Store(!worthwhile(len(small), len(b.data)))
	if p.all.doubts.Load() {
		return b, nil
	}
	packed := newBlock()
	packed.header = header{kind: kindZstd, number: b.number, raw: b.raw, length: len(small)}
	packed.data = append(packed.data, small...)
	b.free()
	return packed, nil
}

func (p *lanePacker) prepare() (err error) {
	if p.zstd == nil {
		p.zstd, err = zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1),
			zstd.WithWindowSize(blockSize), zstd.WithEncoderCRC(false)) // TLS proves that it arrives as it is
	}
	return err
}

// lookAgain measures now and then how fast a core packs while nothing is packed, unless the link is faster in any case.
func (p *lanePacker) lookAgain(b *block, link int64) error {
	if link == 0 || link > fastLink || p.all.passed.Add(1)%lookEvery != 0 {
		return nil
	}
	if err := p.prepare(); err != nil {
		return err
	}
	p.encode(b.data[:min(len(b.data), probeSize)])
	return nil
}

func (p *lanePacker) encode(b []byte) []byte {
	before := time.Now()
	p.scratch = p.zstd.EncodeAll(b, p.scratch[:0])
	if len(b) >= probeSize {
		p.all.speed.add(len(b), time.Since(before))
	}
	return p.scratch
}

// unpacker unpacks the blocks of one direction of a bundle, on all connections at once.
type unpacker struct {
	once sync.Once
	zstd *zstd.Decoder
	err  error
}

// unpack fills b with what packed holds, which must be just b.raw bytes. Nothing is allocated for more, whatever packed
// says.
func (u *unpacker) unpack(b *block, packed []byte) error {
	u.once.Do(func() {
		u.zstd, u.err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(MaxConnections), zstd.WithDecodeAllCapLimit(true),
			zstd.WithDecoderMaxWindow(blockSize), zstd.WithDecoderMaxMemory(blockSize), zstd.WithDecoderLowmem(true))
	})
	if u.err != nil {
		return u.err
	}
	out, err := u.zstd.DecodeAll(packed, b.data[:0:b.raw])
	if err != nil {
		return corrupt("unpack block %d: %w", b.number, err)
	}
	if len(out) != b.raw {
		return corrupt("block %d unpacks to %d bytes instead of %d", b.number, len(out), b.raw)
	}
	b.data = b.data[:b.raw]
	return nil
}
