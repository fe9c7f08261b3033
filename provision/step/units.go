package step

import (
	"context"
	"path"
)

// units makes systemd know the units and start them at boot. It reloads systemd once, and only if something changed.
type units struct{}

func (units) Name() string { return "units" }

func (units) Check(f Facts, d Desired) []Change {
	var changes []Change
	for _, name := range d.units() {
		u := f.Units[name]
		switch {
		case u.FileState != "enabled" || !f.Wants[name]:
			changes = append(changes, Change{Add, "enable " + name, ""})
		case u.NeedReload || u.Load != "loaded" || f.Files[path.Join(UnitDir, name)].SHA256 != sum(d.content(path.Join(UnitDir, name))):
			changes = append(changes, Change{Modify, "reload systemd", name + " changed"})
		}
	}
	return changes
}

func (units) Apply(ctx context.Context, r *Run) error {
	var enable []string
	for _, name := range r.Desired.units() {
		if r.Facts.Units[name].FileState != "enabled" || !r.Facts.Wants[name] {
			enable = append(enable, name)
		}
	}
	if len(enable) > 0 {
		if err := r.Systemd.Enable(ctx, enable); err != nil {
			return err
		}
	}
	if err := r.Systemd.Reload(ctx); err != nil {
		return err
	}
	for _, name := range r.Desired.units() {
		u := r.Facts.Units[name]
		u.FileState, u.Load, u.NeedReload = "enabled", "loaded", false
		r.Facts.Units[name], r.Facts.Wants[name] = u, true
	}
	return nil
}

// stale tells why a unit must be started, or started anew, or "".
func (f Facts) stale(d Desired, unit string) string {
	switch {
	case f.Units[unit].Active != "active":
		return "it does not run"
	case f.running(unit) != d.digest(unit):
		return "what it was started with has changed"
	default:
		return ""
	}
}

// start is the Change for a unit that is stale.
func (f Facts) start(unit, why string) Change {
	if f.Units[unit].Active == "active" {
		return Change{Restart, "restart " + unit, why}
	}
	return Change{Add, "start " + unit, ""}
}

// startUnit starts or restarts a unit, waits until it is up and proof, if not nil, has succeeded, and notes what it
// was started with.
func (r *Run) startUnit(ctx context.Context, unit string, proof func(context.Context) error) error {
	act := r.Systemd.Start
	if r.Facts.Units[unit].Active == "active" {
		act = r.Systemd.Restart
	}
	if err := act(ctx, unit); err != nil {
		return err
	}
	if proof != nil {
		if err := proof(ctx); err != nil {
			return err
		}
	}
	u := r.Facts.Units[unit]
	u.Active = "active"
	r.Facts.Units[unit] = u
	return r.noteRunning(unit)
}
