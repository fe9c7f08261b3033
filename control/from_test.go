package control

import (
	"testing"
	"time"

	"github.com/mobyfs/mobyfs"
)

// TestADirectoryIsCopiedForDockerOnItsHostAlone: whoever may create volumes could read any host's files otherwise.
func TestADirectoryIsCopiedForDockerOnItsHostAlone(t *testing.T) {
	both(t, func(t *testing.T, f *fleet) {
		ctx, op, h1, h2 := t.Context(), f.operator(), f.node("h1"), f.node("h2")
		spec := mobyfs.VolumeSpec{From: "/srv/pgdata"}
		for name, ask := range map[string]func(node string) error{
			"an operator":  func(node string) error { _, err := op.CreateVolume(ctx, "pgdata", spec, node); return err },
			"another node": func(node string) error { _, err := h2.CreateVolume(ctx, "pgdata", spec, node); return err },
		} {
			for _, node := range []string{"h1", ""} {
				if err := ask(node); mobyfs.CodeOf(err) != mobyfs.CodeDenied {
					t.Errorf("%s, for a volume on %q: got %v", name, node, err)
				}
			}
		}
		for _, bad := range []mobyfs.VolumeSpec{
			{From: "srv"}, {From: "/"}, {From: "/srv/../etc"}, {From: "/srv/"}, {From: "/a\x00b"},
			{From: "/srv", Mode: "0700"}, {From: "/srv", UID: 7}, {From: "/srv", Backend: "shared"},
		} {
			_, err := h1.CreateVolume(ctx, "pgdata", bad, "h1")
			wantCode(t, err, mobyfs.CodeInvalid)
		}
		v := must[mobyfs.Volume](t)(h1.CreateVolume(ctx, "pgdata", spec, "h1"))
		if v.Node != "h1" || v.Spec.From != spec.From {
			t.Errorf("got %+v", v)
		}
		// It is there now, so nothing is copied for whoever names it.
		if again := must[mobyfs.Volume](t)(h2.CreateVolume(ctx, "pgdata", spec, "h2")); again.ID != v.ID || again.Node != "h1" {
			t.Errorf("asked for on h2 it is %+v", again)
		}
		_, err := h1.CreateVolume(ctx, "pgdata", mobyfs.VolumeSpec{From: "/srv/other"}, "h1")
		wantCode(t, err, mobyfs.CodeExists)
	})
}

func TestHowFarACopyIsTellsTheOperationThatMakesTheVolume(t *testing.T) {
	f := newFleet(t, false)
	ctx, op, h1, h2 := t.Context(), f.operator(), f.node("h1"), f.node("h2")
	v := must[mobyfs.Volume](t)(h1.CreateVolume(ctx, "pgdata", mobyfs.VolumeSpec{From: "/srv/pgdata"}, "h1"))
	f.ready("other", "h1")
	is := func(bytes, total int64) mobyfs.Report {
		return mobyfs.Report{Progress: map[mobyfs.MigrationID]mobyfs.Progress{v.ID.Copying(): {Bytes: bytes, TotalBytes: total}}}
	}
	f.advance(10 * time.Second)
	mine, others := is(250, 1000), is(999, 1000)
	mine.Address, others.Address = "h1:8080", "h2:8080"
	f.report(h1, mine)
	f.report(h2, others) // it has no part in it
	f.control.reconcile(ctx)
	o := must[mobyfs.Operation](t)(op.Operation(ctx, mobyfs.OperationID(v.ID)))
	if o.Progress.Bytes != 250 || o.Progress.TotalBytes != 1000 || !o.ETA.Equal(o.StartedAt.Add(40*time.Second).Truncate(time.Second)) {
		t.Errorf("begun at %v it tells %+v, and %v for its end", o.StartedAt, o.Progress, o.ETA)
	}
	must[mobyfs.Volume](t)(h1.Created(ctx, v.ID))
	f.control.reconcile(ctx)
	if p := f.control.told.progressOf(v.ID.Copying()); p != (mobyfs.Progress{}) {
		t.Errorf("once the volume is there %+v is remembered", p)
	}
}
