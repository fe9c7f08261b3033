package control

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/api"
	"github.com/mobyfs/mobyfs/control/store"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// partsAtOnce is how many parts of an operation may be begun or be waiting. It is more than the budgets let run, so that
// some that wait keep nobody from going on, and not so many that a node with thousands of volumes fills the store.
const partsAtOnce = 100

// partsInStep is how many parts one step makes.
const partsInStep = 20

// DrainNode implements api.Service.
func (c *Control) DrainNode(ctx context.Context, who pki.Identity, node string, how api.DrainRequest) (mobyfs.Operation, error) {
	if err := c.allow(who, doOperate); err != nil {
		return mobyfs.Operation{}, err
	}
	move, err := checkMove(api.MoveRequest{Live: how.Live, Options: how.Options})
	if err != nil {
		return mobyfs.Operation{}, err
	}
	return c.beginOnNode(ctx, node, func(tx *store.Tx, n *mobyfs.Node) (mobyfs.Operation, error) {
		switch use := n.Use(); {
		case use == mobyfs.NodeDraining:
			return store.Operations.Get(tx, string(n.Operation)) // that is what goes on
		case use == mobyfs.NodeEvicted:
			return mobyfs.Operation{}, mobyfs.Errorf(mobyfs.CodeInvalid, "%s was evicted: nothing can be fetched from it", node).
				WithHint("mobyctl node forget %s, once its volumes are given up", node)
		}
		o := c.start(tx.Context(), mobyfs.OperationDrain, mobyfs.OperationID(c.newID()))
		o.Node, o.Reason = node, clean(how.Reason, maxReason)
		o.Live, o.Options = move.Live, move.Options
		n.Availability, n.Operation = mobyfs.NodeDraining, o.ID
		n.Generation++
		return o, nil
	})
}

// beginOnNode begins an operation on a node in one transaction with the change of the node. rule returns one that there is
// already, or makes the row and changes the node.
func (c *Control) beginOnNode(ctx context.Context, node string, rule func(*store.Tx, *mobyfs.Node) (mobyfs.Operation, error)) (mobyfs.Operation, error) {
	if err := mobyfs.CheckNodeName(node); err != nil {
		return mobyfs.Operation{}, err
	}
	var o mobyfs.Operation
	err := c.store.Update(ctx, func(tx *store.Tx) error {
		n, err := tx.Node(node)
		if mobyfs.CodeOf(err) == mobyfs.CodeNotFound {
			return c.noNode(node)
		}
		if err != nil {
			return err
		}
		revision, err := store.Nodes.Revision(tx, node)
		if err == nil {
			err = matches(ctx, revision, "node "+node)
		}
		if err != nil {
			return err
		}
		if o, err = rule(tx, &n); err != nil || o.Generation > 0 {
			return err
		}
		if err := tx.PutNode(n); err != nil {
			return err
		}
		return putOperation(tx, mobyfs.Operation{}, &o)
	})
	if err == nil {
		c.wakeCarrier()
	}
	return c.completedOperation(o), err
}

// stepDrain looks what is on the node still, and begins to move it. It is done when nothing is.
func (c *Control) stepDrain(tx *store.Tx, o *mobyfs.Operation) error {
	n, err := tx.Node(o.Node)
	switch {
	case mobyfs.CodeOf(err) == mobyfs.CodeNotFound:
		c.finish(o, mobyfs.OperationDone, "the node was forgotten")
		return nil
	case err != nil:
		return err
	case n.Use() != mobyfs.NodeDraining || n.Operation != o.ID:
		c.finish(o, mobyfs.OperationCancelled, fmt.Sprintf("%s is %s", o.Node, n.Use()))
		return nil
	}
	there, complete := c.volumesOf(o.Node)
	p := c.partsOf(*o)
	if len(there) == 0 && p.active == 0 && complete {
		c.count(o, p, 0)
		c.finish(o, mobyfs.OperationDone, "")
		n.Availability, n.Operation = mobyfs.NodeDrained, ""
		n.Generation++
		return tx.PutNode(n)
	}
	if !o.Paused {
		for _, v := range p.missing(*o, there) {
			part := c.part(tx, *o, v)
			part.Node, part.From = o.Node, v.Node
			if err := c.putPart(tx, part); err != nil {
				return err
			}
			p.active++
		}
	}
	c.count(o, p, len(there))
	return nil
}

// volumesOf are the volumes whose home is a node, those that nobody uses first, and whether this process knows all that
// was decided up to what it knows last: what it has written itself it may know before what others wrote.
func (c *Control) volumesOf(node string) (there []mobyfs.Volume, complete bool) {
	complete = c.store.Stats().Lag == 0
	var used []mobyfs.Volume
	c.store.View(func(view store.View) {
		for v := range view.Ordered(store.OfNode(node), store.Place{}) {
			switch {
			case v.Node != node:
				complete = false // it is on its way here
			case v.Lease == nil:
				there = append(there, *v)
			default:
				used = append(used, *v)
			}
		}
	})
	return append(there, used...), complete
}

// parts are the parts of an operation, as this process knows them.
type parts struct {
	byVolume map[mobyfs.VolumeID]mobyfs.Operation
	active   int // have not ended
	waiting  int // of those
	done     int
	causes   []string // why some wait or have failed
}

func (c *Control) partsOf(whole mobyfs.Operation) parts {
	p := parts{byVolume: map[mobyfs.VolumeID]mobyfs.Operation{}}
	c.store.View(func(view store.View) {
		for _, o := range store.Operations.All(view) {
			if o.Parent == whole.ID {
				p.add(o)
			}
		}
	})
	return p
}

func (p *parts) add(o mobyfs.Operation) {
	p.byVolume[o.Volume] = o
	switch {
	case o.Phase == mobyfs.OperationDone:
		p.done++
		return
	case o.Phase == mobyfs.OperationWaiting:
		p.active++
		p.waiting++
	case o.Phase.Ended():
		p.waiting++ // for an operator
	default:
		p.active++
		return
	}
	p.causes = append(p.causes, fmt.Sprintf("%s: %s", o.Name, o.Cause))
}

// missing are the volumes of which parts may be begun now.
func (p *parts) missing(whole mobyfs.Operation, there []mobyfs.Volume) []mobyfs.Volume {
	var all []mobyfs.Volume
	for _, v := range there {
		if len(all) == partsInStep || p.active+len(all) >= partsAtOnce {
			break
		}
		if o, has := p.byVolume[v.ID]; !has || o.Phase == mobyfs.OperationDone {
			all = append(all, v)
		}
	}
	return all
}

// part makes the row of a part that moves a volume.
func (c *Control) part(tx *store.Tx, whole mobyfs.Operation, v mobyfs.Volume) mobyfs.Operation {
	o := c.start(tx.Context(), mobyfs.OperationMove, partID(whole.ID, v.ID))
	o.Parent, o.Volume, o.Name, o.Progress.Total = whole.ID, v.ID, v.Name, 1
	o.Live, o.Options = whole.Live, whole.Options
	return o
}

// putPart writes the row of a part, unless there is one that has not ended well.
func (c *Control) putPart(tx *store.Tx, part mobyfs.Operation) error {
	was, err := store.Operations.Get(tx, string(part.ID))
	switch {
	case mobyfs.CodeOf(err) == mobyfs.CodeNotFound:
	case err != nil:
		return err
	case was.Phase != mobyfs.OperationDone:
		return nil
	default:
		part.Generation = was.Generation // the volume has come back since
	}
	return putOperation(tx, mobyfs.Operation{}, &part)
}

// count writes into the row of an operation how far its parts are, of which there are volumes still to be moved.
func (c *Control) count(o *mobyfs.Operation, p parts, left int) {
	o.Progress = mobyfs.Work{Done: p.done, Total: p.done + left, Waiting: min(p.waiting, left)}
	o.Phase, o.Cause = mobyfs.OperationRunning, ""
	if o.StartedAt.IsZero() {
		o.StartedAt = c.now().UTC()
	}
	if p.waiting > 0 {
		o.Cause = listed(p.causes)
	}
	if p.waiting > 0 && p.waiting >= left {
		o.Phase = mobyfs.OperationWaiting
	}
}

// shownCauses is how many causes a text holds.
const shownCauses = 3

// listed puts some of the causes into one text, the same for the same causes.
func listed(causes []string) string {
	slices.Sort(causes)
	more := ""
	if n := len(causes) - shownCauses; n > 0 {
		causes, more = causes[:shownCauses], fmt.Sprintf("; and %d more", n)
	}
	return clean(strings.Join(causes, "; ")+more, maxReason)
}
