package store

import (
	"context"
	"errors"
	"sync"
	"time"
)

// Line is how one process reaches a Memory. A simulation cuts it, as a network or a lost quorum does.
type Line struct {
	m   *Memory
	mu  sync.Mutex
	off chan struct{} // closed while the line is cut
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
	return l.m.get(ctx, key)
}

func (l *Line) peek(key string) (entry, bool) { return l.m.peek(key) }

func (l *Line) read(ctx context.Context, prefix string, since int64, each func(key string, e entry)) (int64, error) {
	if _, err := l.whole(); err != nil {
		return 0, err
	}
	return l.m.read(ctx, prefix, since, each)
}

func (l *Line) commit(ctx context.Context, reads map[string]int64, writes map[string]write) (int64, bool, error) {
	if _, err := l.whole(); err != nil {
		return 0, false, err
	}
	return l.m.commit(ctx, reads, writes)
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
	return l.m.watch(watching, prefix, from, each)
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
