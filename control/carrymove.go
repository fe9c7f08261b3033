package control

import (
	"cmp"
	"fmt"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/control/store"
)

// Budgets of moves that are parts of an operation. What operators and containers ask for directly has none.
const (
	movesOfNode    = 2 // away from one node at once
	movesOfCluster = 8
	clusterBudget  = "cluster"
)

func nodeBudget(node string) string { return "node/" + node }

// partID is the ID of the part of an operation that is about a volume. There is one at most, whoever begins it.
func partID(whole mobyfs.OperationID, v mobyfs.VolumeID) mobyfs.OperationID {
	return whole + "." + mobyfs.OperationID(v)
}

// stepMove carries the move of a volume on. Killed between two steps, the migration in the volume's record goes on, and
// the next step reads how it ended.
func (c *Control) stepMove(tx *store.Tx, o *mobyfs.Operation) error {
	v, err := tx.Volume(o.Volume)
	if mobyfs.CodeOf(err) == mobyfs.CodeNotFound {
		return c.finishMove(tx, o, mobyfs.OperationDone, "the volume was removed")
	}
	if err != nil {
		return err
	}
	paused := o.Paused
	if o.Parent != "" {
		whole, err := store.Operations.Get(tx, string(o.Parent))
		switch {
		case mobyfs.CodeOf(err) == mobyfs.CodeNotFound || err == nil && whole.Phase.Ended():
			return c.cancel(tx, o, fmt.Sprintf("the %s of which it was a part has ended", cmp.Or(whole.Kind, "operation")))
		case err != nil:
			return err
		}
		paused = paused || whole.Paused
	}
	if o.Phase == mobyfs.OperationRunning {
		return c.followMove(tx, o, v)
	}
	if paused {
		return nil
	}
	return c.beginMove(tx, o, v)
}

// beginMove begins a try, unless the volume is where it shall be or can't leave.
func (c *Control) beginMove(tx *store.Tx, o *mobyfs.Operation, v mobyfs.Volume) error {
	anywhere := o.Node != "" // but there
	switch m := v.Migration; {
	case v.State == mobyfs.VolumeRemoving:
		return c.finishMove(tx, o, mobyfs.OperationDone, "the volume is being removed")
	case v.State != mobyfs.VolumeReady:
		c.wait(o, notReady(v))
		return nil
	case v.Node == o.To && !anywhere || anywhere && v.Node != o.Node:
		o.To = v.Node
		return c.finishMove(tx, o, mobyfs.OperationDone, "")
	case m != nil && (m.To == o.To || anywhere && m.To != o.Node):
		c.adopt(o, *m)
		return nil
	case m != nil:
		c.wait(o, c.moving(v))
		return nil
	case v.Lease != nil && (!o.Live || mobyfs.SharesBytes(v.Spec.Backend)):
		c.wait(o, c.inUse(v, "it goes on by itself"))
		return c.want(tx, v, howNamed(*o))
	}
	live := o.Live && !mobyfs.SharesBytes(v.Spec.Backend)
	if live {
		if err := c.mayGoLive(tx, v); err != nil && v.Lease != nil {
			c.wait(o, err)
			return nil
		} else if err != nil {
			live = false // nobody uses it
		}
	}
	to, err := c.destination(tx, *o, v, live)
	if err != nil {
		c.wait(o, err)
		return nil
	}
	if mobyfs.SharesBytes(v.Spec.Backend) { // at once, so no budget is needed
		o.From, o.To = v.Node, to
		v.Node, v.Arrived = to, ""
		c.raise(&v)
		if err := put(tx, "volume moved", &v); err != nil {
			return err
		}
		c.finish(o, mobyfs.OperationDone, "")
		return nil
	}
	o.From = v.Node
	if free, err := c.takePlace(tx, *o); err != nil || !free {
		return err
	}
	o.To = to
	c.begin(&v, to, false)
	v.Migration.Operation, v.Migration.Traceparent = o.ID, o.Traceparent
	decided := "migration begins"
	if live {
		v.Migration.Live, v.Migration.Options = true, o.Options
		decided = "live migration begins"
	}
	c.adopt(o, *v.Migration)
	return put(tx, decided, &v)
}

// adopt makes the migration that is under way the operation's try.
func (c *Control) adopt(o *mobyfs.Operation, m mobyfs.Migration) {
	o.Phase, o.Migration, o.From, o.To, o.Cause = mobyfs.OperationRunning, m.ID, m.From, m.To, ""
	if o.StartedAt.IsZero() {
		o.StartedAt = m.StartedAt
	}
}

// destination is where the volume shall go.
func (c *Control) destination(tx *store.Tx, o mobyfs.Operation, v mobyfs.Volume, live bool) (string, error) {
	q := c.forMove(v, live)
	switch {
	case o.Node != "":
		to, _, err := c.chooseBy(tx, v, q)
		return to, err
	case mobyfs.SharesBytes(v.Spec.Backend):
		return o.To, c.takes(tx, o.To, title(v), q)
	}
	return o.To, c.mayArrive(tx, v, o.To, q)
}

// want writes into the lease that an operation wants the volume, so that it is given back as soon as no container uses
// it. It is no decision: the fence stays.
func (c *Control) want(tx *store.Tx, v mobyfs.Volume, by string) error {
	if v.Lease.Wanted != "" {
		return nil
	}
	lease := *v.Lease
	lease.Wanted = by
	v.Lease = &lease
	return put(tx, "volume is wanted by "+by, &v)
}

// howNamed is how texts name an operation.
func howNamed(o mobyfs.Operation) string {
	if o.Node != "" {
		return "the drain of " + o.Node
	}
	return "operation " + string(o.ID)
}

// followMove looks how the try that is under way ended.
func (c *Control) followMove(tx *store.Tx, o *mobyfs.Operation, v mobyfs.Volume) error {
	last := v.LastMove
	switch {
	case v.Migration != nil && v.Migration.ID == o.Migration:
		return nil
	case last != nil && last.ID == o.Migration && c.starting(last):
		return nil
	case v.Arrived == o.Migration || last != nil && last.ID == o.Migration && last.State == mobyfs.MigrationCommitted:
		if last != nil && last.ID == o.Migration {
			o.Progress.Bytes, o.Progress.TotalBytes = last.Progress.Bytes, last.Progress.TotalBytes
		}
		o.Progress.Done = 1
		return c.finishMove(tx, o, mobyfs.OperationDone, "")
	case last != nil && last.ID == o.Migration:
		return c.tryAgain(tx, o, last.Reason)
	case v.Node == o.To:
		return c.finishMove(tx, o, mobyfs.OperationDone, "")
	}
	return c.finishMove(tx, o, mobyfs.OperationFailed, "other moves have come after it")
}

// tryAgain counts a failed try. A part of an operation is tried again after a while; what an operator asked for is the
// operator's to ask for again.
func (c *Control) tryAgain(tx *store.Tx, o *mobyfs.Operation, why string) error {
	o.Attempt++
	if o.Parent == "" || o.Attempt >= maxTries {
		return c.finishMove(tx, o, mobyfs.OperationFailed, why)
	}
	o.Phase, o.Cause, o.NextTry = mobyfs.OperationWaiting, clean(why, maxReason), c.now().Add(backOff(o.Attempt)).UTC()
	return c.givePlace(tx, *o)
}

func (c *Control) finishMove(tx *store.Tx, o *mobyfs.Operation, phase mobyfs.OperationPhase, cause string) error {
	c.finish(o, phase, cause)
	return c.givePlace(tx, *o)
}

// takePlace reports whether the budgets have a place for the move, which then has it.
func (c *Control) takePlace(tx *store.Tx, o mobyfs.Operation) (bool, error) {
	if o.Parent == "" {
		return true, nil
	}
	return store.TakePlace(tx, o.ID, map[string]int{nodeBudget(o.From): movesOfNode, clusterBudget: movesOfCluster})
}

func (c *Control) givePlace(tx *store.Tx, o mobyfs.Operation) error {
	if o.Parent == "" {
		return nil
	}
	return store.GivePlace(tx, o.ID, nodeBudget(o.From), clusterBudget)
}
