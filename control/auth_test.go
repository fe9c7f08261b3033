package control

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/api"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// calls are all that can be asked, by name, each of a volume of h1 that is moving to h2.
func calls(v mobyfs.Volume) map[string]func(ctx context.Context, c caller) error {
	m := v.Migration.ID
	return map[string]func(ctx context.Context, c caller) error{
		"create": func(ctx context.Context, c caller) error {
			_, err := c.CreateVolume(ctx, v.Name, v.Spec, "")
			return err
		},
		"get":     func(ctx context.Context, c caller) error { _, err := c.Volume(ctx, v.Name); return err },
		"remove":  func(ctx context.Context, c caller) error { return c.RemoveVolume(ctx, v.Name) },
		"watch":   watchOnce,
		"volumes": func(ctx context.Context, c caller) error { _, err := c.Volumes(ctx); return err },
		"nodes":   func(ctx context.Context, c caller) error { _, err := c.Nodes(ctx); return err },
		"cluster": func(ctx context.Context, c caller) error { _, err := c.Cluster(ctx); return err },
		"move":    func(ctx context.Context, c caller) error { _, err := c.MoveVolume(ctx, v.Name, "h3"); return err },
		"cancel":  func(ctx context.Context, c caller) error { _, err := c.CancelMove(ctx, "other"); return err },
		"created": func(ctx context.Context, c caller) error { _, err := c.Created(ctx, v.ID); return err },
		"removed": func(ctx context.Context, c caller) error { return c.Removed(ctx, v.ID) },
		"claim":   func(ctx context.Context, c caller) error { _, err := c.Claim(ctx, v.ID); return err },
		"release": func(ctx context.Context, c caller) error { return c.Release(ctx, v.ID, v.Fence) },
		"accept":  func(ctx context.Context, c caller) error { _, err := c.Accept(ctx, v.ID, m); return err },
		"commit": func(ctx context.Context, c caller) error {
			_, err := c.Commit(ctx, v.ID, m, mobyfs.Receipt{})
			return err
		},
		"abort":  func(ctx context.Context, c caller) error { return c.Abort(ctx, v.ID, "other", "") },
		"report": func(ctx context.Context, c caller) error { _, err := c.Report(ctx, mobyfs.Report{}); return err },
		"take over": func(ctx context.Context, c caller) error {
			_, err := c.TakeOver(ctx, "pgdata", "h2", "test")
			return err
		},
		"patch": func(ctx context.Context, c caller) error {
			_, err := c.PatchVolume(ctx, "other", api.VolumePatch{})
			return err
		},
		"node": func(ctx context.Context, c caller) error { _, err := c.Node(ctx, "h1"); return err },
		"patch node": func(ctx context.Context, c caller) error {
			zone := "west"
			_, err := c.PatchNode(ctx, "h2", api.NodePatch{Zone: &zone})
			return err
		},
		"cordon":   func(ctx context.Context, c caller) error { _, err := c.CordonNode(ctx, "h2", true); return err },
		"uncordon": func(ctx context.Context, c caller) error { _, err := c.CordonNode(ctx, "h2", false); return err },
		"explain": func(ctx context.Context, c caller) error {
			_, err := c.ExplainPlacement(ctx, api.PlacementQuestion{})
			return err
		},
		"wait": func(ctx context.Context, c caller) error { _, err := c.WaitVolume(ctx, v.Name, 0, 0); return err },
		"page": func(ctx context.Context, c caller) error { _, err := c.VolumePage(ctx, api.VolumeQuery{}); return err },
		"events": func(ctx context.Context, c caller) error {
			err := c.Events(ctx, 0, func(mobyfs.Event) error { return errEnough }, func(api.Complete) error { return errEnough })
			if errors.Is(err, errEnough) {
				return nil
			}
			return err
		},
		"audit": func(ctx context.Context, c caller) error {
			err := c.Audit(ctx, 0, func(mobyfs.Event) error { return errEnough }, func(api.Complete) error { return errEnough })
			if errors.Is(err, errEnough) {
				return nil
			}
			return err
		},
		"trail":   func(ctx context.Context, c caller) error { _, err := c.AuditTrail(ctx); return err },
		"segment": func(ctx context.Context, c caller) error { _, err := c.AuditSegment(ctx, 1); return err },
		"healthy": func(ctx context.Context, c caller) error { return c.Healthy(ctx) },
		"ready":   func(ctx context.Context, c caller) error { return c.Ready(ctx) },

		"make a backup":  func(ctx context.Context, c caller) error { _, err := c.MakeBackup(ctx); return err },
		"backups":        func(ctx context.Context, c caller) error { _, err := c.Backups(ctx); return err },
		"fetch a backup": func(ctx context.Context, c caller) error { return c.Backup(ctx, "other", io.Discard) },
		"restore":        func(ctx context.Context, c caller) error { _, err := c.RestoreStatus(ctx); return err },
		"converge":       func(ctx context.Context, c caller) error { _, err := c.Converge(ctx, nil); return err },
		"settle": func(ctx context.Context, c caller) error {
			_, err := c.SettleVolume(ctx, "other", "", "h9")
			return err
		},
		"removed volumes": func(ctx context.Context, c caller) error { _, err := c.RemovedVolumes(ctx); return err },
		"undelete":        func(ctx context.Context, c caller) error { _, err := c.UndeleteVolume(ctx, "other", ""); return err },
		"inventory":       func(ctx context.Context, c caller) error { return c.Inventory(ctx, mobyfs.Inventory{}) },
	}
}

// watchOnce watches until the first change has come.
func watchOnce(ctx context.Context, c caller) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	seen := false
	err := c.Watch(ctx, func(mobyfs.Change) { seen = true; cancel() })
	if seen {
		return nil
	}
	return err
}

// TestWhoMayDoWhat walks every call with every kind of identity. What is not listed must be denied, and nothing may
// change by what is denied.
func TestWhoMayDoWhat(t *testing.T) {
	any := []string{"create", "get", "remove", "watch", "healthy", "ready"}
	reader := []string{"get", "watch", "healthy", "ready", "volumes", "nodes", "cluster", "events", "wait", "page", "node", "explain", "backups", "restore", "removed volumes"}
	auditor := append([]string{"audit", "trail", "segment"}, reader...)
	operator := append([]string{"create", "remove", "move", "cancel", "patch", "take over", "patch node", "cordon", "uncordon", "make a backup", "fetch a backup", "converge", "settle", "undelete"}, auditor...)
	allowed := map[pki.Identity][]string{
		{Cluster: "shop", Role: pki.RoleOperator, Name: "ana"}:    operator,
		{Cluster: "shop", Role: pki.RoleAdmin, Name: "ana"}:       operator,
		{Cluster: "shop", Role: pki.RoleViewer, Name: "vic"}:      reader,
		{Cluster: "shop", Role: pki.RoleAuditor, Name: "aud"}:     auditor,
		{Cluster: "shop", Role: pki.RoleDocker, Name: "h1"}:       {"healthy", "ready"},
		{Cluster: "shop", Role: pki.RolePeer, Name: "c1"}:         {"healthy", "ready"},
		{Cluster: "shop", Role: pki.RoleNode, Name: "h1"}:         append([]string{"created", "removed", "claim", "release", "abort", "commit", "report", "wait", "fetch a backup", "inventory"}, any...),
		{Cluster: "shop", Role: pki.RoleNode, Name: "h2"}:         append([]string{"claim", "release", "accept", "abort", "commit", "report", "wait", "fetch a backup", "inventory"}, any...),
		{Cluster: "shop", Role: pki.RoleNode, Name: "h3"}:         append([]string{"claim", "release", "abort", "commit", "report", "wait", "fetch a backup", "inventory"}, any...),
		{Cluster: "shop", Role: pki.RoleNode, Name: "../../m"}:    {"healthy", "ready"},
		{Cluster: "shop", Role: pki.RoleControl, Name: "control"}: {"healthy", "ready"},
		{Cluster: "shop", Role: "", Name: ""}:                     {"healthy", "ready"},
		{Cluster: "shop", Role: "root", Name: "h1"}:               {"healthy", "ready"},
		{Cluster: "bank", Role: pki.RoleOperator, Name: "ana"}:    {"healthy", "ready"},
		{Cluster: "bank", Role: pki.RoleNode, Name: "h1"}:         {"healthy", "ready"},
		{}: {"healthy", "ready"},
	}
	f := newFleet(t, false)
	f.node("h1")
	f.node("h2")
	f.node("h3")
	f.ready("other", "h1")
	f.ready("pgdata", "h1")
	v := must[mobyfs.Volume](t)(f.operator().MoveVolume(t.Context(), "pgdata", "h2"))
	for who, may := range allowed {
		for name, ask := range calls(v) {
			err := ask(t.Context(), local{f.control, who})
			denied := mobyfs.CodeOf(err) == mobyfs.CodeDenied
			want := true
			for _, m := range may {
				want = want && m != name
			}
			// The destination alone may accept, commit and abort; h1 and h3 ask for another migration, or with no
			// receipt, and are told that before who they are matters.
			if denied != want {
				t.Errorf("%s of %s asks to %s: %v; denied should be %v", who, who.Cluster, name, err, want)
			}
		}
		if got := f.record("pgdata"); got.Migration == nil || got.Migration.ID != v.Migration.ID || got.Node != "h1" || got.Fence != v.Fence {
			t.Fatalf("after %s the record is %+v", who, got)
		}
	}
}

// TestOnlyItsOwnNodeSpeaksForAVolume walks the calls that belong to one node in a certain state of a volume.
func TestOnlyItsOwnNodeSpeaksForAVolume(t *testing.T) {
	both(t, func(t *testing.T, f *fleet) {
		ctx, op := t.Context(), f.operator()
		nodes := map[string]caller{"h1": f.node("h1"), "h2": f.node("h2"), "h3": f.node("h3")}
		only := func(own, what string, ask func(c caller) error) {
			t.Helper()
			before := f.record("pgdata")
			for name, c := range nodes {
				if name != own {
					if err := ask(c); mobyfs.CodeOf(err) != mobyfs.CodeDenied {
						t.Errorf("%s by %s: got %v, want denied", what, name, err)
					}
				}
			}
			wantCode(t, ask(op), mobyfs.CodeDenied)
			if after := f.record("pgdata"); after.Revision != before.Revision {
				t.Errorf("%s by others has written", what)
			}
			if err := ask(nodes[own]); err != nil {
				t.Errorf("%s by %s: %v", what, own, err)
			}
		}
		v := must[mobyfs.Volume](t)(op.CreateVolume(ctx, "pgdata", mobyfs.VolumeSpec{}, "h1"))
		only("h1", "created", func(c caller) error { _, err := c.Created(ctx, v.ID); return err })
		g := must[mobyfs.Grant](t)(nodes["h1"].Claim(ctx, v.ID))
		only("h1", "release", func(c caller) error { return c.Release(ctx, v.ID, g.Fence) })
		m := must[mobyfs.Volume](t)(op.MoveVolume(ctx, "pgdata", "h2")).Migration.ID
		only("h2", "accept", func(c caller) error { _, err := c.Accept(ctx, v.ID, m); return err })
		only("h2", "abort", func(c caller) error { return c.Abort(ctx, v.ID, m, "x") })
		m = must[mobyfs.Volume](t)(op.MoveVolume(ctx, "pgdata", "h3")).Migration.ID
		only("h3", "commit", func(c caller) error { _, err := c.Commit(ctx, v.ID, m, someReceipt); return err })

		if err := op.RemoveVolume(ctx, "pgdata"); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"h1", "h2"} {
			wantCode(t, nodes[name].Removed(ctx, v.ID), mobyfs.CodeDenied)
		}
		if err := nodes["h3"].Removed(ctx, v.ID); err != nil {
			t.Error(err)
		}
	})
}

func TestStrangersDoNotGetThroughTLS(t *testing.T) {
	f := newFleet(t, true)
	f.node("h1")
	f.ready("pgdata", "h1")
	for _, cluster := range []string{"bank", "shop"} { // another authority, though it may use our name
		other, err := pki.NewAuthority(t.TempDir(), cluster)
		if err != nil {
			t.Fatal(err)
		}
		_, err = f.client(other, pki.RoleOperator, "ana").Volumes(t.Context())
		wantCode(t, err, mobyfs.CodeUnavailable)
	}
}

func TestNoActionIsLeftOutOfTheTable(t *testing.T) {
	for _, role := range []string{pki.RoleControl, pki.RoleNode, pki.RoleOperator, ""} {
		if may(role, "something new") {
			t.Errorf("%q may do what nobody has thought of", role)
		}
	}
}
