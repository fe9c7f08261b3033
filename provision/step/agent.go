package step

import "context"

// agent runs the socket and the agent behind it, and makes sure that Docker's driver answers. Docker itself is never
// restarted: it finds the socket when it needs it, and while the agent restarts its calls queue there.
type agent struct{}

func (agent) Name() string { return "agent" }

func (agent) Check(f Facts, d Desired) []Change {
	var changes []Change
	if why := f.stale(d, SocketUnit); why != "" {
		changes = append(changes, f.start(SocketUnit, why))
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

func (agent) Apply(ctx context.Context, r *Run) error {
	if r.Facts.stale(r.Desired, SocketUnit) != "" {
		if r.Facts.Units[AgentUnit].Active == "active" { // systemd starts no socket whose service runs
			if err := r.stopUnit(ctx, AgentUnit); err != nil {
				return err
			}
		}
		if err := r.startUnit(ctx, SocketUnit, nil); err != nil {
			return err
		}
	}
	return r.startUnit(ctx, AgentUnit, r.Probe)
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
