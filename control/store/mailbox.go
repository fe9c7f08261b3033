package store

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/mobyfs/mobyfs"
)

// ErrClosed is what a Mailbox says when the store is closed.
var ErrClosed = errors.New("the store is closed")

// Mailbox collects which records changed for one watcher. It holds each record once, however often it changed
// while the watcher was busy, so a slow watcher costs no more than a fast one and sees the newest state.
type Mailbox struct {
	all    *mailboxes
	topics []Ref
	mu     sync.Mutex
	refs   []Ref
	in     map[Ref]bool  // nil if refs are few
	told   func()        // called when there is something to see; nil for who waits in Next
	wake   chan struct{} // of who does: holds one value when there is something to see
	ended  bool
}

// Take returns changes, oldest first; none if there are none. ErrClosed when the store has stopped.
func (m *Mailbox) Take() ([]Ref, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	refs := m.refs
	m.refs, m.in = nil, nil
	if len(refs) == 0 && m.ended {
		return nil, ErrClosed
	}
	return refs, nil
}

// Next waits for changes and returns them, oldest first. ErrClosed when the store has stopped. It is for mailboxes that
// tell nobody.
func (m *Mailbox) Next(ctx context.Context) ([]Ref, error) {
	for {
		if refs, err := m.Take(); len(refs) > 0 || err != nil {
			return refs, err
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
	if m.has(ref) {
		m.all.coalesced.Add(1)
	} else {
		m.refs = append(m.refs, ref)
	}
	m.signal()
}

// fewRefs is up to how many are looked through one by one.
const fewRefs = 8

// has reports whether a record is among refs; if not it is about to be.
func (m *Mailbox) has(ref Ref) bool {
	if m.in == nil && len(m.refs) < fewRefs {
		return slices.Contains(m.refs, ref)
	}
	if m.in == nil {
		m.in = make(map[Ref]bool, 2*fewRefs)
		for _, r := range m.refs {
			m.in[r] = true
		}
	}
	was := m.in[ref]
	m.in[ref] = true
	return was
}

func (m *Mailbox) end() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ended = true
	m.signal()
}

func (m *Mailbox) signal() {
	if m.told != nil {
		m.told()
		return
	}
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// AllOf stands for all records of a kind when one subscribes.
func AllOf(k Kind) Ref { return Ref{Kind: k} }

// Subscribe gives a mailbox that hears of every change from now on.
func (s *Store) Subscribe() *Mailbox { return s.boxes.add(nil, Ref{}) }

// SubscribeTo gives a mailbox that hears from now on of the changes of some records; of a node's also of those of all
// volumes that concern the node, or did before the change.
func (s *Store) SubscribeTo(refs ...Ref) *Mailbox { return s.boxes.add(nil, refs...) }

// Notify is SubscribeTo, of every change if there are no refs, for who does not wait with Next: whenever something is put
// into the mailbox, told is called, which must neither wait nor ask the store.
func (s *Store) Notify(told func(), refs ...Ref) *Mailbox {
	if len(refs) == 0 {
		refs = []Ref{{}}
	}
	return s.boxes.add(told, refs...)
}

// Touch tells subscribers to look at a record again, for what its reader adds to it has changed.
func (s *Store) Touch(ref Ref) {
	n := news{ref: ref}
	s.View(func(v View) {
		if x, ok := v.c.records[ref.Kind][ref.ID].record.(*mobyfs.Volume); ok {
			n.is = x
		}
	})
	s.boxes.touch(n)
}

// mailboxes are those of all watchers. A change costs as much as there are watchers whom it concerns.
type mailboxes struct {
	mu        sync.RWMutex
	boxes     map[Ref]map[*Mailbox]bool // by topic
	n         int
	closed    bool
	coalesced atomic.Int64 // changes that became one with a newer one
}

func (b *mailboxes) add(told func(), topics ...Ref) *Mailbox {
	m := &Mailbox{all: b, topics: topics, told: told}
	if told == nil {
		m.wake = make(chan struct{}, 1)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.boxes == nil {
		b.boxes = map[Ref]map[*Mailbox]bool{}
	}
	for _, topic := range topics {
		if b.boxes[topic] == nil {
			b.boxes[topic] = map[*Mailbox]bool{}
		}
		b.boxes[topic][m] = true
	}
	b.n++
	if b.closed {
		m.end()
	}
	return m
}

func (b *mailboxes) remove(m *Mailbox) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.boxes[m.topics[0]][m] {
		return
	}
	b.n--
	for _, topic := range m.topics {
		if delete(b.boxes[topic], m); len(b.boxes[topic]) == 0 {
			delete(b.boxes, topic)
		}
	}
}

func (b *mailboxes) touch(all ...news) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	for _, n := range all {
		for _, topic := range []Ref{{}, AllOf(n.ref.Kind), n.ref} {
			b.tell(topic, n.ref)
		}
		for node := range n.nodes {
			b.tell(NodeRef(node), n.ref)
		}
	}
}

func (b *mailboxes) tell(topic, ref Ref) {
	for m := range b.boxes[topic] {
		m.put(ref)
	}
}

func (b *mailboxes) count() int {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return b.n
}

func (b *mailboxes) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	for _, boxes := range b.boxes {
		for m := range boxes {
			m.end()
		}
	}
}
