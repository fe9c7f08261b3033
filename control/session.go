package control

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/control/store"
)

// keepSession takes a heartbeat. It writes nothing unless a session begins.
//
// An agent begins a session with its first heartbeat, and then ends that of whichever agent the node had before: that
// one is dead, or it runs on a copy of the machine. If it should still be there, its next heartbeat is refused for good.
func (c *Control) keepSession(ctx context.Context, node string, r mobyfs.Report) (mobyfs.Session, error) {
	var known store.Session
	var ok bool
	c.store.View(func(v store.View) { known, ok = store.Sessions.In(v, node) })
	if ok && known.Instance == r.Instance {
		err := c.store.Renew(ctx, store.Lease(known.Lease))
		if err == nil {
			return c.session(known), nil
		}
		if !errors.Is(err, store.ErrNoLease) {
			return mobyfs.Session{}, err
		}
	}
	s, err := c.beginSession(ctx, node, r)
	if mobyfs.CodeOf(err) == mobyfs.CodeStaleFence {
		if noteErr := c.noteRival(ctx, node, r.Address); noteErr != nil {
			c.log.Warn("write down that two agents speak for one node", "node", node, "err", noteErr)
		}
	}
	return s, err
}

// noteRival writes down that an agent speaks for a node for which another one has the session. Both may be the true one:
// only people can tell.
func (c *Control) noteRival(ctx context.Context, node, address string) error {
	news := false
	err := c.store.Update(ctx, func(tx *store.Tx) error {
		n, err := tx.Node(node)
		if err != nil {
			return err
		}
		if news = c.now().Sub(n.RivalAt) >= mobyfs.RivalEvery; !news {
			return nil
		}
		n.RivalAt = c.now().UTC()
		if err := tx.PutNode(n); err != nil {
			return err
		}
		return tx.Record(mobyfs.Event{Text: "two agents speak for " + node + ": the one at " + clean(address, 300) + " is not heard", Node: node})
	})
	if news && err == nil {
		c.log.Warn("two agents speak for one node", "node", node, "address", address)
	}
	return err
}

func (c *Control) session(s store.Session) mobyfs.Session {
	told := mobyfs.Session{Epoch: s.Epoch, TTLMillis: c.cfg.SessionTTL.Milliseconds()}
	told.NextMillis = nextHeartbeat(s.Node, told.Heartbeat(), c.now()).Milliseconds()
	return told
}

// heartbeatSlots is in how many slots nodes are heard between two heartbeats of one of them. To hear the nodes of a slot
// one right after the other takes a part less of a processor than to be woken for each (docs/decisions/0101).
const heartbeatSlots = 100

// nextHeartbeat is how long after now a node is to be heard again: at the begin of its slot. All controls know the same
// slot for a node, and those of many nodes are spread evenly, however they came. A heartbeat that comes up to half a slot
// too early is that of the slot.
func nextHeartbeat(node string, every time.Duration, now time.Time) time.Duration {
	slot := every / heartbeatSlots
	begin := time.Duration(score(node)%heartbeatSlots) * slot
	next := (begin - time.Duration(now.UnixNano())%every + every) % every
	if next < slot/2 {
		next += every
	}
	return next
}

// beginSession begins one, with which a new node joins, unless another agent has one and this agent's was ended for it.
func (c *Control) beginSession(ctx context.Context, node string, r mobyfs.Report) (mobyfs.Session, error) {
	lease, err := c.store.Grant(ctx, c.cfg.SessionTTL)
	if err != nil {
		return mobyfs.Session{}, err
	}
	var began, before store.Session
	var joined bool
	err = c.store.Update(ctx, func(tx *store.Tx) (err error) {
		before, err = store.Sessions.Get(tx, node)
		if err != nil && mobyfs.CodeOf(err) != mobyfs.CodeNotFound {
			return err
		}
		if err == nil && before.Instance != r.Instance && !r.Begins {
			return replaced(node, before)
		}
		n, err := tx.Node(node)
		if joined = mobyfs.CodeOf(err) == mobyfs.CodeNotFound; joined {
			n, err = mobyfs.Node{Name: node, JoinedAt: c.now().UTC(), Labels: r.Labels, Zone: r.Zone, Rack: r.Rack}, nil
		}
		if err != nil {
			return err
		}
		n = c.described(n, r)
		n.Epoch++
		began = store.Session{Node: node, Instance: r.Instance, Epoch: n.Epoch, Lease: int64(lease), Since: c.now().UTC()}
		if err := tx.PutNode(n); err != nil {
			return err
		}
		if err := store.Sessions.PutLeased(tx, node, began, lease); err != nil {
			return err
		}
		return tx.Record(mobyfs.Event{Text: sessionText(joined), Node: node})
	})
	if err != nil {
		c.metrics.refused(err)
		return mobyfs.Session{}, errors.Join(err, c.store.Revoke(context.WithoutCancel(ctx), lease))
	}
	if before.Lease != 0 {
		err = c.store.Revoke(ctx, store.Lease(before.Lease)) // nothing lies at it any more; it would only run out
	}
	c.log.Info(sessionText(joined), "node", node, "epoch", began.Epoch, "address", r.Address, "version", r.Version)
	c.lookAtSessions(ctx, node) // whoever asks next finds it there
	return c.session(began), err
}

func sessionText(joined bool) string {
	if joined {
		return "node joined"
	}
	return "session begins"
}

func replaced(node string, by store.Session) error {
	return mobyfs.Errorf(mobyfs.CodeStaleFence, "another agent speaks for %s since %s", node, by.Since.Format(time.RFC3339)).
		WithHint("two machines have the certificate of %s: take mobyfs off one of them; to go on here, restart mobyfs.service", node)
}

// followSessions notes which nodes are silent, as the store tells it to all control processes alike, and wakes who carries
// operations on, until ctx ends.
func (c *Control) followSessions(ctx context.Context, box *store.Mailbox) {
	defer box.Close()
	for {
		refs, err := box.Next(ctx)
		if err != nil {
			return
		}
		var nodes []string
		for _, ref := range refs {
			switch ref.Kind {
			case store.KindSession:
				nodes = append(nodes, ref.ID)
			case store.KindOperation:
				c.wakeCarrier()
			}
		}
		c.lookAtSessions(ctx, nodes...)
	}
}

// lookAtSessions notes which nodes have a session. That one has lost its session is written down by whoever sees it
// first; from when on the node may be passed over, each process measures by itself.
func (c *Control) lookAtSessions(ctx context.Context, nodes ...string) {
	var silent []string
	for _, node := range nodes {
		var there, known bool
		c.store.View(func(v store.View) {
			_, there = store.Sessions.In(v, node)
			_, known = v.Node(node)
		})
		if !known || !c.told.setThere(node, there, c.cfg.Clock()) {
			continue
		}
		c.store.Touch(store.NodeRef(node))
		if !there {
			silent = append(silent, node)
		}
	}
	if err := c.writeDown(ctx, silent...); err != nil && ctx.Err() == nil {
		c.log.Warn("write down that nodes are silent", "err", err)
	}
}

// downAtOnce is how many nodes are written down in one transaction: after an outage there are many.
const downAtOnce = 50

// writeDown records once that sessions have ended. Whatever keeps it from one node keeps it from no other, unless the store
// does not answer.
func (c *Control) writeDown(ctx context.Context, nodes ...string) (err error) {
	var due []string
	c.store.View(func(v store.View) {
		for _, node := range nodes {
			n, known := v.Node(node)
			if down, is := store.Downs.In(v, node); known && !(is && down.Epoch == n.Epoch) {
				due = append(due, node)
			}
		}
	})
	for some := range slices.Chunk(due, downAtOnce) {
		err = errors.Join(err, c.writeDownTogether(ctx, some))
	}
	return err
}

func (c *Control) writeDownTogether(ctx context.Context, nodes []string) error {
	var wrote []string
	var unreadable error
	err := c.store.Update(ctx, func(tx *store.Tx) error {
		wrote, unreadable = nil, nil
		for _, node := range nodes {
			ended, err := c.putDown(tx, node)
			switch {
			case mobyfs.CodeOf(err) == mobyfs.CodeCorrupt:
				unreadable = errors.Join(unreadable, err)
			case err != nil:
				return err
			case ended:
				wrote = append(wrote, node)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, node := range wrote {
		c.metrics.lost.Inc()
		c.log.Info("node is silent", "node", node)
	}
	return unreadable
}

// putDown writes that a node's session has ended, and reports whether that was news.
func (c *Control) putDown(tx *store.Tx, node string) (bool, error) {
	if _, err := store.Sessions.Get(tx, node); mobyfs.CodeOf(err) != mobyfs.CodeNotFound {
		return false, err // it has begun anew
	}
	n, err := tx.Node(node)
	if mobyfs.CodeOf(err) == mobyfs.CodeNotFound {
		return false, nil // it was forgotten meanwhile
	}
	if err != nil {
		return false, err
	}
	down, err := store.Downs.Get(tx, node)
	if err == nil && down.Epoch == n.Epoch || err != nil && mobyfs.CodeOf(err) != mobyfs.CodeNotFound {
		return false, err
	}
	if err := store.Downs.Put(tx, node, store.Down{Node: node, Epoch: n.Epoch, Since: c.now().UTC()}); err != nil {
		return false, err
	}
	return true, tx.Record(mobyfs.Event{Text: "session has ended", Node: node})
}

// silence is how long a node has been silent at least, as far as this process can say: 0 while it has a session.
// A session that ended had no heartbeat for its whole TTL before.
func (c *Control) silence(node string) time.Duration {
	since, silent := c.told.lost(node)
	if !silent {
		return 0
	}
	return c.cfg.Clock() - since + c.cfg.SessionTTL
}

// lockDelay is how much longer what a silent node has may not be given to another: a whole TTL after this process saw
// the session end. The node counts its own time from before the heartbeat that control heard last, so it has stopped
// by then; the delay is for a store that ends a session too early. Rule: Consul's lock-delay.
func (c *Control) lockDelay(node string) time.Duration {
	since, silent := c.told.lost(node)
	if !silent {
		return max(c.cfg.LockDelay, 0)
	}
	return max(c.cfg.LockDelay-(c.cfg.Clock()-since), 0)
}

// nodeNames are the names of all nodes that this process knows.
func (c *Control) nodeNames() []string {
	var names []string
	c.store.View(func(v store.View) {
		for n := range v.Nodes {
			names = append(names, n.Name)
		}
	})
	return names
}
