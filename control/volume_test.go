package control

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mobyfs/mobyfs"
)

func TestVolumeLivesFromCreateToRemoved(t *testing.T) {
	both(t, func(t *testing.T, f *fleet) {
		ctx, op, h1 := t.Context(), f.operator(), f.node("h1")
		spec := mobyfs.VolumeSpec{SizeBytes: gib, Labels: map[string]string{"app": "shop"}}
		v := must[mobyfs.Volume](t)(op.CreateVolume(ctx, "pgdata", spec, ""))
		if v.State != mobyfs.VolumeCreating || v.Node != "h1" || v.Fence != 1 || len(v.ID) != 26 || v.Spec.Backend != "dir" {
			t.Errorf("after create: %+v", v)
		}
		again := must[mobyfs.Volume](t)(op.CreateVolume(ctx, "pgdata", spec, ""))
		if !cmp.Equal(again, v) {
			t.Errorf("create repeated: %s", cmp.Diff(v, again))
		}
		_, err := h1.Claim(ctx, v.ID)
		wantCode(t, err, mobyfs.CodeUnavailable)

		v = must[mobyfs.Volume](t)(h1.Created(ctx, v.ID))
		if v.State != mobyfs.VolumeReady || v.Revision <= again.Revision {
			t.Errorf("after created: %+v", v)
		}
		if again := must[mobyfs.Volume](t)(h1.Created(ctx, v.ID)); again.Revision != v.Revision {
			t.Error("created repeated has written")
		}
		if got := must[mobyfs.Volume](t)(h1.Volume(ctx, "pgdata")); !cmp.Equal(got, v) {
			t.Errorf("read: %s", cmp.Diff(v, got))
		}
		wantCode(t, h1.Removed(ctx, v.ID), mobyfs.CodeInvalid)

		if err := op.RemoveVolume(ctx, "pgdata"); err != nil {
			t.Fatal(err)
		}
		_, err = op.Volume(ctx, "pgdata")
		wantCode(t, err, mobyfs.CodeNotFound)
		wantCode(t, op.RemoveVolume(ctx, "pgdata"), mobyfs.CodeNotFound)
		left := must[[]mobyfs.Volume](t)(op.Volumes(ctx))
		if len(left) != 1 || left[0].State != mobyfs.VolumeRemoving || left[0].Fence != v.Fence+1 {
			t.Errorf("until its bytes are gone the record is %+v", left)
		}
		_, err = h1.Created(ctx, v.ID)
		wantCode(t, err, mobyfs.CodeNotFound)

		next := must[mobyfs.Volume](t)(op.CreateVolume(ctx, "PgData", mobyfs.VolumeSpec{}, "")) // the name is free at once
		if next.ID == v.ID {
			t.Error("an ID was used twice")
		}
		for range 2 {
			if err := h1.Removed(ctx, v.ID); err != nil {
				t.Error(err)
			}
		}
		if left = must[[]mobyfs.Volume](t)(op.Volumes(ctx)); len(left) != 1 || left[0].ID != next.ID {
			t.Errorf("at the end there is %+v", left)
		}
	})
}

func TestNamesAreUniqueWithoutRegardToCase(t *testing.T) {
	f := newFleet(t, false)
	ctx, op := t.Context(), f.operator()
	f.node("h1")
	f.ready("PgData", "h1")
	_, err := op.CreateVolume(ctx, "pgdata", mobyfs.VolumeSpec{}, "")
	wantCode(t, err, mobyfs.CodeExists)
	if !strings.Contains(err.Error(), "PgData") || !strings.Contains(err.Error(), "case") || mobyfs.HintOf(err) == "" {
		t.Errorf("the text is %q, hint %q", err, mobyfs.HintOf(err))
	}
	_, err = op.Volume(ctx, "pgdata")
	wantCode(t, err, mobyfs.CodeNotFound)
	wantCode(t, op.RemoveVolume(ctx, "PGDATA"), mobyfs.CodeNotFound)
	f.record("PgData")
}

func TestCreateWithOtherOptionsIsRefused(t *testing.T) {
	f := newFleet(t, false)
	ctx, op := t.Context(), f.operator()
	f.node("h1")
	f.node("h2")
	v := f.ready("pgdata", "h1")
	_, err := op.CreateVolume(ctx, "pgdata", mobyfs.VolumeSpec{SizeBytes: 1}, "")
	wantCode(t, err, mobyfs.CodeExists)
	if got := must[mobyfs.Volume](t)(op.CreateVolume(ctx, "pgdata", mobyfs.VolumeSpec{Backend: "dir"}, "h2")); got.ID != v.ID || got.Node != "h1" {
		t.Errorf("asked for on another node the volume became %+v", got)
	}
}

func TestPlacementGoesByRoomAndReadiness(t *testing.T) {
	f := newFleet(t, false)
	ctx, op := t.Context(), f.operator()
	create := func(name, node string, size int64) (string, error) {
		v, err := op.CreateVolume(ctx, name, mobyfs.VolumeSpec{SizeBytes: size}, node)
		return v.Node, err
	}
	_, err := create("first", "", 0)
	wantCode(t, err, mobyfs.CodeUnavailable)
	h1, h2 := f.node("h1"), f.node("h2")
	free := func(n caller, address string, bytes int64) {
		f.report(n, mobyfs.Report{Address: address, Capacity: mobyfs.Capacity{TotalBytes: 100 * gib, FreeBytes: bytes}})
	}
	free(h1, "h1:8080", 10*gib)
	free(h2, "h2:8080", 20*gib)
	for i, want := range []string{"h2", "h1", "h2"} { // 20 and 10 free; 5 and 10; 5 and 2
		if got, err := create("vol-"+string(rune('a'+i)), "", []int64{15 * gib, 8 * gib, 3 * gib}[i]); err != nil || got != want {
			t.Errorf("volume %d went to %q, %v; want %s", i, got, err, want)
		}
	}
	_, err = create("big", "", 3*gib)
	wantCode(t, err, mobyfs.CodeNoSpace)
	if !strings.Contains(err.Error(), "h1: 2.0 GiB") || !strings.Contains(err.Error(), "h2: 2.0 GiB") {
		t.Errorf("the refusal does not explain itself: %v", err)
	}
	_, err = create("big", "h1", 3*gib)
	wantCode(t, err, mobyfs.CodeNoSpace)
	_, err = create("big", "h9", 0)
	wantCode(t, err, mobyfs.CodeNotFound)
	_, err = create("big", "../h1", 0)
	wantCode(t, err, mobyfs.CodeInvalid)
	f.advance(mobyfs.NodeSilence + time.Second)
	free(h1, "h1:8080", 10*gib)
	if got, err := create("after", "", gib); err != nil || got != "h1" {
		t.Errorf("with h2 silent the volume went to %q, %v", got, err)
	}
	_, err = create("asked", "h2", gib)
	wantCode(t, err, mobyfs.CodeUnavailable)
}

func TestPromisesAddUpWhenManyCreateAtOnce(t *testing.T) {
	f := newFleet(t, false)
	f.report(f.caller("node", "h1"), mobyfs.Report{Address: "h1:8080", Capacity: mobyfs.Capacity{TotalBytes: 100 * gib, FreeBytes: 10*gib + 1}})
	errs := make(chan error)
	for i := range 20 {
		go func() {
			_, err := f.operator().CreateVolume(t.Context(), "vol-"+string(rune('a'+i)), mobyfs.VolumeSpec{SizeBytes: gib}, "")
			errs <- err
		}()
	}
	made := 0
	for range 20 {
		if err := <-errs; err == nil {
			made++
		} else {
			wantCode(t, err, mobyfs.CodeNoSpace)
		}
	}
	if made != 10 {
		t.Errorf("10 volumes of 1 GiB fit, %d were placed", made)
	}
}

func TestBadSpecsAndNamesWriteNothing(t *testing.T) {
	f := newFleet(t, false)
	ctx, op := t.Context(), f.operator()
	f.node("h1")
	before := must[[]mobyfs.Volume](t)(op.Volumes(ctx))
	for _, name := range []string{"", "x", "../x", "a/b", "a\x00b", ".hidden", strings.Repeat("x", 300), "sp ace", "ünï"} {
		_, err := op.CreateVolume(ctx, name, mobyfs.VolumeSpec{}, "")
		wantCode(t, err, mobyfs.CodeInvalid)
		if mobyfs.HintOf(err) == "" {
			t.Errorf("the refusal of %q tells no way out", name)
		}
	}
	many := map[string]string{}
	for i := range maxLabels + 1 {
		many[strings.Repeat("k", i+1)] = "v"
	}
	for what, spec := range map[string]mobyfs.VolumeSpec{
		"backend":         {Backend: "floppy"},
		"negative size":   {SizeBytes: -1},
		"many labels":     {Labels: many},
		"empty label":     {Labels: map[string]string{"": "x"}},
		"escape sequence": {Labels: map[string]string{"a": "\x1b[31m"}},
		"long label":      {Labels: map[string]string{"a": strings.Repeat("x", maxLabel+1)}},
	} {
		_, err := op.CreateVolume(ctx, "vol", spec, "")
		if mobyfs.CodeOf(err) != mobyfs.CodeInvalid {
			t.Errorf("%s: got %v, want invalid", what, err)
		}
	}
	if after := must[[]mobyfs.Volume](t)(op.Volumes(ctx)); !slices.EqualFunc(before, after, func(a, b mobyfs.Volume) bool { return a.ID == b.ID }) {
		t.Errorf("something was written: %+v", after)
	}
}

func TestVolumeInUseOrOnItsWayIsNotRemoved(t *testing.T) {
	f := newFleet(t, false)
	ctx, op, h1 := t.Context(), f.operator(), f.node("h1")
	f.node("h2")
	v := f.ready("pgdata", "h1")
	g := must[mobyfs.Grant](t)(h1.Claim(ctx, v.ID))
	wantCode(t, op.RemoveVolume(ctx, "pgdata"), mobyfs.CodeInUse)
	if err := h1.Release(ctx, v.ID, g.Fence); err != nil {
		t.Fatal(err)
	}
	must[mobyfs.Volume](t)(op.MoveVolume(ctx, "pgdata", "h2"))
	wantCode(t, op.RemoveVolume(ctx, "pgdata"), mobyfs.CodeMoving)
	if got := f.record("pgdata"); got.State != mobyfs.VolumeReady {
		t.Errorf("after the refusals it is %s", got.State)
	}
}

func TestWhatASpecAsksOfNodesIsCheckedAndKept(t *testing.T) {
	f := newFleet(t, false)
	f.node("h1")
	for _, spec := range []mobyfs.VolumeSpec{
		{Zone: "a b"}, {Apart: "-db"}, {NodeLabels: map[string]string{"": "ssd"}}, {NodeLabels: map[string]string{"disk": "a,b"}},
		{Tolerations: []string{"gpu=yes:no-place"}}, {Tolerations: []string{""}}, {Tolerations: make([]string, 17)},
	} {
		_, err := f.operator().CreateVolume(t.Context(), "pgdata", spec, "")
		wantCode(t, err, mobyfs.CodeInvalid)
		if mobyfs.HintOf(err) == "" {
			t.Errorf("%+v: there is no hint", spec)
		}
	}
	asked := mobyfs.VolumeSpec{Apart: "db", Tolerations: []string{"gpu", "disk=old"}}
	v := must[mobyfs.Volume](t)(f.operator().CreateVolume(t.Context(), "pgdata", asked, ""))
	if v.Spec.Apart != "db" || !slices.Equal(v.Spec.Tolerations, asked.Tolerations) {
		t.Errorf("got %+v", v.Spec)
	}
	asked.Tolerations = []string{"gpu"}
	if again, err := f.operator().CreateVolume(t.Context(), "pgdata", asked, ""); err != nil || again.ID != v.ID {
		t.Errorf("asked for less: %v", err)
	}
	asked.Tolerations = []string{"tape"}
	_, err := f.operator().CreateVolume(t.Context(), "pgdata", asked, "")
	wantCode(t, err, mobyfs.CodeExists)
	for _, other := range []mobyfs.VolumeSpec{{Zone: "b"}, {NodeLabels: map[string]string{"disk": "ssd"}}} {
		_, err := f.operator().CreateVolume(t.Context(), "elsewhere", other, "")
		wantCode(t, err, mobyfs.CodeNoSpace)
	}
}
