package placement

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mobyfs/mobyfs"
)

const gib = 1 << 30

// plain promises what there is, up to the last byte.
var plain = Policy{Strategy: Spread, Overcommit: 1}

// node is one that is there, of 100 GiB.
func node(name string, free int64, change ...func(n *mobyfs.Node)) mobyfs.Node {
	n := mobyfs.Node{Name: name, Ready: true, Capacity: mobyfs.Capacity{TotalBytes: 100 * gib, FreeBytes: free}}
	for _, c := range change {
		c(&n)
	}
	return n
}

func fieldOf(nodes []mobyfs.Node, volumes ...mobyfs.Volume) *Field {
	f := NewField()
	for _, n := range nodes {
		f.Set(n)
	}
	for _, v := range volumes {
		f.Add(v)
	}
	return f
}

// sized is a volume that is ready.
func sized(id, node string, size, used int64) mobyfs.Volume {
	return mobyfs.Volume{ID: mobyfs.VolumeID(id), Name: id, Node: node, UsedBytes: used, Spec: mobyfs.VolumeSpec{SizeBytes: size}, State: mobyfs.VolumeReady}
}

func TestChoose(t *testing.T) {
	silent := func(n *mobyfs.Node) { n.Ready = false }
	for _, tc := range []struct {
		name    string
		nodes   []mobyfs.Node
		volumes []mobyfs.Volume
		need    int64
		want    string
		explain string
	}{
		{"nobody", nil, nil, 0, "", "no node has joined the cluster"},
		{"most room wins", []mobyfs.Node{node("a", 10*gib), node("b", 20*gib)}, nil, 0, "b",
			"b: 20 GiB free for new volumes; a: 10 GiB free for new volumes"},
		{"promises count", []mobyfs.Node{node("a", 10*gib), node("b", 20*gib)}, []mobyfs.Volume{sized("v", "b", 15*gib, 0)}, gib, "a",
			"a: 10 GiB free for new volumes; b: 5.0 GiB free for new volumes"},
		{"equal room: fewer volumes", []mobyfs.Node{node("a", gib), node("b", gib)}, []mobyfs.Volume{sized("v", "a", 0, 0)}, 0, "b",
			"b: 1.0 GiB free for new volumes; a: 1.0 GiB free for new volumes"},
		{"all equal: by name", []mobyfs.Node{node("b", gib), node("a", gib)}, nil, 0, "a",
			"a: 1.0 GiB free for new volumes; b: 1.0 GiB free for new volumes"},
		{"silent nodes get nothing", []mobyfs.Node{node("a", 90*gib, silent), node("b", gib)}, nil, 0, "b",
			"b: 1.0 GiB free for new volumes; a: not ready"},
		{"exactly fits", []mobyfs.Node{node("a", gib)}, nil, gib, "a", "a: 1.0 GiB free for new volumes"},
		{"one byte short", []mobyfs.Node{node("a", gib)}, []mobyfs.Volume{sized("v", "a", 1, 0)}, gib, "",
			"a: 1024 MiB free for new volumes, 1.0 GiB needed"},
		{"full takes not even a volume without a size", []mobyfs.Node{node("a", 0)}, nil, 0, "", "a: 0 B free for new volumes, 0 B needed"},
		{"promised too much", []mobyfs.Node{node("a", gib)}, []mobyfs.Volume{sized("v", "a", 2*gib, 0)}, 0, "",
			"a: 0 B free for new volumes, 0 B needed"},
		{"capacity unknown", []mobyfs.Node{{Name: "new", Ready: true}}, nil, 0, "", "new: has not told its capacity"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := fieldOf(tc.nodes, tc.volumes...)
			q := ForNew(mobyfs.VolumeSpec{SizeBytes: tc.need}, plain)
			if got, why := Choose(f, q), Summary(Explain(f, q)); got != tc.want || why != tc.explain {
				t.Errorf("got %q because %q\nwant %q because %q", got, why, tc.want, tc.explain)
			}
		})
	}
}

// Each filter refuses one node, and says why in words that a person can act on.
func TestFiltersSayWhy(t *testing.T) {
	labelled := func(n *mobyfs.Node) { n.Labels = map[string]string{"disk": "hdd"} }
	for _, tc := range []struct {
		filter string
		change func(n *mobyfs.Node)
		ask    func(q *Question)
		want   string // "" if the node fits
	}{
		{"availability", func(n *mobyfs.Node) { n.Availability = mobyfs.NodeCordoned }, nil, "cordoned"},
		{"availability", func(n *mobyfs.Node) { n.Availability = mobyfs.NodeDraining }, nil, "draining"},
		{"availability", func(n *mobyfs.Node) { n.Availability = mobyfs.NodeDrained }, nil, "drained"},
		{"availability", func(n *mobyfs.Node) { n.Availability = mobyfs.NodeEvicted }, func(q *Question) { q.Here = "a" }, "evicted"},
		{"", func(n *mobyfs.Node) { n.Availability = mobyfs.NodeActive }, nil, ""},
		{"", func(n *mobyfs.Node) { n.Ready = false }, func(q *Question) { q.Here = "a" }, ""},
		{"home", nil, func(q *Question) { q.From = "a" }, "its home now"},
		{"taint", taint("gpu", "yes", mobyfs.TaintNoPlace), nil, "has the taint gpu=yes:no-place, which is not tolerated"},
		{"", taint("gpu", "yes", mobyfs.TaintNoPlace), func(q *Question) { q.Spec.Tolerations = []string{"gpu"} }, ""},
		{"", taint("gpu", "yes", mobyfs.TaintNoPlace), func(q *Question) { q.Spec.Tolerations = []string{"gpu=yes"} }, ""},
		{"taint", taint("gpu", "yes", mobyfs.TaintNoPlace), func(q *Question) { q.Spec.Tolerations = []string{"gpu=no"} },
			"has the taint gpu=yes:no-place, which is not tolerated"},
		{"", taint("old", "", mobyfs.TaintPreferNot), nil, ""},
		{"zone", func(n *mobyfs.Node) { n.Zone = "east" }, func(q *Question) { q.Spec.Zone = "west" }, "in zone east, not in west"},
		{"zone", nil, func(q *Question) { q.Spec.Zone = "west" }, "in no zone, not in west"},
		{"", func(n *mobyfs.Node) { n.Zone = "west" }, func(q *Question) { q.Spec.Zone = "west" }, ""},
		{"labels", labelled, func(q *Question) { q.Spec.NodeLabels = map[string]string{"disk": "ssd"} }, "has the label disk=hdd, not disk=ssd"},
		{"labels", labelled, func(q *Question) { q.Spec.NodeLabels = map[string]string{"disk": "hdd", "b": "1", "a": "1"} }, "lacks the label a=1"},
		{"", labelled, func(q *Question) { q.Spec.NodeLabels = map[string]string{"disk": "hdd"} }, ""},
		{"backend", func(n *mobyfs.Node) { n.Backends = []string{"dir"} }, func(q *Question) { q.Spec.Backend = mobyfs.SharedBackend },
			"does not keep volumes of the backend shared"},
		{"", nil, func(q *Question) { q.Spec.Backend = mobyfs.SharedBackend }, ""},
		{"", func(n *mobyfs.Node) { n.Capacity.FreeBytes = 0 }, func(q *Question) { q.Spec.Backend = mobyfs.SharedBackend }, ""},
		{"apart", nil, func(q *Question) { q.Spec.Apart = "db" }, "has another volume of the group db"},
		{"", nil, func(q *Question) { q.Spec.Apart = "web" }, ""},
		{"version", func(n *mobyfs.Node) { n.Version = "v1.2.9" }, nil, "runs v1.2.9, more than one minor version away from control's v1.4.0"},
		{"version", func(n *mobyfs.Node) { n.Version = "1.6.0" }, nil, "runs 1.6.0, more than one minor version away from control's v1.4.0"},
		{"version", func(n *mobyfs.Node) { n.Version = "v2.4.0" }, nil, "runs v2.4.0, more than one minor version away from control's v1.4.0"},
		{"", func(n *mobyfs.Node) { n.Version = "v1.3.0" }, nil, ""},
		{"", func(n *mobyfs.Node) { n.Version = "v1.5.9-rc.1" }, nil, ""},
		{"", func(n *mobyfs.Node) { n.Version = "dev" }, nil, ""},
		{"", func(n *mobyfs.Node) { n.Version = "v9" }, nil, ""},
		{"room", nil, func(q *Question) { q.NeedBytes = 45*gib + 1 }, "45 GiB free for new volumes, 45 GiB needed"},
		{"", nil, func(q *Question) { q.NeedBytes = 45 * gib }, ""},
		{"", nil, func(q *Question) { q.Policy.Overcommit, q.NeedBytes = 2, 140*gib }, ""},
		{"room", nil, func(q *Question) { q.Policy.Overcommit, q.NeedBytes = 2, 140*gib+1 }, "140 GiB free for new volumes, 140 GiB needed"},
		{"disk", nil, func(q *Question) { q.Policy.Overcommit, q.ArrivingBytes = 2, 46*gib }, "45 GiB free on its disk, 46 GiB would come"},
	} {
		t.Run(tc.filter+" "+tc.want, func(t *testing.T) {
			n := node("a", 50*gib)
			if tc.change != nil {
				tc.change(&n)
			}
			other := sized("other", "a", 0, 0)
			other.Spec.Apart = "db"
			f := fieldOf([]mobyfs.Node{n}, other)
			q := ForNew(mobyfs.VolumeSpec{}, Policy{Strategy: Spread, Overcommit: 1, Headroom: 0.05, Version: "v1.4.0"})
			if tc.ask != nil {
				tc.ask(&q)
			}
			v, ok := Judge(f, q, "a")
			if !ok || v.Fits != (tc.want == "") || v.Filter != tc.filter || !v.Fits && v.Reason != tc.want {
				t.Errorf("got %+v, want %q by %q", v, tc.want, tc.filter)
			}
			if chosen := Choose(f, q); (chosen == "a") != v.Fits || Fits(f, q, "a") != v.Fits {
				t.Errorf("Choose says %q, the verdict %v", chosen, v.Fits)
			}
		})
	}
}

func taint(key, value string, effect mobyfs.TaintEffect) func(n *mobyfs.Node) {
	return func(n *mobyfs.Node) { n.Taints = []mobyfs.Taint{{Key: key, Value: value, Effect: effect}} }
}

func TestTheEmptierNodeIsChosenAndBinPackChoosesTheFuller(t *testing.T) {
	f := fieldOf([]mobyfs.Node{node("a", 80*gib), node("b", 30*gib), node("c", 5*gib)})
	q := ForNew(mobyfs.VolumeSpec{SizeBytes: 10 * gib}, plain)
	if got := Choose(f, q); got != "a" {
		t.Errorf("spread chose %s", got)
	}
	q.Policy.Strategy = BinPack
	if got := Choose(f, q); got != "b" {
		t.Errorf("binpack chose %s", got)
	}
}

func TestANodeThatWouldRatherNotIsTheLastResort(t *testing.T) {
	f := fieldOf([]mobyfs.Node{node("a", 99*gib, taint("old", "", mobyfs.TaintPreferNot)), node("b", 2*gib)},
		sized("1", "b", 0, 0), sized("2", "b", 0, 0))
	q := ForNew(mobyfs.VolumeSpec{}, plain)
	if got := Choose(f, q); got != "b" {
		t.Errorf("got %s beside a node without the taint", got)
	}
	q.NeedBytes = 3 * gib
	if got := Choose(f, q); got != "a" {
		t.Errorf("got %q where no other node fits", got)
	}
	q.NeedBytes, q.Spec.Tolerations = 0, []string{"old"}
	if got := Choose(f, q); got != "a" {
		t.Errorf("got %q though the taint is tolerated", got)
	}
}

func TestVolumesOfAGroupGoToDifferentZones(t *testing.T) {
	in := func(zone string) func(n *mobyfs.Node) { return func(n *mobyfs.Node) { n.Zone = zone } }
	f := fieldOf([]mobyfs.Node{node("a1", 90*gib, in("a")), node("a2", 80*gib, in("a")), node("b1", 70*gib, in("b")), node("b2", 60*gib, in("b"))})
	var homes []string
	for i := range 5 {
		v := sized(fmt.Sprint(i), "", 0, 0)
		v.Spec.Apart = "db"
		v.Node = Choose(f, ForNew(v.Spec, plain))
		homes = append(homes, v.Node)
		if v.Node != "" {
			f.Add(v)
		}
	}
	if want := []string{"a1", "b1", "a2", "b2", ""}; !slices.Equal(homes, want) {
		t.Errorf("got %v, want %v", homes, want)
	}
}

// Volumes without a size take no room that anybody knows of yet; still they must not all go to one node.
func TestVolumesWithoutASizeSpread(t *testing.T) {
	f := fieldOf([]mobyfs.Node{node("a", 90*gib), node("b", 89*gib), node("c", 88*gib)})
	count := map[string]int{}
	for i := range 90 {
		v := sized(fmt.Sprint(i), Choose(f, ForNew(mobyfs.VolumeSpec{}, plain)), 0, 0)
		f.Add(v)
		count[v.Node]++
	}
	for name, n := range count {
		if n < 20 || n > 40 {
			t.Errorf("%s has %d of 90 volumes: %v", name, n, count)
		}
	}
}

func TestNodesForWhichOthersAreBeingChosenAreNotPreferred(t *testing.T) {
	f := fieldOf([]mobyfs.Node{node("a", 90*gib), node("b", 89*gib)})
	q := ForNew(mobyfs.VolumeSpec{}, plain)
	q.Placing = map[string]int{"a": 1}
	if got := Choose(f, q); got != "b" {
		t.Errorf("got %s", got)
	}
}

func TestVerdictsShowTheScores(t *testing.T) {
	f := fieldOf([]mobyfs.Node{node("a", 50*gib), node("b", 100*gib, taint("old", "", mobyfs.TaintPreferNot))})
	got := Explain(f, ForNew(mobyfs.VolumeSpec{}, plain))
	if len(got) != 2 || got[0].Node != "a" || got[1].Node != "b" {
		t.Fatalf("got %+v", got)
	}
	var sum float64
	for _, s := range got[0].Scores {
		sum += s.Points * s.Weight
	}
	if diff := sum - got[0].Score; diff > 0.01 || diff < -0.01 {
		t.Errorf("the score is %v, its parts make %v", got[0].Score, sum)
	}
	if want := "b: 100 GiB free for new volumes, but has the taint old:prefer-not"; !strings.Contains(Summary(got), want) || got[1].Score > 0 {
		t.Errorf("got %+v, want %q and a negative score", got[1], want)
	}
}

func TestSummaryCountsWhenThereAreManyNodes(t *testing.T) {
	f := NewField()
	for i := range 100 {
		f.Set(node(fmt.Sprintf("n%03d", i), gib, func(n *mobyfs.Node) { n.Ready = i%4 != 0 }))
	}
	got := Summary(Explain(f, ForNew(mobyfs.VolumeSpec{SizeBytes: 2 * gib}, plain)))
	if want := "ready: 25 nodes (n000: not ready); room: 75 nodes (n001: 1.0 GiB free for new volumes, 2.0 GiB needed)"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestOwes(t *testing.T) {
	moving := sized("m", "a", 10, 4)
	moving.Migration = &mobyfs.Migration{From: "a", To: "b"}
	bigger := sized("n", "a", 0, 7)
	bigger.Migration = &mobyfs.Migration{From: "a", To: "b"}
	removing := sized("r", "c", 50, 0)
	removing.State = mobyfs.VolumeRemoving
	shared := sized("s", "c", 50, 0)
	shared.Spec.Backend = mobyfs.SharedBackend
	creating := sized("k", "d", 0, 0)
	creating.State = mobyfs.VolumeCreating
	got := map[string]Load{}
	for _, v := range []mobyfs.Volume{sized("1", "a", 100, 30), sized("2", "a", 5, 9), creating, moving, bigger, removing, shared} {
		Owes(v, func(node string, l Load) {
			sum := got[node]
			sum.add(l, 1)
			got[node] = sum
		})
	}
	want := map[string]Load{
		"a": {PromisedBytes: 70 + 6, Volumes: 4, Moves: 2},
		"b": {PromisedBytes: 10 + 7, ArrivingBytes: 4 + 7, Volumes: 2, Moves: 2},
		"c": {Volumes: 2},
		"d": {Volumes: 1, Moves: 1},
	}
	if !cmp.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestPoliciesThatCanNotBe(t *testing.T) {
	if err := DefaultPolicy().Check(); err != nil {
		t.Error(err)
	}
	for _, p := range []Policy{{}, {Strategy: "best", Overcommit: 1}, {Strategy: Spread, Overcommit: 0.5}, {Strategy: Spread, Overcommit: 101},
		{Strategy: Spread, Overcommit: 1, Headroom: -0.1}, {Strategy: Spread, Overcommit: 1, Headroom: 0.95}} {
		if err := p.Check(); mobyfs.CodeOf(err) != mobyfs.CodeInvalid {
			t.Errorf("%+v: got %v", p, err)
		}
	}
}
