package chaos

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/pki"
	"github.com/mobyfs/mobyfs/test/chaos/journal"
)

// TestWithTheFenceOffStaleWritesAreFound proves the checks. Two nodes get the lease of a volume that all nodes see, are
// held before they attach it, and are cut off until a third has taken the volume over and written. Then they go on. The
// one that keeps to the fence is refused; in the other the fence is switched off, so its container writes, and the checks
// must find that.
func TestWithTheFenceOffStaleWritesAreFound(t *testing.T) {
	t.Parallel()
	withAndWithout(t, 1, "fence", lateOwner)
}

// TestWithTheWatchdogsGuardOffStaleWritesAreFound proves them once more. On two nodes a container writes into a volume of
// takeover auto when the agent is stopped. Control gives the volume to a third node by itself. On the node whose watchdog
// keeps to its guard nobody writes by then; on the other one the container goes on, and the checks must find that.
func TestWithTheWatchdogsGuardOffStaleWritesAreFound(t *testing.T) {
	t.Parallel()
	withAndWithout(t, 5, "watchdog", stoppedAgent)
}

// scene is what happens to a node and its volume, and what the checks find then.
type scene func(ctx context.Context, w *workload, at, taker *agent, v *verdict) error

// withAndWithout plays a scene on a node with all guards and on one without one of them.
func withAndWithout(t *testing.T, number int, guard string, play scene) {
	b, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	cfg := configure(t, number)
	cfg.Controls, cfg.Agents = 1, 3
	c, err := newCluster(cfg, b)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.stop)
	keeps, taker, breaks := c.agents[0], c.agents[1], c.agents[2]
	for _, x := range []*process{breaks.process, breaks.watchdog.process} {
		x.env = append(x.env, "MOBYFS_WITHOUT="+guard)
	}
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
		go func() { done <- play(ctx, w, at, taker, found[at]) }()
	}
	for range found {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	t.Logf("stale writes found: with the %s %d, without it %d", guard, len(found[keeps].stale), len(found[breaks].stale))
	if n := len(found[keeps].violations()); n != 0 {
		t.Errorf("with the %s: %q", guard, found[keeps].violations())
	}
	if len(found[breaks].stale) == 0 {
		t.Errorf("without the %s no stale write was found", guard)
	}
}

// stoppedAgent is a node whose agent stands still while a container writes, until another node has taken its volume and
// written.
func stoppedAgent(ctx context.Context, w *workload, at, taker *agent, v *verdict) error {
	name := "vol-stopped-" + at.node
	options := map[string]string{"backend": mobyfs.SharedBackend, "takeover": string(mobyfs.TakeoverAuto)}
	if err := at.docker.create(ctx, name, options); err != nil {
		return err
	}
	path, err := at.docker.mount(ctx, name, "first")
	if err != nil {
		return err
	}
	record, err := leaseOf(ctx, w, name, at.node)
	if err != nil {
		return err
	}
	writing, enough := context.WithCancel(ctx)
	defer enough()
	first := "first-" + at.node
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		w.write(writing, at, record.ID, path, first, record.Lease.Fence, time.Hour)
	}()
	acked := func() uint64 { return w.h.ackedUntil(record.ID)[first] }
	if !until(ctx, func() bool { return acked() > 0 }) {
		return fmt.Errorf("nobody wrote to %s on %s", name, at.node)
	}
	undo, err := hold(&at.machine)
	if err != nil {
		return err
	}
	defer undo()
	var taken string
	for taken == "" {
		if taken, err = taker.docker.mount(ctx, name, "second"); ctx.Err() != nil {
			return fmt.Errorf("wait until control gives %s away: %w", name, err)
		}
	}
	now, err := leaseOf(ctx, w, name, taker.node)
	if err != nil {
		return err
	}
	w.write(ctx, taker, record.ID, taken, "second-"+at.node, now.Lease.Fence, time.Second)
	before := acked()
	until(ctx, func() bool { // the first either was ended or writes on
		select {
		case <-ended:
			return true
		default:
			return acked() > before
		}
	})
	enough()
	<-ended
	v.checkWindows(w.h.windowsOf(record.ID))
	return w.judgeData(record.ID, v)
}

// lateOwner is what happens to a node that is too late, on a volume of its own, and what the checks find.
func lateOwner(ctx context.Context, w *workload, at, taker *agent, v *verdict) error {
	name := "vol-late-" + at.node
	options := map[string]string{"backend": mobyfs.SharedBackend, "takeover": string(mobyfs.TakeoverManual)}
	if err := at.docker.create(ctx, name, options); err != nil {
		return err
	}
	reached, release, err := holdAt(&at.machine, "agent.attach.before")
	if err != nil {
		return err
	}
	defer release()
	late := make(chan error, 1)
	var path string
	go func() {
		var err error
		path, err = at.docker.mount(ctx, name, "late")
		late <- err
	}()
	record, err := leaseOf(ctx, w, name, at.node)
	if err == nil {
		err = reached(ctx) // the node knows that it has the lease; only now may the cable be pulled
	}
	if err != nil {
		return fmt.Errorf("wait for the lease of %s: %w", at.node, err)
	}
	at.host.Pull(true)
	defer at.host.Pull(false)
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
	release()
	if err := <-late; err == nil {
		w.write(ctx, at, record.ID, path, "late", record.Lease.Fence, time.Second)
	} else if !strings.Contains(err.Error(), "fence") {
		return fmt.Errorf("%s was refused, but not by the fence: %w", at.node, err)
	}
	return w.judgeData(record.ID, v)
}

// judgeData checks the data of a volume that all nodes see.
func (w *workload) judgeData(id mobyfs.VolumeID, v *verdict) error {
	records, _, err := journal.Read(filepath.Join(w.c.shared(), "volumes", string(id), "data", journal.Name))
	v.checkJournal(id, "the shared directory", records, w.h.ackedUntil(id))
	if len(records) == 0 {
		return fmt.Errorf("volume %s: nobody wrote", id)
	}
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
