package control

import (
	"context"
	"fmt"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/control/store"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// EvictNode implements api.Service. What the node says is refused from the moment on in which the transaction is there;
// what becomes of its volumes is the operation's matter.
func (c *Control) EvictNode(ctx context.Context, who pki.Identity, node, reason string) (mobyfs.Operation, error) {
	if err := c.allow(who, doAdmit); err != nil {
		return mobyfs.Operation{}, err
	}
	o, err := c.beginOnNode(ctx, node, func(tx *store.Tx, n *mobyfs.Node) (mobyfs.Operation, error) {
		if n.Use() == mobyfs.NodeEvicted && n.Operation != "" {
			return store.Operations.Get(tx, string(n.Operation)) // evicted before
		}
		if _, err := c.shutOut(tx, pki.RoleNode, node, reason); err != nil {
			return mobyfs.Operation{}, err
		}
		o := c.start(tx.Context(), mobyfs.OperationEvict, mobyfs.OperationID(c.newID()))
		o.Node, o.Reason = node, clean(reason, maxReason)
		n.Availability, n.Operation = mobyfs.NodeEvicted, o.ID
		n.Generation++
		return o, nil
	})
	if err == nil {
		c.log.Info("evicted", "who", pki.RoleNode+"/"+node, "cause", reason)
		c.endSession(ctx, node)
	}
	return o, err
}

// endSession ends the session of a node that is shut out, so that the wait before its volumes are taken begins now. If it
// fails the session ends by itself.
func (c *Control) endSession(ctx context.Context, node string) {
	var s store.Session
	var there bool
	c.store.View(func(v store.View) { s, there = store.Sessions.In(v, node) })
	if !there {
		return
	}
	if err := c.store.Revoke(ctx, store.Lease(s.Lease)); err != nil {
		c.log.Warn("the session of an evicted node could not be ended; it ends by itself", "node", node, "err", err)
	}
}

// takeFromEvicted ends the migrations from and to an evicted node, and gives the volumes that can be taken from it to
// other nodes, each in a transaction of its own. What can't be done yet is done by a later step.
func (c *Control) takeFromEvicted(ctx context.Context, o mobyfs.Operation) {
	reason := fmt.Sprintf("%s was evicted", o.Node)
	var concerned []mobyfs.Volume
	c.store.View(func(view store.View) { concerned = copies(view, store.OfNode(o.Node)) })
	for _, v := range concerned {
		if v.Migration != nil {
			_, err := c.decide(ctx, v.ID, func(v *mobyfs.Volume) (string, error) {
				if m := v.Migration; m == nil || m.From != o.Node && m.To != o.Node {
					return "", nil
				}
				c.keepProgress(v)
				c.end(v, mobyfs.MigrationAborted, reason, c.now())
				return "migration given up", nil
			})
			c.orWarn("give a migration up", v, err)
			continue
		}
		if v.Node != o.Node || !takeable(v) || c.lockDelay(o.Node) > 0 || c.silence(o.Node) == 0 {
			continue
		}
		to, err := c.homeInstead(ctx, v)
		if err == nil {
			_, err = c.takeOver(ctx, v.ID, to, false, reason)
		}
		c.orWarn("take a volume over", v, err)
	}
}

func (c *Control) orWarn(what string, v mobyfs.Volume, err error) {
	if err != nil {
		c.log.Warn("could not "+what, "volume", v.Name, "err", err)
	}
}

// homeInstead is the node that a volume shall be on in place of its home.
func (c *Control) homeInstead(ctx context.Context, v mobyfs.Volume) (to string, err error) {
	err = c.store.Update(ctx, func(tx *store.Tx) error {
		to, _, err = c.chooseFor(tx, v)
		return err
	})
	return to, err
}

// takeable reports whether a volume can ever be taken from a node that is shut out for good.
func takeable(v mobyfs.Volume) bool {
	return v.State == mobyfs.VolumeReady && mobyfs.SharesBytes(v.Spec.WithDefaults().Backend) &&
		v.Spec.Takeover != "" && v.Spec.Takeover != mobyfs.TakeoverNever
}

// stepEvict counts what is on the node still. It is done when what is left can't be taken.
func (c *Control) stepEvict(o *mobyfs.Operation) error {
	there, _ := c.volumesOf(o.Node)
	var kept []string
	coming := 0
	for _, v := range there {
		if takeable(v) {
			coming++
		} else {
			kept = append(kept, v.Name)
		}
	}
	if o.StartedAt.IsZero() {
		o.StartedAt, o.Progress.Total = c.now().UTC(), len(there)
	}
	o.Phase = mobyfs.OperationRunning
	o.Progress.Done, o.Progress.Waiting = max(o.Progress.Total-len(there), 0), len(kept)
	o.Cause = ""
	if wait := c.lockDelay(o.Node); coming > 0 && wait > 0 {
		o.Cause = fmt.Sprintf("what %s uses is given to others once it has had time to stop", o.Node)
	}
	if coming == 0 {
		c.finish(o, mobyfs.OperationDone, keptText(o.Node, kept))
	}
	return nil
}

// keptText says which volumes stay those of a node that was evicted.
func keptText(node string, names []string) string {
	if len(names) == 0 {
		return ""
	}
	return fmt.Sprintf("%d volumes have their bytes on %s or may not be taken from it: %s", len(names), node, listed(names))
}

// forgetOnce is how many records one transaction of forgetting deletes.
const forgetOnce = 50

// ForgetNode implements api.Service. Killed between two transactions it can be asked for again.
func (c *Control) ForgetNode(ctx context.Context, who pki.Identity, node string, dataLost bool) error {
	if err := c.allow(who, doAdmit); err != nil {
		return err
	}
	if err := mobyfs.CheckNodeName(node); err != nil {
		return err
	}
	if err := c.observing(); err != nil {
		return err
	}
	for {
		left, err := c.forgetSome(ctx, node, dataLost)
		if err != nil || !left {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(carryPause):
		}
	}
}

// forgetSome deletes some records of volumes that were on a node, or the node's if there are none, and reports whether
// there may be more.
func (c *Control) forgetSome(ctx context.Context, node string, dataLost bool) (left bool, err error) {
	var lost []mobyfs.Volume
	var unsure bool
	err = c.store.Update(ctx, func(tx *store.Tx) error {
		lost, unsure = nil, false
		n, err := tx.Node(node)
		switch {
		case mobyfs.CodeOf(err) == mobyfs.CodeNotFound:
			return nil // forgotten before
		case err != nil:
			return err
		case n.Use() != mobyfs.NodeEvicted && n.Use() != mobyfs.NodeDrained:
			return mobyfs.Errorf(mobyfs.CodeInvalid, "%s belongs to the cluster", node).
				WithHint("mobyctl node drain %s, or if it is lost: mobyctl node evict %s", node, node)
		}
		there, complete := c.volumesOf(node)
		switch {
		case len(there) > 0 && !dataLost:
			return mobyfs.Errorf(mobyfs.CodeInUse, "%d volumes have their bytes on %s alone: %s", len(there), node, listed(names(there))).
				WithHint("start %s again, or give them up: mobyctl node forget %s --data-lost", node, node)
		case len(there) == 0 && !complete:
			unsure = true // of what others have decided just now
			return nil
		case len(there) == 0:
			return c.forgetRecord(tx, n)
		}
		for _, v := range there[:min(len(there), forgetOnce)] {
			if v, err = giveUpVolume(tx, v.ID, node); err != nil {
				return err
			}
			lost = append(lost, v)
		}
		return nil
	})
	if err != nil {
		return false, err
	}
	for _, v := range lost {
		c.say("volume given up", v)
	}
	if len(lost) == 0 && !unsure {
		c.log.Info("node is forgotten", "node", node)
		c.endSession(ctx, node)
	}
	return len(lost) > 0 || unsure, nil
}

func names(volumes []mobyfs.Volume) []string {
	all := make([]string, len(volumes))
	for i, v := range volumes {
		all[i] = v.Name
	}
	return all
}

// giveUpVolume deletes the record of a volume whose bytes are lost with its node, and frees its name.
func giveUpVolume(tx *store.Tx, id mobyfs.VolumeID, node string) (mobyfs.Volume, error) {
	v, err := tx.Volume(id)
	if mobyfs.CodeOf(err) == mobyfs.CodeNotFound || err == nil && v.Node != node {
		return v, nil // it is the node's no more
	}
	if err != nil {
		return v, err
	}
	v.State = mobyfs.VolumeRemoving
	if err := tx.PutVolume(&v); err != nil { // frees the name
		return v, err
	}
	if err := tx.DeleteVolume(id); err != nil {
		return v, err
	}
	return v, record(tx, "volume given up with "+node, v)
}

// forgetRecord deletes the record of a node. Its certificate is refused from then on, if it was not before.
func (c *Control) forgetRecord(tx *store.Tx, n mobyfs.Node) error {
	if n.Use() != mobyfs.NodeEvicted {
		if _, err := c.shutOut(tx, pki.RoleNode, n.Name, "it was drained and forgotten"); err != nil {
			return err
		}
	}
	if err := store.Nodes.Delete(tx, n.Name); err != nil {
		return err
	}
	if err := store.Downs.Delete(tx, n.Name); err != nil {
		return err
	}
	if err := store.Promises.Delete(tx, n.Name); err != nil {
		return err
	}
	return tx.Record(mobyfs.Event{Text: "node is forgotten", Node: n.Name})
}
