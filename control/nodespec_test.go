package control

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/api"
	"github.com/mobyfs/mobyfs/control/placement"
	"github.com/mobyfs/mobyfs/internal/pki"
)

func ptr[T any](v T) *T { return &v }

// saidOf are the events about a node since it joined, beginning with the first change of what is said of it.
func saidOf(f *fleet, node string) []string {
	var all []string
	for _, e := range f.told(f.operator().Events) {
		if e.Node == node && e.Volume == "" && e.Text != "node joined" {
			all = append(all, e.Text)
		}
	}
	return all
}

func TestWhatIsSaidOfANodeIsChangedAsAWhole(t *testing.T) {
	both(t, func(t *testing.T, f *fleet) {
		ctx, op := t.Context(), f.operator()
		f.node("h1")
		before := must[mobyfs.Node](t)(op.Node(ctx, "h1"))
		if before.Revision == 0 || before.Generation != 0 || !before.Ready {
			t.Errorf("before: %+v", before)
		}
		n := must[mobyfs.Node](t)(op.PatchNode(ctx, "h1", api.NodePatch{
			Labels: map[string]*string{"disk": ptr("ssd"), "gone": nil}, Zone: ptr("east"), Rack: ptr("r1"),
			Taints: &[]mobyfs.Taint{{Key: "gpu", Effect: mobyfs.TaintNoPlace}},
		}))
		if n.Zone != "east" || n.Rack != "r1" || !maps.Equal(n.Labels, map[string]string{"disk": "ssd"}) || len(n.Taints) != 1 || n.Generation != 1 || n.Revision <= before.Revision {
			t.Errorf("after: %+v", n)
		}
		again := must[mobyfs.Node](t)(op.PatchNode(ctx, "h1", api.NodePatch{Zone: ptr("east")}))
		if again.Revision != n.Revision || again.Generation != 1 {
			t.Errorf("repeated: %+v", again)
		}
		for _, bad := range []api.NodePatch{
			{Zone: ptr("a b")}, {Rack: ptr("-")}, {Labels: map[string]*string{"": ptr("x")}}, {Labels: map[string]*string{"disk": ptr("x,y")}},
			{Taints: &[]mobyfs.Taint{{Key: "gpu", Effect: "never"}}}, {Taints: &[]mobyfs.Taint{{Key: "gpu=1", Effect: mobyfs.TaintNoPlace}}},
			{Taints: &[]mobyfs.Taint{{Key: "gpu", Effect: mobyfs.TaintNoPlace}, {Key: "gpu", Value: "x", Effect: mobyfs.TaintNoPlace}}},
			{Taints: ptr(make([]mobyfs.Taint, 17))}, {Zone: ptr("west"), Rack: ptr("!")},
		} {
			_, err := op.PatchNode(ctx, "h1", bad)
			wantCode(t, err, mobyfs.CodeInvalid)
			if mobyfs.HintOf(err) == "" {
				t.Errorf("%+v: there is no hint", bad)
			}
		}
		if after := must[mobyfs.Node](t)(op.Node(ctx, "h1")); after.Revision != n.Revision {
			t.Errorf("what was refused has changed it: %+v", after)
		}
		must[mobyfs.Node](t)(op.PatchNode(ctx, "h1", api.NodePatch{Zone: ptr(""), Taints: &[]mobyfs.Taint{}}))
		if got, want := saidOf(f, "h1"), []string{"labels changed, zone changed, rack changed, taints changed", "zone changed, taints changed"}; !slices.Equal(got, want) {
			t.Errorf("told is %q, want %q", got, want)
		}
		_, err := op.PatchNode(ctx, "h9", api.NodePatch{Zone: ptr("east")})
		wantCode(t, err, mobyfs.CodeNotFound)
		_, err = op.PatchNode(mobyfs.WithMatch(ctx, n.Revision), "h1", api.NodePatch{Zone: ptr("west")})
		wantCode(t, err, mobyfs.CodeChanged)
	})
}

// A heartbeat says what the machine is; what operators say of it stays.
func TestHeartbeatsLeaveWhatOperatorsSay(t *testing.T) {
	f := newFleet(t, false)
	h1 := f.node("h1")
	must[mobyfs.Node](t)(f.operator().PatchNode(t.Context(), "h1", api.NodePatch{Zone: ptr("east"), Labels: map[string]*string{"disk": ptr("ssd")}}))
	must[mobyfs.Node](t)(f.operator().CordonNode(t.Context(), "h1", true))
	f.report(h1, mobyfs.Report{Address: "elsewhere:1", Version: "v2", Zone: "west", Labels: map[string]string{"disk": "hdd"}})
	n := must[mobyfs.Node](t)(f.operator().Node(t.Context(), "h1"))
	if n.Address != "elsewhere:1" || n.Zone != "east" || n.Labels["disk"] != "ssd" || n.Use() != mobyfs.NodeCordoned {
		t.Errorf("got %+v", n)
	}
}

func TestANodeTellsItsZoneAndLabelsWhenItJoins(t *testing.T) {
	f := newFleet(t, false)
	h1 := f.caller(pki.RoleNode, "h1")
	_, err := h1.Report(t.Context(), mobyfs.Report{Address: "h1:1", Zone: "a b"})
	wantCode(t, err, mobyfs.CodeInvalid)
	f.report(h1, mobyfs.Report{Address: "h1:1", Zone: "east", Rack: "r1", Labels: map[string]string{"disk": "ssd"}, Backends: []string{"dir"}})
	n := must[mobyfs.Node](t)(f.operator().Node(t.Context(), "h1"))
	if n.Zone != "east" || n.Rack != "r1" || n.Labels["disk"] != "ssd" || !slices.Equal(n.Backends, []string{"dir"}) {
		t.Errorf("got %+v", n)
	}
	f.report(h1, mobyfs.Report{Address: "h1:1", Backends: []string{"dir", "shared"}})
	if n := must[mobyfs.Node](t)(f.operator().Node(t.Context(), "h1")); !slices.Equal(n.Backends, []string{"dir", "shared"}) || n.Zone != "east" {
		t.Errorf("got %+v", n)
	}
}

func TestACordonedNodeGetsNothingAndKeepsWhatItHas(t *testing.T) {
	both(t, func(t *testing.T, f *fleet) {
		ctx, op, h1 := t.Context(), f.operator(), f.node("h1")
		f.node("h2")
		here, there := f.ready("here", "h1"), f.ready("there", "h2")
		for range 2 { // repeated, it is success
			if n := must[mobyfs.Node](t)(op.CordonNode(ctx, "h1", true)); n.Use() != mobyfs.NodeCordoned || n.Generation != 1 {
				t.Errorf("got %+v", n)
			}
		}
		for range 3 {
			if v := must[mobyfs.Volume](t)(op.CreateVolume(ctx, "vol-"+strings.Repeat("x", 1+len(f.control.nodes())), mobyfs.VolumeSpec{}, "")); v.Node != "h2" {
				t.Errorf("a new volume went to %s", v.Node)
			}
		}
		_, err := op.CreateVolume(ctx, "asked", mobyfs.VolumeSpec{}, "h1")
		wantCode(t, err, mobyfs.CodeNoSpace)
		if !strings.Contains(err.Error(), "cordoned") || !strings.Contains(mobyfs.HintOf(err), "mobyctl node uncordon h1") {
			t.Errorf("it says %q, hint %q", err, mobyfs.HintOf(err))
		}
		_, err = op.MoveVolume(ctx, "there", "h1")
		wantCode(t, err, mobyfs.CodeNoSpace)
		_, err = h1.Claim(ctx, there.ID)
		wantCode(t, err, mobyfs.CodeNoSpace)
		if g := must[mobyfs.Grant](t)(h1.Claim(ctx, here.ID)); g.From != nil {
			t.Errorf("what is there can't be used there: %+v", g)
		}
		must[mobyfs.Node](t)(op.CordonNode(ctx, "h1", false))
		if v := must[mobyfs.Volume](t)(op.CreateVolume(ctx, "again", mobyfs.VolumeSpec{}, "h1")); v.Node != "h1" {
			t.Errorf("uncordoned, it went to %s", v.Node)
		}
		if got, want := saidOf(f, "h1"), []string{"node cordoned", "node uncordoned"}; !slices.Equal(got, want) {
			t.Errorf("told is %q, want %q", got, want)
		}
	})
}

func TestADrainEndsWhenItsNodeIsUncordonedAndNotWhenItIsCordoned(t *testing.T) {
	f := newFleet(t, false)
	ctx := t.Context()
	f.node("h1")
	f.ready("pgdata", "h1") // there is nowhere else to go
	op := f.operator()
	ana := pki.Identity{Cluster: "shop", Role: pki.RoleOperator, Name: "ana"}
	o := must[mobyfs.Operation](t)(f.control.DrainNode(ctx, ana, "h1", api.DrainRequest{Reason: "test"}))
	_, err := op.CordonNode(ctx, "h1", true)
	wantCode(t, err, mobyfs.CodeInvalid)
	if n := must[mobyfs.Node](t)(op.CordonNode(ctx, "h1", false)); n.Use() != mobyfs.NodeActive || n.Operation != "" {
		t.Errorf("got %+v", n)
	}
	until(t, op, o.ID, inPhase(mobyfs.OperationCancelled))
}

func TestExplainTellsOfEachNodeAndMakesNothing(t *testing.T) {
	both(t, func(t *testing.T, f *fleet) {
		ctx, op := t.Context(), f.operator()
		f.node("h1")
		f.node("h2")
		f.ready("pgdata", "h1")
		must[mobyfs.Node](t)(op.PatchNode(ctx, "h2", api.NodePatch{Zone: ptr("east")}))
		vic := f.caller(pki.RoleViewer, "vic")
		p := must[api.Placement](t)(vic.ExplainPlacement(ctx, api.PlacementQuestion{Spec: mobyfs.VolumeSpec{Zone: "east"}}))
		if p.Node != "h2" || len(p.Verdicts) != 2 || !p.Verdicts[0].Fits || len(p.Verdicts[0].Scores) == 0 || p.Spec.Backend != "dir" {
			t.Errorf("got %+v", p)
		}
		if v := p.Verdicts[1]; v.Node != "h1" || v.Fits || v.Reason != "in no zone, not in east" || v.Filter != "zone" {
			t.Errorf("got %+v", v)
		}
		p = must[api.Placement](t)(vic.ExplainPlacement(ctx, api.PlacementQuestion{Volume: "pgdata"}))
		if p.Node != "h2" || p.Verdicts[1].Reason != "its home now" {
			t.Errorf("got %+v", p)
		}
		p = must[api.Placement](t)(vic.ExplainPlacement(ctx, api.PlacementQuestion{Node: "h1", Spec: mobyfs.VolumeSpec{SizeBytes: 1000 * gib}}))
		if p.Node != "" || len(p.Verdicts) != 1 || p.Verdicts[0].Filter != placement.NoRoom {
			t.Errorf("got %+v", p)
		}
		for q, want := range map[*api.PlacementQuestion]mobyfs.Code{
			{Node: "h9"}: mobyfs.CodeNotFound, {Node: "../h1"}: mobyfs.CodeInvalid, {Volume: "none"}: mobyfs.CodeNotFound,
			{Spec: mobyfs.VolumeSpec{Class: "none"}}: mobyfs.CodeInvalid, {Spec: mobyfs.VolumeSpec{Zone: "!"}}: mobyfs.CodeInvalid,
		} {
			_, err := vic.ExplainPlacement(ctx, *q)
			wantCode(t, err, want)
		}
		if all := must[[]mobyfs.Volume](t)(op.Volumes(ctx)); len(all) != 1 {
			t.Errorf("there are %d volumes", len(all))
		}
	})
}

func TestADescriptionIsTakenInOneTransactionAndLeavesWhatOperatorsSet(t *testing.T) {
	both(t, func(t *testing.T, f *fleet) {
		ctx, op := t.Context(), f.operator()
		f.node("h1")
		describe := func(spec mobyfs.NodeSpec) mobyfs.Node {
			return must[mobyfs.Node](t)(op.PatchNode(ctx, "h1", api.NodePatch{Described: &spec}))
		}
		east := mobyfs.NodeSpec{Zone: "east", Labels: map[string]string{"disk": "ssd"}, Taints: []mobyfs.Taint{{Key: "gpu", Effect: mobyfs.TaintNoPlace}}}
		first := describe(east)
		if !first.Spec().Equal(east) || first.Generation != 1 {
			t.Errorf("first: %+v", first)
		}
		if again := describe(east); again.Revision != first.Revision {
			t.Errorf("repeated: %+v", again)
		}
		must[mobyfs.Node](t)(op.PatchNode(ctx, "h1", api.NodePatch{Zone: ptr("north")}))
		n := describe(mobyfs.NodeSpec{Zone: "west", Labels: map[string]string{"disk": "hdd"}})
		if n.Zone != "north" || n.Labels["disk"] != "hdd" || len(n.Taints) != 0 || !slices.Equal(n.Undescribed(), []string{"zone is north and not west"}) {
			t.Errorf("after an operator: %+v, %q", n, n.Undescribed())
		}
		for _, bad := range []mobyfs.NodeSpec{{Zone: "a b"}, {Labels: map[string]string{"": "x"}}, {Taints: []mobyfs.Taint{{Key: "gpu", Effect: "never"}}}} {
			_, err := op.PatchNode(ctx, "h1", api.NodePatch{Described: &bad})
			wantCode(t, err, mobyfs.CodeInvalid)
		}
		want := []string{"labels changed, zone changed, taints changed, description changed", "zone changed", "labels changed, taints changed, description changed"}
		if got := saidOf(f, "h1"); !slices.Equal(got, want) {
			t.Errorf("told is %q, want %q", got, want)
		}
	})
}
