package control

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/api"
	"github.com/mobyfs/mobyfs/control/placement"
	"github.com/mobyfs/mobyfs/control/store"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// ticketLife is how long after control's answer a pull may begin.
const ticketLife = 5 * time.Minute

// Bounds of what a destination may write into a record, in bytes.
const (
	maxReason = 500
	maxDigest = 200
)

// MoveVolume implements api.Service.
func (c *Control) MoveVolume(ctx context.Context, who pki.Identity, name string, how api.MoveRequest) (mobyfs.Volume, error) {
	if err := c.allow(who, doMove); err != nil {
		return mobyfs.Volume{}, err
	}
	if how.To != "" {
		if err := mobyfs.CheckNodeName(how.To); err != nil {
			return mobyfs.Volume{}, err
		}
	}
	how, err := checkMove(how)
	if err != nil {
		return mobyfs.Volume{}, err
	}
	v, err := c.named(ctx, name)
	if err != nil {
		return mobyfs.Volume{}, err
	}
	rule := func(tx *store.Tx, v *mobyfs.Volume) (string, error) { return c.moveAsOperation(tx, v, how) }
	if how.Live {
		v, err = c.decideIn(ctx, v.ID, rule)
	} else {
		v, err = c.decideFreed(ctx, v.ID, who, rule)
	}
	if err != nil {
		return mobyfs.Volume{}, err
	}
	return c.told.volume(v), nil
}

// checkMove returns how a volume is to move in the one form that it has, or says why it can't be.
func checkMove(how api.MoveRequest) (api.MoveRequest, error) {
	o, err := how.Options.Check()
	if err != nil {
		return how, err
	}
	if how.Options = o; !how.Live && o != (mobyfs.MoveOptions{}) {
		return how, mobyfs.Errorf(mobyfs.CodeInvalid, "move a volume: the options are those of a live move, and this is none").
			WithHint("add --live, or leave them out")
	}
	return how, nil
}

// moveAsOperation is move with a row that tells how it goes on.
func (c *Control) moveAsOperation(tx *store.Tx, v *mobyfs.Volume, how api.MoveRequest) (string, error) {
	decided, err := c.move(tx, v, how)
	if err != nil || decided == "" || v.Migration == nil {
		return decided, err
	}
	none := c.start(tx.Context(), mobyfs.OperationMove, mobyfs.OperationID(c.newID()))
	none.Volume, none.Name, none.Progress.Total = v.ID, v.Name, 1
	none.Live, none.Options = how.Live, how.Options
	o := none
	c.adopt(&o, *v.Migration)
	v.Migration.Operation = o.ID
	return decided, putOperation(tx, none, &o)
}

func (c *Control) move(tx *store.Tx, v *mobyfs.Volume, how api.MoveRequest) (string, error) {
	shared := mobyfs.SharesBytes(v.Spec.Backend)
	switch {
	case v.State != mobyfs.VolumeReady || v.Aside != nil || v.Returning():
		return "", notReady(*v)
	case v.Migration != nil && (v.Migration.To == how.To || how.To == ""):
		return "", nil // that is what goes on
	case v.Migration != nil:
		return "", c.moving(*v)
	case v.Node == how.To:
		return "", nil // it is there
	case v.Lease != nil && shared:
		return "", c.inUse(*v, "try again")
	case v.Lease != nil && !how.Live:
		return "", c.inUseMove(*v, how.To)
	}
	to, err := c.arrival(tx, *v, how)
	if err != nil {
		return "", err
	}
	if shared {
		v.Node, v.Arrived = to, ""
		c.raise(v)
		return "volume moved", nil
	}
	c.begin(v, to, false)
	if how.Live {
		v.Migration.Live, v.Migration.Options = true, how.Options
		return "live migration begins", nil
	}
	return "migration begins", nil
}

// arrival is the node to which a volume can move as it is asked for, and promises the node's room to it.
func (c *Control) arrival(tx *store.Tx, v mobyfs.Volume, how api.MoveRequest) (string, error) {
	shared := mobyfs.SharesBytes(v.Spec.Backend)
	q := c.forMove(v, how.Live && !shared)
	if q.Live {
		if err := c.mayGoLive(tx, v); err != nil {
			return "", err
		}
	}
	if how.To == "" {
		to, _, err := c.chooseBy(tx, v, q)
		if err == nil && !shared {
			err = c.mayLeave(v, to)
		}
		return to, err
	}
	if shared {
		return how.To, c.takes(tx, how.To, title(v), q)
	}
	return how.To, c.mayArrive(tx, v, how.To, q)
}

// forMove asks where a volume can go, by what nodes have told of it.
func (c *Control) forMove(v mobyfs.Volume, live bool) placement.Question {
	q := placement.ForMove(c.told.volume(v), c.cfg.Placement)
	q.Live = live
	return q
}

// inUseMove is inUse for a move that would have to be live.
func (c *Control) inUseMove(v mobyfs.Volume, to string) error {
	where, _ := c.told.volume(v).InUse()
	if to != "" {
		to = " --to " + to
	}
	return mobyfs.Errorf(mobyfs.CodeInUse, "%s is in use %s", title(v), where).
		WithHint("stop it there, or move the volume while it is used: mobyctl volume move %s%s --live, with --with-containers to run what uses it there too", v.Name, to)
}

// mayArrive is nil if a migration of the volume to the node can succeed as far as control knows, and promises the node's
// room to it.
func (c *Control) mayArrive(tx *store.Tx, v mobyfs.Volume, to string, q placement.Question) error {
	if err := c.mayLeave(v, to); err != nil {
		return err
	}
	return c.takes(tx, to, title(v), q)
}

// mayLeave is nil if the volume can be fetched from its home, and nothing of it lies on the node already.
func (c *Control) mayLeave(v mobyfs.Volume, to string) error {
	if v.KeepsAt(to) {
		return mobyfs.Errorf(mobyfs.CodeExists, "%s can't go to %s: other bytes of it are kept there since control was restored", title(v), to).
			WithHint("look at them there, then: mobyctl volume settle %s --drop %s", v.Name, to)
	}
	if silent := c.silence(v.Node); silent > 0 {
		return mobyfs.Errorf(mobyfs.CodeUnavailable, "%s is on %s, which has been silent for %s", title(v), v.Node, silent.Round(time.Second)).
			WithHint("start %s or its mobyfs.service, then try again", v.Node)
	}
	return nil
}

// begin writes a migration into the record. From now on only its end gives anybody the volume.
func (c *Control) begin(v *mobyfs.Volume, to string, mount bool) {
	c.raise(v)
	v.UsedBytes = c.told.volume(*v).UsedBytes // the promise of room there goes by the record
	v.Migration = &mobyfs.Migration{
		ID: mobyfs.MigrationID(c.newID()), From: v.Node, To: to, Fence: v.Fence, Mount: mount,
		State: mobyfs.MigrationCopying, StartedAt: c.now().UTC(),
	}
}

// end takes the migration out of the record, where it becomes the last one.
func (c *Control) end(v *mobyfs.Volume, state mobyfs.MigrationState, reason string, now time.Time) {
	m := v.Migration
	m.State, m.Reason, m.EndedAt = state, reason, now.UTC()
	v.LastMove, v.Migration = m, nil
	c.raise(v)
}

// CancelMove implements api.Service.
func (c *Control) CancelMove(ctx context.Context, who pki.Identity, name string) (mobyfs.Volume, error) {
	if err := c.allow(who, doMove); err != nil {
		return mobyfs.Volume{}, err
	}
	v, err := c.named(ctx, name)
	if err != nil {
		return mobyfs.Volume{}, err
	}
	v, err = c.decideIn(ctx, v.ID, func(tx *store.Tx, v *mobyfs.Volume) (string, error) {
		switch {
		case v.Migration != nil:
			id, why := v.Migration.Operation, "cancelled by "+who.String()
			c.keepProgress(v)
			c.end(v, mobyfs.MigrationAborted, why, c.now())
			return "migration cancelled", c.cancelRow(tx, id, why)
		case v.LastMove != nil && v.LastMove.State == mobyfs.MigrationAborted:
			return "", nil // asked for before
		}
		return "", mobyfs.Errorf(mobyfs.CodeNotFound, "%s is not being moved, it is on %s", title(*v), v.Node).
			WithHint("mobyctl volume inspect %s tells of its last move", v.Name)
	})
	if err != nil {
		return mobyfs.Volume{}, err
	}
	return c.told.volume(v), nil
}

// Accept implements api.Service.
func (c *Control) Accept(ctx context.Context, who pki.Identity, id mobyfs.VolumeID, migration mobyfs.MigrationID) (mobyfs.Grant, error) {
	if err := c.allow(who, doAccept); err != nil {
		return mobyfs.Grant{}, err
	}
	v, err := c.decide(ctx, id, func(v *mobyfs.Volume) (string, error) {
		if v.Migration == nil || v.Migration.ID != migration {
			return "", mobyfs.Errorf(mobyfs.CodeNotFound, "the migration %.40q of %s is not under way any more", migration, title(*v)).WithHint(lookAgain)
		}
		return "", onlyDestination(v.Migration, *v, who.Name)
	})
	if err != nil {
		return mobyfs.Grant{}, err
	}
	return c.grant(v, who.Name)
}

// Commit implements api.Service.
func (c *Control) Commit(ctx context.Context, who pki.Identity, id mobyfs.VolumeID, migration mobyfs.MigrationID, receipt mobyfs.Receipt) (mobyfs.Grant, error) {
	if err := c.allow(who, doCommit); err != nil {
		return mobyfs.Grant{}, err
	}
	if receipt.Digest == "" || len(receipt.Digest) > maxDigest || !printable(receipt.Digest) || !sane(receipt.Progress) {
		return mobyfs.Grant{}, mobyfs.Errorf(mobyfs.CodeInvalid, "commit migration %.40q: its receipt does not say what has come", migration).
			WithHint("send the receipt of the pull, with its digest")
	}
	v, err := c.decide(ctx, id, func(v *mobyfs.Volume) (string, error) {
		return c.commit(v, who.Name, migration, receipt, c.now())
	})
	if err != nil {
		return mobyfs.Grant{}, err
	}
	return c.grant(v, who.Name)
}

// commit makes the destination the home. It is the only thing that ever changes the home.
func (c *Control) commit(v *mobyfs.Volume, node string, id mobyfs.MigrationID, receipt mobyfs.Receipt, now time.Time) (string, error) {
	m := v.Migration
	if m == nil || m.ID != id {
		if v.Arrived == id && v.Node == node {
			return "", nil // committed before
		}
		return "", endedFor(*v, node, id)
	}
	if err := onlyDestination(m, *v, node); err != nil {
		return "", err
	}
	if err := mayCommit(m, *v, receipt); err != nil {
		return "", err
	}
	m.Progress, m.Digest = receipt.Progress, receipt.Digest
	v.Node, v.Arrived = m.To, m.ID
	c.end(v, mobyfs.MigrationCommitted, "", now)
	v.Lease = nil                                      // of a live one: what used the volume there never goes on
	if m.Mount || m.Live && m.Options.WithContainers { // one decision, one fence
		v.Lease = &mobyfs.Lease{Node: v.Node, Fence: v.Fence, Since: now.UTC()}
	}
	return "migration committed", nil
}

// Abort implements api.Service.
func (c *Control) Abort(ctx context.Context, who pki.Identity, id mobyfs.VolumeID, migration mobyfs.MigrationID, reason string) error {
	if err := c.allow(who, doAbort); err != nil {
		return err
	}
	reason = cmp.Or(clean(reason, maxReason), who.Name+" gave it up")
	_, err := c.decide(ctx, id, func(v *mobyfs.Volume) (string, error) {
		m := v.Migration
		if m == nil || m.ID != migration {
			if l := v.LastMove; l != nil && l.ID == migration && mayAbort(l, *v, who.Name) == nil && l.State == mobyfs.MigrationAborted {
				return "", nil // aborted before
			}
			return "", endedFor(*v, who.Name, migration)
		}
		if err := mayAbort(m, *v, who.Name); err != nil {
			return "", err
		}
		c.keepProgress(v)
		c.end(v, mobyfs.MigrationAborted, reason, c.now())
		return "migration aborted", nil
	})
	return err
}

// keepProgress writes into the record how far the migration came, as its destination has told.
func (c *Control) keepProgress(v *mobyfs.Volume) {
	v.Migration.Progress = c.told.volume(*v).Migration.Progress
}

func onlyDestination(m *mobyfs.Migration, v mobyfs.Volume, node string) error {
	if m.To == node {
		return nil
	}
	return mobyfs.Errorf(mobyfs.CodeDenied, "%s is moving to %s, not to %s", title(v), m.To, node).WithHint(lookAgain)
}

// mayAbort is nil if the node may give the migration up: its destination, and of a live one its source too.
func mayAbort(m *mobyfs.Migration, v mobyfs.Volume, node string) error {
	if m.Live && m.From == node {
		return nil
	}
	return onlyDestination(m, v, node)
}

// endedFor is ended for a node that may have had to do with the migration as its destination.
func endedFor(v mobyfs.Volume, node string, id mobyfs.MigrationID) error {
	if m := v.LastMove; m != nil && m.ID == id {
		if err := mayAbort(m, v, node); err != nil {
			return err
		}
	}
	return ended(v, id)
}

// ended says how a migration ended that is not under way any more.
func ended(v mobyfs.Volume, id mobyfs.MigrationID) error {
	m := v.LastMove
	if m == nil || m.ID != id {
		return mobyfs.Errorf(mobyfs.CodeStaleFence, "the migration %.40q of %s has ended, and others after it", id, title(v)).WithHint(lookAgain)
	}
	how := string(m.State)
	if m.Reason != "" {
		how += " (" + m.Reason + ")"
	}
	return mobyfs.Errorf(mobyfs.CodeStaleFence, "the migration of %s from %s to %s was %s", title(v), m.From, m.To, how).WithHint(lookAgain)
}

// grant answers a node with all that it needs next. If the volume is on its way to it, that is a fresh ticket.
func (c *Control) grant(v mobyfs.Volume, node string) (mobyfs.Grant, error) {
	g := mobyfs.Grant{Volume: c.told.volume(v), Fence: v.Fence}
	m := v.Migration
	if m == nil || m.To != node {
		return g, nil
	}
	var source mobyfs.Node
	c.store.View(func(view store.View) { source, _ = view.Node(m.From) })
	ticket, err := c.cfg.Identity.SignToken(mobyfs.Ticket{
		Migration: m.ID, Volume: v.ID, From: m.From, To: m.To, Fence: m.Fence, Expires: c.now().Add(ticketLife).UTC(), Live: m.Live,
		Traceparent: m.Traceparent,
	}, ticketLife)
	if err != nil {
		return mobyfs.Grant{}, fmt.Errorf("sign a ticket for %s: %w", title(v), err)
	}
	g.Fence = m.Fence
	g.From = &mobyfs.From{Migration: m.ID, Node: m.From, Address: source.Address, Ticket: ticket}
	return g, nil
}

// sane reports whether progress can be true.
func sane(p mobyfs.Progress) bool {
	return p.Files >= 0 && p.Bytes >= 0 && p.TotalBytes >= 0 && p.Round >= 0 && p.Rate >= 0 && p.DirtyRate >= 0 &&
		p.PredictedPause >= 0 && len(p.Feed) <= maxReason && printable(p.Feed)
}

// progress puts how far a migration is into words.
func progress(p mobyfs.Progress) string {
	have := humanize.IBytes(uint64(max(p.Bytes, 0)))
	if p.TotalBytes > 0 {
		return have + " of " + humanize.IBytes(uint64(p.TotalBytes))
	}
	return have + " so far"
}
