package store

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/mobyfs/mobyfs/internal/audit"
)

// Names of the segments that are told apart. The others go by SegmentID.
const (
	SegmentHead  = "head"  // the one that was sealed last
	SegmentFloor = "floor" // of this one and those before it the store keeps no events any more
)

// SegmentID is where a segment of the audit trail lies.
func SegmentID(n int64) string { return fmt.Sprintf("%012d", n) }

// AuditCopy says how far a control process has written the audit trail to its own disk.
type AuditCopy struct {
	Through int64     `json:"through"` // the last segment
	At      time.Time `json:"at"`
}

// Trail reads the events of the revisions from first to last as they lie in the store, in their order, and the revision
// up to which they are complete. last may be 0 for all; then at most so many are returned, which end with a revision.
func (s *Store) Trail(ctx context.Context, first, last int64, most int) ([]audit.Entry, int64, error) {
	type keyed struct {
		key string
		audit.Entry
	}
	var all []keyed
	upTo, err := s.engine.read(ctx, Events.root(), first, func(key string, e entry) {
		if last == 0 || e.rev <= last {
			raw := e.raw
			if !json.Valid(raw) {
				raw, _ = json.Marshal(string(raw)) // it is evidence all the same
			}
			all = append(all, keyed{key, audit.Entry{Revision: e.rev, Event: raw}})
		}
	})
	if err != nil {
		return nil, 0, unavailable("read the audit trail", err)
	}
	slices.SortFunc(all, func(a, b keyed) int { return cmp.Or(cmp.Compare(a.Revision, b.Revision), cmp.Compare(a.key, b.key)) })
	if most > 0 && len(all) > most {
		for most < len(all) && all[most].Revision == all[most-1].Revision {
			most++
		}
		all, upTo = all[:most], all[most-1].Revision
	}
	entries := make([]audit.Entry, len(all))
	for i, k := range all {
		entries[i] = k.Entry
	}
	return entries, upTo, nil
}

// SealedSegments reads the segments whose events the store holds, in order.
func (s *Store) SealedSegments(ctx context.Context) ([]audit.Segment, error) {
	var all []audit.Segment
	_, err := s.engine.read(ctx, Segments.root(), 0, func(key string, e entry) {
		id, _ := Segments.idOf(key)
		if seg, err := Segments.decode(id, e.raw, e.rev); err == nil && id == SegmentID(seg.N) {
			all = append(all, seg)
		}
	})
	if err != nil {
		return nil, unavailable("read the audit trail", err)
	}
	return all, nil
}

// DropEvents deletes the events up to a revision, some hundred at a time. Killed in between, it has deleted the oldest.
func (s *Store) DropEvents(ctx context.Context, upTo int64) error {
	var ids []string
	_, err := s.engine.read(ctx, Events.root(), 0, func(key string, e entry) {
		if id, ok := Events.idOf(key); ok && e.rev <= upTo {
			ids = append(ids, id)
		}
	})
	if err != nil {
		return unavailable("read the events", err)
	}
	for part := range slices.Chunk(ids, 200) {
		err := s.Update(ctx, func(tx *Tx) error {
			for _, id := range part {
				if err := Events.Delete(tx, id); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
