package transfer

import (
	"context"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/dirfd"
	"github.com/mobyfs/mobyfs/internal/failpoint"
	"github.com/mobyfs/mobyfs/migrate/feed"
)

// prove reads back what the round changed and compares it with what was sent. If all was written out before, it is read from the
// disk where the kernel lets go of what it holds.
func (m *mirror) prove(fromDisk bool) error {
	for _, t := range m.touched {
		if t.node == nil {
			continue
		}
		parent := t.node.at.dir
		if parent == nil {
			parent = t.node
		}
		h, err := m.fdOf(parent)
		if err != nil {
			return err
		}
		if err := m.do(func() error {
			defer h.release()
			return fault("read back "+t.node.at.path(), m.readBack(h.fd, t, fromDisk))
		}); err != nil {
			h.release()
			return err
		}
	}
	err := m.drain()
	m.touched = nil
	clear(m.of)
	return err
}

func (m *mirror) readBack(dir int, t *touched, fromDisk bool) error {
	n := t.node
	r := reading{visit: visit{at: n.at, node: n}, dir: &handle{fd: dir}}
	var attrs attrReader
	var st unix.Stat_t
	fd := -1
	var err error
	switch n.kind {
	case kindFile, kindDir:
		if fd, err = openQuietly(dir, r.entry(), 0); err != nil {
			return err
		}
		defer dirfd.Close(fd)
		if err = unix.Fstat(fd, &st); err == nil {
			r.fill(&st)
			r.meta.attrs, err = attrs.ofFile(fd)
		}
	default:
		if err = unix.Fstatat(dir, r.entry(), &st, unix.AT_SYMLINK_NOFOLLOW); err == nil {
			r.fill(&st)
			r.meta.attrs, err = attrs.ofEntry(dir, n.at.name)
		}
		if err == nil && n.kind == kindSymlink {
			r.meta.target, err = readlink(dir, n.at.name)
		}
	}
	if err != nil {
		return err
	}
	if r.meta.kind != n.kind || string(r.meta.appendBody(nil)) != n.body {
		return differs(fmt.Sprintf("%q has other metadata than what was sent", n.at.path()))
	}
	if !t.filled {
		return nil
	}
	return m.readBackContent(fd, r.meta.size, t, fromDisk)
}

// readBackContent leaves what did not come in this round in the kernel's memory: the next may change a page beside it.
func (m *mirror) readBackContent(fd int, size int64, t *touched, fromDisk bool) error {
	drop := func(off, length int64) {
		if fromDisk {
			_ = unix.Fadvise(fd, off, length, unix.FADV_DONTNEED) // a hint
		}
	}
	if t.node.chunks == nil {
		buf := m.pool.get()
		defer m.pool.release(buf)
		drop(0, 0)
		buf.b = buf.b[:size]
		if err := readFull(fd, buf.b, 0); err != nil {
			return err
		}
		return compare(sumSmallBlocks(buf.b), t.node.sum)
	}
	var all errgroup.Group
	all.SetLimit(workers)
	for some := range slices.Chunk(t.chunks, 16) {
		all.Go(func() error {
			buf := m.pool.get()
			defer m.pool.release(buf)
			for _, c := range some {
				base := c.index * chunkSize
				buf.b = buf.b[:min(chunkSize, size-base)]
				ranges, blocks := m.toReadBack(t.node, c, len(buf.b))
				for _, g := range ranges {
					b := buf.b[g.Off : g.Off+g.Len]
					drop(base+g.Off, g.Len)
					if err := readFull(fd, b, base+g.Off); err != nil {
						return err
					}
					copy(blocks[g.Off/blockSize:], sumBlocks(b))
				}
				var want sum
				if i, found := findChunk(t.node.chunks, c.index); found {
					want = t.node.chunks[i].sum
				}
				if err := compare(sumOfBlocks(blocks), want); err != nil {
					return err
				}
				m.blocks.keep(t.node, c.index, blocks)
			}
			return ctxErr(m.ctx)
		})
	}
	return all.Wait()
}

// toReadBack tells what of a chunk that came is to be read back, and the hashes of its blocks as they were read back before. If those are
// not known, it is all.
func (m *mirror) toReadBack(n *inode, c touchedChunk, length int) (ranges []feed.Range, blocks []uint64) {
	if was := m.blocks.of(n, c.index); len(was) == blocksIn(length) {
		return wholeBlocks(length, c.ranges), slices.Clone(was)
	}
	return []feed.Range{{Len: int64(length)}}, make([]uint64, blocksIn(length))
}

// settle makes a round durable and reads it back.
func (m *mirror) settle() error {
	if err := writeOut(m.root); err != nil {
		return err
	}
	failpoint.Reach("transfer.round.synced")
	return m.prove(true)
}

// settleLast makes the last round durable while it reads it back, and proves that the whole tree is the source's.
func (m *mirror) settleLast(ctx context.Context, digest string) (mobyfs.Receipt, error) {
	synced, err := syncInBackground(m.root)
	if err != nil {
		return mobyfs.Receipt{}, err
	}
	t, err := m.proveAll(digest)
	if e := ended(ctx, synced); err == nil {
		err = e
	}
	if err != nil {
		return mobyfs.Receipt{}, err
	}
	return mobyfs.Receipt{Digest: digest, Progress: mobyfs.Progress{Files: t.files, Bytes: m.bytes.Load()}}, nil
}

func (m *mirror) proveAll(digest string) (*tree, error) {
	if err := m.prove(false); err != nil {
		return nil, err
	}
	t := digestKnown(m.nodes[0])
	if got := t.digest(); got != digest {
		return nil, differs(fmt.Sprintf("the digest is %s, that of the source is %s", got, digest))
	}
	return t, nil
}

// prediction foretells the pause from what the rounds took.
type prediction struct {
	looked time.Duration // to find out what changed
	tail   time.Duration // from the end of the stream until the round was durable and read back
	rate   int64         // bytes that come in a second
	dirty  int64         // bytes that change in a second
	since  time.Time     // when the source last began to look

	compared bool // the rate is that of comparing what was there: the next that is measured replaces it
}

// freezeTime is what it takes to freeze containers, until it was measured.
const freezeTime = 50 * time.Millisecond

func (p prediction) pause(now time.Time) time.Duration {
	if p.since.IsZero() {
		return 0
	}
	d := freezeTime + p.looked + p.tail
	if p.rate > 0 {
		d += time.Duration(float64(p.dirty) * now.Sub(p.since).Seconds() / float64(p.rate) * float64(time.Second))
	}
	return d
}
