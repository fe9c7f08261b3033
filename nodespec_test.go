package mobyfs

import (
	"encoding/json"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
)

func gpu(value string) []Taint { return []Taint{{Key: "gpu", Value: value, Effect: TaintNoPlace}} }

func TestADescriptionChangesWhatNobodyHasSetSince(t *testing.T) {
	ssd, hdd := map[string]string{"disk": "ssd"}, map[string]string{"disk": "hdd"}
	east, west := NodeSpec{Zone: "east"}, NodeSpec{Zone: "west"}
	for name, tc := range map[string]struct {
		node Node
		next NodeSpec
		want NodeSpec
		kept []string
	}{
		"first":                    {Node{}, NodeSpec{"east", "r1", ssd, gpu("yes")}, NodeSpec{"east", "r1", ssd, gpu("yes")}, nil},
		"first, after an operator": {Node{Zone: "west", Labels: hdd}, NodeSpec{Zone: "east", Labels: ssd}, NodeSpec{Zone: "west", Labels: hdd}, []string{"label disk is hdd and not ssd", "zone is west and not east"}},
		"other":                    {Node{Zone: "east", Described: &east}, west, west, nil},
		"no more":                  {Node{Zone: "east", Labels: ssd, Described: &NodeSpec{Zone: "east", Labels: ssd}}, NodeSpec{}, NodeSpec{}, nil},
		"same, after an operator":  {Node{Zone: "north", Described: &east}, east, NodeSpec{Zone: "north"}, []string{"zone is north and not east"}},
		"other, after an operator": {Node{Zone: "north", Described: &east}, west, NodeSpec{Zone: "north"}, []string{"zone is north and not west"}},
		"taken away by one":        {Node{Described: &NodeSpec{Labels: ssd}}, NodeSpec{Labels: hdd}, NodeSpec{}, []string{"label disk is none and not hdd"}},
		"no more, after one":       {Node{Zone: "north", Described: &east}, NodeSpec{}, NodeSpec{Zone: "north"}, nil},
		"given back":               {Node{Zone: "west", Described: &west}, east, east, nil},
		"taint with another value": {Node{Taints: gpu("no"), Described: &NodeSpec{Taints: gpu("no")}}, NodeSpec{Taints: gpu("")}, NodeSpec{Taints: gpu("")}, nil},
		"beside an operator's":     {Node{Labels: map[string]string{"own": "x"}, Taints: []Taint{{Key: "old", Effect: TaintPreferNot}}}, NodeSpec{Labels: ssd, Taints: gpu("")}, NodeSpec{Labels: map[string]string{"own": "x", "disk": "ssd"}, Taints: append([]Taint{{Key: "old", Effect: TaintPreferNot}}, gpu("")...)}, nil},
	} {
		before, _ := json.Marshal(tc.node)
		got := tc.node.Describe(tc.next)
		if !got.Spec().Equal(tc.want) || !slices.Equal(got.Undescribed(), tc.kept) || !slices.Equal(got.Taints, tc.want.Taints) {
			t.Errorf("%s: got %+v, kept %q", name, got.Spec(), got.Undescribed())
		}
		if tc.next.Empty() != (got.Described == nil) {
			t.Errorf("%s: the description is %v", name, got.Described)
		}
		if after, _ := json.Marshal(tc.node); string(after) != string(before) {
			t.Errorf("%s: the node of before was changed to %s", name, after)
		}
	}
}

// Whatever operators do between two descriptions: a description that is repeated changes nothing, and what nobody has
// touched is as the newest description says.
func TestDescriptionsAndOperatorsInAnyOrder(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 94))
	word := func() string { return []string{"", "a", "b", "c"}[rng.IntN(4)] }
	spec := func() NodeSpec {
		s := NodeSpec{Zone: word(), Rack: word(), Labels: map[string]string{}}
		for _, k := range []string{"x", "y"} {
			if rng.IntN(2) == 0 {
				s.Labels[k] = word()
			}
		}
		if rng.IntN(2) == 0 {
			s.Taints = gpu(word())
		}
		return s
	}
	for range 2000 {
		n, rackTouched := Node{}, false
		for range 8 {
			if rng.IntN(3) == 0 {
				n.Zone = word()
				if rng.IntN(4) == 0 {
					n.Rack, rackTouched = word(), true
				}
				continue
			}
			next := spec()
			zone := n.Zone
			var last string
			if n.Described != nil {
				last = n.Described.Zone
			}
			n = n.Describe(next)
			if zone != last && n.Zone != zone {
				t.Fatalf("an operator set zone %q after the description said %q; now it is %q", zone, last, n.Zone)
			}
			if !rackTouched && n.Rack != next.Rack {
				t.Fatalf("nobody has touched the rack, and it is %q, not %q", n.Rack, next.Rack)
			}
			if again := n.Describe(next); !reflect.DeepEqual(again.Spec(), n.Spec()) {
				t.Fatalf("repeated: %+v, first %+v", again.Spec(), n.Spec())
			}
		}
	}
}

func TestChangesAreSaidInWords(t *testing.T) {
	got := NodeSpec{Zone: "east", Labels: map[string]string{"disk": "ssd"}}.Changes(NodeSpec{Zone: "west", Taints: gpu("")})
	if want := []string{"label disk ssd → none", `taint gpu:no-place none → ""`, "zone east → west"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
