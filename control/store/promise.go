package store

import (
	"context"
	"time"
)

// Promise is written to a node's name with each volume that is promised room there, or that must be apart from others
// there. What is promised stands in the records of the volumes; this one makes those who promise at once exclude each
// other.
type Promise struct {
	Node string    `json:"node"`
	At   time.Time `json:"at"` // of the newest, by the clock of who made it; nothing is decided by it
}

// Known tells up to which revision this process knows what was written to a record, and with it everything that was
// written before. It is for tables that are kept in memory.
func (t Table[T]) Known(v View, id string) int64 {
	return max(v.c.watched, v.c.records[t.Kind][id].rev)
}

// Await waits until this process knows what was written to a record up to a revision.
func (t Table[T]) Await(ctx context.Context, s *Store, id string, rev int64) error {
	box := s.SubscribeTo(t.Ref(id))
	defer box.Close()
	for {
		known := false
		s.View(func(v View) { known = t.Known(v, id) >= rev })
		if known {
			return nil
		}
		if _, err := box.Next(ctx); err != nil {
			return err
		}
	}
}
