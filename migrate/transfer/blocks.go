package transfer

import (
	"encoding/binary"
	"sync"

	"github.com/zeebo/xxh3"

	"github.com/mobyfs/mobyfs/migrate/feed"
)

// In a live session the sum of a chunk is made of hashes of its blocks, and both ends remember these. So of a chunk in which a database
// has written one page, that page alone is read, sent, written, read back and hashed, and not 1 MiB at each end.

const (
	blockSize = 8 << 10   // bytes, as large as a page of most databases
	maxBlocks = 128 << 10 // chunks of which blocks are remembered, 1 KiB of memory for each
)

// blocksIn is how many blocks a chunk of a length has.
func blocksIn(length int) int { return (length + blockSize - 1) / blockSize }

// sumBlocks are the hashes of a chunk's blocks. One of zeros alone has the hash zero, as has one that is not there.
func sumBlocks(b []byte) []uint64 {
	all := make([]uint64, 0, blocksIn(len(b)))
	for len(b) > 0 {
		n := min(blockSize, len(b))
		all, b = append(all, hashBlock(b[:n])), b[n:]
	}
	return all
}

func hashBlock(b []byte) uint64 {
	if allZero(b) {
		return 0
	}
	return xxh3.Hash(b)
}

// sumOfBlocks is the sum of a chunk whose blocks have these hashes. One of zeros alone has the sum zero, as ever.
func sumOfBlocks(blocks []uint64) sum {
	var b [8 * chunkSize / blockSize]byte
	zero := true
	for i, h := range blocks {
		binary.LittleEndian.PutUint64(b[8*i:], h)
		zero = zero && h == 0
	}
	if zero {
		return sum{}
	}
	return xxh3.Hash128(b[:8*len(blocks)]).Bytes()
}

// sumSmallBlocks is the sum of a content of one chunk at most.
func sumSmallBlocks(b []byte) sum { return sumOne(sumOfBlocks(sumBlocks(b))) }

// differing are the stretches of a chunk whose blocks have other hashes now than they had.
func differing(was, now []uint64) (all []feed.Range) {
	for i, h := range now {
		if i < len(was) && was[i] == h || i >= len(was) && h == 0 {
			continue
		}
		off := int64(i) * blockSize
		if n := len(all); n > 0 && all[n-1].Off+all[n-1].Len == off {
			all[n-1].Len += blockSize
			continue
		}
		all = append(all, feed.Range{Off: off, Len: blockSize})
	}
	return all
}

// wholeBlocks are the stretches of whole blocks, of a chunk of a length, into which ranges reach.
func wholeBlocks(length int, ranges []feed.Range) []feed.Range {
	var all []feed.Range
	for _, r := range ranges {
		from := max(0, r.Off) / blockSize * blockSize
		to := min(int64(length), int64(blocksIn(int(min(r.Off+r.Len, chunkSize))))*blockSize)
		if from < to {
			all = append(all, feed.Range{Off: from, Len: to - from})
		}
	}
	return feed.Union(all)
}

// blockMemory counts the chunks of which the hashes of the blocks are remembered, as the destination has them. It may be used by several
// goroutines.
type blockMemory struct {
	mu   sync.Mutex
	kept int
}

// of is what is remembered of a chunk, nil if nothing is. It is not to be changed.
func (m *blockMemory) of(n *inode, index int64) []uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return n.blocks[index]
}

// keep remembers the blocks of a chunk, if there is room for that.
func (m *blockMemory) keep(n *inode, index int64, blocks []uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, there := n.blocks[index]; !there {
		if m.kept >= maxBlocks {
			return
		}
		m.kept++
		if n.blocks == nil {
			n.blocks = map[int64][]uint64{}
		}
	}
	n.blocks[index] = blocks
}

func (m *blockMemory) forget(n *inode, index int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, there := n.blocks[index]; there {
		delete(n.blocks, index)
		m.kept--
	}
}

// cut forgets the blocks of chunks that lie beyond a size altogether.
func (m *blockMemory) cut(n *inode, size int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for index := range n.blocks {
		if index*chunkSize >= size {
			delete(n.blocks, index)
			m.kept--
		}
	}
}
