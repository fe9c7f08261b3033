package control

import (
	"strings"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/api"
)

func sized(bytes int64) api.VolumePatch { return api.VolumePatch{SizeBytes: &bytes} }

func taken(by mobyfs.Takeover) api.VolumePatch { return api.VolumePatch{Takeover: &by} }

// roomy reports a node with so much room.
func (f *fleet) roomy(name string, free int64) caller {
	f.t.Helper()
	n := f.caller("node", name)
	f.report(n, mobyfs.Report{Address: name + ":8080", Capacity: mobyfs.Capacity{TotalBytes: 100 * gib, FreeBytes: free}})
	return n
}

func TestSizeGrowsOnlyIntoRoomThatNobodyWasPromised(t *testing.T) {
	both(t, func(t *testing.T, f *fleet) {
		f.roomy("h1", 20*gib)
		ctx, op := t.Context(), f.operator()
		for name, size := range map[string]int64{"pgdata": 5 * gib, "other": 6 * gib} {
			must[mobyfs.Volume](t)(op.CreateVolume(ctx, name, mobyfs.VolumeSpec{SizeBytes: size}, "h1"))
		}
		before := f.record("pgdata")
		_, err := op.PatchVolume(ctx, "pgdata", sized(15*gib))
		wantCode(t, err, mobyfs.CodeNoSpace)
		if mobyfs.HintOf(err) == "" || !strings.Contains(err.Error(), "10 GiB more") {
			t.Errorf("it is refused with %q, hint %q", err, mobyfs.HintOf(err))
		}
		for _, bad := range []int64{-1, -1 << 63} {
			_, err := op.PatchVolume(ctx, "pgdata", sized(bad))
			wantCode(t, err, mobyfs.CodeInvalid)
		}
		if now := f.record("pgdata"); now.Revision != before.Revision {
			t.Errorf("what was refused is written: %+v", now)
		}
		v := must[mobyfs.Volume](t)(op.PatchVolume(ctx, "pgdata", sized(14*gib))) // the last byte of it
		if v.Spec.SizeBytes != 14*gib || v.Fence != before.Fence || v.Revision == before.Revision {
			t.Errorf("grown it is %+v", v)
		}
		_, err = op.CreateVolume(ctx, "third", mobyfs.VolumeSpec{SizeBytes: 1}, "h1")
		wantCode(t, err, mobyfs.CodeNoSpace)
		if again := must[mobyfs.Volume](t)(op.PatchVolume(ctx, "pgdata", sized(14*gib))); again.Revision != v.Revision {
			t.Error("a size that it has already is written again")
		}
	})
}

func TestSizeNeverFallsBelowWhatIsUsed(t *testing.T) {
	f := newFleet(t, false)
	h1 := f.roomy("h1", 20*gib)
	ctx, op := t.Context(), f.operator()
	v := must[mobyfs.Volume](t)(op.CreateVolume(ctx, "pgdata", mobyfs.VolumeSpec{SizeBytes: 5 * gib}, "h1"))
	must[mobyfs.Volume](t)(h1.Created(ctx, v.ID))
	f.report(h1, mobyfs.Report{Address: "h1:8080", Used: map[mobyfs.VolumeID]int64{v.ID: 3 * gib}, Capacity: mobyfs.Capacity{TotalBytes: 100 * gib, FreeBytes: 17 * gib}})
	_, err := op.PatchVolume(ctx, "pgdata", sized(3*gib-1))
	wantCode(t, err, mobyfs.CodeInvalid)
	if !strings.Contains(err.Error(), "uses 3.0 GiB") || mobyfs.HintOf(err) == "" {
		t.Errorf("it is refused with %q, hint %q", err, mobyfs.HintOf(err))
	}
	must[mobyfs.Volume](t)(op.PatchVolume(ctx, "pgdata", sized(3*gib)))
	if v := must[mobyfs.Volume](t)(op.PatchVolume(ctx, "pgdata", sized(0))); v.Spec.SizeBytes != 0 {
		t.Errorf("without a promise it is %+v", v.Spec)
	}
}

// The destination has promised the room as well, and pulls into it.
func TestVolumeThatMovesGrowsOnlyIntoTheRoomOfBothNodes(t *testing.T) {
	f := newFleet(t, false)
	f.roomy("h1", 50*gib)
	f.roomy("h2", 10*gib)
	ctx, op := t.Context(), f.operator()
	v := must[mobyfs.Volume](t)(op.CreateVolume(ctx, "pgdata", mobyfs.VolumeSpec{SizeBytes: 5 * gib}, "h1"))
	must[mobyfs.Volume](t)(f.caller("node", "h1").Created(ctx, v.ID))
	must[mobyfs.Volume](t)(op.MoveVolume(ctx, "pgdata", "h2"))
	_, err := op.PatchVolume(ctx, "pgdata", sized(11*gib))
	wantCode(t, err, mobyfs.CodeNoSpace)
	if !strings.Contains(err.Error(), "h2") {
		t.Errorf("the text %q does not name the node that has no room", err)
	}
	must[mobyfs.Volume](t)(op.PatchVolume(ctx, "pgdata", sized(9*gib)))
}

func TestNobodyGrowsOnASilentNode(t *testing.T) {
	f := newFleet(t, false)
	f.roomy("h1", 50*gib)
	ctx, op := t.Context(), f.operator()
	must[mobyfs.Volume](t)(op.CreateVolume(ctx, "pgdata", mobyfs.VolumeSpec{SizeBytes: 5 * gib}, "h1"))
	f.advance(mobyfs.SessionTTL + time.Second)
	_, err := op.PatchVolume(ctx, "pgdata", sized(6*gib))
	wantCode(t, err, mobyfs.CodeUnavailable)
	must[mobyfs.Volume](t)(op.PatchVolume(ctx, "pgdata", sized(4*gib))) // to promise less needs nobody
}

// While a node has the lease it was decided whether it ends writing by itself; a change would make two nodes write.
func TestTakeoverChangesToOrFromAutoOnlyWhileNobodyUsesTheVolume(t *testing.T) {
	f := newFleet(t, false)
	ctx, op, h1 := t.Context(), f.operator(), f.node("h1")
	for from, to := range map[mobyfs.Takeover]mobyfs.Takeover{
		mobyfs.TakeoverNever: mobyfs.TakeoverAuto, mobyfs.TakeoverManual: mobyfs.TakeoverAuto, mobyfs.TakeoverAuto: mobyfs.TakeoverManual,
	} {
		name := "from-" + string(from)
		g := f.shared(name, from, "h1")
		_, err := op.PatchVolume(ctx, name, taken(to))
		wantCode(t, err, mobyfs.CodeInUse)
		if mobyfs.HintOf(err) == "" || f.record(name).Spec.Takeover != from {
			t.Errorf("%s to %s in use: %v, hint %q, and it is %s", from, to, err, mobyfs.HintOf(err), f.record(name).Spec.Takeover)
		}
		if err := h1.Release(ctx, g.Volume.ID, g.Fence); err != nil {
			t.Fatal(err)
		}
		v := must[mobyfs.Volume](t)(op.PatchVolume(ctx, name, taken(to)))
		if v.Spec.Takeover != to {
			t.Errorf("it is %s, want %s", v.Spec.Takeover, to)
		}
		if next := must[mobyfs.Grant](t)(h1.Claim(ctx, v.ID)); next.Volume.Spec.Takeover != to {
			t.Errorf("who claims it is told %s", next.Volume.Spec.Takeover)
		}
	}
}

func TestTakeoverBetweenNeverAndManualChangesAtAnyTime(t *testing.T) {
	f := newFleet(t, false)
	f.node("h1")
	f.shared("pgdata", mobyfs.TakeoverNever, "h1")
	for _, to := range []mobyfs.Takeover{mobyfs.TakeoverManual, mobyfs.TakeoverNever} {
		if v := must[mobyfs.Volume](t)(f.operator().PatchVolume(t.Context(), "pgdata", taken(to))); v.Spec.Takeover != to || v.Lease == nil {
			t.Errorf("it is %+v, want %s in use", v, to)
		}
	}
}

func TestPatchIsDoneWholeOrNotAtAll(t *testing.T) {
	f := newFleet(t, false)
	f.node("h1")
	before := f.ready("local", "h1")
	blog, auto, size := "blog", mobyfs.TakeoverAuto, int64(1)
	_, err := f.operator().PatchVolume(t.Context(), "local", api.VolumePatch{Labels: map[string]*string{"app": &blog}, SizeBytes: &size, Takeover: &auto})
	wantCode(t, err, mobyfs.CodeInvalid) // the bytes are on one node alone
	if now := f.record("local"); now.Revision != before.Revision {
		t.Errorf("a part of it is written: %+v", now)
	}
}
