package transfer

import (
	"github.com/zeebo/xxh3"

	"github.com/mobyfs/mobyfs/migrate/feed"
)

// The source of a live session remembers a hash of each block that it has sent, so that of a chunk in which a database has written one
// page it need not send all. The destination knows nothing of blocks: what it has must have the sum of the whole chunk.

const (
	blockSize = 8 << 10   // bytes, as large as a page of most databases
	maxBlocks = 128 << 10 // chunks of which blocks are remembered, 1 KiB of memory for each
)

// sumBlocks are the hashes of a chunk's blocks. One of zeros alone has the hash zero, as has one that is not there.
func sumBlocks(b []byte) []uint64 {
	all := make([]uint64, 0, (len(b)+blockSize-1)/blockSize)
	for len(b) > 0 {
		n := min(blockSize, len(b))
		var h uint64
		if !allZero(b[:n]) {
			h = xxh3.Hash(b[:n])
		}
		all, b = append(all, h), b[n:]
	}
	return all
}

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

// keepBlocks remembers the blocks of a chunk as the destination will have it, if there is room for that.
func (f *changeFinder) keepBlocks(n *inode, index int64, blocks []uint64) {
	if _, there := n.src.blocks[index]; !there {
		if f.kept >= maxBlocks {
			return
		}
		f.kept++
		if n.src.blocks == nil {
			n.src.blocks = map[int64][]uint64{}
		}
	}
	n.src.blocks[index] = blocks
}

// learnBlocks remembers those of a chunk that the destination had already.
func (f *changeFinder) learnBlocks(n *inode, index int64, blocks []uint64) {
	if n.src.blocks[index] == nil {
		f.keepBlocks(n, index, blocks)
	}
}

func (f *changeFinder) forgetBlocks(n *inode, index int64) {
	if _, there := n.src.blocks[index]; there {
		delete(n.src.blocks, index)
		f.kept--
	}
}

// cutBlocks forgets the blocks of chunks that lie beyond a size altogether.
func (f *changeFinder) cutBlocks(n *inode, size int64) {
	for index := range n.src.blocks {
		if index*chunkSize >= size {
			f.forgetBlocks(n, index)
		}
	}
}
