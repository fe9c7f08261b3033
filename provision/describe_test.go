package provision

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mobyfs/mobyfs"
)

const eastern = head + hosts + "    zone: east\n    rack: r1\n    labels: {disk: ssd}\n    taints: [\"gpu=yes:prefer-not\", old]\n"

func TestWhatHostsAreLikeComesFromTheFile(t *testing.T) {
	c, err := ParseConfig("cluster.yaml", []byte(eastern))
	if err != nil {
		t.Fatal(err)
	}
	f, err := NewFleet(c, c.Specs())
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]mobyfs.NodeSpec{"vol-1": {Zone: "east", Rack: "r1", Labels: map[string]string{"disk": "ssd"}, Taints: []mobyfs.Taint{
		{Key: "gpu", Value: "yes", Effect: mobyfs.TaintPreferNot}, {Key: "old", Effect: mobyfs.TaintNoPlace},
	}}}
	if diff := cmp.Diff(want, f.Nodes); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestControlIsToldWhatIsNewOfNodesAndNothingElse(t *testing.T) {
	c, v := newVerify("vol-1", "vol-2", "vol-3")
	c.said["vol-2"] = mobyfs.Node{Zone: "north"} // as an operator said
	specs := map[string]mobyfs.NodeSpec{"vol-1": {Zone: "east"}, "vol-2": {Zone: "west"}, "vol-3": {}}
	news, failed := v.Describe(t.Context(), specs)
	want := []NodeNews{{Name: "vol-1", Changes: []string{"zone none → east"}}, {Name: "vol-2", Kept: []string{"zone is north and not west"}}}
	if len(failed) > 0 || !cmp.Equal(news, want) {
		t.Errorf("got %+v, %v", news, failed)
	}
	if want := []string{"describe vol-1", "describe vol-2"}; !slices.Equal(c.log, want) {
		t.Errorf("what was done: %q", c.log)
	}
	news, failed = v.Describe(t.Context(), specs)
	if len(failed) > 0 || len(c.log) != 2 || !cmp.Equal(news, want[1:]) {
		t.Errorf("again: %+v, %v, %q", news, failed, c.log)
	}
	if news, _ = v.Describe(t.Context(), nil); len(news) != 1 || news[0].Changes[0] != "zone east → none" || c.said["vol-2"].Zone != "north" {
		t.Errorf("nothing is said any more: %+v, %+v", news, c.said)
	}
}

func TestNodeThatControlCantBeToldOfIsNamed(t *testing.T) {
	c, v := newVerify("vol-1", "vol-2")
	c.broken["vol-1"] = true
	news, failed := v.Describe(t.Context(), map[string]mobyfs.NodeSpec{"vol-1": {Zone: "east"}, "vol-2": {Zone: "west"}})
	if len(failed) != 1 || failed[0].Host != "vol-1" || failed[0].Code != "MFS-A012" || failed[0].Fix != "try again" {
		t.Errorf("got %v", failed)
	}
	if len(news) != 1 || news[0].Name != "vol-2" {
		t.Errorf("the other node: %+v", news)
	}
}

func TestPlanShowsWhatWillBeSaidOfNodes(t *testing.T) {
	f := newFleet(t, "vol-1", "vol-2")
	f.in.Fleet.Nodes = map[string]mobyfs.NodeSpec{"vol-1": {Zone: "east"}}
	p := f.plan()
	if p.AskForNodes(t.Context(), nil); len(p.Nodes) != 1 || !p.Describes() || !slices.Equal(p.Nodes[0].Changes, []string{"zone none → east"}) {
		t.Errorf("of new hosts: %+v", p.Nodes)
	}
	c, _ := newVerify("vol-1", "vol-2")
	c.said["vol-1"] = mobyfs.Node{Zone: "east"}.Describe(mobyfs.NodeSpec{Zone: "east"})
	if p.AskForNodes(t.Context(), c); len(p.Nodes) != 0 || p.Describes() {
		t.Errorf("it is so: %+v", p.Nodes)
	}
	c.said["vol-1"] = mobyfs.Node{Zone: "west"}
	if p.AskForNodes(t.Context(), c); len(p.Nodes) != 1 || p.Describes() || !strings.Contains(p.Nodes[0].Kept[0], "west") {
		t.Errorf("an operator set it: %+v", p.Nodes)
	}
}
