package bundle

import (
	"encoding/binary"
	"io"
	"sync"
)

// kind says what the payload of a block is.
type kind byte

const (
	kindPlain kind = 1 // bytes of the stream
	kindZstd  kind = 2 // the same, packed as one frame of zstd
	kindLimit kind = 3 // 8 bytes: the most that the other end may send in a second; 0 is no limit
)

// header is the head of a block. Blocks are numbered from 0 through all connections of one direction; on each
// connection the numbers grow.
type header struct {
	kind   kind
	number uint64
	raw    int // bytes of the stream
	length int // bytes that follow
}

const headerSize = 1 + 8 + 4 + 4

func (h header) appendTo(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(append(b, byte(h.kind)), h.number)
	b = binary.BigEndian.AppendUint32(b, uint32(h.raw))
	return binary.BigEndian.AppendUint32(b, uint32(h.length))
}

// decodeHeader takes only lengths that may be, so nothing is allocated for what lies about them.
func decodeHeader(b *[headerSize]byte) (header, error) {
	raw, length := binary.BigEndian.Uint32(b[9:]), binary.BigEndian.Uint32(b[13:])
	h := header{kind: kind(b[0]), number: binary.BigEndian.Uint64(b[1:])}
	ok := false
	switch h.kind {
	case kindPlain:
		ok = raw == length && 0 < raw && raw <= blockSize
	case kindZstd:
		ok = 0 < length && length < raw && raw <= blockSize
	case kindLimit:
		ok = raw == 0 && length == 8
	}
	if !ok {
		return h, corrupt("a block of kind %d with %d bytes for %d", h.kind, length, raw)
	}
	h.raw, h.length = int(raw), int(length)
	return h, nil
}

// readHeader is io.EOF if the connection ends between two blocks.
func readHeader(r io.Reader) (header, error) {
	var b [headerSize]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return header{}, err
	}
	return decodeHeader(&b)
}

// block is a buffer for the bytes of one block.
type block struct {
	header
	data []byte // header.raw bytes of it are of the stream
}

var blocks = sync.Pool{New: func() any { return &block{data: make([]byte, 0, blockSize)} }}

func newBlock() *block {
	b := blocks.Get().(*block)
	b.header, b.data = header{}, b.data[:0]
	return b
}

func (b *block) free() { blocks.Put(b) }
