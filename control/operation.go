package control

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/api"
	"github.com/mobyfs/mobyfs/control/store"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// Operations implements api.Service.
func (c *Control) Operations(_ context.Context, who pki.Identity, q api.OperationQuery) (api.OperationPage, error) {
	if err := c.allow(who, doList); err != nil {
		return api.OperationPage{}, err
	}
	var all []mobyfs.Operation
	c.store.View(func(view store.View) {
		for _, o := range store.Operations.All(view) {
			all = append(all, o)
		}
		for v := range view.Ordered(store.InCondition(string(mobyfs.VolumeCreating)), store.Place{}) {
			all = append(all, c.creation(*v))
		}
	})
	all = slices.DeleteFunc(all, func(o mobyfs.Operation) bool {
		return string(o.ID) <= q.Cursor || !askedOperation(q, parked(o))
	})
	slices.SortFunc(all, func(a, b mobyfs.Operation) int { return strings.Compare(string(a.ID), string(b.ID)) })
	page := api.OperationPage{Operations: []mobyfs.Operation{}}
	limit := cmp.Or(q.Limit, defaultPage)
	for _, o := range all[:min(len(all), limit)] {
		page.Operations = append(page.Operations, c.completedOperation(o))
	}
	if len(all) > limit {
		page.Next = string(all[limit-1].ID)
	}
	return page, nil
}

// askedOperation reports whether a query asks for an operation.
func askedOperation(q api.OperationQuery, o mobyfs.Operation) bool {
	return (q.Kind == "" || q.Kind == string(o.Kind)) &&
		(q.Phase == "" || q.Phase == string(o.Phase)) &&
		(q.Volume == "" || q.Volume == o.Name) &&
		(q.Node == "" || q.Node == o.Node || q.Node == o.From || q.Node == o.To) &&
		(q.Parent == "" || q.Parent == string(o.Parent)) &&
		(!q.Active || !o.Phase.Ended())
}

// Operation implements api.Service.
func (c *Control) Operation(ctx context.Context, who pki.Identity, id mobyfs.OperationID) (mobyfs.Operation, error) {
	if err := c.allow(who, doList); err != nil {
		return mobyfs.Operation{}, err
	}
	o, err := c.operation(ctx, id)
	return c.completedOperation(o), err
}

// operation is the row of an operation as this process knows it, or as the store has it if another has just begun it. A
// creation is told of as long as its volume is there.
func (c *Control) operation(ctx context.Context, id mobyfs.OperationID) (o mobyfs.Operation, err error) {
	if err := mobyfs.CheckOperationID(string(id)); err != nil {
		return o, err
	}
	var ok bool
	c.store.View(func(view store.View) {
		if o, ok = store.Operations.In(view, string(id)); ok {
			return
		}
		var v mobyfs.Volume
		if v, ok = view.Volume(mobyfs.VolumeID(id)); ok {
			o = c.creation(v)
		}
	})
	if ok {
		return o, nil
	}
	err = c.store.Update(ctx, func(tx *store.Tx) (err error) { o, err = store.Operations.Get(tx, string(id)); return err })
	if mobyfs.CodeOf(err) == mobyfs.CodeNotFound {
		err = noOperation(id)
	}
	return o, err
}

func noOperation(id mobyfs.OperationID) error {
	return mobyfs.Errorf(mobyfs.CodeNotFound, "there is no operation %s", id).
		WithHint("mobyctl operation ls lists them; those that have ended are told of for %v", keepEnded)
}

// creation is the making of a volume as an operation. Its row is the volume's record.
func (c *Control) creation(v mobyfs.Volume) mobyfs.Operation {
	o := c.start(context.Background(), mobyfs.OperationCreate, mobyfs.OperationID(v.ID))
	o.Volume, o.Name, o.To, o.Generation, o.Revision = v.ID, v.Name, v.Node, v.Revision, v.Revision
	o.CreatedAt, o.StartedAt, o.Progress.Total = v.CreatedAt, v.CreatedAt, 1
	switch {
	case v.State == mobyfs.VolumeReady:
		o.Phase, o.Progress.Done = mobyfs.OperationDone, 1
	case v.State == mobyfs.VolumeRemoving:
		o.Phase, o.Cause = mobyfs.OperationCancelled, "the volume is being removed"
	case c.silence(v.Node) > 0:
		o.Phase, o.Cause = mobyfs.OperationWaiting, fmt.Sprintf("%s is silent; mobyctl volume rm %s gives it up", v.Node, v.Name)
	default:
		o.Phase = mobyfs.OperationRunning
		p := c.told.progressOf(v.ID.Copying())
		o.Progress.Bytes, o.Progress.TotalBytes = p.Bytes, p.TotalBytes
	}
	return o
}

// parked is an operation as it is shown: one that this program does not know is parked.
func parked(o mobyfs.Operation) mobyfs.Operation {
	if !o.Known() && o.Kind != mobyfs.OperationCreate {
		o.Phase = mobyfs.OperationParked
		o.Cause = fmt.Sprintf("this mobyfs-control does not know operations %q of schema %d: a newer one has begun it", clean(string(o.Kind), maxLabelKey), o.Schema)
	}
	return o
}

// completedOperation is a row with what nodes have told of how far it is, and an estimate of when it ends.
func (c *Control) completedOperation(o mobyfs.Operation) mobyfs.Operation {
	o = parked(o)
	if o.Phase != mobyfs.OperationRunning {
		return o
	}
	var m *mobyfs.Migration
	if o.Kind == mobyfs.OperationMove {
		c.store.View(func(view store.View) {
			v, ok := view.Volume(o.Volume)
			switch {
			case ok && v.Migration != nil && v.Migration.ID == o.Migration:
				m = c.told.volume(v).Migration
			case ok && v.LastMove != nil && v.LastMove.ID == o.Migration:
				m = v.LastMove
			}
		})
	}
	if m != nil {
		o.Progress.Bytes, o.Progress.TotalBytes = m.Progress.Bytes, m.Progress.TotalBytes
	}
	o.ETA = eta(o, c.now())
	if m != nil && m.Live {
		o = c.liveStep(o, *m)
	}
	return o
}

// eta is when an operation ends if it goes on as fast as so far; zero if nothing can be said.
func eta(o mobyfs.Operation, now time.Time) time.Time {
	done, total := float64(o.Progress.Done), float64(o.Progress.Total-o.Progress.Waiting)
	if o.Progress.TotalBytes > 0 {
		done, total = float64(o.Progress.Bytes), float64(o.Progress.TotalBytes)
	}
	if done <= 0 || total < done || !now.After(o.StartedAt) {
		return time.Time{}
	}
	left := float64(now.Sub(o.StartedAt)) / done * (total - done)
	return now.Add(time.Duration(left)).UTC().Truncate(time.Second)
}

// WaitOperation implements api.Service.
func (c *Control) WaitOperation(ctx context.Context, who pki.Identity, id mobyfs.OperationID, generation int64, patience time.Duration) (mobyfs.Operation, error) {
	if err := c.allow(who, doList); err != nil {
		return mobyfs.Operation{}, err
	}
	waiting, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	box := c.store.SubscribeTo(store.Operations.Ref(string(id)), store.VolumeRef(mobyfs.VolumeID(id)))
	defer box.Close()
	for {
		o, err := c.operation(ctx, id)
		if err != nil || o.Generation > generation || o.Phase.Ended() {
			return c.completedOperation(o), err
		}
		if _, err := box.Next(waiting); err != nil {
			return c.completedOperation(o), nil
		}
	}
}

// CancelOperation implements api.Service.
func (c *Control) CancelOperation(ctx context.Context, who pki.Identity, id mobyfs.OperationID) (mobyfs.Operation, error) {
	return c.changeOperation(ctx, who, id, func(tx *store.Tx, o *mobyfs.Operation) error {
		switch {
		case o.Phase == mobyfs.OperationCancelled:
			return nil
		case o.Phase.Ended():
			return mobyfs.Errorf(mobyfs.CodeInvalid, "the %s has ended: it is %s", o.Kind, o.Phase).WithHint("mobyctl operation ls lists what goes on")
		case o.Kind == mobyfs.OperationEvict:
			return mobyfs.Errorf(mobyfs.CodeInvalid, "an eviction can't be taken back: %s is shut out", o.Node).
				WithHint("to let it in again: mobyctl token create --role node --name %s", o.Node)
		}
		return c.cancel(tx, o, "cancelled by "+who.String())
	})
}

// cancel ends an operation before it is done, and undoes what it has begun as far as that can be: what is moving stays
// where it was, what has arrived stays there, and a node that was drained gets no volumes until it is uncordoned.
func (c *Control) cancel(tx *store.Tx, o *mobyfs.Operation, why string) error {
	switch o.Kind {
	case mobyfs.OperationMove:
		v, err := tx.Volume(o.Volume)
		if err != nil && mobyfs.CodeOf(err) != mobyfs.CodeNotFound {
			return err
		}
		if err == nil && v.Migration != nil && v.Migration.ID == o.Migration {
			c.keepProgress(&v)
			c.end(&v, mobyfs.MigrationAborted, why, c.now())
			if err := put(tx, "migration cancelled", &v); err != nil {
				return err
			}
		}
		return c.finishMove(tx, o, mobyfs.OperationCancelled, why)
	case mobyfs.OperationDrain:
		n, err := tx.Node(o.Node)
		if err != nil && mobyfs.CodeOf(err) != mobyfs.CodeNotFound {
			return err
		}
		if err == nil && n.Use() == mobyfs.NodeDraining && n.Operation == o.ID {
			n.Availability, n.Operation = mobyfs.NodeCordoned, ""
			n.Generation++
			if err := tx.PutNode(n); err != nil {
				return err
			}
		}
	}
	c.finish(o, mobyfs.OperationCancelled, why)
	return nil
}

// cancelRow is cancel for a move whose migration has been ended in the same transaction.
func (c *Control) cancelRow(tx *store.Tx, id mobyfs.OperationID, why string) error {
	if id == "" {
		return nil
	}
	o, err := store.Operations.Get(tx, string(id))
	if mobyfs.CodeOf(err) == mobyfs.CodeNotFound || err == nil && (o.Phase.Ended() || !o.Known()) {
		return nil
	}
	if err != nil {
		return err
	}
	before := o
	if err := c.finishMove(tx, &o, mobyfs.OperationCancelled, why); err != nil {
		return err
	}
	return putOperation(tx, before, &o)
}

// RetryOperation implements api.Service.
func (c *Control) RetryOperation(ctx context.Context, who pki.Identity, id mobyfs.OperationID) (mobyfs.Operation, error) {
	return c.changeOperation(ctx, who, id, func(tx *store.Tx, o *mobyfs.Operation) error {
		switch {
		case o.Phase == mobyfs.OperationWaiting:
			o.NextTry = time.Time{} // at once
			return nil
		case o.Phase == mobyfs.OperationDone:
			return mobyfs.Errorf(mobyfs.CodeInvalid, "the %s is done", o.Kind).WithHint("ask for a new one")
		case !o.Phase.Ended():
			return nil // it is being tried
		case o.Parent != "":
			whole, err := store.Operations.Get(tx, string(o.Parent))
			if err != nil || whole.Phase.Ended() {
				return mobyfs.Errorf(mobyfs.CodeInvalid, "the operation of which this is a part has ended").
					WithHint("mobyctl volume move %s --to NODE", o.Name)
			}
		case o.Kind == mobyfs.OperationDrain:
			return mobyfs.Errorf(mobyfs.CodeInvalid, "a drain that was cancelled is not taken up again").WithHint("mobyctl node drain %s", o.Node)
		}
		o.Phase, o.Attempt, o.Cause, o.EndedAt, o.Migration = mobyfs.OperationPending, 0, "", time.Time{}, ""
		return nil
	})
}

// PauseOperation implements api.Service.
func (c *Control) PauseOperation(ctx context.Context, who pki.Identity, id mobyfs.OperationID, paused bool) (mobyfs.Operation, error) {
	return c.changeOperation(ctx, who, id, func(_ *store.Tx, o *mobyfs.Operation) error {
		if o.Phase.Ended() && paused {
			return mobyfs.Errorf(mobyfs.CodeInvalid, "the %s has ended: it is %s", o.Kind, o.Phase).WithHint("mobyctl operation ls lists what goes on")
		}
		o.Paused = paused
		return nil
	})
}

// changeOperation changes the row of an operation for an operator. What changes nothing is not written.
func (c *Control) changeOperation(ctx context.Context, who pki.Identity, id mobyfs.OperationID, rule func(*store.Tx, *mobyfs.Operation) error) (mobyfs.Operation, error) {
	if err := c.allow(who, doOperate); err != nil {
		return mobyfs.Operation{}, err
	}
	known, err := c.operation(ctx, id)
	if err != nil {
		return known, err
	}
	if known.Kind == mobyfs.OperationCreate {
		return known, mobyfs.Errorf(mobyfs.CodeInvalid, "the making of a volume can't be changed").WithHint("give it up: mobyctl volume rm %s", known.Name)
	}
	var before, o mobyfs.Operation
	err = c.store.Update(ctx, func(tx *store.Tx) error {
		if o, err = store.Operations.Get(tx, string(id)); err != nil {
			return err
		}
		if before = o; !o.Known() {
			return mobyfs.Errorf(mobyfs.CodeInvalid, "%s", parked(o).Cause).WithHint("upgrade mobyfs-control")
		}
		if err := rule(tx, &o); err != nil {
			return err
		}
		return putOperation(tx, before, &o)
	})
	if mobyfs.CodeOf(err) == mobyfs.CodeNotFound {
		err = noOperation(id)
	}
	if err != nil {
		return mobyfs.Operation{}, err
	}
	c.sayOperation(before, o)
	c.wakeCarrier()
	return c.completedOperation(o), nil
}
