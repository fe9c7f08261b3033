package main

import (
	"context"
	"errors"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/api"
)

// errSeen ends a watch that has seen what it waited for.
var errSeen = errors.New("seen")

// followAgain is how long to wait before a lost connection to control is taken up again.
const followAgain = time.Second

// follow watches a volume until done says yes, and returns its record then. While control is away it waits; the
// work goes on without it. CodeNotFound if the volume is removed meanwhile.
func follow(ctx context.Context, c *api.Client, v mobyfs.Volume, done func(mobyfs.Volume) bool) (mobyfs.Volume, error) {
	if done(v) {
		return v, nil
	}
	for {
		watching, cancel := context.WithCancelCause(ctx)
		err := c.Watch(watching, func(ch mobyfs.Change) {
			now, known := recordIn(ch, v.ID)
			switch {
			case watching.Err() != nil || !known:
			case now == nil:
				cancel(mobyfs.Errorf(mobyfs.CodeNotFound, "volume %q was removed", v.Name))
			default:
				if v = *now; done(v) {
					cancel(errSeen)
				}
			}
		})
		cause := context.Cause(watching)
		cancel(nil)
		switch {
		case errors.Is(cause, errSeen):
			return v, nil
		case cause != nil:
			return v, cause
		case mobyfs.CodeOf(err) != mobyfs.CodeUnavailable:
			return v, err
		}
		select {
		case <-ctx.Done():
			return v, ctx.Err()
		case <-time.After(followAgain):
		}
	}
}

// recordIn tells what a change says of a volume: its record, nil if it is gone, and whether it says anything.
func recordIn(ch mobyfs.Change, id mobyfs.VolumeID) (v *mobyfs.Volume, known bool) {
	switch {
	case ch.Full != nil:
		for i := range ch.Full.Volumes {
			if ch.Full.Volumes[i].ID == id {
				return &ch.Full.Volumes[i], true
			}
		}
		return nil, true
	case ch.Volume != nil:
		return ch.Volume, ch.Volume.ID == id
	default:
		return nil, ch.Gone == id
	}
}
