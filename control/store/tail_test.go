package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/mobyfs/mobyfs"
)

// say writes an event as a change of its own.
func say(t *testing.T, s *Store, text string) {
	t.Helper()
	if err := s.Update(t.Context(), func(tx *Tx) error { return tx.Record(mobyfs.Event{Text: text}) }); err != nil {
		t.Fatal(err)
	}
}

// heard follows the events from a revision until it has heard so many.
func heard(t *testing.T, s *Store, since int64, n int) []mobyfs.Event {
	t.Helper()
	enough := errors.New("enough")
	var all []mobyfs.Event
	err := s.FollowEvents(t.Context(), since, func(events []mobyfs.Event, upTo int64) error {
		for _, e := range events {
			if e.Revision > upTo {
				t.Errorf("an event of revision %d comes with those up to %d", e.Revision, upTo)
			}
		}
		if all = append(all, events...); len(all) >= n {
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) {
		t.Fatalf("following ended with %v", err)
	}
	return all
}

func TestFollowersHearEveryEventOnceInTheOrderOfRevisions(t *testing.T) {
	engines(t, func(t *testing.T, s *Store) {
		const n = 50
		for i := range n / 2 {
			say(t, s, fmt.Sprint(i))
		}
		told := make(chan []mobyfs.Event)
		go func() { told <- heard(t, s, 0, n) }()
		for i := n / 2; i < n; i++ {
			say(t, s, fmt.Sprint(i))
		}
		all := <-told
		for i, e := range all {
			if e.Text != fmt.Sprint(i) || i > 0 && e.Revision <= all[i-1].Revision {
				t.Errorf("event %d is %q of revision %d", i, e.Text, e.Revision)
			}
		}
		if again := heard(t, s, all[20].Revision, n-20); again[0].ID != all[20].ID {
			t.Errorf("whoever goes on at revision %d hears %q first", all[20].Revision, again[0].Text)
		}
	})
}

func TestEventsOlderThanMemoryAreReadFromTheStore(t *testing.T) {
	m := NewMemory()
	s := openMemory(t, m)
	say(t, s, "before")
	other := openMemory(t, m) // its tail begins here
	say(t, s, "after")
	if all := heard(t, other, 0, 2); all[0].Text != "before" || all[1].Text != "after" {
		t.Errorf("it heard %v", all)
	}
}

func TestTailForgetsWholeRevisions(t *testing.T) {
	tail := newTail()
	tail.reset(10)
	for rev := int64(11); rev < 11+tailLength; rev++ {
		var changes []change
		for _, id := range []string{"b", "a"} {
			changes = append(changes, change{Events.key(fmt.Sprint(id, rev)), []byte(`{"id":"` + id + `"}`), rev})
		}
		tail.learn(changes, rev)
	}
	_, _, _, ok := tail.since(tail.floor)
	if ok || tail.floor == 10 || len(tail.events) > tailLength {
		t.Errorf("it has %d events behind revision %d", len(tail.events), tail.floor)
	}
	events, upTo, _, ok := tail.since(tail.floor + 1)
	if !ok || upTo != 10+tailLength || len(events) != int(upTo-tail.floor)*2 {
		t.Errorf("behind revision %d come %d events up to %d", tail.floor, len(events), upTo)
	}
	if !slices.IsSortedFunc(events, func(a, b mobyfs.Event) int {
		if a.Revision != b.Revision {
			return int(a.Revision - b.Revision)
		}
		return slices.Compare([]byte(a.ID), []byte(b.ID))
	}) {
		t.Error("they are not in order")
	}
}

func TestFollowingEndsWithTheStoreAndWithItsContext(t *testing.T) {
	s := openMemory(t, NewMemory())
	ctx, cancel := context.WithCancel(t.Context())
	follow := func() chan error {
		began, ended := make(chan struct{}), make(chan error, 1)
		go func() {
			ended <- s.FollowEvents(ctx, 0, func([]mobyfs.Event, int64) error { close(began); return nil })
		}()
		<-began
		return ended
	}
	first := follow()
	cancel()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Errorf("it ended with %v", err)
	}
	ctx = t.Context()
	second := follow()
	closeStore(t, s)
	if err := <-second; !errors.Is(err, ErrClosed) {
		t.Errorf("it ended with %v", err)
	}
}
