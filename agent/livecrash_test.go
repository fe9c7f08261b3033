package agent

import (
	"context"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/failpoint/killtest"
)

// savedBox is a box as its file has it: dockerd outlives the agents that are killed.
type savedBox struct {
	Name, Volume, State, Policy string
	Killed, Frozen              bool
	Migration                   mobyfs.MigrationID
	CPU                         CPU
}

// keep has the containers lie in a file from now on, and takes up those that lie there.
func (c *containers) keep(t testing.TB, path string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.file, c.boxes = path, map[string]*box{}
	var all []savedBox
	if text, err := os.ReadFile(path); err == nil {
		if err := json.Unmarshal(text, &all); err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range all {
		c.boxes[s.Name] = &box{name: s.Name, volume: s.Volume, state: s.State, policy: s.Policy, killed: s.Killed, killedFrozen: s.Frozen, migration: s.Migration, cpu: s.CPU}
	}
}

// save writes the file, under mu.
func (c *containers) save() {
	if c.file == "" {
		return
	}
	var all []savedBox
	for _, b := range c.boxes {
		all = append(all, savedBox{b.name, b.volume, b.state, b.policy, b.killed, b.killedFrozen, b.migration, b.cpu})
	}
	text, err := json.Marshal(all)
	if err == nil {
		err = os.WriteFile(c.file+".new", text, 0o600)
	}
	if err == nil {
		err = os.Rename(c.file+".new", c.file)
	}
	if err != nil {
		panic(err)
	}
}

// liveRigIn is a cluster in a directory whose dockerds lie there too.
func liveRigIn(t *testing.T, path string) *rig {
	r := newRig(t)
	r.dockers = path
	return fillRig(r, path)
}

// TestLiveCrashChild is the life that TestDeathAtEachMomentOfALiveMoveLosesNothing ends: a container moves with its volume,
// after a session that broke while it was frozen. It is busy, and slowed down in both.
func TestLiveCrashChild(t *testing.T) {
	path := os.Getenv("MOBYFS_LIVE_CRASH_DIR")
	if path == "" {
		return // on its own it proves nothing and disproves nothing
	}
	bubble(t, func(t *testing.T) {
		r := liveRigIn(t, path)
		h1, h2 := r.nodes["h1"], r.nodes["h2"]
		h1.create("pgdata", nil)
		at := h1.runIn("db", "pgdata")
		wrote := func(rows string) {
			write(t, at, "rows", rows)
			write(t, path, "acknowledged", rows)
		}
		wrote("1")
		broke := false
		r.busy(h1, CPULimits{})
		busy, once := r.session, breakOnce(h1, func() { wrote("2") }, &broke)
		r.session = func(ctx context.Context, node, step string) error {
			if err := busy(ctx, node, step); err != nil {
				return err
			}
			return once(ctx, node, step)
		}
		o := throttling
		o.WithContainers = true
		r.cluster.moveLive("pgdata", "h2", o)
		is(t, "it runs there", func() bool { return r.moved() && h2.docker.state("db") == "running" })
		pass(time.Minute)
		// and one that comes to nothing
		r.session = breakAlways
		r.cluster.moveLive("pgdata", "h1", mobyfs.MoveOptions{WithContainers: true})
		pass(time.Minute)
		r.cluster.edit("pgdata", func(v *mobyfs.Volume) { end(v, mobyfs.MigrationAborted, "enough") })
		pass(time.Minute)
	})
}

func TestDeathAtEachMomentOfALiveMoveLosesNothing(t *testing.T) {
	var moments []string
	for _, m := range killtest.Moments(t) {
		for _, prefix := range []string{"agent.freeze", "agent.stop", "agent.thaw", "agent.go-on", "agent.kill", "agent.luggage", "agent.follow", "agent.throttle", "agent.unthrottle"} {
			if strings.HasPrefix(m, prefix) {
				moments = append(moments, m)
			}
		}
	}
	moments = append(moments, "agent.commit.before", "agent.commit.after", "agent.moved.before", "agent.moved.after")
	must := []string{"agent.freeze.before", "agent.freeze.after", "agent.thaw.before", "agent.thaw.after",
		"agent.stop.before", "agent.stop.after", "agent.go-on.before", "agent.go-on.after",
		"agent.kill.before", "agent.kill.middle", "agent.kill.after", "agent.luggage.before", "agent.luggage.after", "agent.luggage.start.before",
		"agent.luggage.start.after", "agent.follow.freeze",
		"agent.throttles.before", "agent.throttles.after", "agent.throttle.before", "agent.throttle.after", "agent.unthrottle.before", "agent.unthrottle.after"}
	moments = append(moments, must...)
	child := killtest.Build(t)
	deaths := map[string]bool{}
	for _, moment := range moments {
		path := t.TempDir()
		if !child.Run("TestLiveCrashChild", moment, "MOBYFS_LIVE_CRASH_DIR="+path) {
			continue
		}
		deaths[moment] = true
		bubble(t, func(t *testing.T) { afterLiveDeath(t, moment, path) })
	}
	for _, must := range append(must, "agent.freezes.before", "agent.freezes.after", "agent.commit.after") {
		if !deaths[must] {
			t.Errorf("the child was never killed at %s", must)
		}
	}
	t.Logf("killed at %d of %d moments", len(deaths), len(moments))
}

// afterLiveDeath opens the cluster again, and checks that in the end the container runs once, where the volume is, on all
// that was written, and that none went on after it was killed.
func afterLiveDeath(t *testing.T, moment, path string) {
	r := liveRigIn(t, path)
	one := func() (home string, ok bool) {
		v := r.cluster.volume("pgdata")
		other := map[string]string{"h1": "h2", "h2": "h1"}[v.Node]
		return v.Node, v.Migration == nil && r.nodes[v.Node].docker.state("db") == "running" && r.nodes[other].docker.state("db") == "" &&
			len(r.nodes[v.Node].agent.freezes.holds())+len(r.nodes[other].agent.freezes.holds()) == 0 &&
			len(r.nodes[v.Node].agent.throttles.volumes())+len(r.nodes[other].agent.throttles.volumes()) == 0
	}
	for range 1800 { // a move that failed may be tried again for a while
		if _, ok := one(); ok {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	home, ok := one()
	if !ok {
		t.Errorf("%s: in the end the volume is on %s (%+v), the container is %q on h1 and %q on h2", moment, home, r.cluster.volume("pgdata").Migration,
			r.nodes["h1"].docker.state("db"), r.nodes["h2"].docker.state("db"))
		return
	}
	if l := r.nodes[home].docker.limits("db"); l.NanoCPUs > 0 || l.Quota > 0 {
		t.Errorf("%s: the container is slowed down still: %+v", moment, l)
	}
	v := r.cluster.volume("pgdata")
	if v.Lease == nil || v.Lease.Node != home {
		t.Errorf("%s: the lease is %+v", moment, v.Lease)
	}
	if got, want := read(t, r.nodes[home].agent.pathOf(&v), "rows"), read(t, path, "acknowledged"); got != want {
		t.Errorf("%s: on %s it holds %q, acknowledged was %q", moment, home, got, want)
	}
}
