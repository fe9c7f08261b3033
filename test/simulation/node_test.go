package simulation

import (
	"context"
	"fmt"
	"testing/synctest"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/control"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// node does what an agent does with its session and its volumes, a step at a time.
type node struct {
	w           *world
	name        string
	speed       float64 // of its clock
	life        int     // how often it was started
	began       bool
	deadline    time.Duration // by its own clock: until then it may believe in what can be taken from it
	lapses      int           // how often the deadline was over
	pausedUntil time.Duration
	cut         [processes]bool
	held        map[*volume]mobyfs.Fence
	holds       map[*volume]*hold
	released    map[*volume]mobyfs.Fence // what it has let go of last
	settling    map[*volume]bool         // it is not known whether that was released, as its journal has it
}

func newNode(w *world, name string) *node {
	return &node{
		w: w, name: name, speed: w.drift(), held: map[*volume]mobyfs.Fence{}, holds: map[*volume]*hold{},
		released: map[*volume]mobyfs.Fence{}, settling: map[*volume]bool{},
	}
}

// clock is the node's own.
func (n *node) clock() time.Duration { return time.Duration(float64(time.Since(n.w.began)) * n.speed) }

// awake does something now, or when the node goes on.
func (n *node) awake(do func()) {
	if wait := n.pausedUntil - time.Since(n.w.began); wait > 0 {
		n.w.after(wait, func() { n.awake(do) })
		return
	}
	do()
}

func (n *node) who() pki.Identity {
	return pki.Identity{Cluster: "shop", Role: pki.RoleNode, Name: n.name}
}

// ask calls some control process. The message may be lost on its way, come twice or late, or its answer be lost.
func (n *node) ask(call func(c *control.Control) error) error {
	i := n.w.rng.IntN(processes)
	chance := n.w.rng.IntN(40)
	if n.w.calm {
		chance = -1
	}
	if n.cut[i] || chance == 0 {
		return errLost
	}
	if chance == 3 {
		n.w.after(n.w.upTo(30*time.Second), func() { _ = call(n.w.controls[i]) })
		return errLost
	}
	err := call(n.w.controls[i])
	synctest.Wait() // until all have heard of it: when they do is not to go by the scheduler
	if chance == 1 {
		err = call(n.w.controls[n.w.rng.IntN(processes)])
	}
	if chance == 2 {
		return errLost
	}
	return err
}

// beat is a heartbeat, and the next.
func (n *node) beat() {
	n.w.after(mobyfs.Heartbeat-time.Second+n.w.upTo(2*time.Second), func() { n.awake(n.beat) })
	n.lookAtTheClock()
	sent := n.clock()
	report := mobyfs.Report{
		Address: n.name + ":8080", Instance: fmt.Sprint(n.name, n.life), Begins: !n.began,
		Capacity: mobyfs.Capacity{TotalBytes: 1 << 40, FreeBytes: 1 << 39}, Live: true,
	}
	var session mobyfs.Session
	err := n.ask(func(c *control.Control) (err error) {
		session, err = c.Report(context.Background(), n.who(), report)
		return err
	})
	n.w.say("beat", n.name, "", err, mobyfs.Fence(session.Epoch))
	if err == nil {
		n.began = true
		n.deadline = sent + session.TTL()*8/10
	}
}

// lookAtTheClock lets go of what may have been taken, once the deadline is over.
func (n *node) lookAtTheClock() {
	if n.clock() < n.deadline {
		return
	}
	n.lapses++
	for v := range n.held {
		if v.shared {
			delete(n.held, v)
		}
	}
}

// believes reports whether the node may use a volume, as far as it knows.
func (n *node) believes(v *volume) (mobyfs.Fence, bool) {
	fence, has := n.held[v]
	return fence, has && (!v.shared || n.clock() < n.deadline)
}

// restart is the end of the agent and of its containers, and a new one, which knows what is in its journal. Containers that are
// stopped for a live move may live on, if it was the agent alone.
func (n *node) restart() {
	n.life++
	n.began, n.deadline = false, 0
	clear(n.held)
	alone := n.w.rng.IntN(2) == 0
	for _, h := range n.holds {
		if h.expects = 0; !alone || !h.stopped {
			h.fence = 0
		}
	}
}

// work is the next thing that containers want.
func (n *node) work() {
	n.w.after(n.w.upTo(16*time.Second), func() { n.awake(n.work) })
	n.lookAtTheClock()
	v := n.w.volumes[n.w.rng.IntN(len(n.w.volumes))]
	fence, has := n.believes(v)
	switch {
	case n.holds[v] != nil: // nobody is let in
	case n.settling[v]:
		n.release(v, n.released[v])
	case !has:
		n.claim(v)
	case n.w.rng.IntN(3) == 0:
		n.release(v, fence)
	default:
		n.write(v, fence)
	}
}

func (n *node) claim(v *volume) {
	if v.shared && n.clock() >= n.deadline {
		return // what it is told may be over when it has a session again
	}
	var g mobyfs.Grant
	err := n.ask(func(c *control.Control) (err error) {
		if g, err = c.Claim(context.Background(), n.who(), v.id); err == nil {
			v.note(n, g)
		}
		return err
	})
	n.w.say("claim", n.name, v.name, err, g.Fence)
	if err != nil {
		return
	}
	v.granted = append(v.granted, g.Fence)
	life, lapses := n.life, n.lapses
	n.w.after(n.w.upTo(2*time.Second), func() {
		n.awake(func() {
			n.lookAtTheClock()
			if n.life == life && (!v.shared || n.lapses == lapses) { // what was granted before a lapse may be taken since
				n.arrive(v, g)
			}
		})
	})
}

// arrive attaches what was granted, or goes on to bring it here first.
func (n *node) arrive(v *volume, g mobyfs.Grant) {
	switch m := g.Volume.Migration; {
	case n.holds[v] != nil: // nobody is let in
	case g.From == nil && g.Fence <= n.released[v]: // asked for twice, and released since
	case g.From != nil && m.Live: // its source will freeze it first
	case g.From != nil:
		n.pull(v, g)
	default:
		if err := v.attach(n, g.Fence); err == nil {
			n.held[v] = g.Fence
		}
	}
}

// pull copies a volume and commits, or gives it up.
func (n *node) pull(v *volume, g mobyfs.Grant) {
	done, err := n.commit(v, g.From.Migration, 0, v.content[g.From.Node])
	if err == nil && done.Volume.Lease != nil && v.attach(n, done.Fence) == nil {
		n.w.count.Moves++
		n.held[v] = done.Fence
	}
}

// commit makes the node the home of a volume with the bytes that came, those of a freeze unless that is 0.
func (n *node) commit(v *volume, id mobyfs.MigrationID, freeze, content int) (done mobyfs.Grant, err error) {
	err = n.ask(func(c *control.Control) (err error) {
		receipt := mobyfs.Receipt{Digest: fmt.Sprint("sum:", content), Freeze: freeze}
		if done, err = c.Commit(context.Background(), n.who(), v.id, id, receipt); err == nil {
			v.arrived(n, id, content)
			v.note(n, done)
		}
		return err
	})
	n.w.say("commit", n.name, v.name, err, done.Fence)
	return done, err
}

func (n *node) release(v *volume, fence mobyfs.Fence) {
	delete(n.held, v)
	n.released[v], n.settling[v] = fence, true
	err := n.ask(func(c *control.Control) error {
		return c.Release(context.Background(), n.who(), v.id, fence)
	})
	if err == nil {
		delete(n.settling, v)
	}
	n.w.say("release", n.name, v.name, err, fence)
	if mobyfs.CodeOf(err) == mobyfs.CodeInvalid {
		n.w.count.Stuck++ // what was granted can't be released, and nobody gets the volume any more
	}
}

// write looks whether the node may, and writes a moment later. Much can happen in that moment.
func (n *node) write(v *volume, fence mobyfs.Fence) {
	if other := v.owner; v.shared && other.node != nil && other.node != n && other.fence > fence {
		n.w.count.Overlaps++
		if *told {
			n.w.t.Logf("%s believes in %s by fence %v, %s has it by %v", n.name, v.name, fence, other.node.name, other.fence)
		}
	}
	if n.w.rng.IntN(30) == 0 { // stands still just here
		n.pausedUntil = max(n.pausedUntil, time.Since(n.w.began)+n.w.upTo(4*time.Minute))
	}
	n.w.after(n.w.upTo(time.Second), func() {
		n.awake(func() { n.writeNow(v, fence) })
	})
}

// writeNow writes, or waits while what writes is stopped. A volume whose bytes are the node's own is released only when its
// containers have ended.
func (n *node) writeNow(v *volume, fence mobyfs.Fence) {
	if h := n.holds[v]; h != nil && h.stopped {
		h.waiting = append(h.waiting, func() { n.writeNow(v, fence) })
		return
	}
	if !v.shared && n.held[v] != fence {
		return
	}
	err := v.write(n, fence)
	n.w.say("write", n.name, v.name, err, fence)
}
