//go:build bench

package scale

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/api"
	"github.com/mobyfs/mobyfs/internal/pki"
)

const (
	beat = 10 * time.Second      // how often each agent is heard
	late = 10 * time.Millisecond // how much later than it should, at most, each sends a heartbeat, as hosts that are busy do
)

// herd is many agents. Each has a certificate and one connection of its own, on which its watch and its heartbeats go.
type herd struct {
	agents  []*api.Client
	full    atomic.Int64 // agents whose watch has begun
	changes atomic.Int64
	failed  atomic.Int64
	wg      sync.WaitGroup
}

// What each agent has, and how long all of them may take to come.
const (
	assigned = 2 // volumes whose home its node is
	joinTime = 8 * time.Minute
)

// benchAgents: what it costs control that so many agents are there, each with volumes of its own.
func benchAgents(t *testing.T) []row {
	c := newCluster(t)
	c.fill(*nodes, min(assigned**nodes, *volumes))
	c.start()
	alone := c.usage()
	ctx, stop := context.WithCancel(t.Context())
	h := &herd{}
	defer h.wg.Wait()
	defer stop()
	begun := time.Now()
	for i := range *nodes {
		h.agents = append(h.agents, c.client(pki.RoleNode, nodeName(i)))
	}
	signed := time.Since(begun)
	begun = time.Now()
	h.start(ctx)
	for h.full.Load() < int64(*nodes) && time.Since(begun) < joinTime {
		time.Sleep(50 * time.Millisecond)
	}
	joined := time.Since(begun)
	t.Logf("%d certificates in %v, %d agents joined in %v; %d calls failed", *nodes, signed, h.full.Load(), joined, h.failed.Load())
	time.Sleep(beat) // each has been heard once more
	h.failed.Store(0)
	from := c.usage()
	time.Sleep(time.Duration(*beats) * beat)
	to := c.usage()
	if n := h.failed.Load(); n > 0 || h.full.Load() != int64(*nodes) {
		t.Errorf("%d calls failed, %d agents watch", n, h.full.Load())
	}
	share, there := to.core(from), int(h.full.Load())
	rows := []row{
		show(t, row{what: fmt.Sprintf("CPU of control with %d agents that watch %d volumes each and are heard each %v", there, assigned, beat),
			figure: fmt.Sprintf("**%.1f %%** of a core, %v for each heartbeat", 100*share, perBeat(to.cpu-from.cpu, there)), goal: "≤ 25 %", met: share <= .25 && there == *nodes}),
		show(t, row{what: "Memory of that process (resident)",
			figure: fmt.Sprintf("**%s**, %s of them not files; before the agents came %s: %d KiB for each agent", mib(to.rss), mib(to.own), mib(alone.rss), (to.rss-alone.rss)>>10/int64(max(there, 1))),
			goal:   "≤ 512 MiB", met: to.rss <= 512<<20 && there == *nodes,
			why: "each agent has one link for its watch and its calls: the keys and buffers of crypto/tls, a goroutine with a small stack, a mailbox; the collector has room of half as much as is in use"}),
		show(t, row{what: fmt.Sprintf("%d of %d agents connect, 64 at once, and each gets its volumes", there, *nodes), figure: joined.Round(100 * time.Millisecond).String()}),
	}
	return append(rows, benchFanOut(t, c, h))
}

// perBeat is the share of a while's CPU that one heartbeat has, all else that goes on included.
func perBeat(cpu time.Duration, agents int) time.Duration {
	return (cpu / time.Duration(max(agents**beats, 1))).Round(time.Microsecond)
}

// benchFanOut: from the answer to one node's change to its arrival at that node's watch, while all the others are there.
func benchFanOut(t *testing.T, c *cluster, h *herd) row {
	operator := c.client(pki.RoleOperator, "ana")
	defer operator.Close()
	var took []time.Duration
	before := h.changes.Load()
	for i := range 50 {
		node := nodeName(rand.IntN(*nodes))
		begun := time.Now()
		seen := h.changes.Load()
		if _, err := operator.CreateVolume(t.Context(), fmt.Sprintf("late-%d", i), mobyfs.VolumeSpec{}, node); err != nil {
			t.Fatal(err)
		}
		for h.changes.Load() == seen && time.Since(begun) < time.Minute {
			time.Sleep(200 * time.Microsecond)
		}
		took = append(took, time.Since(begun))
		time.Sleep(20 * time.Millisecond)
	}
	return show(t, row{what: "A volume is created until its node's watch tells of it, with all agents there",
		figure: fmt.Sprintf("p50 %v, p99 %v; %.1f lines sent for each", round(quantile(took, .5)), round(quantile(took, .99)), float64(h.changes.Load()-before)/50)})
}

// start makes all agents watch and be heard until ctx ends.
func (h *herd) start(ctx context.Context) {
	slots := make(chan struct{}, 64) // how many connect at the same time
	for i, agent := range h.agents {
		report := mobyfs.Report{Address: nodeName(i) + ":8080", Version: "v1", Volumes: assigned,
			Capacity: mobyfs.Capacity{TotalBytes: 1 << 40, FreeBytes: 1 << 39}}
		h.wg.Go(func() {
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
				return
			}
			next := h.beat(ctx, agent, report)
			began := sync.OnceFunc(func() { <-slots; h.full.Add(1) })
			h.wg.Go(func() { h.watch(ctx, agent, began) })
			for ctx.Err() == nil {
				pause(ctx, time.Until(next)+rand.N(late))
				next = h.beat(ctx, agent, report)
			}
		})
	}
}

// beat is one heartbeat, and tells when control wants the next.
func (h *herd) beat(ctx context.Context, agent *api.Client, r mobyfs.Report) time.Time {
	sent := time.Now()
	session, err := agent.Report(ctx, r)
	if err != nil && ctx.Err() == nil {
		h.failed.Add(1)
	}
	return sent.Add(session.Next())
}

func (h *herd) watch(ctx context.Context, agent *api.Client, began func()) {
	for ctx.Err() == nil {
		err := agent.Watch(ctx, func(c mobyfs.Change) {
			if c.Full != nil {
				began()
				return
			}
			h.changes.Add(1)
		})
		if err != nil && ctx.Err() == nil {
			h.failed.Add(1)
			pause(ctx, time.Second)
		}
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
