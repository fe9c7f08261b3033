package agent

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mobyfs/mobyfs"
)

// outage is a cluster with volumes on h1, some of them mounted, and then no control.
func outage(t *testing.T, volumes int) (r *rig, h1 *node, mounted map[string]string) {
	r = newRig(t, "h1", "h2")
	h1, mounted = r.nodes["h1"], map[string]string{}
	for i := range volumes {
		name := fmt.Sprintf("v%d", i)
		h1.create(name, nil)
		if i%2 == 0 {
			mounted[name] = h1.mount(name, "before")
			h1.kernel.set(mounted[name], 1, 0)
		}
	}
	pass(5 * time.Second) // the catalogue is on disk
	r.cluster.setDown(true)
	return r, h1, mounted
}

// An hour without control: what is mounted is written to every three seconds, containers come and go, the agent is killed and
// started again, and nothing of that fails. Afterwards control knows all of it.
func TestAnHourWithoutControlFailsNoLocalMount(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, h1, mounted := outage(t, 8)
		rng := rand.New(rand.NewPCG(4, 4))
		mounts, failedMounts, writes, failedWrites, restarts, slowest := 0, 0, 0, 0, 0, time.Duration(0)
		for second := 0; second < 3600; second += 3 {
			for _, path := range mounted {
				writes++
				if err := os.WriteFile(filepath.Join(path, "file"), fmt.Append(nil, second), 0o600); err != nil {
					failedWrites++
					t.Error(err)
				}
			}
			if second%600 == 597 {
				h1.restart()
				restarts++
			}
			name := fmt.Sprintf("v%d", rng.IntN(8))
			if _, used := mounted[name]; used {
				h1.unmount(name, "before")
				h1.kernel.set(mounted[name], 0, 0)
				delete(mounted, name)
			} else {
				mounts++
				start := time.Now()
				path, err := h1.agent.Mount(t.Context(), name, "before")
				if err != nil {
					failedMounts++
					t.Errorf("second %d: %v", second, err)
					continue
				}
				slowest = max(slowest, time.Since(start))
				mounted[name] = path
				h1.kernel.set(path, 1, 0)
			}
			pass(3 * time.Second)
		}
		r.cluster.setDown(false)
		pass(5 * time.Minute)
		for i := range 8 {
			name := fmt.Sprintf("v%d", i)
			_, used := mounted[name]
			if v := r.cluster.volume(name); (v.Lease != nil) != used {
				t.Errorf("after the outage %s has lease %+v, in use: %v", name, v.Lease, used)
			}
		}
		t.Logf("control away for 1 h: %d mounts, %d failed, slowest %v; %d writes, %d failed; the agent was restarted %d times",
			mounts, failedMounts, slowest, writes, failedWrites, restarts)
	})
}

func TestAHangingControlDelaysALocalMountBySeconds(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, "h1")
		h1 := r.nodes["h1"]
		h1.create("pgdata", nil)
		h1.control = hanging{r.cluster.as("h1")}
		h1.restart()
		start := time.Now()
		h1.mount("pgdata", "a")
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("took %v", took)
		}
	})
}

// hanging is a control that takes calls and answers none.
type hanging struct{ mobyfs.Control }

func (hanging) Claim(ctx context.Context, _ mobyfs.VolumeID) (mobyfs.Grant, error) {
	<-ctx.Done()
	return mobyfs.Grant{}, mobyfs.Errorf(mobyfs.CodeUnavailable, "ask control: %w", ctx.Err())
}

// A move was begun and is not known here: whoever comes first has the volume, the container or the move.
func TestAMountWithoutControlAndAMoveExcludeEachOther(t *testing.T) {
	for _, first := range []string{"mount", "move"} {
		t.Run(first, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r, h1, h2 := twoNodes(t, nil)
				link := &cut{Control: r.cluster.as("h1")}
				h1.control = link
				h1.restart()
				settled()
				link.down.Store(true)
				link.lose()
				pass(time.Second)
				if first == "mount" {
					path := h1.mount("pgdata", "a")
					r.cluster.move("pgdata", "h2")
					pass(time.Minute)
					write(t, path, "rows", "1,2,3,4")
					if v := r.cluster.volume("pgdata"); v.Node != "h1" || v.Migration != nil {
						t.Errorf("a volume in use went to %s, %+v", v.Node, v.Migration)
					}
					link.down.Store(false)
					pass(time.Minute)
					if v := r.cluster.volume("pgdata"); v.Lease == nil || v.Lease.Node != "h1" {
						t.Errorf("once control answers the lease is %+v", v.Lease)
					}
					return
				}
				r.cluster.move("pgdata", "h2")
				pass(time.Minute)
				if v := r.cluster.volume("pgdata"); v.Node != "h2" {
					t.Fatalf("it did not move: %+v", v)
				}
				_, err := h1.agent.Mount(t.Context(), "pgdata", "a")
				wantCode(t, err, mobyfs.CodeUnavailable, "before control answers")
				if got := read(t, h2.mount("pgdata", "b"), "rows"); got != "1,2,3" {
					t.Errorf("got %q", got)
				}
				link.down.Store(false)
				pass(time.Minute)
				_, err = h1.agent.Mount(t.Context(), "pgdata", "c")
				wantCode(t, err, mobyfs.CodeInUse, "h2")
			})
		})
	}
}

// An agent that dies right after it went alone finds its promise again, and tells control of it.
func TestAMountWithoutControlSurvivesTheAgent(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, h1, _ := outage(t, 2)
		path := h1.mount("v1", "a")
		h1.kernel.set(path, 1, 0)
		h1.restart()
		if d := cmp.Diff(map[string]int{"a": 1}, h1.uses("v1")); d != "" {
			t.Error(d)
		}
		r.cluster.setDown(false)
		pass(time.Minute)
		v := r.cluster.volume("v1")
		if v.Lease == nil || v.Lease.Fence != v.Fence {
			t.Errorf("got lease %+v", v.Lease)
		}
		h1.unmount("v1", "a")
		h1.kernel.set(path, 0, 0)
		pass(time.Minute)
		if v := r.cluster.volume("v1"); v.Lease != nil {
			t.Errorf("the lease stayed: %+v", v.Lease)
		}
	})
}

// cut is the way of one node to control, which can be cut while the others still have theirs.
type cut struct {
	mobyfs.Control
	down atomic.Bool
	mu   sync.Mutex
	stop context.CancelFunc // of the watch
}

// lose ends the watch that goes on.
func (c *cut) lose() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stop()
}

func (c *cut) ask() error {
	if c.down.Load() {
		return mobyfs.Errorf(mobyfs.CodeUnavailable, "ask control: no route to host")
	}
	return nil
}

func (c *cut) Claim(ctx context.Context, id mobyfs.VolumeID) (mobyfs.Grant, error) {
	if err := c.ask(); err != nil {
		return mobyfs.Grant{}, err
	}
	return c.Control.Claim(ctx, id)
}

func (c *cut) Release(ctx context.Context, id mobyfs.VolumeID, fence mobyfs.Fence) error {
	if err := c.ask(); err != nil {
		return err
	}
	return c.Control.Release(ctx, id, fence)
}

func (c *cut) Volume(ctx context.Context, name string) (mobyfs.Volume, error) {
	if err := c.ask(); err != nil {
		return mobyfs.Volume{}, err
	}
	return c.Control.Volume(ctx, name)
}

func (c *cut) Watch(ctx context.Context, each func(mobyfs.Change)) error {
	if err := c.ask(); err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	c.mu.Lock()
	c.stop = stop
	c.mu.Unlock()
	return c.Control.Watch(ctx, each)
}

func (c *cut) Report(ctx context.Context, r mobyfs.Report) (mobyfs.Session, error) {
	if err := c.ask(); err != nil {
		return mobyfs.Session{}, err
	}
	return c.Control.Report(ctx, r)
}
