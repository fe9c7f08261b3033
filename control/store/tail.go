package store

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"sync"
	"time"

	"github.com/mobyfs/mobyfs"
)

// tailLength is how many of the newest events are kept in memory at most for those who follow them. When there are more,
// the older half goes: so none is moved again and again.
const tailLength = 8192

// tail is the newest events, as the one watch of this process has told them: in the order of their revisions, and
// complete between floor and upTo. They are decoded for whoever asks, for mostly nobody does.
type tail struct {
	mu     sync.Mutex
	events []change
	floor  int64         // events of this revision and before are not in it
	upTo   int64         // and those of later ones not yet
	grown  chan struct{} // closed and replaced when upTo rises
}

func newTail() *tail { return &tail{grown: make(chan struct{})} }

// reset begins the tail anew behind a revision: what came before has to be read.
func (t *tail) reset(rev int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.events, t.floor = nil, rev
	t.rise(rev)
}

// learn adds the events among the changes, which are all there are up to a revision.
func (t *tail) learn(changes []change, upTo int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, c := range changes { // in the order of their revisions
		if _, ours := Events.idOf(c.key); ours && c.raw != nil && c.rev > t.upTo {
			t.events = append(t.events, c)
		}
	}
	if len(t.events) > tailLength {
		t.floor = t.events[len(t.events)-tailLength/2-1].rev
		t.events = slices.Clone(t.events[t.behind(t.floor):])
	}
	t.rise(upTo)
}

// behind is where the events of later revisions begin.
func (t *tail) behind(rev int64) int {
	at, _ := slices.BinarySearchFunc(t.events, rev+1, func(c change, rev int64) int { return cmp.Compare(c.rev, rev) })
	return at
}

func (t *tail) rise(upTo int64) {
	t.upTo = max(t.upTo, upTo)
	close(t.grown)
	t.grown = make(chan struct{})
}

// end tells up to which revision it has all events. grown is closed when there may be more.
func (t *tail) end() (upTo int64, grown <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.upTo, t.grown
}

// since tells the events of a revision and later, and up to which revision they are all there are. grown is closed when
// there may be more. It reports false if older ones are asked for than it has.
func (t *tail) since(rev int64) (events []mobyfs.Event, upTo int64, grown <-chan struct{}, ok bool) {
	t.mu.Lock()
	if rev <= t.floor {
		t.mu.Unlock()
		return nil, 0, nil, false
	}
	raw := t.events[t.behind(rev-1):] // what is there is never written to
	upTo, grown = t.upTo, t.grown
	t.mu.Unlock()
	for _, c := range raw {
		events = appendEvent(events, c.raw, c.rev)
	}
	inOrder(events)
	return events, upTo, grown, true
}

// catchUpTime bounds how long a follower waits for what this process has heard of otherwise.
const catchUpTime = time.Second

// catchUp waits until the tail has what this process has heard of before: whoever follows after a change finds its event.
func (s *Store) catchUp(ctx context.Context) {
	var newest int64
	s.View(func(v View) { newest = v.Revision() })
	ctx, cancel := context.WithTimeout(ctx, catchUpTime)
	defer cancel()
	for {
		upTo, grown := s.tail.end()
		if upTo >= newest {
			return
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return
		case <-s.closed:
			return
		}
	}
}

// FollowEvents calls each with the events of revision since and later, in the order of their revisions, and then with
// every new one, until ctx ends or each returns an error. Events of one revision are never parted. upTo is the revision
// up to which nothing is missing; the first call comes at once, with no events if there are none, and with those of all
// that this process has changed before. ErrClosed when the store has stopped.
func (s *Store) FollowEvents(ctx context.Context, since int64, each func(events []mobyfs.Event, upTo int64) error) error {
	s.catchUp(ctx)
	for first := true; ; first = false {
		events, upTo, grown, ok := s.tail.since(since)
		if !ok {
			var err error
			if events, upTo, err = s.EventsSince(ctx, since); err != nil {
				return err
			}
		}
		if len(events) > 0 || first {
			if err := each(events, upTo); err != nil {
				return err
			}
		}
		if since = max(since, upTo+1); !ok {
			continue
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return ctx.Err()
		case <-s.closed:
			return ErrClosed
		case <-s.done:
			return ErrClosed
		}
	}
}

// EventsSince reads the events of revision since and later, in the order of their revisions. It returns the revision up
// to which they are complete.
func (s *Store) EventsSince(ctx context.Context, since int64) ([]mobyfs.Event, int64, error) {
	var all []mobyfs.Event
	rev, err := s.engine.read(ctx, Events.root(), since, func(_ string, e entry) { all = appendEvent(all, e.raw, e.rev) })
	if err != nil {
		return nil, 0, unavailable("read the events", err)
	}
	inOrder(all)
	return all, rev, nil
}

// appendEvent decodes an event, or leaves out what can't be read.
func appendEvent(all []mobyfs.Event, raw []byte, rev int64) []mobyfs.Event {
	var event mobyfs.Event
	if json.Unmarshal(raw, &event) != nil {
		return all
	}
	event.Revision = rev
	return append(all, event)
}

func inOrder(all []mobyfs.Event) {
	slices.SortFunc(all, func(a, b mobyfs.Event) int {
		return cmp.Or(cmp.Compare(a.Revision, b.Revision), cmp.Compare(a.ID, b.ID))
	})
}
