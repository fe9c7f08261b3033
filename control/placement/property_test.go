package placement

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/mobyfs/mobyfs"
)

// cluster is what a field is made of.
type cluster struct {
	nodes   []mobyfs.Node
	volumes []mobyfs.Volume
	policy  Policy
}

func (c cluster) field() *Field { return fieldOf(c.nodes, c.volumes...) }

var words = []string{"", "a", "b"}

// drawCluster makes any cluster of a few nodes, which may be more than full.
func drawCluster(t *rapid.T) cluster {
	word := rapid.SampledFrom(words)
	c := cluster{policy: Policy{
		Strategy:   rapid.SampledFrom([]Strategy{Spread, BinPack}).Draw(t, "strategy"),
		Overcommit: rapid.SampledFrom([]float64{1, 1.5, 3}).Draw(t, "overcommit"),
		Headroom:   rapid.SampledFrom([]float64{0, 0.05, 0.3}).Draw(t, "headroom"),
		Version:    "v1.4.0",
	}}
	for i := range rapid.IntRange(0, 6).Draw(t, "nodes") {
		total := rapid.Int64Range(0, 100).Draw(t, "total")
		n := mobyfs.Node{
			Name: fmt.Sprintf("n%d", i), Ready: rapid.IntRange(0, 5).Draw(t, "ready") > 0, Zone: word.Draw(t, "zone"),
			Capacity: mobyfs.Capacity{TotalBytes: total, FreeBytes: rapid.Int64Range(0, total).Draw(t, "free")},
			Version:  rapid.SampledFrom([]string{"v1.4.1", "v1.5.0", "dev", "v1.1.0"}).Draw(t, "version"),
			Availability: rapid.SampledFrom([]mobyfs.Availability{"", "", "", mobyfs.NodeActive, mobyfs.NodeCordoned, mobyfs.NodeDraining}).
				Draw(t, "availability"),
		}
		if key := word.Draw(t, "taint"); key != "" {
			n.Taints = []mobyfs.Taint{{Key: key, Effect: rapid.SampledFrom([]mobyfs.TaintEffect{mobyfs.TaintNoPlace, mobyfs.TaintPreferNot}).Draw(t, "effect")}}
		}
		if label := word.Draw(t, "label"); label != "" {
			n.Labels = map[string]string{"l": label}
		}
		c.nodes = append(c.nodes, n)
	}
	for i := range rapid.IntRange(0, 12).Draw(t, "volumes") {
		c.volumes = append(c.volumes, drawVolume(t, fmt.Sprintf("v%02d", i), len(c.nodes)))
	}
	return c
}

func drawSpec(t *rapid.T) mobyfs.VolumeSpec {
	word := rapid.SampledFrom(words)
	s := mobyfs.VolumeSpec{
		SizeBytes: rapid.Int64Range(0, 40).Draw(t, "size"), Apart: word.Draw(t, "apart"),
		Zone:    rapid.SampledFrom([]string{"", "", "", "a"}).Draw(t, "zone"),
		Backend: rapid.SampledFrom([]string{"", "", "", mobyfs.SharedBackend}).Draw(t, "backend"),
	}
	if label := word.Draw(t, "node label"); label != "" && rapid.Bool().Draw(t, "labelled") {
		s.NodeLabels = map[string]string{"l": label}
	}
	if key := word.Draw(t, "toleration"); key != "" {
		s.Tolerations = []string{key}
	}
	return s
}

func drawVolume(t *rapid.T, id string, nodes int) mobyfs.Volume {
	at := func() string { return fmt.Sprintf("n%d", rapid.IntRange(0, nodes).Draw(t, "node")) } // one of them is no node
	v := mobyfs.Volume{ID: mobyfs.VolumeID(id), Name: id, Node: at(), Spec: drawSpec(t), State: mobyfs.VolumeReady,
		UsedBytes: rapid.Int64Range(0, 40).Draw(t, "used")}
	switch rapid.IntRange(0, 6).Draw(t, "what goes on") {
	case 0:
		v.Migration = &mobyfs.Migration{From: v.Node, To: at()}
	case 1:
		v.Lease = &mobyfs.Lease{Node: v.Node}
	case 2:
		v.State = mobyfs.VolumeCreating
	case 3:
		v.State = mobyfs.VolumeRemoving
	}
	return v
}

func drawQuestion(t *rapid.T, c cluster) Question {
	if len(c.volumes) == 0 || rapid.Bool().Draw(t, "new") {
		return ForNew(drawSpec(t), c.policy)
	}
	return ForMove(rapid.SampledFrom(c.volumes).Draw(t, "moved"), c.policy)
}

// The rules are written down once more, as plainly as can be.
func TestWhatIsChosenIsAllowed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := drawCluster(t)
		q := drawQuestion(t, c)
		name := Choose(c.field(), q)
		if name == "" {
			return
		}
		n := c.nodes[slices.IndexFunc(c.nodes, func(n mobyfs.Node) bool { return n.Name == name })]
		switch s := q.Spec; {
		case !n.Ready, n.Use() != mobyfs.NodeActive, name == q.From, n.Version == "v1.1.0":
			t.Fatalf("%+v gets nothing", n)
		case s.Zone != "" && s.Zone != n.Zone, s.NodeLabels != nil && s.NodeLabels["l"] != n.Labels["l"]:
			t.Fatalf("%+v is not where the volume may be", n)
		case len(n.Taints) > 0 && n.Taints[0].Effect == mobyfs.TaintNoPlace && !slices.Contains(s.Tolerations, n.Taints[0].Key):
			t.Fatalf("the taint of %+v is not tolerated", n)
		case s.Apart != "" && slices.ContainsFunc(c.volumes, func(v mobyfs.Volume) bool {
			return v.Spec.Apart == s.Apart && v.State != mobyfs.VolumeRemoving && (v.Node == name || v.Migration != nil && v.Migration.To == name)
		}):
			t.Fatalf("%s has a volume of the group %s", name, s.Apart)
		case s.Backend == mobyfs.SharedBackend:
			return
		}
		mine := n.Capacity.TotalBytes - n.Capacity.FreeBytes + q.NeedBytes
		arriving := q.ArrivingBytes
		for _, v := range c.volumes {
			if v.Node == name && v.State != mobyfs.VolumeRemoving && v.Spec.Backend == "" {
				mine += max(v.Spec.SizeBytes-v.UsedBytes, 0)
			}
			if v.Migration != nil && v.Migration.To == name {
				mine += max(v.Spec.SizeBytes, v.UsedBytes)
				arriving += v.UsedBytes
			}
		}
		usable := n.Capacity.TotalBytes - int64(float64(n.Capacity.TotalBytes)*c.policy.Headroom)
		if float64(mine) > float64(usable)*c.policy.Overcommit || n.Capacity.FreeBytes-arriving < n.Capacity.TotalBytes-usable {
			t.Fatalf("%+v has %d of %d then, and %d come", n, mine, usable, arriving)
		}
	})
}

func TestExplainAgreesWithChoose(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := drawCluster(t)
		q, f := drawQuestion(t, c), c.field()
		chosen, verdicts := Choose(f, q), Explain(f, q)
		if len(verdicts) != len(c.nodes) {
			t.Fatalf("%d verdicts of %d nodes", len(verdicts), len(c.nodes))
		}
		if first := len(verdicts) > 0 && verdicts[0].Fits; first != (chosen != "") || first && verdicts[0].Node != chosen {
			t.Fatalf("chosen is %q, the verdicts are %+v", chosen, verdicts)
		}
		for i, v := range verdicts {
			if v.Fits != Fits(f, q, v.Node) || v.Reason == "" || v.Fits == (v.Filter != "") || i > 0 && v.Fits && verdicts[i-1].Score < v.Score {
				t.Fatalf("verdict %d of %+v", i, verdicts)
			}
			if one, ok := Judge(f, q, v.Node); !ok || !cmp.Equal(one, v) {
				t.Fatalf("alone it is %+v, among others %+v", one, v)
			}
		}
	})
}

func TestTheOrderInWhichNodesAndVolumesBecameKnownDoesNotMatter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := drawCluster(t)
		q := drawQuestion(t, c)
		want := Explain(c.field(), q)
		f := NewField() // volumes first, in another order; nodes come, go, change and come back
		for _, v := range rapid.Permutation(c.volumes).Draw(t, "order of volumes") {
			f.Add(v)
		}
		for _, n := range rapid.Permutation(c.nodes).Draw(t, "order of nodes") {
			if rapid.Bool().Draw(t, "otherwise before") {
				f.Set(mobyfs.Node{Name: n.Name, Zone: "elsewhere"})
			}
			f.Set(n)
			if rapid.Bool().Draw(t, "leaves") {
				f.Remove(n.Name)
				f.Set(n)
			}
		}
		if got := Explain(f, q); !cmp.Equal(got, want) {
			t.Fatalf("it depends on the order: %s", cmp.Diff(want, got))
		}
	})
}

func TestToCordonANodeChangesNothingForTheOthers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := drawCluster(t)
		if len(c.nodes) == 0 {
			return
		}
		q := drawQuestion(t, c)
		f := c.field()
		before := Explain(f, q)
		cordoned := rapid.SampledFrom(c.nodes).Draw(t, "cordoned")
		cordoned.Availability = mobyfs.NodeCordoned
		f.Set(cordoned)
		for _, v := range before {
			if after := Fits(f, q, v.Node); after != (v.Fits && v.Node != cordoned.Name) {
				t.Fatalf("%s fitted: %v, and with %s cordoned: %v", v.Node, v.Fits, cordoned.Name, after)
			}
		}
		if chosen := Choose(f, q); before[0].Fits && before[0].Node != cordoned.Name && chosen != before[0].Node {
			t.Fatalf("it was %s, and with %s cordoned %q", before[0].Node, cordoned.Name, chosen)
		}
	})
}

// A field that forgets what was added is as if that had never been.
func TestWhatIsDroppedLeavesNoTrace(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := drawCluster(t)
		f := c.field()
		for _, v := range c.volumes {
			f.Drop(v)
		}
		if len(f.groups) > 0 || f.volumes != 0 || len(f.elsewhere) > 0 {
			t.Fatalf("groups %v, volumes %d, elsewhere %v", f.groups, f.volumes, f.elsewhere)
		}
		for _, n := range c.nodes {
			if l := f.Owed(n.Name); l != (Load{}) {
				t.Fatalf("%s owes %+v", n.Name, l)
			}
		}
	})
}

// drawUneven makes a cluster in which a few nodes have most of the volumes.
func drawUneven(t *rapid.T) cluster {
	c := drawCluster(t)
	for i := range c.nodes {
		c.nodes[i].Capacity = mobyfs.Capacity{TotalBytes: 200, FreeBytes: rapid.Int64Range(20, 180).Draw(t, "free")}
	}
	for i := range rapid.IntRange(0, 20).Draw(t, "more volumes") {
		v := drawVolume(t, fmt.Sprintf("w%02d", i), min(len(c.nodes), 2))
		v.Lease, v.Migration, v.State = nil, nil, mobyfs.VolumeReady
		c.volumes = append(c.volumes, v)
	}
	return c
}

func TestRebalancedOnceThereIsNothingToRebalance(t *testing.T) {
	moves := 0
	rapid.Check(t, func(t *rapid.T) {
		c := drawUneven(t)
		minGain := rapid.SampledFrom([]float64{0.01, 0.05, 0.2}).Draw(t, "gain")
		f := c.field()
		plan := Rebalance(f, c.volumes, c.policy, minGain)
		moves += len(plan)
		if again := Rebalance(f, c.volumes, c.policy, minGain); !cmp.Equal(again, plan) {
			t.Fatalf("the plan is another each time: %s", cmp.Diff(plan, again))
		}
		for _, m := range plan {
			i := slices.IndexFunc(c.volumes, func(v mobyfs.Volume) bool { return v.ID == m.Volume })
			v := &c.volumes[i]
			if !movable(*v) || v.Node != m.From || m.From == m.To {
				t.Fatalf("%+v can't be, of %+v", m, *v)
			}
			if !Fits(f, ForMove(*v, c.policy), m.To) {
				verdict, _ := Judge(f, ForMove(*v, c.policy), m.To)
				t.Fatalf("%+v does not fit: %+v", m, verdict)
			}
			f.carry(v, m.To)
		}
		if more := Rebalance(f, c.volumes, c.policy, minGain); len(more) > 0 {
			t.Fatalf("after %+v it wants %+v", plan, more)
		}
	})
	if moves == 0 {
		t.Error("no plan had a move in it")
	}
}
