package agent

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/mountns"
)

// liveNodes is a cluster with a volume pgdata on h1 that the container db uses.
func liveNodes(t *testing.T) (r *rig, h1, h2 *node, path string) {
	r = newRig(t, "h1", "h2")
	h1, h2 = r.nodes["h1"], r.nodes["h2"]
	for _, n := range []*node{h1, h2} {
		n.docker.begin()
		n.starts()
	}
	h1.create("pgdata", nil)
	path = h1.runIn("db", "pgdata")
	write(t, path, "rows", "1")
	settled()
	return r, h1, h2, path
}

// moved reports whether the volume is on h2 and nothing is under way.
func (r *rig) moved() bool {
	v := r.cluster.volume("pgdata")
	return v.Node == "h2" && v.Migration == nil
}

func TestLiveMoveBringsWhatWasWrittenMeanwhileAndTheContainer(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, h1, h2, path := liveNodes(t)
		r.session = func(_ context.Context, _, step string) error {
			if step == "freeze" {
				write(t, path, "rows", "2") // after the last round
			}
			return nil
		}
		r.cluster.moveLive("pgdata", "h2", mobyfs.MoveOptions{WithContainers: true})
		is(t, "the container runs on h2", func() bool { return r.moved() && h2.docker.state("db") == "running" })
		settled()
		if got := h1.docker.state("db"); got != "" {
			t.Errorf("the container is still at the source, %s", got)
		}
		v := r.cluster.volume("pgdata")
		if v.Lease == nil || v.Lease.Node != "h2" {
			t.Errorf("the lease is %+v", v.Lease)
		}
		if m := v.LastMove; m.Pause <= 0 || len(m.Containers) != 1 || m.Trouble != "" {
			t.Errorf("what was told of the move: %+v", m)
		}
		if got := read(t, h2.agent.pathOf(&v), "rows"); got != "2" {
			t.Errorf("h2 holds %q", got)
		}
		is(t, "the source has nothing left", func() bool { return len(h1.agent.freezes.holds()) == 0 && len(h1.uses("pgdata")) == 0 })
		if did := strings.Join(h1.docker.took(), " "); strings.Contains(did, "unpause") {
			t.Errorf("a frozen container went on: %s", did)
		}
		_, err := h1.agent.Mount(t.Context(), "pgdata", "late")
		wantCode(t, err, mobyfs.CodeInUse, "h2")
	})
}

// While the session ends the worker may look at any moment: what is frozen waits for the commit all the time.
func TestFreezeIsNobodysAtNoMomentOfTheSessionsEnd(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, h1, _, _ := liveNodes(t)
		w := h1.agent.worker(r.cluster.volume("pgdata").ID)
		ended := false
		r.session = func(_ context.Context, _, step string) error {
			if step != "proven" {
				return nil
			}
			w.mu.Lock()
			defer w.mu.Unlock()
			end := w.hold.session.shown
			w.hold.session.shown = func() {
				end()
				w.mu.Lock()
				v := w.view()
				w.mu.Unlock()
				if s := decide(v); s.task != rest {
					t.Errorf("it would %s: %s", s.task, s.why)
				}
				ended = true
			}
			return nil
		}
		r.cluster.moveLive("pgdata", "h2", mobyfs.MoveOptions{})
		is(t, "it moved", r.moved)
		if !ended {
			t.Error("the session has not ended")
		}
	})
}

func TestLiveMoveWithoutContainersStopsThemForGood(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, h1, h2, _ := liveNodes(t)
		r.cluster.moveLive("pgdata", "h2", mobyfs.MoveOptions{})
		is(t, "it moved", r.moved)
		settled()
		b, err := h1.docker.box("id-db")
		if err != nil || b.state != "exited" || !b.killedFrozen || b.policy != "" {
			t.Errorf("the container is %+v, %v", b, err)
		}
		if got := read(t, h2.mount("pgdata", "x"), "rows"); got != "1" {
			t.Errorf("got %q", got)
		}
	})
}

func TestFreezeIsTakenBackWhenTheSessionBreaks(t *testing.T) {
	for _, step := range []string{"frozen", "freeze", "round"} {
		t.Run(step, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r, h1, h2, path := liveNodes(t)
				broke := 0
				r.session = func(_ context.Context, _, at string) error {
					if at == step && broke < 2 {
						broke++
						return mobyfs.Errorf(mobyfs.CodeUnavailable, "connection reset")
					}
					if at == "round" && broke == 2 {
						if s := h1.docker.state("db"); s != "running" {
							t.Errorf("in the round after it the container is %s", s)
						}
						write(t, path, "rows", "later")
					}
					return nil
				}
				r.cluster.moveLive("pgdata", "h2", mobyfs.MoveOptions{WithContainers: true})
				is(t, "it moved", func() bool { return r.moved() && h2.docker.state("db") == "running" })
				v := r.cluster.volume("pgdata")
				if got := read(t, h2.agent.pathOf(&v), "rows"); got != "later" {
					t.Errorf("h2 holds %q", got)
				}
			})
		})
	}
}

// While control is away nobody knows whether the freeze was committed: the container stays frozen, and says why.
func TestFrozenStaysFrozenWhileControlIsAway(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, h1, _, _ := liveNodes(t)
		r.session = func(_ context.Context, _, step string) error {
			if step == "frozen" {
				r.cluster.setDown(true)
				return mobyfs.Errorf(mobyfs.CodeUnavailable, "connection reset")
			}
			return nil
		}
		r.cluster.moveLive("pgdata", "h2", mobyfs.MoveOptions{WithContainers: true})
		is(t, "it is frozen", func() bool { return h1.docker.state("db") == "paused" })
		for range 2 {
			pass(2 * time.Minute)
			if s := h1.docker.state("db"); s != "paused" {
				t.Fatalf("the container is %s", s)
			}
			d, err := h1.agent.Get(t.Context(), "pgdata")
			if err != nil || !strings.Contains(d.Status["frozen"].(string), "move to h2") || !strings.Contains(d.Status["problem"].(string), "once control says") {
				t.Errorf("docker volume inspect shows %v, %v", d.Status, err)
			}
			_, err = h1.agent.Mount(t.Context(), "pgdata", "another")
			wantCode(t, err, mobyfs.CodeMoving, "h2")
			h1.restart() // its journal says the same
		}
		r.session = nil
		r.cluster.setDown(false)
		is(t, "it moved", r.moved)
	})
}

func TestSourceThatDiesWhileFrozenAsksFirst(t *testing.T) {
	for _, c := range []struct {
		what   string
		commit bool
	}{{"thawed", false}, {"killed", true}} {
		t.Run(c.what, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r, h1, h2, _ := liveNodes(t)
				h1.docker.put(box{name: "theirs", volume: "pgdata", state: "paused"}) // by an operator
				held := make(chan struct{})
				r.session = func(ctx context.Context, _, step string) error {
					if step == "proven" {
						h1.stop() // with all that it knew
						if !c.commit {
							<-held
							return errors.New("and the destination is gone too")
						}
					}
					return nil
				}
				r.cluster.moveLive("pgdata", "h2", mobyfs.MoveOptions{})
				if c.commit {
					is(t, "it is committed", r.moved)
				} else {
					is(t, "it is frozen", func() bool {
						return r.cluster.volume("pgdata").Migration.State == mobyfs.MigrationFreezing && h1.docker.state("db") == "paused"
					})
					pass(time.Minute)
				}
				if s := h1.docker.state("db"); s != "paused" {
					t.Fatalf("without its agent the container is %s", s)
				}
				r.session = func(context.Context, string, string) error { return mobyfs.Errorf(mobyfs.CodeUnavailable, "cut") }
				h1.start()
				if c.commit {
					is(t, "both are dead", func() bool { return h1.docker.state("db") == "exited" && h1.docker.state("theirs") == "exited" })
					for _, name := range []string{"db", "theirs"} {
						if b, _ := h1.docker.box(name); !b.killedFrozen {
							t.Errorf("%s went on before it was killed", name)
						}
					}
				} else {
					is(t, "it goes on", func() bool { return h1.docker.state("db") == "running" })
					if s := h1.docker.state("theirs"); s != "paused" {
						t.Errorf("what an operator had paused is %s", s)
					}
					close(held)
					r.cluster.edit("pgdata", func(v *mobyfs.Volume) { end(v, mobyfs.MigrationAborted, "enough") })
				}
				is(t, "the journal is empty", func() bool { return len(h1.agent.freezes.holds()) == 0 })
				_ = h2
			})
		})
	}
}

// The destination has it all and dies before it commits: after a while the source takes the freeze back, and what was
// sealed is worth nothing until more was brought.
func TestCommitThatComesAfterTheThawBringsTheRest(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, h1, h2, path := liveNodes(t)
		r.cluster.hook(func(node, call string) error {
			if call == "Commit" && node == "h2" && h1.docker.state("db") == "paused" {
				return mobyfs.Errorf(mobyfs.CodeUnavailable, "no route to control")
			}
			return nil
		}, nil)
		r.cluster.moveLive("pgdata", "h2", mobyfs.MoveOptions{WithContainers: true})
		is(t, "it is frozen", func() bool { return h1.docker.state("db") == "paused" })
		is(t, "it goes on", func() bool { return h1.docker.state("db") == "running" })
		write(t, path, "rows", "after the thaw")
		r.cluster.hook(nil, nil)
		is(t, "the container runs on h2", func() bool { return r.moved() && h2.docker.state("db") == "running" })
		v := r.cluster.volume("pgdata")
		if got := read(t, h2.agent.pathOf(&v), "rows"); got != "after the thaw" {
			t.Errorf("h2 holds %q", got)
		}
	})
}

func TestWhoCantBeFrozenIsNamedBeforeAnythingStops(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, h1, h2, _ := liveNodes(t)
		h1.kernel.mu.Lock()
		h1.kernel.strangers = []mountns.User{{PID: 99, Command: "rsync", Path: "/backup"}}
		h1.kernel.mu.Unlock()
		r.cluster.moveLive("pgdata", "h2", mobyfs.MoveOptions{WithContainers: true})
		is(t, "it was given up", func() bool { return r.cluster.volume("pgdata").Migration == nil })
		settled()
		v := r.cluster.volume("pgdata")
		if v.Node != "h1" || !strings.Contains(v.LastMove.Reason, "process 99 (rsync)") {
			t.Errorf("got %+v", v.LastMove)
		}
		if did := strings.Join(h1.docker.took(), " "); strings.Contains(did, "pause") {
			t.Errorf("dockerd was asked for %s", did)
		}
		if s := h2.docker.state("db"); s != "" {
			t.Errorf("what was made at the destination is %s", s)
		}
		if left := h2.staged(); left != nil {
			t.Errorf("staged is %v", left)
		}
	})
}

// TestContainerThatMovedAlongIsFoundLater: the destination died before it started the container, and the next life of the agent
// does not see it when it looks first, for dockerd is busy.
func TestContainerThatMovedAlongIsFoundLater(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, _, h2, _ := liveNodes(t)
		r.cluster.moveLive("pgdata", "h2", mobyfs.MoveOptions{WithContainers: true})
		is(t, "it moved", func() bool { return r.moved() && h2.docker.state("db") == "running" })
		settled()
		h2.unmount("pgdata", "db")
		h2.docker.put(box{name: "db", volume: "pgdata", state: "created", migration: r.cluster.volume("pgdata").LastMove.ID})
		looks := 0
		h2.docker.break_ = func(what, _ string) error {
			if looks++; what == "list" && looks <= 3 {
				return errors.New("dockerd is busy")
			}
			return nil
		}
		h2.restart()
		is(t, "it runs", func() bool { return h2.docker.state("db") == "running" })
		if looks <= 3 {
			t.Errorf("dockerd was asked %d times", looks)
		}
	})
}

// TestDeathAfterTheCommitIsTold: the next life starts the container, and says so to who waits for the move, or why not.
func TestDeathAfterTheCommitIsTold(t *testing.T) {
	for name, fails := range map[string]bool{"it starts": false, "it does not start": true} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r, _, h2, _ := liveNodes(t)
				dies, dead := make(chan struct{}), atomic.Bool{}
				begins := h2.docker.begins
				h2.docker.begins = func(b *box) error {
					switch {
					case dead.CompareAndSwap(false, true):
						<-dies
						return errors.New("nobody waits for it")
					case fails:
						return errors.New("no such device")
					}
					return begins(b)
				}
				r.cluster.moveLive("pgdata", "h2", mobyfs.MoveOptions{WithContainers: true})
				is(t, "it is committed", func() bool { return dead.Load() })
				go h2.stop()
				settled()
				close(dies)
				settled()
				if r.cluster.volume("pgdata").LastMove.Told() {
					t.Fatal("who dies tells")
				}
				h2.start()
				is(t, "it was told", func() bool { return r.cluster.volume("pgdata").LastMove.Told() })
				m := r.cluster.volume("pgdata").LastMove
				if m.Pause != 0 || (len(m.Containers) == 1) == fails || strings.Contains(m.Trouble, "no such device") != fails {
					t.Errorf("told is %+v", m)
				}
			})
		})
	}
}

// TestUseThatNoContainerHasHoldsNoMoveUpForLong: an agent that died in a Mount counted a use of which Docker never knew.
func TestUseThatNoContainerHasHoldsNoMoveUpForLong(t *testing.T) {
	for name, restart := range map[string]bool{"in this life": false, "in the one before": true} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r, h1, h2, path := liveNodes(t)
				h1.kernel.set(path, 1, 0) // db's
				h1.mount("pgdata", "nobody's")
				if restart {
					h1.restart()
					settled()
				}
				r.cluster.moveLive("pgdata", "h2", mobyfs.MoveOptions{WithContainers: true})
				pass(startsWithin - 10*time.Second)
				if v := r.cluster.volume("pgdata"); v.Migration == nil || h1.docker.state("db") != "running" || len(h1.uses("pgdata")) != 2 {
					t.Fatalf("a container may be starting; the move is %+v, db is %s", v.Migration, h1.docker.state("db"))
				}
				is(t, "it moved", func() bool {
					if h1.docker.state("db") != "running" {
						h1.kernel.set(path, 0, 0)
					}
					return r.moved() && h2.docker.state("db") == "running"
				})
				is(t, "nothing is counted at the source", func() bool { return len(h1.uses("pgdata")) == 0 })
			})
		})
	}
}

func TestContainerThatCantMoveEndsTheMoveBeforeTheFreeze(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, h1, _, _ := liveNodes(t)
		h1.docker.put(box{name: "db", volume: "pgdata", state: "running", other: "wal"})
		r.cluster.moveLive("pgdata", "h2", mobyfs.MoveOptions{WithContainers: true})
		is(t, "it was given up", func() bool { return r.cluster.volume("pgdata").Migration == nil })
		v := r.cluster.volume("pgdata")
		if v.Node != "h1" || !strings.Contains(v.LastMove.Reason, "wal") || v.LastMove.Freezes != 0 {
			t.Errorf("got %+v", v.LastMove)
		}
	})
}

func TestContainersOfOthersAreNotMadeAnew(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, h1, h2, _ := liveNodes(t)
		h1.docker.put(box{name: "db", volume: "pgdata", state: "running", runner: "Compose"})
		r.cluster.moveLive("pgdata", "h2", mobyfs.MoveOptions{WithContainers: true})
		is(t, "it moved and was told", func() bool { return r.moved() && r.cluster.volume("pgdata").LastMove.Pause > 0 })
		if got := r.cluster.volume("pgdata").LastMove.Trouble; !strings.Contains(got, "Compose") {
			t.Errorf("told was %q", got)
		}
		if s := h2.docker.state("db"); s != "" {
			t.Errorf("at the destination it is %s", s)
		}
		is(t, "it is stopped and kept", func() bool { return h1.docker.state("db") == "exited" })
	})
}

func TestCleanStopIsUndoneByAThaw(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, h1, _, _ := liveNodes(t)
		var broke atomic.Bool
		r.session = func(_ context.Context, _, step string) error {
			if step == "frozen" && broke.CompareAndSwap(false, true) {
				h1.unmount("pgdata", "db") // as dockerd does once it has ended
				return mobyfs.Errorf(mobyfs.CodeUnavailable, "cut")
			}
			if broke.Load() {
				return mobyfs.Errorf(mobyfs.CodeUnavailable, "cut")
			}
			return nil
		}
		r.cluster.moveLive("pgdata", "h2", mobyfs.MoveOptions{Consistency: mobyfs.ConsistencyClean})
		is(t, "it was stopped and runs again", func() bool { return broke.Load() && h1.docker.state("db") == "running" })
		is(t, "the journal is empty", func() bool { return len(h1.agent.freezes.holds()) == 0 })
		if v := r.cluster.volume("pgdata"); v.Lease == nil || v.Lease.Node != "h1" {
			t.Errorf("the lease is %+v", v.Lease)
		}
	})
}

func TestBusyVolumeWaitsForAnOperator(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, h1, _, _ := liveNodes(t)
		r.pause = time.Minute
		r.cluster.moveLive("pgdata", "h2", mobyfs.MoveOptions{MaxRounds: 3})
		pass(time.Minute)
		r.cluster.mu.Lock()
		asks := false
		for _, p := range r.cluster.reports["h2"].Progress {
			asks = p.Asks
		}
		r.cluster.mu.Unlock()
		if s := h1.docker.state("db"); s != "running" || !asks {
			t.Fatalf("after three rounds the container is %s, and it asks: %v", s, asks)
		}
		r.cluster.edit("pgdata", func(v *mobyfs.Volume) {
			m := *v.Migration
			m.Options.OnBusy = mobyfs.BusyFreeze
			v.Migration = &m
		})
		is(t, "it moved", r.moved)
	})
}

func TestContainerThatDoesNotStartIsReported(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, _, h2, _ := liveNodes(t)
		h2.docker.mu.Lock()
		h2.docker.refuse = errors.New("port 5432 is taken")
		h2.docker.mu.Unlock()
		r.cluster.moveLive("pgdata", "h2", mobyfs.MoveOptions{WithContainers: true})
		is(t, "it was told", func() bool { return r.moved() && r.cluster.volume("pgdata").LastMove.Pause > 0 })
		if got := r.cluster.volume("pgdata").LastMove.Trouble; !strings.Contains(got, "db") || !strings.Contains(got, "5432") {
			t.Errorf("told was %q", got)
		}
		if got := read(t, h2.mount("pgdata", "by hand"), "rows"); got != "1" {
			t.Errorf("got %q", got)
		}
	})
}
