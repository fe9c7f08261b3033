package chaos

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/pki"
	"github.com/mobyfs/mobyfs/test/chaos/journal"
	"github.com/mobyfs/mobyfs/test/chaos/network"
)

// shortTTL is that of sessions in this test. It is longer than the pause between two heartbeats.
const shortTTL = 12 * time.Second

// TestWithTheFenceOffStaleWritesAreFound proves the checks. Two nodes get the lease of a volume that all nodes see, stall
// before they attach it, and are cut off until a third has taken the volume over and written. Then they go on. The one
// that keeps to the fence is refused; in the other the fence is switched off, so its container writes, and the checks
// must find that.
func TestWithTheFenceOffStaleWritesAreFound(t *testing.T) {
	t.Parallel()
	b, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	cfg := configure(t, 1)
	cfg.Controls, cfg.Agents = 1, 3
	c, err := newCluster(cfg, b)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.stop)
	c.controls[0].env = append(c.controls[0].env, "MOBYFS_SESSION_TTL="+shortTTL.String())
	keeps, taker, breaks := c.agents[0], c.agents[1], c.agents[2]
	breaks.env = append(breaks.env, "MOBYFS_WITHOUT=fence")
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if err := c.start(ctx); err != nil {
		t.Fatal(err)
	}
	w := &workload{c: c, h: newHistory()}
	if w.finder, err = c.client(pki.RoleOperator, "finder"); err != nil {
		t.Fatal(err)
	}
	found := map[*agent]*verdict{}
	done := make(chan error)
	for _, at := range []*agent{keeps, breaks} {
		found[at] = &verdict{}
		go func() { done <- lateOwner(ctx, w, at, taker, found[at]) }()
	}
	for range found {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	t.Logf("stale writes found: with the fence %d, without it %d", len(found[keeps].stale), len(found[breaks].stale))
	if n := len(found[keeps].violations()); n != 0 {
		t.Errorf("with the fence: %q", found[keeps].violations())
	}
	if len(found[breaks].stale) == 0 {
		t.Error("without the fence no stale write was found")
	}
}

// lateOwner is what happens to a node that is too late, on a volume of its own, and what the checks find.
func lateOwner(ctx context.Context, w *workload, at, taker *agent, v *verdict) error {
	name := "vol-late-" + at.node
	options := map[string]string{"backend": mobyfs.SharedBackend, "takeover": string(mobyfs.TakeoverManual)}
	if err := at.docker.create(ctx, name, options); err != nil {
		return err
	}
	if _, err := arm(&at.machine, fmt.Sprintf("agent.attach.before stall %v", 2*shortTTL+8*time.Second)); err != nil {
		return err
	}
	late := make(chan error, 1)
	var path string
	go func() {
		var err error
		path, err = at.docker.mount(ctx, name, "late")
		late <- err
	}()
	record, err := leaseOf(ctx, w, name, at.node)
	if err != nil {
		return fmt.Errorf("wait for the lease of %s: %w", at.node, err)
	}
	cut := &lane{c: w.c, n: newNemesis(w.c, moments{}, func(string, ...any) {})}
	heal, err := cut.ways(at.host, network.Way{Cut: true})
	if err != nil {
		return err
	}
	defer heal()
	for { // until it may be taken over
		_, err := w.finder.TakeOver(ctx, name, taker.node, at.node+" is late")
		var taken string
		if err == nil {
			taken, err = taker.docker.mount(ctx, name, "taker")
		}
		if err == nil {
			now, err := leaseOf(ctx, w, name, taker.node)
			if err != nil {
				return err
			}
			w.write(ctx, taker, record.ID, taken, "taker", now.Lease.Fence, time.Second)
			break
		}
		if ctx.Err() != nil {
			return fmt.Errorf("take %s over: %w", name, err)
		}
		pause(ctx, 200*time.Millisecond)
	}
	if err := <-late; err == nil {
		w.write(ctx, at, record.ID, path, "late", record.Lease.Fence, time.Second)
	} else if strings.Contains(err.Error(), "no answer") {
		return err
	}
	data := filepath.Join(w.c.shared(), "volumes", string(record.ID), "data", journal.Name)
	records, _, err := journal.Read(data)
	v.checkJournal(record.ID, "the shared directory", records, w.h.ackedUntil(record.ID))
	if len(records) == 0 {
		return fmt.Errorf("%s: nobody wrote", name)
	}
	_ = unix.Unmount(path, unix.MNT_DETACH)
	return err
}

// leaseOf waits until control has given a node the lease of a volume.
func leaseOf(ctx context.Context, w *workload, name, node string) (mobyfs.Volume, error) {
	for {
		v, err := w.finder.Volume(ctx, name)
		if err == nil && v.Lease != nil && v.Lease.Node == node {
			return v, nil
		}
		if ctx.Err() != nil {
			return v, ctx.Err()
		}
		pause(ctx, 50*time.Millisecond)
	}
}
