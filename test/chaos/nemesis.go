package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/mobyfs/mobyfs/api"
	"github.com/mobyfs/mobyfs/internal/pki"
	"github.com/mobyfs/mobyfs/test/chaos/network"
)

// nemesis lets faults happen: several at once, in lanes for controls, for agents and for moments in programs.
type nemesis struct {
	c        *Cluster
	moments  moments
	operator *api.Client
	log      func(format string, args ...any)

	mu       sync.Mutex
	counts   map[string]int // faults that happened, by kind
	misses   map[string]int // that could not be made to happen
	notes    []string       // what did not become good again
	episodes []episode
	marks    map[string]string // what a newer version has written, by the record's key
}

func newNemesis(c *Cluster, m moments, log func(string, ...any)) (*nemesis, error) {
	operator, err := c.client(pki.RoleOperator, "rescuer")
	return &nemesis{c: c, moments: m, operator: operator, log: log, counts: map[string]int{}, misses: map[string]int{}, marks: map[string]string{}}, err
}

func (n *nemesis) note(text string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.notes = append(n.notes, text)
	n.log("%s", text)
}

// total is how many faults happened.
func (n *nemesis) total() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	sum := 0
	for _, k := range n.counts {
		sum += k
	}
	return sum
}

// episode is a fault that happened: to whom, from when and until when (CLOCK_BOOTTIME).
type episode struct {
	kind, on   string
	begin, end int64
}

// during tells which faults there were between two times.
func (n *nemesis) during(from, to int64) string {
	var all []string
	for _, e := range n.episodes {
		if e.begin < to && e.end > from {
			all = append(all, fmt.Sprintf("%s, %s (%.1fs to %.1fs)", e.kind, e.on, float64(e.begin-from)/1e9, float64(e.end-from)/1e9))
		}
	}
	return strings.Join(all, "; ")
}

// lane lets one fault happen after the other.
type lane struct {
	n   *nemesis
	c   *Cluster
	rng *rand.Rand
	on  string // whom it chose last
}

// lane is one of those of a run.
func (n *nemesis) lane(seed uint64, number int) *lane {
	return &lane{n: n, c: n.c, rng: rand.New(rand.NewPCG(seed, uint64(100+number)))}
}

// run lets faults happen until ctx ends. Each is made good again before it returns.
func (n *nemesis) run(ctx context.Context, seed uint64) {
	var wg sync.WaitGroup
	short := [2]int{300, 3500} // ms
	long := [2]int{int(overdue.Milliseconds()) + 1000, int(overdue.Milliseconds()) + 5000}
	for i, lane := range []struct {
		faults []fault
		lasts  [2]int
	}{
		{controlFaults(), short}, {agentFaults(), short}, {agentFaults(), short}, {agentFaults(), short},
		{momentFaults(), short}, {momentFaults(), short}, {momentFaults(), short}, {longFaults(), long}, {longFaults(), long},
	} {
		l := n.lane(seed, i)
		wg.Go(func() {
			for ctx.Err() == nil {
				l.one(ctx, lane.faults, lane.lasts)
				pause(ctx, l.between(100, 1000))
			}
		})
	}
	wg.Wait()
}

// one lets one fault happen, waits while it lasts and makes it good again.
func (l *lane) one(ctx context.Context, faults []fault, lasts [2]int) {
	f := l.choose(faults)
	l.on = "all"
	e := episode{kind: f.kind, begin: boottime()}
	undo, err := f.do(ctx, l)
	e.on = l.on
	if err != nil {
		l.n.mu.Lock()
		l.n.misses[f.kind]++
		l.n.mu.Unlock()
		if !errors.Is(err, errNotReached) {
			l.n.log("%s: not this time: %v", f.kind, err)
		}
	} else {
		l.n.mu.Lock()
		l.n.counts[f.kind]++
		l.n.mu.Unlock()
	}
	if undo != nil {
		pause(ctx, l.between(lasts[0], lasts[1]))
		undo()
	}
	if err == nil {
		e.end = boottime()
		l.n.mu.Lock()
		l.n.episodes = append(l.n.episodes, e)
		l.n.mu.Unlock()
	}
}

func (l *lane) choose(faults []fault) fault {
	sum := 0
	for _, f := range faults {
		sum += f.weight
	}
	at := l.rng.IntN(sum)
	for _, f := range faults {
		if at -= f.weight; at < 0 {
			return f
		}
	}
	return faults[0]
}

func (l *lane) control() *control {
	x := l.c.controls[l.rng.IntN(len(l.c.controls))]
	l.on = x.name
	return x
}

// agent is one that is not away already.
func (l *lane) agent() *agent {
	for {
		if x := l.c.agents[l.rng.IntN(len(l.c.agents))]; !x.away.Load() {
			l.on = x.node
			return x
		}
	}
}

// between is a time between two numbers of milliseconds.
func (l *lane) between(least, most int) time.Duration {
	return time.Duration(least+l.rng.IntN(most-least)) * time.Millisecond
}

func (l *lane) hosts() []*network.Host {
	all := []*network.Host{l.c.here}
	for _, x := range l.c.controls {
		all = append(all, x.host)
	}
	for _, x := range l.c.agents {
		all = append(all, x.host)
	}
	return all
}

func (l *lane) others(than *network.Host) *network.Host {
	all := l.hosts()
	for {
		if h := all[l.rng.IntN(len(all))]; h != than {
			return h
		}
	}
}

// ways changes how a host reaches all others, and is reached by them.
func (l *lane) ways(h *network.Host, w network.Way) (func(), error) {
	set := func(w network.Way) {
		for _, other := range l.hosts() {
			if other != h {
				l.c.net.SetBoth(h, other, w)
			}
		}
	}
	set(w)
	return func() { set(network.Way{}) }, nil
}

var errNotReached = errors.New("no program came to the moment")

// atMoment lets something happen when a program reaches a moment of its work, and waits until it has.
func (l *lane) atMoment(ctx context.Context, what string) (func(), error) {
	m, names := &l.agent().machine, l.n.moments.agent
	switch l.rng.IntN(10) {
	case 0, 1, 2:
		m, names = &l.control().machine, l.n.moments.control
	case 3:
		m, names = &l.agent().watchdog, l.n.moments.watchdog
		if strings.HasPrefix(what, "stall") {
			what = fmt.Sprintf("stall %v", l.between(500, 2000)) // systemd ends one that stands still for longer
		}
	}
	if what == "error" {
		names = l.n.moments.failing(names)
	}
	name := names[l.rng.IntN(len(names))]
	undo, err := arm(m, strings.TrimSpace(name+" "+what))
	if err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(3 * time.Second); time.Now().Before(deadline) && ctx.Err() == nil; {
		if _, err := os.Stat(m.at); err != nil {
			l.n.reached(name)
			return nil, nil
		}
		pause(ctx, 20*time.Millisecond)
	}
	undo()
	return nil, errNotReached
}

// reached counts by name at which moments something happened.
func (n *nemesis) reached(name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.moments.reached[name]++
}

// heal makes everything good again that a lane may have left.
func (n *nemesis) heal() {
	l := &lane{n: n, c: n.c}
	for _, h := range l.hosts() {
		_, _ = l.ways(h, network.Way{})
	}
	for _, m := range n.c.machines() {
		_ = os.Remove(m.at)
		_ = os.Remove(m.clock)
	}
}
