package agent

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/agent/watchdog"
)

// dog is a watchdog whose deeds a test sees.
type dog struct {
	node *node
	mu   sync.Mutex
	away bool
	end  time.Duration
	has  map[mobyfs.VolumeID]bool // guarded: whether it is fenced
	lost []mobyfs.VolumeID
}

func (d *dog) Tell(_ context.Context, m watchdog.Message) (a watchdog.Answer, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.away {
		return a, mobyfs.Errorf(mobyfs.CodeUnavailable, "ask the watchdog: connection refused").WithHint("start mobyfs-watchdog.service")
	}
	d.end, d.lost = max(d.end, m.Deadline), append(d.lost, m.Lost...)
	for _, id := range m.Release {
		delete(d.has, id)
	}
	if m.Guard != nil {
		d.has[m.Guard.ID] = false
	}
	for id, fenced := range d.has {
		a.Guarded = append(a.Guarded, id)
		if fenced {
			a.Fenced = append(a.Fenced, id)
		}
	}
	return a, nil
}

// bite fences all that is guarded if the deadline has passed, as the watchdog does by itself.
func (d *dog) bite() (bitten bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for id := range d.has {
		if d.node.agent.Clock() >= d.end {
			d.has[id], bitten = true, true
		}
	}
	return bitten
}

// wait lets time pass until the watchdog has bitten.
func (d *dog) wait(t *testing.T) {
	t.Helper()
	for range 600 {
		if d.bite() {
			return
		}
		pass(100 * time.Millisecond)
	}
	t.Fatal("the deadline does not come")
}

func (d *dog) guards() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.has)
}

// guarded is a cluster with an auto volume of which h1 has the only use, and whose way to control can be cut.
func guarded(t *testing.T) (r *rig, h1, h2 *node, d *dog, link *cut) {
	r, h1, h2 = sharing(t, "never")
	r.cluster.edit("pgdata", func(v *mobyfs.Volume) { v.Spec.Takeover = mobyfs.TakeoverAuto })
	d, link = &dog{node: h1, has: map[mobyfs.VolumeID]bool{}}, &cut{Control: r.cluster.as("h1")}
	h1.control, h1.watchdog = link, d
	h1.restart()
	h2.watchdog = &dog{node: h2, has: map[mobyfs.VolumeID]bool{}}
	h2.restart()
	pass(time.Minute)
	return r, h1, h2, d, link
}

func TestAutoVolumeIsAttachedOnlyUnderGuard(t *testing.T) {
	bubble(t, func(t *testing.T) {
		_, h1, _, d, _ := guarded(t)
		d.away = true
		_, err := h1.agent.Mount(t.Context(), "pgdata", "a")
		wantCode(t, err, mobyfs.CodeUnavailable, "mobyfs-watchdog.service")
		d.away = false
		h1.mount("pgdata", "a")
		if d.guards() != 1 {
			t.Error("it is mounted and not guarded")
		}
		h1.restart() // what runs on is guarded still
		pass(time.Minute)
		h1.mount("pgdata", "b")
		h1.unmount("pgdata", "a")
		h1.unmount("pgdata", "b")
		pass(time.Minute)
		if d.guards() != 0 {
			t.Error("it is detached and still guarded")
		}
		h1.watchdog = nil
		h1.restart()
		settled()
		_, err = h1.agent.Mount(t.Context(), "pgdata", "c")
		wantCode(t, err, mobyfs.CodeInvalid, "no watchdog")
	})
}

// What is let go between two beats and attached again under another takeover is not guarded any longer: an outage of
// control would end its writing, which nobody needs.
func TestVolumeThatIsAutoNoLongerIsLetGoWhileItIsUsed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, h1, _, d, _ := guarded(t)
		h1.mount("pgdata", "a")
		h1.unmount("pgdata", "a")
		settled()
		r.cluster.edit("pgdata", func(v *mobyfs.Volume) { v.Spec.Takeover = mobyfs.TakeoverNever })
		settled()
		h1.mount("pgdata", "b")
		pass(time.Minute)
		if d.guards() != 0 {
			t.Error("it is guarded still")
		}
	})
}

// The deadline is a fifth of the session before the end that control counts to, and from the heartbeat's sending.
func TestDeadlineIsCountedFromTheHeartbeatsSending(t *testing.T) {
	var s session
	s.answered(100*time.Second, mobyfs.Session{TTLMillis: 30_000})
	s.answered(90*time.Second, mobyfs.Session{TTLMillis: 30_000}) // an old answer that comes late
	if got := s.until(); got != 124*time.Second {
		t.Errorf("got %v, want 124s", got)
	}
}

func TestHeartbeatsComeThreeTimesInASession(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, "h1")
		for _, c := range []struct {
			ttl, next time.Duration
			want      int // in a minute
		}{
			{6 * time.Second, 0, 30}, {30 * time.Second, 0, 6}, {time.Hour, 0, 6},
			{30 * time.Second, 4 * time.Second, 15}, {30 * time.Second, time.Hour, 6}, {30 * time.Second, time.Millisecond, 120},
		} {
			r.cluster.mu.Lock()
			r.cluster.ttl, r.cluster.next = c.ttl, c.next
			r.cluster.mu.Unlock()
			pass(time.Minute) // until the agent has heard of it
			before := r.cluster.heartbeats()
			pass(time.Minute)
			if beats := r.cluster.heartbeats() - before; beats < c.want-1 || beats > c.want+1 {
				t.Errorf("sessions of %v, the next in %v: %d heartbeats in a minute, want %d", c.ttl, c.next, beats, c.want)
			}
		}
	})
}

// An agent that is not answered keeps to what a session needs, whatever the last answer was.
func TestHeartbeatsThatFailComeThreeTimesInASession(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, "h1")
		r.cluster.mu.Lock()
		r.cluster.next = time.Second
		r.cluster.mu.Unlock()
		pass(time.Minute)
		r.cluster.setDown(true)
		pass(5 * time.Second)
		before := r.cluster.heartbeats()
		pass(time.Minute)
		if beats := r.cluster.heartbeats() - before; beats < 5 || beats > 7 {
			t.Errorf("%d heartbeats in a minute without an answer, want 6", beats)
		}
	})
}

func TestNoNewUseOfAnAutoVolumeOnceTheSessionIsOver(t *testing.T) {
	bubble(t, func(t *testing.T) {
		_, h1, _, d, link := guarded(t)
		h1.mount("pgdata", "a")
		link.down.Store(true)
		link.lose()
		cutOff := time.Now()
		d.wait(t)
		if took := time.Since(cutOff); took < 14*time.Second || took > 25*time.Second {
			t.Errorf("it was fenced %v after the cut, want 24s after the heartbeat before it", took)
		}
		_, err := h1.agent.Mount(t.Context(), "pgdata", "b")
		wantCode(t, err, mobyfs.CodeUnavailable, "h1", "another node")
	})
}

// Nobody took it: the node gets it back, but not before control said so.
func TestFencedVolumeComesBackWithControlsWord(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, h1, _, d, link := guarded(t)
		h1.mount("pgdata", "a")
		link.down.Store(true)
		link.lose()
		d.wait(t)
		r.cluster.took()
		link.down.Store(false)
		pass(time.Minute)
		if !slices.Contains(r.cluster.took(), "h1 Claim") {
			t.Error("control was not asked")
		}
		write(t, h1.mount("pgdata", "b"), "rows", "more")
		d.mu.Lock()
		defer d.mu.Unlock()
		for id, fenced := range d.has {
			if fenced {
				t.Errorf("%s is attached and fenced", id)
			}
		}
	})
}

func TestWhoComesBackAfterATakeoverKeepsNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, h1, h2, d, link := guarded(t)
		id := r.cluster.volume("pgdata").ID
		h1.mount("pgdata", "a")
		link.down.Store(true)
		link.lose()
		d.wait(t)
		r.cluster.edit("pgdata", func(v *mobyfs.Volume) { v.Node, v.Arrived, v.Lease = "h2", "", nil })
		path := h2.mount("pgdata", "b")
		h2.kernel.set(path, 1, 0)
		write(t, path, "rows", "new")
		link.down.Store(false)
		pass(time.Minute)
		if !slices.Contains(d.lost, id) {
			t.Error("the watchdog was not told that the volume is another node's")
		}
		_, err := h1.agent.Mount(t.Context(), "pgdata", "c")
		wantCode(t, err, mobyfs.CodeInUse, "h2")
		h1.unmount("pgdata", "a")
		pass(time.Minute)
		if h1.has(id) || d.guards() != 0 {
			t.Errorf("h1 has it: %v, guards %d", h1.has(id), d.guards())
		}
		if got := read(t, path, "rows"); got != "new" {
			t.Errorf("got %q", got)
		}
	})
}
