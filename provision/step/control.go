package step

import (
	"context"
	"fmt"
	"os"
	"path"
)

// control makes the control plane of the cluster and its authority, and runs it. Hosts without it have nothing to do.
type control struct{}

func (control) Name() string { return "control" }

func (control) Check(f Facts, d Desired) []Change {
	if !d.Control {
		return nil
	}
	var changes []Change
	if !f.HasControl() {
		changes = append(changes, Change{Add, "authority of cluster " + d.Cluster, ""})
	} else if why := expiring(f.ControlCert, f.Clock); why != "" {
		changes = append(changes, Change{Modify, "certificate of the control plane", why})
	}
	if why := f.stale(d, ControlUnit); why != "" || len(changes) > 0 {
		changes = append(changes, f.start(ControlUnit, why))
	}
	return changes
}

// HasControl reports whether a control plane was made on the host.
func (f Facts) HasControl() bool { return f.ControlKey && f.ControlCA != "" && f.ControlCert != "" }

func (control) Apply(ctx context.Context, r *Run) error {
	if !r.Facts.HasControl() || expiring(r.Facts.ControlCert, r.Facts.Clock) != "" {
		if err := r.Command(ctx, r.path(path.Join(BinDir, Control)), "init", "--cluster", r.Desired.Cluster, "--name", r.Desired.Node); err != nil {
			return fmt.Errorf("make the control plane: %w", err)
		}
		if err := r.readControl(); err != nil {
			return err
		}
	}
	return r.startUnit(ctx, ControlUnit, nil)
}

// readControl takes the control plane's certificates into the facts.
func (r *Run) readControl() error {
	cert, err := os.ReadFile(r.path(ControlRoot + "/pki/control.crt"))
	if err != nil {
		return err
	}
	ca, err := os.ReadFile(r.path(ControlRoot + "/pki/ca.crt"))
	if err != nil {
		return err
	}
	r.Facts.ControlCert, r.Facts.ControlCA, r.Facts.ControlKey = string(cert), string(ca), true
	return nil
}
