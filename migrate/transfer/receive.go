package transfer

import (
	"context"
	"math"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/zeebo/xxh3"
	"golang.org/x/sys/unix"

	"github.com/mobyfs/mobyfs/internal/dirfd"
)

// receiver builds a tree from the frames of a stream. One goroutine (its caller) takes the frames apart and makes
// directories and links; helpers write the files and read back what they wrote. Nobody else changes the tree.
//
// It trusts nothing that the stream says: names are checked single elements, each greater than the one before in
// its directory, and everything is made anew (O_EXCL) in a directory that was itself made here.
type receiver struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	root   int
	plan   plan
	pool   *pool

	stack   []*node          // the directories that the stream is in
	targets map[uint64]place // of entries that get more names, by number
	file    *file            // the one whose chunks come now
	sizes   int64            // of all files so far
	expect  []uint64         // hash of each entry's encoding, by number
	sums    sums             // of each file's content, by number
	jobs    chan func() error
	wg      sync.WaitGroup
	files   atomic.Int64 // written and read back
	bytes   atomic.Int64

	mu      sync.Mutex
	handles map[int]bool // of directories and files that are not complete
}

// keep notes a handle that is to be closed by drop, or by finish.
func (r *receiver) keep(fd int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.handles[fd] = true
}

func (r *receiver) drop(fd int) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.handles, fd)
	return unix.Close(fd)
}

// node is a directory that is being filled.
type node struct {
	parent *node
	name   string
	fd     int
	meta   meta
	last   string       // the greatest name so far
	open   bool         // the stream is in it
	refs   atomic.Int32 // jobs in it, and one while open
}

type place struct {
	dir  *node
	name string
}

// path is the path of an entry below the root, for messages.
func (n *node) path(name string) string {
	for ; n != nil && n.parent != nil; n = n.parent {
		name = n.name + "/" + name
	}
	return name
}

// sums keeps the sums of files by the numbers of their entries. Pages never move, so helpers may fill it while it
// grows.
type sums [][]sum

const sumPage = 4096

func (s *sums) at(number int) *sum {
	for number/sumPage >= len(*s) {
		*s = append(*s, make([]sum, sumPage))
	}
	return &(*s)[number/sumPage][number%sumPage]
}

// newReceiver begins to fill the empty directory root. The caller ends with finish.
func newReceiver(ctx context.Context, root int, p plan, pool *pool) *receiver {
	ctx, cancel := context.WithCancelCause(ctx)
	r := &receiver{
		ctx: ctx, cancel: cancel, root: root, plan: p, pool: pool,
		targets: map[uint64]place{}, jobs: make(chan func() error, 2*workers),
		handles: map[int]bool{},
	}
	for range workers {
		r.wg.Go(r.work)
	}
	return r
}

func (r *receiver) work() {
	for job := range r.jobs {
		if r.ctx.Err() != nil {
			continue
		}
		if err := job(); err != nil {
			r.cancel(err)
		}
	}
}

func (r *receiver) do(job func() error) error {
	select {
	case r.jobs <- job:
		return nil
	case <-r.ctx.Done():
		return context.Cause(r.ctx)
	}
}

// finish waits until the helpers have done what was given to them. It returns the first error of any of them, which
// tells more than a stream that broke, else err.
func (r *receiver) finish(err error) error {
	close(r.jobs)
	r.wg.Wait()
	if cause := ctxErr(r.ctx); cause != nil {
		err = cause
	}
	r.cancel(nil)
	for fd := range r.handles {
		dirfd.Close(fd)
	}
	return err
}

// batch takes in a batch. The buffer is released once the files in it are written.
func (r *receiver) batch(buf *buffer) error {
	defer r.pool.release(buf)
	if r.file != nil {
		return corrupt("a batch comes before the end of a file")
	}
	d := &decoder{b: buf.b}
	var small []smallFileStep
	for len(d.b) > 0 {
		s, err := nextStep(d)
		if err != nil {
			return err
		}
		if s.op == opSmall && !s.links {
			number, err := r.enter(&s)
			if err != nil {
				return err
			}
			small = append(small, smallFileStep{s.meta, s.content, s.sum, r.sums.at(number)})
			if len(small) < 32 {
				continue
			}
		}
		if err := r.writeSmall(small, buf); err != nil {
			return err
		}
		small = nil
		if s.op == opSmall && !s.links {
			continue
		}
		if err := r.step(&s); err != nil {
			return err
		}
	}
	return r.writeSmall(small, buf)
}

// step takes in one entry that is no plain small file.
func (r *receiver) step(s *step) error {
	if s.op == opLeave {
		return r.leave()
	}
	number, err := r.enter(s)
	if err != nil {
		return err
	}
	dir := r.top()
	if s.links {
		r.targets[uint64(number)] = place{dir, s.meta.name}
	}
	// Strings of s.meta are copies; the values of its attributes lie in the frame, which may be released before
	// they are used.
	switch {
	case s.meta.kind == kindDir:
		s.meta.attrs = cloneAttrs(s.meta.attrs)
		err = r.makeDir(s.meta)
	case s.op == opSmall: // in place, so that its other names find it
		one := smallFileStep{s.meta, s.content, s.sum, r.sums.at(number)}
		buf := make([]byte, len(s.content))
		err = r.smallFile(dir, &one, buf)
	case s.op == opBig:
		s.meta.attrs = cloneAttrs(s.meta.attrs)
		err = r.beginFile(dir, s.meta, r.sums.at(number))
	case s.meta.kind == kindLink:
		err = r.link(dir, s.meta)
	default:
		err = makeSpecial(dir.fd, &s.meta)
	}
	if err == nil && s.meta.kind != kindDir && s.meta.kind != kindFile {
		r.files.Add(1)
	}
	if err != nil {
		return fault("make "+dir.path(s.meta.name), err)
	}
	return nil
}

func cloneAttrs(attrs []attr) []attr {
	all := slices.Clone(attrs)
	for i := range all {
		all[i].value = slices.Clone(all[i].value)
	}
	return all
}

// top is the directory that the stream is in, nil before the root.
func (r *receiver) top() *node {
	if len(r.stack) == 0 {
		return nil
	}
	return r.stack[len(r.stack)-1]
}

// enter checks that an entry may come now, and gives it its number.
func (r *receiver) enter(s *step) (number int, err error) {
	m := &s.meta
	dir := r.top()
	switch {
	case int64(len(r.expect)) >= r.plan.entries:
		return 0, corrupt("more than the %d entries that were announced", r.plan.entries)
	case dir == nil && (len(r.expect) > 0 || m.kind != kindDir || m.name != ""):
		return 0, corrupt("%q lies outside of the tree", m.name)
	case dir != nil && m.name <= dir.last:
		return 0, corrupt("%q comes after %q", dir.path(m.name), dir.last)
	case m.size > r.plan.sizes-r.sizes && r.plan.sizes != math.MaxInt64:
		return 0, corrupt("%q has %d bytes, more than were announced", m.name, m.size)
	}
	if dir != nil {
		dir.last = m.name
	}
	r.sizes += m.size
	r.expect = append(r.expect, xxh3.Hash(s.rec))
	return len(r.expect) - 1, nil
}

// makeDir makes a directory and goes into it. The root is there already.
func (r *receiver) makeDir(m meta) error {
	parent := r.top()
	n := &node{parent: parent, name: m.name, meta: m, open: true}
	var err error
	switch {
	case parent == nil:
		n.fd, err = dirfd.Open(r.root, ".")
	case len(r.stack) > maxDepth:
		err = corrupt("the tree is deeper than %d directories", maxDepth)
	default:
		if err = made(parent.fd, &m, unix.Mkdirat(parent.fd, m.name, 0o700)); err == nil {
			n.fd, err = dirfd.Open(parent.fd, m.name)
		}
	}
	if err != nil {
		return err
	}
	r.keep(n.fd)
	n.refs.Store(1)
	r.stack = append(r.stack, n)
	return nil
}

// leave goes out of a directory.
func (r *receiver) leave() error {
	n := r.top()
	if n == nil {
		return corrupt("it leaves a directory that it is not in")
	}
	r.stack = r.stack[:len(r.stack)-1]
	n.open = false
	return r.unref(n)
}

// unref ends one use of a directory. The last gives it what its metadata says; nothing changes in it any more then.
func (r *receiver) unref(n *node) error {
	if n.refs.Add(-1) > 0 {
		return nil
	}
	err := dress(n.fd, &n.meta)
	if err == nil {
		err = touch(n.fd, ".", &n.meta)
	}
	if e := r.drop(n.fd); err == nil {
		err = e
	}
	if err != nil {
		return fault("make the directory "+n.parent.path(n.name), err)
	}
	return nil
}

// complete checks that the stream may end here.
func (r *receiver) complete(err error) error {
	switch {
	case err != nil:
		return decoded("trailer", err)
	case r.file != nil:
		return corrupt("it ends inside of a file")
	case len(r.stack) > 0 || int64(len(r.expect)) != r.plan.entries:
		return corrupt("it ends after %d of %d entries", len(r.expect), r.plan.entries)
	}
	return nil
}

// link makes one more name of an entry that is there.
func (r *receiver) link(dir *node, m meta) error {
	old, ok := r.targets[m.link]
	if !ok {
		return corrupt("%q is another name of entry %d, which has but one", m.name, m.link)
	}
	from, shut, err := r.reopen(old.dir)
	if err != nil {
		return err
	}
	defer shut()
	return linked(from, old.name, unix.Linkat(from, old.name, dir.fd, m.name, 0))
}

// reopen returns a handle of a directory that the stream may have left.
func (r *receiver) reopen(n *node) (fd int, shut func(), err error) {
	if n.open {
		return n.fd, func() {}, nil
	}
	at, shutParent, err := r.reopen(n.parent)
	if err != nil {
		return 0, nil, err
	}
	defer shutParent()
	fd, err = dirfd.Open(at, n.name)
	return fd, func() { dirfd.Close(fd) }, err
}
