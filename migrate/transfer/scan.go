package transfer

import (
	"context"
	"runtime"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/dirfd"
)

// batchSize is how many items go from hand to hand at once.
const batchSize = 64

type batch struct {
	items  []item
	buf    []byte // contents
	filled chan struct{}
}

// scanner walks a tree in the canonical order: a directory, then its entries by the bytes of their names, each
// directory's at once, then the directory's end. One goroutine lists, some helpers fill the items ahead of the
// caller, the caller visits them in order.
type scanner struct {
	ctx   context.Context
	want  want
	now   *batch      // being listed
	order chan *batch // to the caller
	work  chan *batch // to the helpers
	free  sync.Pool
	names []byte // scratch of the lister
	attrs attrReader

	mu   sync.Mutex
	open map[*opened]bool
}

// scan calls visit with the items of the tree below the open directory root, which stays open.
func scan(ctx context.Context, root int, w want, visit func(*item) error) error {
	ctx, cancel := context.WithCancel(ctx)
	helpers := max(2, min(workers, runtime.GOMAXPROCS(0)))
	s := &scanner{
		ctx: ctx, want: w, names: make([]byte, 64<<10), open: map[*opened]bool{},
		order: make(chan *batch, 2*helpers), work: make(chan *batch, 2*helpers),
	}
	s.free.New = func() any { return &batch{items: make([]item, 0, batchSize)} }
	var wg sync.WaitGroup
	var listErr error
	wg.Go(func() { listErr = s.list(root) })
	for range helpers {
		wg.Go(s.help)
	}
	err := s.visit(visit)
	cancel()
	wg.Wait()
	for d := range s.open {
		dirfd.Close(d.fd)
	}
	if err == nil {
		err = listErr
	}
	return err
}

// visit hands the items to the caller's function, in order.
func (s *scanner) visit(visit func(*item) error) error {
	for {
		var b *batch
		select {
		case b = <-s.order:
		case <-s.ctx.Done():
			return context.Cause(s.ctx)
		}
		if b == nil {
			return nil // listed to the end, or list tells why not
		}
		<-b.filled // a helper always does that, even after ctx ends
		if s.ctx.Err() != nil {
			return context.Cause(s.ctx) // it may have left items out
		}
		for i := range b.items {
			it := &b.items[i]
			err := it.err
			if err == errGone {
				continue
			}
			if err == nil {
				err = visit(it)
			}
			if err == nil && it.leave {
				err = s.leave(it.dir)
			}
			if err != nil {
				return err
			}
		}
		clear(b.items)
		b.items, b.buf = b.items[:0], b.buf[:0]
		s.free.Put(b)
	}
}

// leave checks that a directory has not changed since it was listed, and closes it.
func (s *scanner) leave(d *opened) error {
	var st unix.Stat_t
	if err := unix.Fstat(d.fd, &st); err != nil {
		return fault("read "+d.path(""), err)
	}
	if stampOf(&st) != d.stamp && s.want != wantLive {
		return changed(d.path("") + "/")
	}
	s.close(d)
	return nil
}

func (s *scanner) close(d *opened) {
	s.mu.Lock()
	delete(s.open, d)
	s.mu.Unlock()
	dirfd.Close(d.fd)
}

// list walks the tree and closes order and work.
func (s *scanner) list(root int) error {
	defer close(s.order)
	defer close(s.work)
	err := s.listDir(nil, ".", root)
	if err == nil {
		err = s.pass()
	}
	return err
}

// listDir lists the directory name in at and everything below.
func (s *scanner) listDir(parent *opened, name string, at int) error {
	d, err := s.enter(parent, name, at)
	if s.want == wantLive && parent != nil && mobyfs.CodeOf(err) == mobyfs.CodeInUse {
		return nil // it is gone
	}
	if err != nil {
		return err
	}
	entries, err := dirfd.List(d.fd, s.names)
	if err == unix.ENOENT && s.want == wantLive {
		entries, err = nil, nil // it was removed
	}
	if err != nil {
		return fault("list "+d.path(""), err)
	}
	slices.SortFunc(entries, func(a, b dirfd.Entry) int { return strings.Compare(a.Name, b.Name) })
	for _, e := range entries {
		if e.Type == unix.DT_UNKNOWN {
			var st unix.Stat_t
			if err := unix.Fstatat(d.fd, e.Name, &st, unix.AT_SYMLINK_NOFOLLOW); err == unix.ENOENT && s.want == wantLive {
				continue
			} else if err != nil {
				return entryError(d, e.Name, err)
			}
			e.Type = uint8(st.Mode & unix.S_IFMT >> 12)
		}
		if e.Type == unix.DT_DIR {
			err = s.listDir(d, e.Name, d.fd)
		} else {
			err = s.add(item{meta: meta{name: e.Name}, dir: d, typ: e.Type})
		}
		if err != nil {
			return err
		}
	}
	return s.add(item{dir: d, leave: true, ready: true})
}

// enter opens a directory and passes on its item.
func (s *scanner) enter(parent *opened, name string, at int) (*opened, error) {
	fd, err := openQuietly(at, name, unix.O_DIRECTORY)
	if err != nil {
		return nil, entryError(parent, name, err)
	}
	d := &opened{fd: fd, parent: parent, name: name}
	s.mu.Lock()
	s.open[d] = true
	s.mu.Unlock()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, entryError(parent, name, err)
	}
	d.stamp = stampOf(&st)
	it := item{dir: d, ready: true}
	it.take(&st)
	if parent != nil {
		it.name, d.depth = name, parent.depth+1
	}
	if d.depth > maxDepth {
		return nil, mobyfs.Errorf(mobyfs.CodeInvalid, "the tree is deeper than %d directories at %q", maxDepth, name)
	}
	if s.want >= wantMeta {
		if it.attrs, err = s.attrs.ofFile(fd); err != nil {
			return nil, entryError(parent, name, err)
		}
	}
	return d, s.add(it)
}

// add appends an item to the present batch.
func (s *scanner) add(it item) error {
	if s.now == nil {
		s.now = s.free.Get().(*batch)
		s.now.filled = make(chan struct{})
	}
	s.now.items = append(s.now.items, it)
	if len(s.now.items) < batchSize {
		return nil
	}
	return s.pass()
}

// pass gives the present batch to the caller and the helpers.
func (s *scanner) pass() error {
	b := s.now
	s.now = nil
	if b == nil {
		return nil
	}
	select {
	case s.work <- b: // first, so that every batch in order gets filled
	case <-s.ctx.Done():
		return context.Cause(s.ctx)
	}
	select {
	case s.order <- b:
	case <-s.ctx.Done():
		return context.Cause(s.ctx)
	}
	return nil
}

// help fills batches until there are no more.
func (s *scanner) help() {
	var attrs attrReader
	for b := range s.work {
		for i := range b.items {
			it := &b.items[i]
			if it.ready || s.ctx.Err() != nil {
				continue
			}
			if err := s.fill(it, b, &attrs); err != nil {
				it.err = entryError(it.dir, it.name, err)
				if s.want == wantLive && mobyfs.CodeOf(it.err) == mobyfs.CodeInUse {
					it.err = errGone
				}
			}
		}
		for i := range b.items { // now that the buffer does not move any more
			if it := &b.items[i]; it.inline {
				it.content = b.buf[it.from:it.to:it.to]
			}
		}
		close(b.filled)
	}
}
