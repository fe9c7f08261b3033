package simulation

import (
	"context"
	"slices"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/api"
	"github.com/mobyfs/mobyfs/control"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// How long nodes of the simulation take over a live move.
const (
	stopTime       = 2 * time.Second  // until containers stand still, from the moment that control knows
	lastBytesTime  = 3 * time.Second  // until the destination has the last bytes
	commitPatience = 10 * time.Second // of a source that has given all away
	lookEvery      = 16 * time.Second // a node looks at the records of its volumes, at the most; agents are told of them
)

// hold is what a node has stopped for a live move, as its journal has it: it outlives the agent. No container comes or goes meanwhile.
type hold struct {
	migration mobyfs.MigrationID
	freeze    int           // 0: control may have heard of it, or not
	fence     mobyfs.Fence  // by which containers use the volume; 0 if none do
	stopped   bool          // they stand still
	expects   time.Duration // until then, by the node's clock, the commit may come any moment
	waiting   []func()      // what containers were about to do
}

// operator moves a volume that is copied, while it is used or not, or cancels its move.
func (w *world) operator() {
	w.after(w.upTo(3*time.Minute), w.operator)
	v, to := w.volumes[sharing+w.rng.IntN(local)], w.nodes[w.rng.IntN(hosts)]
	c := w.controls[w.rng.IntN(processes)]
	ana := pki.Identity{Cluster: "shop", Role: pki.RoleOperator, Name: "ana"}
	if w.rng.IntN(8) == 0 {
		_, err := c.CancelMove(context.Background(), ana, v.name)
		w.say("cancel", "ana", v.name, err, 0)
		return
	}
	_, err := c.MoveVolume(context.Background(), ana, v.name, api.MoveRequest{To: to.name, Live: true})
	w.say("move", to.name, v.name, err, 0)
}

// look reads the records of the volumes that are copied, and does what they ask for.
func (n *node) look() {
	n.w.after(n.w.upTo(lookEvery), func() { n.awake(n.look) })
	var ids []mobyfs.VolumeID
	for _, v := range n.w.volumes[sharing:] {
		ids = append(ids, v.id)
	}
	told, err := n.records(ids...)
	if err != nil {
		return
	}
	for _, r := range told {
		v := n.w.volumes[sharing+slices.Index(ids, r.ID)]
		n.follow(v, r)
		if h := n.holds[v]; h != nil {
			n.settle(v, h, r)
		} else if m := r.Migration; m != nil && m.Live && m.From == n.name && m.State == mobyfs.MigrationFreezing {
			err := n.thaw(v, m.ID, m.Freezes) // nothing is frozen here
			n.w.say("disown", n.name, v.name, err, 0)
		}
	}
}

func (n *node) records(ids ...mobyfs.VolumeID) (volumes []mobyfs.Volume, err error) {
	err = n.ask(func(c *control.Control) error {
		told, err := c.Records(context.Background(), n.who(), ids)
		volumes = told.Volumes
		return err
	})
	return volumes, err
}

// follow is what a destination does: it has the volume frozen at its source once most of it is there.
func (n *node) follow(v *volume, r mobyfs.Volume) {
	m := r.Migration
	if m == nil || !m.Live || m.To != n.name {
		return
	}
	i := slices.IndexFunc(n.w.nodes, func(s *node) bool { return s.name == m.From })
	src, id := n.w.nodes[i], m.ID
	switch n.w.rng.IntN(12) {
	case 0: // the message is lost
	case 1:
		err := n.ask(func(c *control.Control) error {
			return c.Abort(context.Background(), n.who(), v.id, id, "the disk is full")
		})
		n.w.say("abort", n.name, v.name, err, 0)
	default:
		n.w.after(n.w.upTo(time.Second), func() { src.awake(func() { src.freeze(v, id, n) }) })
	}
}

// freeze stops what uses a volume, in the order of an agent: the journal, control, the containers; then the last bytes go to the
// destination.
func (n *node) freeze(v *volume, id mobyfs.MigrationID, to *node) {
	if n.holds[v] != nil {
		return
	}
	h := &hold{migration: id, fence: n.held[v], expects: n.clock() + stopTime + lastBytesTime + commitPatience}
	n.holds[v] = h
	var r mobyfs.Volume
	err := n.ask(func(c *control.Control) (err error) {
		r, err = c.Freeze(context.Background(), n.who(), v.id, id)
		return err
	})
	n.w.say("freeze", n.name, v.name, err, h.fence)
	switch {
	case err != nil && mobyfs.CodeOf(err) != mobyfs.CodeUnavailable && mobyfs.CodeOf(err) != mobyfs.CodeInternal:
		n.letGo(v, h) // control has refused it
		return
	case err != nil: // nobody knows; it is taken back
		h.expects = 0
		return
	}
	h.freeze = r.Migration.Freezes
	n.w.after(n.w.upTo(stopTime), func() {
		n.awake(func() {
			if n.holds[v] != h || h.expects == 0 {
				return // the session is over
			}
			h.stopped = true
			last, freeze := v.content[n.name], h.freeze
			n.w.after(n.w.upTo(lastBytesTime), func() { to.awake(func() { to.bring(v, id, freeze, last) }) })
		})
	})
}

// bring commits what came of a freeze. The answer may be lost, and the next look then finds out.
func (n *node) bring(v *volume, id mobyfs.MigrationID, freeze, content int) {
	if n.w.rng.IntN(10) == 0 {
		return // it dies with all that it was told
	}
	if _, err := n.commit(v, id, freeze, content); err == nil {
		n.w.count.LiveMoves++
	}
}

// settle does with what is frozen what control's record says, or asks.
func (n *node) settle(v *volume, h *hold, r mobyfs.Volume) {
	m, last := r.Migration, r.LastMove
	switch {
	case r.Arrived == h.migration || last != nil && last.ID == h.migration && last.State == mobyfs.MigrationCommitted:
		n.end(v)
	case last != nil && last.ID == h.migration && last.State == mobyfs.MigrationAborted,
		m != nil && m.ID == h.migration && m.State == mobyfs.MigrationCopying && h.freeze > 0 && m.Freezes >= h.freeze:
		n.letGo(v, h)
	case n.clock() >= h.expects:
		n.retract(v, h)
	}
}

// retract takes a freeze back, and lets go on what was stopped only if control agrees.
func (n *node) retract(v *volume, h *hold) {
	if !n.w.protocol.thaw {
		n.letGo(v, h)
		return
	}
	freeze := h.freeze
	if freeze == 0 {
		told, err := n.records(v.id)
		if err != nil || len(told) == 0 {
			return
		}
		m := told[0].Migration
		if m == nil || m.ID != h.migration {
			return // the next look decides
		}
		if m.State != mobyfs.MigrationFreezing {
			n.letGo(v, h)
			return
		}
		freeze = m.Freezes
	}
	err := n.thaw(v, h.migration, freeze)
	n.w.say("thaw", n.name, v.name, err, h.fence)
	switch mobyfs.CodeOf(err) {
	case "":
		n.letGo(v, h)
	case mobyfs.CodeStaleFence:
		n.end(v)
	case mobyfs.CodeChanged:
		h.freeze = 0 // it is asked for anew
	}
}

func (n *node) thaw(v *volume, id mobyfs.MigrationID, freeze int) error {
	return n.ask(func(c *control.Control) error {
		_, err := c.Thaw(context.Background(), n.who(), v.id, id, freeze, "")
		return err
	})
}

// letGo has containers go on.
func (n *node) letGo(v *volume, h *hold) {
	delete(n.holds, v)
	if h.fence > 0 {
		n.held[v] = h.fence
		n.w.count.Thaws++
	}
	for _, do := range h.waiting {
		do()
	}
}

// end kills what is frozen: it never runs again.
func (n *node) end(v *volume) {
	delete(n.holds, v)
	delete(n.held, v)
}
