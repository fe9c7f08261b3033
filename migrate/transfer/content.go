package transfer

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"

	"github.com/zeebo/xxh3"
	"golang.org/x/sys/unix"
)

// sum is the hash of a chunk or of a whole content.
type sum [16]byte

var zeros [4096]byte

// allZero reports whether b holds zeros only. It is fast where it does not.
func allZero(b []byte) bool {
	for len(b) > len(zeros) {
		if !bytes.Equal(b[:len(zeros)], zeros[:]) {
			return false
		}
		b = b[len(zeros):]
	}
	return bytes.Equal(b, zeros[:len(b)])
}

// sumChunk is the hash of one chunk. One of zeros alone has the sum zero, because it may as well be a hole.
func sumChunk(b []byte) sum {
	if allZero(b) {
		return sum{}
	}
	return xxh3.Hash128(b).Bytes()
}

// contentSum adds up the chunks of a content, in order, into a hash that does not depend on where its holes are.
type contentSum struct{ h xxh3.Hasher }

func (c *contentSum) add(index int64, s sum) {
	if s == (sum{}) {
		return
	}
	var rec [8 + len(s)]byte
	binary.LittleEndian.PutUint64(rec[:], uint64(index))
	copy(rec[8:], s[:])
	_, _ = c.h.Write(rec[:]) // it can't fail
}

func (c *contentSum) sum() sum { return c.h.Sum128().Bytes() }

// sumSmall is contentSum of a content of one chunk at most.
func sumSmall(b []byte) sum { return sumOne(sumChunk(b)) }

// sumOne is contentSum of a content whose only chunk has a sum.
func sumOne(s sum) sum {
	if s == (sum{}) {
		return xxh3.Hash128(nil).Bytes()
	}
	var rec [8 + len(s)]byte
	copy(rec[8:], s[:])
	return xxh3.Hash128(rec[:]).Bytes()
}

// segment is a stretch of data inside a chunk.
type segment struct{ off, len int }

// chunks goes through those chunks of an open file that are not all hole.
type chunks struct {
	fd    int
	size  int64
	pos   int64 // everything before is done
	start int64 // of the stretch of data at or after pos; end is where it ends. Both -1: not known
	end   int64
	segs  []segment
}

func newChunks(fd int, size int64) *chunks { return &chunks{fd: fd, size: size, start: -1, end: -1} }

// next tells the next chunk and where it has data. It is io.EOF after the last.
func (c *chunks) next() (index int64, length int, segs []segment, err error) {
	if err := c.find(); err != nil {
		return 0, 0, nil, err
	}
	index = c.start / chunkSize
	base := index * chunkSize
	limit := min(base+chunkSize, c.size)
	c.segs = c.segs[:0]
	for c.start < limit {
		stop := min(c.end, limit)
		c.addSegment(int(c.start-base), int(stop-base))
		c.pos = stop
		if err := c.find(); err == io.EOF {
			break
		} else if err != nil {
			return 0, 0, nil, err
		}
	}
	return index, int(limit - base), c.segs, nil
}

// addSegment notes data from off to stop. A chunk with more stretches than fit counts as data from there on.
func (c *chunks) addSegment(off, stop int) {
	if n := len(c.segs); n > 0 && (c.segs[n-1].off+c.segs[n-1].len == off || n == maxSegments) {
		c.segs[n-1].len = stop - c.segs[n-1].off
		return
	}
	c.segs = append(c.segs, segment{off, stop - off})
}

// find sets start and end to the first data at or after pos.
func (c *chunks) find() error {
	if c.pos >= c.size {
		c.start, c.end = c.size, c.size
		return io.EOF
	}
	if c.pos < c.end {
		c.start = max(c.start, c.pos)
		return nil
	}
	start, err := unix.Seek(c.fd, c.pos, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) {
		c.pos, c.start, c.end = c.size, c.size, c.size
		return io.EOF
	}
	if errors.Is(err, unix.EINVAL) { // a file system without holes
		c.start, c.end = c.pos, c.size
		return nil
	}
	if err != nil {
		return err
	}
	end, err := unix.Seek(c.fd, start, unix.SEEK_HOLE)
	if err != nil {
		return err
	}
	if end <= start {
		return io.ErrUnexpectedEOF // cut shorter meanwhile
	}
	c.start, c.end = start, min(end, c.size)
	if start >= c.size {
		c.pos = c.size
		return io.EOF
	}
	return nil
}

// read fills buf, which has the chunk's length, with its data and with zeros for its holes.
func (c *chunks) read(index int64, buf []byte, segs []segment) error {
	at := 0
	for _, s := range segs {
		clear(buf[at:s.off])
		at = s.off + s.len
		if err := readFull(c.fd, buf[s.off:at], index*chunkSize+int64(s.off)); err != nil {
			return err
		}
	}
	clear(buf[at:])
	return nil
}

// readFull reads len(b) bytes at an offset, or io.ErrUnexpectedEOF.
func readFull(fd int, b []byte, off int64) error {
	for len(b) > 0 {
		n, err := unix.Pread(fd, b, off)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return err
		case n == 0:
			return io.ErrUnexpectedEOF
		default:
			b, off = b[n:], off+int64(n)
		}
	}
	return nil
}

// writeFull writes all of b at an offset.
func writeFull(fd int, b []byte, off int64) error {
	for len(b) > 0 {
		n, err := unix.Pwrite(fd, b, off)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return err
		case n == 0:
			return io.ErrShortWrite
		default:
			b, off = b[n:], off+int64(n)
		}
	}
	return nil
}
