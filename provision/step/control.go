package step

import (
	"context"
	"fmt"
	"os"
	"path"

	"github.com/mobyfs/mobyfs/internal/durable"
	"github.com/mobyfs/mobyfs/internal/pki"
	"github.com/mobyfs/mobyfs/internal/seal"
)

// control makes the control plane of the cluster and its authority, or one that joins it, and runs it. Hosts without it
// have nothing to do. Killed before the start, the store knows of a member that never came, which costs it nothing.
type control struct{}

func (control) Name() string { return "control" }

func (control) Check(f Facts, d Desired) []Change {
	if !d.Control {
		return nil
	}
	var changes []Change
	switch why := f.controlTrouble(d); {
	case why == "":
	case f.HasControl():
		changes = append(changes, Change{Modify, "certificates of the control plane", why})
	case d.Joins:
		changes = append(changes, Change{Add, "certificates of the control plane", ""})
	default:
		changes = append(changes, Change{Add, "authority of cluster " + d.Cluster, ""})
	}
	if d.Joins && !f.Member {
		changes = append(changes, Change{Add, "member of the store", "it joins the other control hosts"})
	}
	if why := f.stale(d, ControlUnit); why != "" || len(changes) > 0 {
		changes = append(changes, f.start(ControlUnit, why))
	}
	return changes
}

// HasControl reports whether a control plane was made on the host.
func (f Facts) HasControl() bool { return f.ControlKey && f.ControlCA != "" && f.ControlCert != "" }

// controlTrouble tells why control needs new certificates, or "".
func (f Facts) controlTrouble(d Desired) string {
	switch {
	case !f.HasControl():
		return "there are none"
	case d.Joins && d.NewAuthority:
		return "the cluster gets a new authority"
	case d.Joins && !pki.ChainsTo([]byte(d.Authority), []byte(f.ControlCert)):
		return "another authority signed them"
	case !f.ControlPeer:
		return "there is none for the members of its store"
	default:
		return expiring(f.ControlCert, f.Clock)
	}
}

func (control) Apply(ctx context.Context, r *Run) error {
	if r.Facts.controlTrouble(r.Desired) != "" {
		if err := r.certifyControl(ctx); err != nil {
			return err
		}
		if err := r.readControl(); err != nil {
			return err
		}
	}
	if r.Desired.Joins && !r.Facts.Member {
		if err := durable.WriteFile("step.join", r.path(ControlRoot+"/join"), []byte(r.Desired.Join+"\n"), 0o600); err != nil {
			return err
		}
	}
	if err := r.startUnit(ctx, ControlUnit, nil); err != nil {
		return err
	}
	r.Facts.Member = true
	return nil
}

// certifyControl has the first control host make the authority, and the others ask it.
func (r *Run) certifyControl(ctx context.Context) error {
	if !r.Desired.Joins {
		err := r.Command(ctx, r.path(path.Join(BinDir, Control)), "init", "--cluster", r.Desired.Cluster, "--name", r.Desired.Node)
		if err != nil {
			return fmt.Errorf("make the control plane: %w", err)
		}
		return nil
	}
	dir := ControlRoot + "/pki"
	if err := r.mkdirAll(ControlRoot, 0o700); err != nil {
		return err
	}
	if err := r.mkdirAll(dir, 0o700); err != nil {
		return err
	}
	for role, files := range map[string]pki.Files{
		pki.RoleControl: pki.FilesIn(r.path(dir), "control"), pki.RolePeer: pki.PeerFiles(r.path(dir)),
	} {
		csr, err := files.NewRequest()
		if err != nil {
			return fmt.Errorf("make a certificate request: %w", err)
		}
		answer, err := r.Sign(ctx, role, csr)
		if err != nil {
			return fmt.Errorf("have the certificate of the control plane signed: %w", err)
		}
		if answer.Secret != "" { // the key of what is sealed in the store is the same on each control host
			if err := durable.WriteFile("step.kek", seal.PathIn(r.path(ControlRoot)), []byte(answer.Secret), 0o600); err != nil {
				return err
			}
		}
		if err := files.Install([]byte(answer.Cert), []byte(answer.CA)); err != nil {
			return err
		}
		r.Desired.Authority, r.Desired.NewAuthority = answer.CA, false // from now on this is the one
	}
	return nil
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
	r.Facts.ControlCert, r.Facts.ControlCA, r.Facts.ControlKey, r.Facts.ControlPeer = string(cert), string(ca), true, true
	return nil
}
