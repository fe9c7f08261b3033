package simulation

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"hash"
	"hash/fnv"
	"log/slog"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/control"
	"github.com/mobyfs/mobyfs/control/store"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// Protocol says which guards a run has. All of them are what mobyfs has.
type protocol struct {
	lockDelay bool // nothing is taken from a silent node before it had time to stop
	fence     bool // the data refuses whoever comes with a lower fence
	thaw      bool // what was stopped for a live move goes on only if control takes the freeze back
}

// guarded is a run with all guards.
var guarded = protocol{lockDelay: true, fence: true, thaw: true}

// What a run is made of.
const (
	processes = 3
	hosts     = 6
	sharing   = 6 // volumes that all nodes see, which are taken over
	local     = 3 // volumes that are copied when they move
)

// tally is what a run came to.
type tally struct {
	Steps, Grants, Takeovers, Moves, Writes int
	LiveMoves, Thaws                        int // commits of volumes that were frozen, and frozen volumes that went on where they were
	Refused                                 int // writes and attaches, by the fence
	Stale                                   int // writes accepted although a higher fence had been there
	Overlaps                                int // a node believed in a volume that another had
	Stuck                                   int // a node could not release what it was granted
	Lost                                    int // times that an acknowledged write was missing, and grants without an event
	Trace                                   uint64
}

func (a tally) plus(b tally) tally {
	return tally{a.Steps + b.Steps, a.Grants + b.Grants, a.Takeovers + b.Takeovers, a.Moves + b.Moves, a.Writes + b.Writes,
		a.LiveMoves + b.LiveMoves, a.Thaws + b.Thaws, a.Refused + b.Refused, a.Stale + b.Stale, a.Overlaps + b.Overlaps, a.Stuck + b.Stuck, a.Lost + b.Lost, a.Trace ^ b.Trace}
}

// world is everything there is in a run.
type world struct {
	t        *testing.T
	protocol protocol
	rng      *rand.Rand
	began    time.Time
	memory   *store.Memory
	observer *store.Store
	lines    []*store.Line
	controls []*control.Control
	nodes    []*node
	volumes  []*volume
	steps    queue
	trace    hash.Hash64
	count    tally
	calm     bool // no message is lost
}

// simulate runs a world for so long of its own time.
func simulate(t *testing.T, identity pki.Files, seed uint64, long time.Duration, p protocol) tally {
	var result tally
	synctest.Test(t, func(t *testing.T) {
		w := &world{
			t: t, protocol: p, rng: rand.New(rand.NewPCG(seed, 7)), began: time.Now(), memory: store.NewMemory(), trace: fnv.New64a(),
		}
		defer w.close()
		w.open(identity)
		for w.steps.Len() > 0 && time.Since(w.began) < long {
			s := heap.Pop(&w.steps).(*step)
			if wait := s.at - time.Since(w.began); wait > 0 {
				time.Sleep(wait)
			}
			w.count.Steps++
			s.do()
			synctest.Wait()
		}
		w.checkEvents()
		if t.Failed() {
			t.Logf("that was seed %d, %v: %+v", seed, time.Since(w.began), w.count)
		}
		result = w.count
		result.Trace = w.trace.Sum64()
	})
	return result
}

// open starts the control processes and lets the nodes come.
func (w *world) open(identity pki.Files) {
	quiet := slog.New(slog.DiscardHandler)
	var err error
	if w.observer, err = store.OpenMemory(context.Background(), store.Config{Cluster: "shop", Log: quiet}, w.memory.Line()); err != nil {
		w.t.Fatal(err)
	}
	for range processes {
		line := w.memory.Line()
		drift := w.drift()
		delay := time.Duration(0)
		if !w.protocol.lockDelay {
			delay = control.NoLockDelay
		}
		c, err := control.Open(context.Background(), control.Config{
			Cluster: "shop", Root: w.t.TempDir(), Identity: identity, Version: "v1", Log: quiet, LockDelay: delay,
			Clock: func() time.Duration { return time.Duration(float64(time.Since(w.began)) * drift) },
			OpenStore: func(ctx context.Context, cfg store.Config) (*store.Store, error) {
				return store.OpenMemory(ctx, cfg, line)
			},
		})
		if err != nil {
			w.t.Fatal(err)
		}
		w.lines, w.controls = append(w.lines, line), append(w.controls, c)
	}
	w.calm = true
	for i := range hosts {
		n := newNode(w, fmt.Sprintf("h%d", i+1))
		w.nodes = append(w.nodes, n)
		n.beat()
	}
	synctest.Wait()
	for i := range sharing + local {
		w.volumes = append(w.volumes, w.create(i))
	}
	w.calm = false
	for _, n := range w.nodes {
		w.after(w.upTo(20*time.Second), n.work)
		w.after(w.upTo(lookEvery), n.look)
	}
	w.after(w.upTo(time.Minute), w.operator)
	w.after(w.upTo(time.Minute), w.trouble)
}

func (w *world) close() {
	for _, l := range w.lines {
		l.Cut(false)
	}
	for _, c := range w.controls {
		if err := c.Close(); err != nil {
			w.t.Error(err)
		}
	}
	if err := w.observer.Close(); err != nil {
		w.t.Error(err)
	}
}

// drift is how fast a clock goes, within a tenth; an agent allows for a fifth.
func (w *world) drift() float64 { return 0.95 + 0.1*w.rng.Float64() }

func (w *world) upTo(d time.Duration) time.Duration { return time.Duration(w.rng.Int64N(int64(d))) }

// say puts into the trace what happened.
func (w *world) say(what, who, volume string, err error, fence mobyfs.Fence) {
	fmt.Fprintln(w.trace, time.Since(w.began), what, who, volume, mobyfs.CodeOf(err), uint64(fence))
	if *told {
		w.t.Logf("%v %s %s %s, fence %v: %v", time.Since(w.began), what, who, volume, fence, err)
	}
}

// trouble strikes, and comes again.
func (w *world) trouble() {
	w.after(w.upTo(90*time.Second), w.trouble)
	long := w.upTo(90 * time.Second)
	n := w.nodes[w.rng.IntN(hosts)]
	switch w.rng.IntN(5) {
	case 0: // a node stands still, in the middle of whatever it does
		n.pausedUntil = max(n.pausedUntil, time.Since(w.began)+long)
		w.say("pause", n.name, "", nil, 0)
	case 1: // a node does not reach some of the control processes
		for i := range processes {
			n.cut[i] = w.rng.IntN(4) > 0
		}
		w.after(long, func() { n.cut = [processes]bool{} })
		w.say("cut", n.name, "", nil, 0)
	case 2: // a control process loses the store
		i := w.rng.IntN(processes)
		w.lines[i].Cut(true)
		w.after(long, func() { w.lines[i].Cut(false) })
		w.say("isolate", fmt.Sprint(i), "", nil, 0)
	case 3: // the store ends a lease too early, as a stuck leader of etcd can
		w.revoke(n.name)
		w.say("revoke", n.name, "", nil, 0)
	case 4: // a node loses its memory
		n.restart()
		w.say("restart", n.name, "", nil, 0)
	}
}

// revoke ends the session of a node in the store.
func (w *world) revoke(name string) {
	var lease int64
	w.observer.View(func(v store.View) {
		if s, ok := store.Sessions.In(v, name); ok {
			lease = s.Lease
		}
	})
	if err := w.observer.Revoke(context.Background(), store.Lease(lease)); err != nil {
		w.t.Error(err)
	}
}

// checkEvents looks for each grant that a node was told in the log of events.
func (w *world) checkEvents() {
	events, _, err := w.observer.EventsSince(context.Background(), 0)
	if err != nil {
		w.t.Fatal(err)
	}
	type decision struct {
		volume mobyfs.VolumeID
		fence  mobyfs.Fence
	}
	told := map[decision]bool{}
	for _, e := range events {
		told[decision{e.Volume, e.Fence}] = true
	}
	for _, v := range w.volumes {
		for _, fence := range v.granted {
			if !told[decision{v.id, fence}] {
				w.count.Lost++
				w.t.Errorf("the grant of %s with fence %d is not in the events", v.name, fence)
			}
		}
	}
}

// step is something that happens at a time.
type step struct {
	at  time.Duration
	seq int
	do  func()
}

// queue is a heap of steps by time.
type queue struct {
	all []*step
	seq int
}

func (q *queue) Len() int { return len(q.all) }
func (q *queue) Less(i, j int) bool {
	if q.all[i].at != q.all[j].at {
		return q.all[i].at < q.all[j].at
	}
	return q.all[i].seq < q.all[j].seq
}
func (q *queue) Swap(i, j int) { q.all[i], q.all[j] = q.all[j], q.all[i] }
func (q *queue) Push(x any)    { q.all = append(q.all, x.(*step)) }
func (q *queue) Pop() any {
	last := q.all[len(q.all)-1]
	q.all = q.all[:len(q.all)-1]
	return last
}

// after lets something happen later.
func (w *world) after(d time.Duration, do func()) {
	w.steps.seq++
	heap.Push(&w.steps, &step{at: time.Since(w.began) + d, seq: w.steps.seq, do: do})
}

var errLost = errors.New("the message was lost")
