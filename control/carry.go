package control

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/control/store"
	"github.com/mobyfs/mobyfs/internal/failpoint"
	"github.com/mobyfs/mobyfs/internal/tracing"
)

// How operations are carried on. Every control process does it for all of them: a step is one transaction, so of several
// processes that take the same one does, and the others find it done.
const (
	carryEvery  = time.Second           // at least; a decision on a volume wakes the carrier
	carryPause  = 20 * time.Millisecond // at least between two looks at all operations
	waitAgain   = 5 * time.Second       // before an operation that waits is tried again
	waitLong    = 30 * time.Second      // before it is once more
	firstAgain  = 5 * time.Second       // before a try after one that failed; doubled with each
	longestWait = 5 * time.Minute
	maxTries    = 6              // of a part of an operation
	keepEnded   = 24 * time.Hour // for which an operation that has ended is shown
)

// carryUntil carries operations on until ctx ends. While there are none it sleeps: whoever learns of one wakes it.
func (c *Control) carryUntil(ctx context.Context) {
	tick := time.NewTicker(carryEvery)
	defer tick.Stop()
	for {
		if c.carry(ctx) {
			tick.Reset(carryEvery)
		} else {
			tick.Stop()
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-c.wake:
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(carryPause):
		}
	}
}

// wakeCarrier makes the carrier look at all operations soon.
func (c *Control) wakeCarrier() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// carry takes the step that each operation is due for, and reports whether there are any that have not ended. What fails
// is tried again with the next tick.
func (c *Control) carry(ctx context.Context) (more bool) {
	due, more := c.due()
	c.carrying.Store(more)
	if c.observing() != nil {
		return more // nothing is decided about volumes until their nodes have told what they hold
	}
	if c.store.Restored() != nil {
		return more // nothing is decided yet
	}
	for _, o := range due {
		if err := c.step(ctx, o); err != nil && ctx.Err() == nil {
			c.log.Warn("an operation could not be carried on", "operation", string(o.ID), "err", err)
		}
	}
	return more
}

// due are the operations for which something may be to be done, as this process knows them: those that have not ended,
// save those that wait for their time, and moves of which nothing is to be told. more says whether some have not ended.
func (c *Control) due() (all []mobyfs.Operation, more bool) {
	now := c.now()
	c.store.View(func(view store.View) {
		for _, o := range store.Operations.All(view) {
			if o.Phase.Ended() || !o.Known() {
				continue
			}
			more = true
			if !idle(view, o, now) {
				all = append(all, o)
			}
		}
	})
	slices.SortFunc(all, func(a, b mobyfs.Operation) int { return strings.Compare(string(a.ID), string(b.ID)) })
	return all, more
}

// idle reports whether a look at the operation would change nothing.
func idle(view store.View, o mobyfs.Operation, now time.Time) bool {
	if o.Kind != mobyfs.OperationMove {
		return false
	}
	v, there := view.Volume(o.Volume)
	whole, part := store.Operations.In(view, string(o.Parent))
	switch {
	case !there || part && whole.Phase.Ended():
		return false
	case o.Phase == mobyfs.OperationRunning:
		return v.Migration != nil && v.Migration.ID == o.Migration
	case o.Phase == mobyfs.OperationWaiting && v.Lease == nil && v.Migration == nil && o.Attempt == 0:
		return false // what it waited for may be over
	}
	return now.Before(o.NextTry)
}

// step carries an operation one step further, if it is still due when it is read.
func (c *Control) step(ctx context.Context, o mobyfs.Operation) error {
	if o.Kind == mobyfs.OperationEvict {
		c.takeFromEvicted(ctx, o)
	}
	var before mobyfs.Operation
	ctx, span := tracing.Continue(tracing.Resume(ctx, o.Traceparent), "operation step")
	failpoint.Reach("control.step.before")
	err := c.store.Update(ctx, func(tx *store.Tx) (err error) {
		if o, err = store.Operations.Get(tx, string(o.ID)); err != nil {
			return err
		}
		if before = o; o.Phase.Ended() || !o.Known() {
			return nil
		}
		if err := c.decideStep(tx, &o); err != nil {
			return err
		}
		return putOperation(tx, before, &o)
	})
	failpoint.Reach("control.step.after")
	tracing.End(span, err)
	if mobyfs.CodeOf(err) == mobyfs.CodeNotFound {
		return nil // it is told of no more
	}
	if err == nil {
		c.sayOperation(before, o)
	}
	return err
}

// decideStep decides the next step of an operation: it changes the row, and what it is about with it.
func (c *Control) decideStep(tx *store.Tx, o *mobyfs.Operation) error {
	switch o.Kind {
	case mobyfs.OperationMove:
		return c.stepMove(tx, o)
	case mobyfs.OperationDrain:
		return c.stepDrain(tx, o)
	case mobyfs.OperationEvict:
		return c.stepEvict(o)
	case mobyfs.OperationRebalance:
		return c.stepRebalance(tx, o)
	case mobyfs.OperationResize:
		return c.stepResize(tx, o)
	case mobyfs.OperationUpgrade:
		c.stepUpgrade(o)
	}
	return nil
}

// putOperation writes the row of an operation if it differs from what it was, and the event if there is something to tell.
func putOperation(tx *store.Tx, before mobyfs.Operation, o *mobyfs.Operation) error {
	if *o == before {
		return nil
	}
	o.Generation++
	if err := store.Operations.Put(tx, string(o.ID), *o); err != nil {
		return err
	}
	if o.Phase == before.Phase {
		return nil
	}
	return tx.Record(mobyfs.Event{Text: howItStands(*o), Volume: o.Volume, Name: o.Name, Node: subject(*o), Migration: o.Migration, Operation: o.ID})
}

// howItStands says how an operation stands, in the words of an event.
func howItStands(o mobyfs.Operation) string {
	text := fmt.Sprintf("%s is %s", o.Kind, o.Phase)
	if o.Cause != "" {
		text += ": " + o.Cause
	}
	return text
}

// subject is the node that an operation is about.
func subject(o mobyfs.Operation) string {
	if o.Node != "" {
		return o.Node
	}
	return o.To
}

// sayOperation logs and counts how an operation stands, if that is news.
func (c *Control) sayOperation(before, o mobyfs.Operation) {
	if before.Phase == o.Phase {
		return
	}
	c.metrics.operation(o)
	attrs := []any{"operation", string(o.ID), "kind", string(o.Kind), "phase", string(o.Phase)}
	for _, a := range [][2]string{{"volume", o.Name}, {"node", o.Node}, {"to", o.To}, {"cause", o.Cause}} {
		if a[1] != "" {
			attrs = append(attrs, a[0], a[1])
		}
	}
	c.log.Info("operation goes on", attrs...)
	c.wakeCarrier()
}

// start makes the row of an operation that begins now, in the trace of ctx.
func (c *Control) start(ctx context.Context, kind mobyfs.OperationKind, id mobyfs.OperationID) mobyfs.Operation {
	return mobyfs.Operation{
		ID: id, Kind: kind, Schema: mobyfs.OperationSchema, Phase: mobyfs.OperationPending, CreatedAt: c.now().UTC(),
		Traceparent: tracing.Parent(ctx),
	}
}

// wait makes an operation wait for what err says. One that waits already is told why anew when its time has come.
func (c *Control) wait(o *mobyfs.Operation, err error) {
	again := waitAgain
	if o.Phase == mobyfs.OperationWaiting {
		if c.now().Before(o.NextTry) {
			return
		}
		again = waitLong
	}
	o.Phase, o.Cause, o.NextTry = mobyfs.OperationWaiting, causeOf(err), c.now().Add(again).UTC()
}

// finish ends an operation.
func (c *Control) finish(o *mobyfs.Operation, phase mobyfs.OperationPhase, cause string) {
	o.Phase, o.Cause, o.NextTry, o.EndedAt = phase, cause, time.Time{}, c.now().UTC()
}

// causeOf is an error as the cause of a row, which holds a bounded text.
func causeOf(err error) string { return clean(err.Error(), maxReason) }

// backOff is how long after so many failed tries the next one begins.
func backOff(failed int) time.Duration {
	return min(firstAgain<<min(max(failed-1, 0), 16), longestWait)
}

// forgetOperations deletes the rows of operations that ended long ago.
func (c *Control) forgetOperations(ctx context.Context) error {
	before := c.now().Add(-keepEnded)
	var old []string
	c.store.View(func(view store.View) {
		for id, o := range store.Operations.All(view) {
			parent, has := store.Operations.In(view, string(o.Parent))
			if o.Phase.Ended() && o.EndedAt.Before(before) && (!has || parent.Phase.Ended()) && len(old) < requestsOnce {
				old = append(old, id)
			}
		}
	})
	if len(old) == 0 {
		return nil
	}
	return c.store.Update(ctx, func(tx *store.Tx) error {
		for _, id := range old {
			if err := store.Operations.Delete(tx, id); err != nil {
				return err
			}
		}
		return nil
	})
}
