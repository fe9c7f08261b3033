package store

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
)

// ErrClosed is what a Mailbox says when the store is closed.
var ErrClosed = errors.New("the store is closed")

// Mailbox collects which records changed for one watcher. It holds each record once, however often it changed
// while the watcher was busy, so a slow watcher costs no more than a fast one and sees the newest state.
type Mailbox struct {
	all   *mailboxes
	mu    sync.Mutex
	refs  []Ref
	in    map[Ref]bool
	wake  chan struct{} // holds one value when there is something to see
	ended bool
}

// Next waits for changes and returns them, oldest first. ErrClosed when the store has stopped.
func (m *Mailbox) Next(ctx context.Context) ([]Ref, error) {
	for {
		m.mu.Lock()
		refs, ended := m.refs, m.ended
		m.refs = nil
		clear(m.in)
		m.mu.Unlock()
		switch {
		case len(refs) > 0:
			return refs, nil
		case ended:
			return nil, ErrClosed
		}
		select {
		case <-m.wake:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Close ends the subscription. It may be called twice.
func (m *Mailbox) Close() { m.all.remove(m) }

func (m *Mailbox) put(ref Ref) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.in[ref] {
		m.all.coalesced.Add(1)
	} else {
		m.in[ref] = true
		m.refs = append(m.refs, ref)
	}
	m.signal()
}

func (m *Mailbox) end() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ended = true
	m.signal()
}

func (m *Mailbox) signal() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// Subscribe gives a mailbox that hears of every change from now on.
func (s *Store) Subscribe() *Mailbox { return s.boxes.add() }

// Touch tells all subscribers to look at a record again, for what its reader adds to it has changed.
func (s *Store) Touch(ref Ref) { s.boxes.touch(ref) }

// mailboxes are those of all watchers.
type mailboxes struct {
	mu        sync.RWMutex
	boxes     []*Mailbox
	closed    bool
	coalesced atomic.Int64 // changes that became one with a newer one
}

func (b *mailboxes) add() *Mailbox {
	m := &Mailbox{all: b, in: map[Ref]bool{}, wake: make(chan struct{}, 1)}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.boxes = append(b.boxes, m); b.closed {
		m.end()
	}
	return m
}

func (b *mailboxes) remove(m *Mailbox) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.boxes = slices.DeleteFunc(b.boxes, func(x *Mailbox) bool { return x == m })
}

func (b *mailboxes) touch(ref Ref) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	for _, m := range b.boxes {
		m.put(ref)
	}
}

func (b *mailboxes) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	for _, m := range b.boxes {
		m.end()
	}
}
