package control

import (
	"context"
	"errors"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/control/store"
	"github.com/mobyfs/mobyfs/internal/audit"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// Events implements api.Service.
func (c *Control) Events(ctx context.Context, who pki.Identity, since int64, each func([]mobyfs.Event, int64) error) error {
	if err := c.allow(who, doEvents); err != nil {
		return err
	}
	return c.followEvents(ctx, since, func(events []mobyfs.Event, upTo int64) error {
		return each(forReaders(who, events), upTo)
	})
}

// forReaders leaves out of events what is the auditors' alone: refusals, and for a viewer who asked.
func forReaders(who pki.Identity, events []mobyfs.Event) []mobyfs.Event {
	var all []mobyfs.Event
	for _, e := range events {
		if e.Denied != "" {
			continue
		}
		if who.Role == pki.RoleViewer {
			e.Actor = mobyfs.Actor{}
		}
		all = append(all, e)
	}
	return all
}

func (c *Control) followEvents(ctx context.Context, since int64, each func([]mobyfs.Event, int64) error) error {
	if err := c.checkSince(ctx, since); err != nil {
		return err
	}
	err := c.store.FollowEvents(ctx, since, each)
	if errors.Is(err, store.ErrClosed) {
		return mobyfs.Errorf(mobyfs.CodeUnavailable, "control is stopping").WithHint("connect again in a moment")
	}
	return err
}

// checkSince refuses a revision that the store has not reached: it is of another store, or of one before a restore.
func (c *Control) checkSince(ctx context.Context, since int64) error {
	var newest int64
	c.store.View(func(v store.View) { newest = v.Revision() })
	floor, err := c.floor(ctx, since)
	if err != nil {
		return err
	}
	if 0 < since && since <= floor {
		return mobyfs.Errorf(mobyfs.CodeNotFound, "the events up to revision %d are not in the store any more", floor).
			WithHint("begin with since=0 or since=%d; mobyctl audit export has the older ones", floor+1)
	}
	if since <= newest+1 {
		return nil
	}
	_, newest, err = c.store.EventsSince(ctx, since) // another control may be ahead of this one
	if err == nil && since > newest+1 {
		err = mobyfs.Errorf(mobyfs.CodeInvalid, "the store has not come to revision %d yet, it is at %d", since, newest).
			WithHint("begin anew with since=0: these events are of another store, or of before a restore")
	}
	return err
}

// floor is the revision up to which the store has no events any more, as the store has it now: another control may have
// raised it. Nobody needs it who begins at the beginning.
func (c *Control) floor(ctx context.Context, since int64) (int64, error) {
	if since == 0 {
		return 0, nil
	}
	var sealed audit.Segment
	err := c.store.Update(ctx, func(tx *store.Tx) (err error) { sealed, err = segment(tx, store.SegmentFloor); return err })
	return sealed.To, err
}
