package control

import (
	"testing"
	"time"

	"github.com/mobyfs/mobyfs"
)

// removedVolume makes a volume on h1 and removes it, as its node does.
func removedVolume(t *testing.T, h1 caller, name string) mobyfs.Volume {
	t.Helper()
	ctx := t.Context()
	v := must[mobyfs.Volume](t)(h1.CreateVolume(ctx, name, mobyfs.VolumeSpec{SizeBytes: gib}, ""))
	must[mobyfs.Volume](t)(h1.Created(ctx, v.ID))
	if err := h1.RemoveVolume(ctx, name); err != nil {
		t.Fatal(err)
	}
	if err := h1.Removed(ctx, v.ID); err != nil {
		t.Fatal(err)
	}
	return v
}

func TestUndeletedVolumeIsTheSameAtANewFence(t *testing.T) {
	for _, wire := range []bool{false, true} {
		f := newFleet(t, wire)
		ctx, h1, ana := t.Context(), f.node("h1"), f.operator()
		was := removedVolume(t, h1, "pgdata")
		all := must[[]mobyfs.Tombstone](t)(ana.RemovedVolumes(ctx))
		if len(all) != 1 || all[0].Volume.ID != was.ID || all[0].Volume.Node != "h1" || all[0].Until.Sub(all[0].RemovedAt) != mobyfs.DefaultTrash {
			t.Fatalf("removed are %+v", all)
		}
		removed := all[0].Volume.Fence
		v := must[mobyfs.Volume](t)(ana.UndeleteVolume(ctx, "pgdata", ""))
		if v.ID != was.ID || v.Node != "h1" || v.Fence <= removed || !v.Returning() || v.Undeletion.Removed != removed || v.Spec.SizeBytes != gib {
			t.Errorf("got %+v, removed at %v", v, removed)
		}
		_, err := h1.Claim(ctx, v.ID)
		wantCode(t, err, mobyfs.CodeUnavailable)
		_, err = ana.UndeleteVolume(ctx, "pgdata", "")
		wantCode(t, err, mobyfs.CodeNotFound) // it is on its way
		for range 2 {
			if v = must[mobyfs.Volume](t)(h1.Created(ctx, v.ID)); v.Returning() || v.State != mobyfs.VolumeReady {
				t.Errorf("its bytes are back: %+v", v)
			}
		}
		must[mobyfs.Grant](t)(h1.Claim(ctx, v.ID))
		if all := must[[]mobyfs.Tombstone](t)(ana.RemovedVolumes(ctx)); len(all) != 0 {
			t.Errorf("removed are still %+v", all)
		}
	}
}

func TestUndeleteIsRefusedWithTheWayOut(t *testing.T) {
	f := newFleet(t, false)
	ctx, h1, ana := t.Context(), f.node("h1"), f.operator()
	refused := func(name, as string, want mobyfs.Code) {
		t.Helper()
		_, err := ana.UndeleteVolume(ctx, name, as)
		wantCode(t, err, want)
		if mobyfs.HintOf(err) == "" {
			t.Errorf("%v: there is no hint", err)
		}
	}
	refused("pgdata", "", mobyfs.CodeNotFound)
	was := removedVolume(t, h1, "pgdata")
	must[mobyfs.Volume](t)(h1.CreateVolume(ctx, "PGDATA", mobyfs.VolumeSpec{}, ""))
	refused("pgdata", "", mobyfs.CodeExists)
	refused("pgdata", "x", mobyfs.CodeInvalid)
	v := must[mobyfs.Volume](t)(ana.UndeleteVolume(ctx, "pgdata", "old"))
	if v.Name != "old" || v.ID != was.ID {
		t.Errorf("got %+v", v)
	}
	if err := h1.Removed(ctx, v.ID); err != nil { // its trash was emptied
		t.Fatal(err)
	}
	_, err := ana.Volume(ctx, "old")
	wantCode(t, err, mobyfs.CodeNotFound)
	refused("pgdata", "old", mobyfs.CodeNotFound)
	must[mobyfs.Volume](t)(h1.CreateVolume(ctx, "old", mobyfs.VolumeSpec{}, "")) // the name is free
	removedVolume(t, h1, "late")
	f.clock.advance(mobyfs.DefaultTrash + time.Second)
	refused("late", "", mobyfs.CodeNotFound)
}

func TestNodeSaysHowLongItKeepsWhatWasRemoved(t *testing.T) {
	f := newFleet(t, false)
	h1 := f.node("h1")
	f.report(h1, mobyfs.Report{Address: "h1:1", TrashSeconds: 86400})
	removedVolume(t, h1, "pgdata")
	f.clock.advance(23 * time.Hour)
	if all := must[[]mobyfs.Tombstone](t)(f.operator().RemovedVolumes(t.Context())); len(all) != 1 {
		t.Errorf("after 23 of 24 hours there are %+v", all)
	}
	f.clock.advance(2 * time.Hour)
	if err := f.control.forgetTombstones(t.Context()); err != nil {
		t.Fatal(err)
	}
	if all := f.control.removed(); len(all) != 0 {
		t.Errorf("after 25 hours there are %+v", all)
	}
}
