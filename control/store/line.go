package store

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// Line is how one process reaches a Memory. A simulation cuts it, as a network or a lost quorum does.
type Line struct {
	m   *Memory
	mu  sync.Mutex
	off chan struct{} // closed while the line is cut

	heard atomic.Int64 // the revision up to which its end knows everything, as a member of the store does
}

var errCut = errors.New("the line to the store is cut")

// Line makes one that is whole.
func (m *Memory) Line() *Line { return &Line{m: m, off: make(chan struct{})} }

// Cut cuts the line, or mends it. Whatever waits at it ends with an error.
func (l *Line) Cut(cut bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case cut && !l.isCut():
		close(l.off)
	case !cut && l.isCut():
		l.off = make(chan struct{})
	}
}

func (l *Line) isCut() bool {
	select {
	case <-l.off:
		return true
	default:
		return false
	}
}

// whole is an error if the line is cut, and tells when it will be.
func (l *Line) whole() (off <-chan struct{}, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.isCut() {
		err = errCut
	}
	return l.off, err
}

func (l *Line) get(ctx context.Context, key string) (entry, error) {
	if _, err := l.whole(); err != nil {
		return entry{}, err
	}
	rev := l.m.revision()
	e, err := l.m.get(ctx, key)
	l.hear(max(rev, e.rev))
	return e, err
}

func (l *Line) peek(key string) (entry, bool) { return l.m.tell(key, l.heard.Load()), true }

// hear notes that everything up to a revision has come through.
func (l *Line) hear(rev int64) {
	for was := l.heard.Load(); rev > was && !l.heard.CompareAndSwap(was, rev); {
		was = l.heard.Load()
	}
}

func (l *Line) read(ctx context.Context, prefix string, since int64, each func(key string, e entry)) (int64, error) {
	if _, err := l.whole(); err != nil {
		return 0, err
	}
	rev, err := l.m.read(ctx, prefix, since, each)
	l.hear(rev)
	return rev, err
}

func (l *Line) commit(ctx context.Context, reads map[string]int64, writes map[string]write) (int64, bool, error) {
	if _, err := l.whole(); err != nil {
		return 0, false, err
	}
	rev, done, err := l.m.commit(ctx, reads, writes)
	l.hear(rev)
	return rev, done, err
}

func (l *Line) watch(ctx context.Context, prefix string, from int64, each func(changes []change)) error {
	off, err := l.whole()
	if err != nil {
		return err
	}
	watching, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	go func() {
		select {
		case <-off:
			stop(errCut)
		case <-watching.Done():
		}
	}()
	return l.m.watch(watching, prefix, from, func(changes []change) {
		l.hear(changes[len(changes)-1].rev)
		each(changes)
	})
}

func (l *Line) grant(ctx context.Context, ttl time.Duration) (Lease, error) {
	if _, err := l.whole(); err != nil {
		return 0, err
	}
	return l.m.grant(ctx, ttl)
}

func (l *Line) renew(ctx context.Context, lease Lease) error {
	if _, err := l.whole(); err != nil {
		return err
	}
	return l.m.renew(ctx, lease)
}

func (l *Line) revoke(ctx context.Context, lease Lease) error {
	if _, err := l.whole(); err != nil {
		return err
	}
	return l.m.revoke(ctx, lease)
}
