package control

import (
	"cmp"
	"context"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/control/store"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// TakeOver implements api.Service.
func (c *Control) TakeOver(ctx context.Context, who pki.Identity, name, to, reason string) (mobyfs.Volume, error) {
	if err := c.allow(who, doTakeOver); err != nil {
		return mobyfs.Volume{}, err
	}
	if err := mobyfs.CheckNodeName(to); err != nil {
		return mobyfs.Volume{}, err
	}
	if reason = clean(reason, maxReason); reason == "" {
		return mobyfs.Volume{}, mobyfs.Errorf(mobyfs.CodeInvalid, "take over volume %q: the reason is missing", name).
			WithHint("say why, for the record: --reason TEXT")
	}
	v, err := c.named(ctx, name)
	if err != nil {
		return mobyfs.Volume{}, err
	}
	v, err = c.takeOver(ctx, v.ID, to, false, reason)
	return c.told.volume(v), err
}

// takeOver gives a volume to another node whose node is silent. In one transaction: the volume is as it was judged, the
// silent node still has no session, and the new one has. So if the old node is back first, it keeps the volume, and if it
// is not, it finds a higher fence. claimed says that the new node asks for the lease itself.
func (c *Control) takeOver(ctx context.Context, id mobyfs.VolumeID, to string, claimed bool, reason string) (mobyfs.Volume, error) {
	var v mobyfs.Volume
	var from string
	var was *mobyfs.Migration
	if err := c.observing(); err != nil {
		return v, err
	}
	err := c.store.Update(ctx, func(tx *store.Tx) (err error) {
		if v, err = tx.Volume(id); err != nil {
			return err
		}
		if err := matches(ctx, v.Revision, title(v)); err != nil {
			return err
		}
		from, was = v.Node, v.Migration
		if v.Node == to {
			return nil // taken over before, or never away
		}
		if err := c.mayTakeOver(v, claimed); err != nil {
			return err
		}
		if _, err := store.Sessions.Get(tx, v.Node); mobyfs.CodeOf(err) != mobyfs.CodeNotFound {
			return cmp.Or(err, c.isBack(v))
		}
		if _, err := store.Downs.Get(tx, v.Node); err != nil {
			return cmp.Or(waitFor(v, c.cfg.SessionTTL), err)
		}
		if err := c.hasSession(tx, to); err != nil {
			return err
		}
		if err := c.staysApart(tx, v, to); err != nil {
			return err
		}
		c.takeAway(&v, to, claimed, reason, c.now())
		return put(tx, takeoverText(from, reason), &v)
	})
	if err == nil && from != to {
		c.metrics.takenOver(claimed, was, v)
		c.say("volume taken over", v)
	}
	if mobyfs.CodeOf(err) == mobyfs.CodeUnavailable && c.silence(from) > 0 && c.lockDelay(from) > 0 {
		c.metrics.waited.Inc()
	}
	return v, err
}

func takeoverText(from, reason string) string {
	return "volume taken over from " + from + ": " + reason
}

// takeAway makes another node the home, as it is decided. Whatever the old home was about ends.
func (c *Control) takeAway(v *mobyfs.Volume, to string, lease bool, reason string, now time.Time) {
	if v.Migration != nil {
		c.end(v, mobyfs.MigrationAborted, reason, now)
	}
	v.Node, v.Arrived, v.Lease = to, "", nil
	c.raise(v)
	if lease {
		v.Lease = &mobyfs.Lease{Node: to, Fence: v.Fence, Since: now.UTC()}
	}
}

// mayTakeOver is nil if the volume may be taken from its node, as far as its class and the node's silence go.
func (c *Control) mayTakeOver(v mobyfs.Volume, claimed bool) error {
	class := takeoverOf(v)
	switch {
	case v.State != mobyfs.VolumeReady || v.Aside != nil || v.Returning():
		return notReady(v)
	case !mobyfs.SharesBytes(v.Spec.WithDefaults().Backend):
		return mobyfs.Errorf(mobyfs.CodeInvalid, "%s can't be taken from %s: its bytes are there and nowhere else", title(v), v.Node).
			WithHint("start %s again: nobody else has the bytes", v.Node)
	case class == mobyfs.TakeoverNever:
		return mobyfs.Errorf(mobyfs.CodeInvalid, "%s may not be taken from %s: its takeover is never", title(v), v.Node).
			WithHint("start %s, or its mobyfs.service", v.Node)
	case class == mobyfs.TakeoverManual && claimed:
		return mobyfs.Errorf(mobyfs.CodeInUse, "%s is held by %s, which is silent, and its takeover is manual", title(v), v.Node).
			WithHint("start %s, or: mobyctl volume takeover %s --to NODE --reason TEXT", v.Node, v.Name)
	case c.silence(v.Node) == 0:
		return c.isBack(v)
	}
	if wait := c.lockDelay(v.Node); wait > 0 {
		return waitFor(v, wait)
	}
	return nil
}

// isBack says that a node is there, so that nothing can be taken from it.
func (c *Control) isBack(v mobyfs.Volume) error {
	return mobyfs.Errorf(mobyfs.CodeInUse, "%s is held by %s, which is there", title(v), v.Node).
		WithHint("mobyctl volume move %s, once no container uses it", v.Name)
}

// waitFor says how long a silent node still has.
func waitFor(v mobyfs.Volume, wait time.Duration) error {
	return mobyfs.Errorf(mobyfs.CodeUnavailable, "%s is held by %s, which has fallen silent", title(v), v.Node).
		WithHint("it can be taken over in %s; try again then", max(wait.Round(time.Second), time.Second))
}

// hasSession is nil if the node is there, as the transaction will make sure.
func (c *Control) hasSession(tx *store.Tx, node string) error {
	_, err := store.Sessions.Get(tx, node)
	if mobyfs.CodeOf(err) == mobyfs.CodeNotFound {
		return mobyfs.Errorf(mobyfs.CodeUnavailable, "%s is not there: control has not heard from it", node).
			WithHint("start %s or its mobyfs.service, then try again", node)
	}
	return err
}
