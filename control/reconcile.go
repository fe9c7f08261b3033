package control

import (
	"context"
	"fmt"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/control/store"
)

// giveUpAfter is how long a destination may be silent before its migrations are aborted.
const giveUpAfter = 2 * mobyfs.NodeSilence

// reconcileUntil looks after what nobody asks for, until ctx ends.
func (c *Control) reconcileUntil(ctx context.Context) {
	tick, sweep := time.NewTicker(mobyfs.Heartbeat), time.NewTicker(sweepEvery)
	defer tick.Stop()
	defer sweep.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			c.reconcile(ctx)
		case <-sweep.C:
			c.sweep(ctx)
		}
	}
}

// sweepEvery is how often what nobody needs any more is deleted.
const sweepEvery = 10 * time.Minute

func (c *Control) sweep(ctx context.Context) {
	if err := c.forgetTombstones(ctx); err != nil {
		c.log.Warn("records of removed volumes could not be deleted", "err", err)
	}
	if err := c.forgetRequests(ctx); err != nil {
		c.log.Warn("old requests could not be deleted", "err", err)
	}
	if err := c.forgetOperations(ctx); err != nil {
		c.log.Warn("old operations could not be deleted", "err", err)
	}
}

// copying reports whether a volume is being made as a copy.
func copying(v *mobyfs.Volume) bool { return v.State == mobyfs.VolumeCreating && v.Spec.From != "" }

// reconcile aborts the migrations that wait for them too long, and forgets
// what was told of things that are gone. What fails is tried again with the next tick.
func (c *Control) reconcile(ctx context.Context) {
	if c.store.Restored() != nil {
		return // nothing is decided yet
	}
	now := c.now()
	var volumes []mobyfs.Volume
	arriving := map[mobyfs.MigrationID]bool{}
	c.store.View(func(view store.View) {
		for v := range view.Ordered(store.Moving, store.Place{}) {
			arriving[v.Migration.ID] = true
			volumes = append(volumes, *v)
		}
		for v := range view.Ordered(store.InCondition(string(mobyfs.VolumeCreating)), store.Place{}) {
			if copying(v) {
				arriving[v.ID.Copying()] = true
			}
		}
	})
	for _, a := range overdue(volumes, c.silence) {
		_, err := c.decide(ctx, a.volume, func(v *mobyfs.Volume) (string, error) {
			if v.Migration == nil || v.Migration.ID != a.migration {
				return "", nil // it has ended since
			}
			c.keepProgress(v)
			c.end(v, mobyfs.MigrationAborted, a.reason, now)
			return "migration given up", nil
		})
		if err != nil {
			c.log.Warn("a migration could not be given up", "migration", string(a.migration), "err", err)
		}
	}
	c.store.View(func(view store.View) {
		there := func(id mobyfs.VolumeID) bool { _, ok := view.Volume(id); return ok }
		c.told.forget(there, view.Count(store.By{}), arriving)
	})
}

// giveUp is a migration to abort, and why.
type giveUp struct {
	volume    mobyfs.VolumeID
	migration mobyfs.MigrationID
	reason    string
}

// overdue tells the migrations whose destinations have been silent too long.
func overdue(moving []mobyfs.Volume, silence func(node string) time.Duration) []giveUp {
	var all []giveUp
	for _, v := range moving {
		if silent := silence(v.Migration.To); silent > giveUpAfter {
			all = append(all, giveUp{v.ID, v.Migration.ID,
				fmt.Sprintf("%s has been silent for %s", v.Migration.To, silent.Round(time.Second))})
		}
	}
	return all
}
