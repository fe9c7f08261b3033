package transfer

import (
	"context"
	"crypto/rand"
	"math"
	"strconv"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/mobyfs/mobyfs/internal/dirfd"
	"github.com/mobyfs/mobyfs/internal/failpoint"
	"github.com/mobyfs/mobyfs/migrate/feed"
)

// mirror is the destination's tree of a live session. Its caller takes the steps apart and changes names; helpers write and read
// contents. Nobody else changes the tree.
//
// It trusts nothing that the source says. A step names inodes by numbers that were given here; where they lie is what this end
// remembers, and is opened one name after the other without following symbolic links. So a hostile source can change what this
// session made, and nothing else.
type mirror struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	root   int
	pool   *pool

	nodes []*inode // by number; nil if it has no name any more
	limbo *inode   // a directory in the root for what lost its name and will get another in the same round
	lost  int      // what lies there
	opens map[*inode]*handle

	round    int
	named    bool // the round gives names; none can be taken back any more
	open     *openFile
	touched  []*touched // in this round
	of       map[*inode]*touched
	jobs     chan func() error
	wg, busy sync.WaitGroup
	files    atomic.Int64
	bytes    atomic.Int64
	kept     atomic.Int64 // bytes of content that were here already
	blocks   blockMemory  // of what was read back
	unsynced atomic.Int64 // bytes of content since the last sync began
	syncing  sync.Mutex   // one at a time
}

// touched is an inode that a round changed.
type touched struct {
	node   *inode
	meta   meta
	remake bool           // it is another one by now: a link to elsewhere, or another device
	dress  bool           // it gets its metadata at the end of the round
	filled bool           // its content came
	chunks []touchedChunk // of its content
}

// touchedChunk is a chunk of which some came.
type touchedChunk struct {
	index  int64
	ranges []feed.Range // in it
}

// openFile is a file whose pieces come.
type openFile struct {
	node *inode
	t    *touched
	fd   int
	size int64
	last int64 // index of the last piece
	refs atomic.Int32
}

const maxOpenDirs = 128

func newMirror(ctx context.Context, root int, p *pool) *mirror {
	ctx, cancel := context.WithCancelCause(ctx)
	top := &inode{kind: kindDir, dir: &listing{}, links: 1}
	m := &mirror{
		ctx: ctx, cancel: cancel, root: root, pool: p, nodes: []*inode{top},
		opens: map[*inode]*handle{}, of: map[*inode]*touched{}, jobs: make(chan func() error, 2*workers),
	}
	for range workers {
		m.wg.Go(m.work)
	}
	return m
}

func (m *mirror) work() {
	for job := range m.jobs {
		if m.ctx.Err() == nil {
			if err := job(); err != nil {
				m.cancel(err)
			}
		}
		m.busy.Done()
	}
}

func (m *mirror) do(job func() error) error {
	m.busy.Add(1)
	select {
	case m.jobs <- job:
		return nil
	case <-m.ctx.Done():
		m.busy.Done()
		return context.Cause(m.ctx)
	}
}

// drain waits until the helpers have done all.
func (m *mirror) drain() error {
	m.busy.Wait()
	return ctxErr(m.ctx)
}

// close ends the helpers.
func (m *mirror) close() {
	m.cancel(nil)
	close(m.jobs)
	m.wg.Wait()
	if m.open != nil {
		dirfd.Close(m.open.fd)
	}
	m.shutDirs()
}

func (m *mirror) shutDirs() {
	for n, h := range m.opens {
		h.release()
		delete(m.opens, n)
	}
}

// cause is what a helper found, which tells more than a stream that broke, else err.
func (m *mirror) cause(err error) error {
	if cause := ctxErr(m.ctx); cause != nil {
		return cause
	}
	return err
}

// steps takes in a frame of steps and releases it.
func (m *mirror) steps(buf *buffer) error {
	defer m.pool.release(buf)
	if m.open != nil {
		return corrupt("steps come before the end of a file")
	}
	d := &decoder{b: buf.b}
	for len(d.b) > 0 {
		s, err := nextLiveStep(d)
		if err != nil {
			return err
		}
		if err := m.step(&s, buf); err != nil {
			return err
		}
	}
	return nil
}

func (m *mirror) step(s *liveStep, buf *buffer) error {
	switch s.kind {
	case stepUnname, stepRemove:
		return m.unname(s)
	case stepName:
		return m.name(s)
	case stepMake:
		return m.make(s)
	case stepDress:
		return m.dress(s)
	case stepSmall:
		return m.small(s, buf)
	case stepOpen:
		return m.begin(s)
	}
	return corrupt("step %q from the source", s.kind)
}

// node finds an inode by its number.
func (m *mirror) node(id uint64) (*inode, error) {
	if id >= uint64(len(m.nodes)) || m.nodes[id] == nil {
		return nil, corrupt("there is no inode %d", id)
	}
	return m.nodes[id], nil
}

func (m *mirror) directory(id uint64) (*inode, error) {
	n, err := m.node(id)
	if err == nil && n.kind != kindDir {
		err = corrupt("inode %d is no directory", id)
	}
	return n, err
}

// touch notes that an inode changed in this round.
func (m *mirror) touch(n *inode) *touched {
	t := m.of[n]
	if t == nil {
		t = &touched{node: n}
		m.of[n] = t
		m.touched = append(m.touched, t)
	}
	return t
}

// touchDir notes that names of a directory changed, which changes its time.
func (m *mirror) touchDir(n *inode) error {
	if t := m.touch(n); !t.dress {
		t.dress = true
		if n.body == "" {
			return nil // it comes before the round ends, or complete finds out
		}
		var err error
		t.meta, err = decodeBody(n.kind, n.body)
		return err
	}
	return nil
}

// fdOf opens a directory of the tree. The caller releases it.
func (m *mirror) fdOf(n *inode) (*handle, error) {
	if h := m.opens[n]; h != nil {
		h.refs.Add(1)
		return h, nil
	}
	h := &handle{}
	var err error
	if n == m.nodes[0] {
		h.fd, err = dirfd.Open(m.root, ".")
	} else {
		var parent *handle
		if parent, err = m.fdOf(n.at.dir); err != nil {
			return nil, err
		}
		h.fd, err = dirfd.Open(parent.fd, n.at.name)
		parent.release()
	}
	if err != nil {
		return nil, fault("open "+n.at.path(), err)
	}
	if len(m.opens) >= maxOpenDirs {
		m.shutDirs()
	}
	h.refs.Store(2)
	m.opens[n] = h
	return h, nil
}

// unname takes a name back.
func (m *mirror) unname(s *liveStep) error {
	dir, err := m.directory(s.dir)
	if err != nil {
		return err
	}
	n := dir.dir.get(s.name)
	if n == nil || m.named {
		return corrupt("%q is taken away", s.name)
	}
	at := spot{dir, s.name}
	h, err := m.fdOf(dir)
	if err != nil {
		return err
	}
	defer h.release()
	switch {
	case n.links > 1:
		err = unix.Unlinkat(h.fd, s.name, 0)
	case s.kind == stepUnname:
		err = m.toLimbo(n, h.fd, s.name)
	case n.kind == kindDir:
		if n.dir.live > 0 {
			return corrupt("%q is removed, but not empty", at.path())
		}
		if open := m.opens[n]; open != nil {
			open.release()
			delete(m.opens, n)
		}
		err = unix.Unlinkat(h.fd, s.name, unix.AT_REMOVEDIR)
	default:
		err = unix.Unlinkat(h.fd, s.name, 0)
	}
	if err != nil {
		return fault("remove "+at.path(), err)
	}
	dir.dir.remove(s.name)
	if n.links > 1 {
		n.links--
		m.leave(n, at)
	} else if s.kind == stepRemove {
		n.links = 0
		m.blocks.cut(n, 0)
		m.nodes[n.id] = nil
		if t := m.of[n]; t != nil {
			t.node = nil
			delete(m.of, n)
		}
	}
	return m.touchDir(dir)
}

// leave forgets one of several names.
func (m *mirror) leave(n *inode, at spot) {
	if n.at != at {
		delete(n.more, at)
		return
	}
	for other := range n.more {
		n.at = other
		delete(n.more, other)
		return
	}
}

// toLimbo keeps what loses its last name until it gets the next.
func (m *mirror) toLimbo(n *inode, dir int, name string) error {
	if m.limbo == nil {
		unused := ".mobyfs-moving-" + rand.Text()
		if err := unix.Mkdirat(m.root, unused, 0o700); err != nil {
			return err
		}
		m.limbo = &inode{kind: kindDir, dir: &listing{}, at: spot{m.nodes[0], unused}}
		if err := m.touchDir(m.nodes[0]); err != nil {
			return err
		}
	}
	h, err := m.fdOf(m.limbo)
	if err != nil {
		return err
	}
	defer h.release()
	now := strconv.FormatUint(n.id, 10)
	if err := unix.Renameat(dir, name, h.fd, now); err != nil {
		return err
	}
	n.at, n.links = spot{m.limbo, now}, 0
	m.lost++
	failpoint.Reach("transfer.unnamed")
	return nil
}

// free checks that a name may be given away, and opens its directory.
func (m *mirror) free(s *liveStep) (*inode, *handle, error) {
	dir, err := m.directory(s.dir)
	if err != nil {
		return nil, nil, err
	}
	if dir.dir.get(s.name) != nil || m.limbo != nil && dir == m.nodes[0] && s.name == m.limbo.at.name {
		return nil, nil, corrupt("%q is there already", spot{dir, s.name}.path())
	}
	m.named = true
	depth := 0
	for d := dir; d.at.dir != nil; d = d.at.dir {
		if depth++; depth > maxDepth {
			return nil, nil, corrupt("the tree is deeper than %d directories", maxDepth)
		}
	}
	if err := m.touchDir(dir); err != nil {
		return nil, nil, err
	}
	h, err := m.fdOf(dir)
	return dir, h, err
}

// name gives what is there one more name, or its new one.
func (m *mirror) name(s *liveStep) error {
	n, err := m.node(s.id)
	if err != nil {
		return err
	}
	dir, h, err := m.free(s)
	if err != nil {
		return err
	}
	defer h.release()
	at := spot{dir, s.name}
	lost := n.links == 0
	if n.kind == kindDir {
		if !lost {
			return corrupt("%q would be a second name of a directory", at.path())
		}
		for d := dir; d != nil; d = d.at.dir {
			if d == n {
				return corrupt("%q would lie in itself", at.path())
			}
		}
	}
	if err := m.drain(); err != nil { // its content may be on its way
		return err
	}
	from, err := m.fdOf(n.at.dir)
	if err != nil {
		return err
	}
	defer from.release()
	if lost {
		err = unix.Renameat2(from.fd, n.at.name, h.fd, s.name, unix.RENAME_NOREPLACE)
		if err == unix.EINVAL { // a file system that can't promise it
			err = unix.Renameat(from.fd, n.at.name, h.fd, s.name)
		}
	} else {
		err = linked(from.fd, n.at.name, unix.Linkat(from.fd, n.at.name, h.fd, s.name, 0))
	}
	if err != nil {
		return fault("name "+at.path(), err)
	}
	dir.dir.add(s.name, n)
	n.links++
	if lost {
		n.at = at
		m.lost--
		return nil
	}
	if n.more == nil {
		n.more = map[spot]bool{}
	}
	n.more[at] = true
	m.touch(n)
	return nil
}

// make makes an inode: a directory or a file empty, anything else whole.
func (m *mirror) make(s *liveStep) error {
	dir, h, err := m.free(s)
	if err != nil {
		return err
	}
	defer h.release()
	n := &inode{id: uint64(len(m.nodes)), kind: s.meta.kind, body: s.body, links: 1, at: spot{dir, s.name}}
	switch n.kind {
	case kindDir:
		n.dir = &listing{}
		if err = made(h.fd, &meta{kind: n.kind, name: s.name}, unix.Mkdirat(h.fd, s.name, 0o700)); err == nil {
			err = m.bareNew(h.fd, s.name)
		}
	case kindFile:
		var fd int
		if fd, err = dirfd.OpenFile(h.fd, s.name, createFlags, 0o600); err == nil {
			err = unix.Close(fd)
		}
		err = made(h.fd, &meta{kind: n.kind, name: s.name}, err)
	default:
		s.meta.name = s.name
		err = makeSpecial(h.fd, &s.meta)
		m.files.Add(1)
	}
	if err != nil {
		return fault("make "+n.at.path(), err)
	}
	m.nodes = append(m.nodes, n)
	dir.dir.add(s.name, n)
	t := m.touch(n)
	t.meta, t.dress = s.meta, n.kind == kindDir
	t.meta.attrs = cloneAttrs(t.meta.attrs)
	return nil
}

// bareNew takes from a directory that was just made what it inherited.
func (m *mirror) bareNew(dir int, name string) error {
	fd, err := dirfd.Open(dir, name)
	if err != nil {
		return err
	}
	defer dirfd.Close(fd)
	return bare(fd)
}

// dress gives what is no file other metadata, at the end of the round.
func (m *mirror) dress(s *liveStep) error {
	n, err := m.node(s.id)
	if err != nil {
		return err
	}
	if n.kind == kindFile || n.kind != s.meta.kind {
		return corrupt("inode %d is no %q", s.id, s.meta.kind)
	}
	t := m.touch(n)
	if n.kind == kindSymlink || n.kind == kindChar || n.kind == kindBlock {
		old, err := decodeBody(n.kind, n.body)
		if err != nil {
			return err
		}
		if old.target != s.meta.target || old.major != s.meta.major || old.minor != s.meta.minor {
			t.remake = true // the source's kernel has used the number again
			if err := m.touchDirsOf(n); err != nil {
				return err
			}
		}
	}
	n.body = s.body
	t.meta, t.dress = s.meta, true
	return nil
}

func (m *mirror) touchDirsOf(n *inode) error {
	if err := m.touchDir(n.at.dir); err != nil {
		return err
	}
	for other := range n.more {
		if err := m.touchDir(other.dir); err != nil {
			return err
		}
	}
	return nil
}

// remake makes an entry anew under all of its names.
func (m *mirror) remake(t *touched) error {
	first, err := m.fdOf(t.node.at.dir)
	if err != nil {
		return err
	}
	defer first.release()
	t.meta.name = t.node.at.name
	if err := unix.Unlinkat(first.fd, t.meta.name, 0); err != nil {
		return err
	}
	if err := makeSpecial(first.fd, &t.meta); err != nil {
		return err
	}
	for other := range t.node.more {
		h, err := m.fdOf(other.dir)
		if err != nil {
			return err
		}
		if err = unix.Unlinkat(h.fd, other.name, 0); err == nil {
			err = unix.Linkat(first.fd, t.meta.name, h.fd, other.name, 0)
		}
		h.release()
		if err != nil {
			return err
		}
	}
	return nil
}

// content notes that the content of a file comes: once in a round.
func (m *mirror) content(id uint64) (*inode, *touched, error) {
	n, err := m.node(id)
	if err != nil {
		return nil, nil, err
	}
	if n.kind != kindFile {
		return nil, nil, corrupt("inode %d is no file", id)
	}
	t := m.touch(n)
	if t.filled {
		return nil, nil, corrupt("the content of %q comes twice", n.at.path())
	}
	t.filled, t.dress = true, false
	return n, t, nil
}

// small has a helper write a small file.
func (m *mirror) small(s *liveStep, buf *buffer) error {
	n, t, err := m.content(s.id)
	if err != nil {
		return err
	}
	n.body, n.sum, n.chunks = s.body, s.sum, nil
	m.blocks.cut(n, 0)
	t.meta = s.meta
	h, err := m.fdOf(n.at.dir)
	if err != nil {
		return err
	}
	buf.refs.Add(1)
	content, name, meta := s.content, n.at.name, s.meta
	return m.do(func() error {
		defer m.pool.release(buf)
		defer h.release()
		fd, err := dirfd.OpenFile(h.fd, name, unix.O_RDWR|unix.O_TRUNC, 0)
		if err == nil {
			if err = writeFull(fd, content, 0); err == nil {
				err = dressExactly(fd, &meta)
			}
			if e := unix.Close(fd); err == nil {
				err = e
			}
		}
		if err == nil {
			err = touch(h.fd, name, &meta)
		}
		m.files.Add(1)
		m.wrote(int64(len(content)))
		return fault("write "+name, err)
	})
}

// begin opens a file whose pieces come.
func (m *mirror) begin(s *liveStep) error {
	n, t, err := m.content(s.id)
	if err != nil {
		return err
	}
	h, err := m.fdOf(n.at.dir)
	if err != nil {
		return err
	}
	defer h.release()
	flags := unix.O_RDWR
	if s.fresh {
		flags |= unix.O_TRUNC
		n.chunks = nil
		m.blocks.cut(n, 0)
	}
	fd, err := dirfd.OpenFile(h.fd, n.at.name, flags, 0)
	if err != nil {
		return fault("open "+n.at.path(), err)
	}
	m.open = &openFile{node: n, t: t, fd: fd, size: s.size, last: -1}
	m.open.refs.Store(1)
	n.cutChunks(s.size)
	var st unix.Stat_t
	err = unix.Fstat(fd, &st)
	if err == nil {
		m.resized(n, st.Size, s.size)
		err = sized(fd, s.size, unix.Ftruncate(fd, s.size))
	}
	return fault("write "+n.at.path(), err)
}

// resized forgets the blocks of the chunks whose ends are elsewhere by now.
func (m *mirror) resized(n *inode, from, to int64) {
	if from == to {
		return
	}
	for _, size := range []int64{from, to} {
		m.blocks.forget(n, max(0, size-1)/chunkSize)
	}
	m.blocks.cut(n, to)
}

// piece takes in a piece of the open file.
func (m *mirror) piece(buf *buffer) error {
	f := m.open
	p, err := decodePiece(buf.b)
	switch {
	case err != nil:
	case f == nil:
		err = corrupt("a piece of no file")
	case p.index <= f.last:
		err = corrupt("piece %d of %q comes after %d", p.index, f.node.at.path(), f.last)
	case p.index >= math.MaxInt64/chunkSize || p.index*chunkSize >= f.size || p.end() > f.size:
		err = corrupt("a piece of %q ends at %d, the file at %d", f.node.at.path(), p.end(), f.size)
	}
	if err != nil {
		m.pool.release(buf)
		return err
	}
	f.last = p.index
	f.node.setChunk(p.index, p.sum)
	f.t.chunks = append(f.t.chunks, touchedChunk{p.index, p.ranges()})
	f.refs.Add(1)
	return m.do(func() error {
		defer m.pool.release(buf)
		base, at := p.index*chunkSize, 0
		for _, g := range p.segs {
			var err error
			if g.hole {
				err = punch(f.fd, base+int64(g.off), int64(g.len))
			} else {
				err = writeFull(f.fd, p.data[at:at+g.len], base+int64(g.off))
				at += g.len
			}
			if err != nil {
				return fault("write "+f.node.at.path(), err)
			}
		}
		_ = unix.SyncFileRange(f.fd, base, chunkSize, unix.SYNC_FILE_RANGE_WRITE) // so that little is left for the sync; a hint
		m.wrote(int64(len(p.data)))
		return m.unrefFile(f)
	})
}

// punch makes a stretch of a file a hole, or zeros where there are no holes.
func punch(fd int, off, length int64) error {
	err := unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, length)
	if err != unix.EOPNOTSUPP {
		return err
	}
	return writeFull(fd, make([]byte, length), off)
}

// pieceEnd takes in the end of the open file.
func (m *mirror) pieceEnd(b []byte) error {
	f := m.open
	if f == nil {
		return corrupt("the end of no file")
	}
	e, err := decodePieceEnd(b)
	if err == nil {
		f.t.meta, err = decodeBody(kindFile, e.body)
	}
	if err == nil && f.t.meta.size != f.size {
		err = corrupt("%q has %d bytes and had %d", f.node.at.path(), f.t.meta.size, f.size)
	}
	if err == nil && sumOfChunks(f.node.chunks) != e.sum {
		err = corrupt("what came of %q does not add up", f.node.at.path())
	}
	if err != nil {
		return err
	}
	if f.node.chunks == nil {
		f.node.chunks = []chunkRecord{}
	}
	f.node.sum, f.node.body = e.sum, e.body
	m.open = nil
	return m.unrefFile(f)
}

// unrefFile ends one use of the open file. The last gives it its metadata.
func (m *mirror) unrefFile(f *openFile) error {
	if f.refs.Add(-1) > 0 {
		return nil
	}
	err := dressExactly(f.fd, &f.t.meta)
	if err == nil {
		err = unix.UtimesNanoAt(unix.AT_FDCWD, procFD(f.fd), []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Sec: f.t.meta.sec, Nsec: int64(f.t.meta.nsec)}}, 0)
	}
	if err == nil {
		err = kept(f.fd, "", &f.t.meta)
	}
	if e := unix.Close(f.fd); err == nil {
		err = e
	}
	m.files.Add(1)
	return fault("write "+f.node.at.path(), err)
}

// complete ends a round: all that it touched gets its metadata.
func (m *mirror) complete() error {
	if m.open != nil {
		return corrupt("the round ends inside of a file")
	}
	if err := m.drain(); err != nil {
		return err
	}
	if m.lost > 0 {
		return corrupt("%d inodes have no name at the end of the round", m.lost)
	}
	failpoint.Reach("transfer.round.named")
	if err := m.dropLimbo(); err != nil {
		return err
	}
	for _, t := range m.touched { // before the directories get their times
		if t.node != nil && t.remake {
			if err := m.remake(t); err != nil {
				return fault("make "+t.node.at.path(), err)
			}
		}
	}
	for _, t := range m.touched {
		if t.node == nil || !t.dress {
			continue
		}
		if t.node.body == "" {
			return corrupt("there is no metadata of %q", t.node.at.path())
		}
		if err := m.finishDress(t); err != nil {
			return fault("write "+t.node.at.path(), err)
		}
	}
	m.named = false
	m.round++
	failpoint.Reach("transfer.round.complete")
	return nil
}

func (m *mirror) dropLimbo() error {
	if m.limbo == nil {
		return nil
	}
	if h := m.opens[m.limbo]; h != nil {
		h.release()
		delete(m.opens, m.limbo)
	}
	name := m.limbo.at.name
	m.limbo = nil
	return fault("remove "+name, unix.Unlinkat(m.root, name, unix.AT_REMOVEDIR))
}

func (m *mirror) finishDress(t *touched) error {
	if t.node.kind == kindDir {
		h, err := m.fdOf(t.node)
		if err != nil {
			return err
		}
		defer h.release()
		if err := dressExactly(h.fd, &t.meta); err != nil {
			return err
		}
		return touch(h.fd, ".", &t.meta)
	}
	h, err := m.fdOf(t.node.at.dir)
	if err != nil {
		return err
	}
	defer h.release()
	t.meta.name = t.node.at.name
	return dressEntry(h.fd, &t.meta)
}
