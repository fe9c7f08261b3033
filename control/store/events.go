package store

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"

	"github.com/mobyfs/mobyfs"
)

// EventsSince reads the events of revision since and later, in the order of their revisions. It returns the revision up
// to which they are complete.
func (s *Store) EventsSince(ctx context.Context, since int64) ([]mobyfs.Event, int64, error) {
	var all []mobyfs.Event
	rev, err := s.engine.read(ctx, Events.root(), since, func(_ string, e entry) {
		var event mobyfs.Event
		if json.Unmarshal(e.raw, &event) == nil {
			event.Revision = e.rev
			all = append(all, event)
		}
	})
	if err != nil {
		return nil, 0, unavailable("read the events", err)
	}
	slices.SortFunc(all, func(a, b mobyfs.Event) int {
		return cmp.Or(cmp.Compare(a.Revision, b.Revision), cmp.Compare(a.ID, b.ID))
	})
	return all, rev, nil
}
