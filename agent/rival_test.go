package agent

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs"
)

// clone is a control that another agent of the same name speaks to, while it is there.
type clone struct {
	mobyfs.Control
	there atomic.Bool
}

func (c *clone) Report(ctx context.Context, r mobyfs.Report) (mobyfs.Session, error) {
	if c.there.Load() {
		return mobyfs.Session{}, mobyfs.Errorf(mobyfs.CodeStaleFence, "another agent speaks for h1").WithHint("take mobyfs off one of the two machines")
	}
	return c.Control.Report(ctx, r)
}

// A copy of a machine has the same certificate: what one of the two agents asks, both get. The one that is not heard any
// longer releases nothing, claims nothing, and ends writing to what the other may use.
func TestAttackCloneOfANode(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r, h1, _, d, link := guarded(t)
		h1.create("local", nil)
		other := &clone{Control: link}
		h1.control = other
		h1.restart()
		pass(time.Minute)
		h1.mount("pgdata", "a")
		h1.mount("local", "b")
		settled()
		lease := r.cluster.volume("pgdata").Lease
		r.cluster.took()

		other.there.Store(true)
		pass(mobyfs.SessionTTL / 2)
		d.mu.Lock()
		if len(d.lost) != 1 {
			t.Errorf("the watchdog was told that %v are lost, want pgdata", d.lost)
		}
		d.mu.Unlock()
		d.wait(t)
		for name, try := range map[string]func() error{
			"mount of a new volume":    func() error { _, err := h1.agent.Mount(t.Context(), "local", "c"); return err },
			"mount of what is mounted": func() error { _, err := h1.agent.Mount(t.Context(), "pgdata", "c"); return err },
			"creation":                 func() error { return h1.agent.Create(t.Context(), "evil", nil) },
			"removal":                  func() error { return h1.agent.Remove(t.Context(), "local") },
			"mount with nobody to ask": func() error {
				link.down.Store(true)
				defer link.down.Store(false)
				_, err := h1.agent.Mount(t.Context(), "local", "d")
				return err
			},
			"mount of what it knows not": func() error { _, err := h1.agent.Mount(t.Context(), "elsewhere", "c"); return err },
		} {
			if err := try(); err == nil || name != "mount of what it knows not" && (mobyfs.CodeOf(err) != mobyfs.CodeStaleFence || mobyfs.HintOf(err) == "") {
				t.Errorf("%s: got %v (hint %q)", name, err, mobyfs.HintOf(err))
			}
		}
		h1.unmount("pgdata", "a") // its container has ended; the other's may run
		pass(time.Minute)
		for _, call := range r.cluster.took() {
			if !strings.HasSuffix(call, " Report") && !strings.HasSuffix(call, " Watch") && !strings.HasSuffix(call, " Volume") && !strings.HasSuffix(call, " Records") {
				t.Errorf("it asked control for %q", call)
			}
		}
		if now := r.cluster.volume("pgdata"); now.Lease == nil || now.Lease.Fence != lease.Fence {
			t.Errorf("the lease of the other is gone: %+v", now)
		}
		if v, err := h1.agent.Get(t.Context(), "local"); err != nil || !strings.Contains(v.Status["problem"].(string), "another agent speaks for h1") {
			t.Errorf("docker volume inspect shows %v, %v", v.Status, err)
		}

		other.there.Store(false) // the copy is off, and its session over
		pass(2 * time.Minute)
		h1.mount("pgdata", "e")
		h1.mount("local", "e")
		if v := r.cluster.volume("pgdata"); v.Lease == nil || v.Lease.Fence <= lease.Fence {
			t.Errorf("the lease is %+v", v.Lease)
		}
	})
}
