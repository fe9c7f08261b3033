package step

import (
	"context"

	"github.com/mobyfs/mobyfs/internal/durable"
)

// agent runs the socket and the agent behind it, and makes sure that Docker's driver answers. Docker itself is never
// restarted: it finds the socket when it needs it, and while the agent restarts its calls queue there.
type agent struct{}

func (agent) Name() string { return "agent" }

func (agent) Check(f Facts, d Desired) []Change {
	var changes []Change
	if f.stubRuns() {
		changes = append(changes, Change{Delete, "stop " + StubUnit, "the agent takes its place"})
	}
	for _, p := range f.dead(d) {
		changes = append(changes, Change{Delete, p, "nobody listens there any more"})
	}
	if why := f.stale(d, SocketUnit); why != "" {
		changes = append(changes, f.start(SocketUnit, why))
	}
	switch {
	case f.moved(d):
		changes = append(changes, Change{Add, "keep " + string(f.endpoint()) + " open until dockerd restarts",
			"Docker calls the address that it read until then"})
	case !f.keeps(d):
		changes = append(changes, f.start(KeptUnit, "what it keeps open has changed"))
	}
	why := f.stale(d, AgentUnit)
	if why == "" && len(certificate{}.Check(f, d)) > 0 {
		why = "it gets a new certificate"
	}
	if why != "" || len(changes) > 0 {
		changes = append(changes, f.start(AgentUnit, why))
	}
	return changes
}

// Apply stops the agent for the moments in which sockets change hands; calls to those that stay queue. Killed
// anywhere, the endpoint that the journal names is still to be kept, or is kept.
func (agent) Apply(ctx context.Context, r *Run) error {
	if r.Facts.stubRuns() {
		if err := r.stopUnit(ctx, StubUnit); err != nil {
			return err
		}
	}
	if !r.Facts.keeps(r.Desired) || r.Facts.stale(r.Desired, SocketUnit) != "" {
		if err := r.changeSockets(ctx); err != nil {
			return err
		}
	}
	for _, p := range r.Facts.dead(r.Desired) {
		if err := durable.Remove("step.deadsocket", r.path(p)); err != nil {
			return err
		}
		delete(r.Facts.Exists, p)
	}
	if err := r.noteEndpoint(); err != nil {
		return err
	}
	return r.startUnit(ctx, AgentUnit, func(ctx context.Context) error { return r.Probe(ctx, r.Desired.endpoint()) })
}

// changeSockets serves the desired endpoint, and beside it those to keep.
func (r *Run) changeSockets(ctx context.Context) error {
	keep, changed := r.Facts.keep(r.Desired), !r.Facts.keeps(r.Desired)
	stop := []string{AgentUnit} // systemd starts no socket whose service runs
	if changed {
		stop = append(stop, KeptUnit) // it may hold what is desired now
	}
	for _, u := range stop {
		if r.Facts.Units[u].Active == "active" {
			if err := r.stopUnit(ctx, u); err != nil {
				return err
			}
		}
	}
	if r.Facts.stale(r.Desired, SocketUnit) != "" {
		if err := r.startUnit(ctx, SocketUnit, nil); err != nil {
			return err
		}
	}
	if changed && len(keep) > 0 {
		return r.keepOpen(ctx, keep)
	}
	r.Facts.Kept = keep
	return nil
}

func (r *Run) stopUnit(ctx context.Context, unit string) error {
	if err := r.Systemd.Stop(ctx, unit); err != nil {
		return err
	}
	u := r.Facts.Units[unit]
	u.Active = "inactive"
	r.Facts.Units[unit] = u
	return nil
}
