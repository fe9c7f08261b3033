package control

import (
	"context"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/control/store"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// Claim implements api.Service.
func (c *Control) Claim(ctx context.Context, who pki.Identity, id mobyfs.VolumeID) (mobyfs.Grant, error) {
	if err := c.allow(who, doClaim); err != nil {
		return mobyfs.Grant{}, err
	}
	v, err := c.decideFreed(ctx, id, who, func(tx *store.Tx, v *mobyfs.Volume) (string, error) {
		if mobyfs.SharesBytes(v.Spec.Backend) { // what is answered to a node without a session may be over when it has one
			if err := c.hasSession(tx, who.Name); err != nil {
				return "", err
			}
		}
		return c.claim(tx, v, who.Name)
	})
	if v.Node != who.Name && c.isOrphan(v) {
		v, err = c.takeOver(ctx, id, who.Name, true, "a container on "+who.Name+" wants it")
	}
	if err != nil {
		return mobyfs.Grant{}, err
	}
	return c.grant(v, who.Name)
}

// recallWait is Config.RecallWait where nothing else is said. A holder that only lingers gives a lease back as soon as its
// watch tells it.
const recallWait = time.Second

// decideFreed is decide for a rule that refuses a volume in use: it asks for the lease to be given back, and decides
// again if it was. Not for whoever asks for a change of one revision alone: to ask for the lease is a change already.
func (c *Control) decideFreed(ctx context.Context, id mobyfs.VolumeID, who pki.Identity, rule func(tx *store.Tx, v *mobyfs.Volume) (string, error)) (mobyfs.Volume, error) {
	v, err := c.decideIn(ctx, id, rule)
	if _, one := mobyfs.MatchOf(ctx); one || mobyfs.CodeOf(err) != mobyfs.CodeInUse || !c.recall(ctx, id, who.Name) {
		return v, err
	}
	return c.decideIn(ctx, id, rule)
}

// recall writes into the lease that somebody wants the volume, and reports whether the lease ended before
// Config.RecallWait was over. The mark is no decision: the holder may keep the lease as long as containers use the
// volume, and the fence stays.
func (c *Control) recall(ctx context.Context, id mobyfs.VolumeID, by string) (ended bool) {
	c.metrics.recalled.Inc()
	box := c.store.SubscribeTo(store.VolumeRef(id))
	defer box.Close()
	v, err := c.decide(ctx, id, func(v *mobyfs.Volume) (string, error) {
		if v.Lease == nil || v.Lease.Wanted != "" {
			return "", nil
		}
		lease := *v.Lease
		lease.Wanted = by
		v.Lease = &lease
		return "volume is wanted by " + by, nil
	})
	switch {
	case err != nil:
		return false
	case v.Lease == nil:
		return true
	case c.silence(v.Lease.Node) > 0:
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, c.cfg.RecallWait)
	defer cancel()
	for {
		if _, err := box.Next(ctx); err != nil {
			return false
		}
		if now, ok := c.held(id); !ok || now != v.Lease.Fence {
			return true
		}
	}
}

// held is the fence of a volume's lease as this process knows it, and whether there is one.
func (c *Control) held(id mobyfs.VolumeID) (fence mobyfs.Fence, ok bool) {
	c.store.View(func(view store.View) {
		if v, there := view.Volume(id); there && v.Lease != nil {
			fence, ok = v.Lease.Fence, true
		}
	})
	return fence, ok
}

// claim gives the node the lease if it is the home, and else begins to move the volume to it.
func (c *Control) claim(tx *store.Tx, v *mobyfs.Volume, node string) (string, error) {
	switch {
	case v.State != mobyfs.VolumeReady || v.Aside != nil || v.Returning():
		return "", notReady(*v)
	case v.Migration != nil:
		return c.claimMoving(v, node)
	case v.Node != node && v.Lease != nil:
		return "", c.inUse(*v, "try again")
	case v.Node != node && mobyfs.SharesBytes(v.Spec.Backend):
		if err := c.staysApart(tx, *v, node); err != nil {
			return "", err
		}
		v.Node, v.Arrived = node, ""
		c.give(v)
		return "volume moved, lease given", nil
	case v.Node != node:
		q := c.forMove(*v, false)
		q.Here = node
		if err := c.mayArrive(tx, *v, node, q); err != nil {
			return "", err
		}
		c.begin(v, node, true)
		return "migration begins, for a container waits", nil
	}
	return c.giveOnce(v), nil
}

// giveOnce gives the home the lease unless it has it. What it is told is the fence of the volume, and with that it will release; so a
// lease that is older than the last decision, such as the begin of a live move, is given anew.
func (c *Control) giveOnce(v *mobyfs.Volume) (decided string) {
	switch {
	case v.Lease == nil:
		decided = "lease given"
	case v.Lease.Fence < v.Fence:
		decided = "lease given anew"
	default:
		return ""
	}
	c.give(v)
	return decided
}

// isOrphan reports whether a volume that all nodes see is held by a node that is silent.
func (c *Control) isOrphan(v mobyfs.Volume) bool {
	return v.Lease != nil && mobyfs.SharesBytes(v.Spec.Backend) && c.silence(v.Lease.Node) > 0
}

// claimMoving is claim while a migration is under way.
func (c *Control) claimMoving(v *mobyfs.Volume, node string) (string, error) {
	m := v.Migration
	switch {
	case m.To == node && m.Mount:
		return "", nil
	case m.To == node:
		m.Mount = true // the same decision, with the lease at its end
		return "a container waits for the migration", nil
	case v.Node == node && m.Live && m.State == mobyfs.MigrationCopying:
		return c.giveOnce(v), nil
	case v.Node == node && c.silence(m.To) > 0:
		c.end(v, mobyfs.MigrationAborted, m.To+" fell silent, and a container on "+node+" needs the volume", c.now())
		c.give(v)
		return "migration aborted, lease given", nil
	}
	return "", c.moving(*v)
}

// give makes the home the holder of the lease. Who has it already goes on using the volume.
func (c *Control) give(v *mobyfs.Volume) {
	c.raise(v)
	lease := mobyfs.Lease{Node: v.Node, Since: c.now().UTC()}
	if was := v.Lease; was != nil && was.Node == v.Node {
		lease = *was
	}
	lease.Fence = v.Fence
	v.Lease = &lease
}

// Release implements api.Service.
func (c *Control) Release(ctx context.Context, who pki.Identity, id mobyfs.VolumeID, fence mobyfs.Fence) error {
	if err := c.allow(who, doRelease); err != nil {
		return err
	}
	_, err := c.decide(store.MakingRoom(ctx), id, func(v *mobyfs.Volume) (string, error) { return c.releaseLease(v, who.Name, fence) })
	if mobyfs.CodeOf(err) == mobyfs.CodeNotFound {
		return nil // what does not exist is not held
	}
	return err
}

// releaseLease takes back the lease that was given with the fence. One that ended before is released already.
func (c *Control) releaseLease(v *mobyfs.Volume, node string, fence mobyfs.Fence) (string, error) {
	switch {
	case v.Lease == nil || fence < v.Lease.Fence:
		return "", nil
	case v.Lease.Node != node:
		return "", mobyfs.Errorf(mobyfs.CodeDenied, "%s has not the lease of %s, %s has", node, title(*v), v.Lease.Node).WithHint(lookAgain)
	case fence > v.Lease.Fence:
		return "", mobyfs.Errorf(mobyfs.CodeInvalid, "%s never had fence %v, its lease has %v", title(*v), fence, v.Lease.Fence).
			WithHint("release with the fence of the grant")
	}
	v.Lease = nil
	c.raise(v)
	return "lease released", nil
}
