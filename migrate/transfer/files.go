package transfer

import (
	"io"
	"slices"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/dirfd"
)

// createFlags make a new file and nothing else. It is read back through the same handle.
const createFlags = unix.O_RDWR | unix.O_CREAT | unix.O_EXCL

// smallFileStep is a small file to be written. What it points to lies in a frame.
type smallFileStep struct {
	meta    meta
	content []byte
	sum     sum  // what the content should be
	found   *sum // where to put what it is
}

// writeSmall has helpers write small files of the present directory.
func (r *receiver) writeSmall(files []smallFileStep, frame *buffer) error {
	if len(files) == 0 {
		return nil
	}
	dir := r.top()
	dir.refs.Add(1)
	frame.refs.Add(1)
	return r.do(func() error {
		defer r.pool.release(frame)
		back := r.pool.get()
		defer r.pool.release(back)
		for i := range files {
			if err := r.smallFile(dir, &files[i], back.b[:len(files[i].content)]); err != nil {
				return fault("write "+dir.path(files[i].meta.name), err)
			}
		}
		return r.unref(dir)
	})
}

// smallFile writes a file and reads it back into back, which has its length.
func (r *receiver) smallFile(dir *node, f *smallFileStep, back []byte) error {
	fd, err := dirfd.OpenFile(dir.fd, f.meta.name, createFlags, f.meta.mode&0o777)
	if err != nil {
		return made(dir.fd, &f.meta, err)
	}
	err = writeFull(fd, f.content, 0)
	if err == nil {
		err = readFull(fd, back, 0)
	}
	if err == nil {
		*f.found = sumSmall(back)
		err = compare(*f.found, f.sum)
	}
	if err == nil {
		err = dress(fd, &f.meta)
	}
	if e := unix.Close(fd); err == nil {
		err = e
	}
	if err != nil {
		return err
	}
	r.files.Add(1)
	r.bytes.Add(int64(len(f.content)))
	return touch(dir.fd, f.meta.name, &f.meta)
}

func compare(found, want sum) error {
	if found == want {
		return nil
	}
	return mobyfs.Errorf(mobyfs.CodeCorrupt, "what was read back is not what was sent: sum %x, want %x", found, want).
		WithHint("if it happens again, check the memory and the disk of this node")
}

// file is a big or sparse file that is being written.
type file struct {
	dir    *node
	meta   meta
	fd     int
	last   int64        // index of the last chunk so far, -1 before the first
	chunks []*chunkSum  // in order; each filled by its job
	refs   atomic.Int32 // jobs, and one until its end has come
	want   sum          // known once the end has come
	found  *sum
}

type chunkSum struct {
	index int64
	sum   sum
}

// beginFile makes a file of the full size, all of it a hole.
func (r *receiver) beginFile(dir *node, m meta, found *sum) error {
	fd, err := dirfd.OpenFile(dir.fd, m.name, createFlags, m.mode&0o777)
	if err != nil {
		return made(dir.fd, &m, err)
	}
	f := &file{dir: dir, meta: m, fd: fd, last: -1, found: found}
	r.keep(fd)
	f.refs.Store(1)
	dir.refs.Add(1)
	r.file = f
	return sized(fd, m.size, unix.Ftruncate(fd, m.size))
}

// chunk takes in a chunk of the present file.
func (r *receiver) chunk(buf *buffer) error {
	f := r.file
	if f == nil {
		r.pool.release(buf)
		return corrupt("a chunk of no file")
	}
	c, err := decodeChunk(buf.b)
	if err == nil {
		err = f.check(&c)
	}
	if err != nil {
		r.pool.release(buf)
		return err
	}
	f.last = c.index
	found := &chunkSum{index: c.index}
	f.chunks = append(f.chunks, found)
	f.refs.Add(1)
	return r.do(func() error {
		defer r.pool.release(buf)
		if err := r.writeChunk(f, &c, found); err != nil {
			return fault("write "+f.dir.path(f.meta.name), err)
		}
		return r.unrefFile(f)
	})
}

func (f *file) check(c *chunk) error {
	switch {
	case len(c.segs) == 0:
		return corrupt("an empty chunk of %q", f.meta.name)
	case c.index <= f.last:
		return corrupt("chunk %d of %q comes after %d", c.index, f.meta.name, f.last)
	case c.end() > f.meta.size:
		return corrupt("chunk %d of %q ends at %d, the file at %d", c.index, f.meta.name, c.end(), f.meta.size)
	}
	return nil
}

// writeChunk writes a chunk's data and reads the chunk back, holes and all.
func (r *receiver) writeChunk(f *file, c *chunk, found *chunkSum) error {
	base, at := c.index*chunkSize, 0
	for _, g := range c.segs {
		if err := writeFull(f.fd, c.data[at:at+g.len], base+int64(g.off)); err != nil {
			return err
		}
		at += g.len
	}
	// Let the disk begin, so that the one sync at the end finds little left. It is a hint only.
	_ = unix.SyncFileRange(f.fd, base, chunkSize, unix.SYNC_FILE_RANGE_WRITE)
	back := r.pool.get()
	defer r.pool.release(back)
	back.b = back.b[:min(chunkSize, f.meta.size-base)]
	if err := readFull(f.fd, back.b, base); err != nil {
		return err
	}
	found.sum = sumChunk(back.b)
	r.bytes.Add(int64(len(c.data)))
	return compare(found.sum, c.sum)
}

// fileEnd takes in the end of the present file.
func (r *receiver) fileEnd(b []byte) error {
	f := r.file
	if f == nil {
		return corrupt("the end of no file")
	}
	d := decoder{b: b}
	f.want = d.sum()
	if err := d.end(nil); err != nil {
		return decoded("end of a file", err)
	}
	r.file = nil
	return r.unrefFile(f)
}

// unrefFile ends one use of a file. The last completes it.
func (r *receiver) unrefFile(f *file) error {
	if f.refs.Add(-1) > 0 {
		return nil
	}
	err := f.checkContent()
	if err == nil {
		err = dress(f.fd, &f.meta)
	}
	if e := r.drop(f.fd); err == nil {
		err = e
	}
	if err == nil {
		err = touch(f.dir.fd, f.meta.name, &f.meta)
	}
	if err != nil {
		return fault("write "+f.dir.path(f.meta.name), err)
	}
	r.files.Add(1)
	return r.unref(f.dir)
}

// checkContent adds up what was read back, with any data that lies where the stream had a hole, and compares it
// with what was sent.
func (f *file) checkContent() error {
	var whole contentSum
	known := f.chunks
	var buf []byte
	for c := newChunks(f.fd, f.meta.size); ; {
		index, n, segs, err := c.next()
		if err != nil && err != io.EOF {
			return err
		}
		for len(known) > 0 && (err == io.EOF || known[0].index <= index) {
			whole.add(known[0].index, known[0].sum)
			if known[0].index == index {
				n = 0 // read back already
			}
			known = known[1:]
		}
		if err == io.EOF {
			break
		}
		if n > 0 {
			buf = slices.Grow(buf, n)
			if err := c.read(index, buf[:n], segs); err != nil {
				return err
			}
			whole.add(index, sumChunk(buf[:n]))
		}
	}
	*f.found = whole.sum()
	return compare(*f.found, f.want)
}
