package main

import (
	"context"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/api"
)

func TestTaintsAreGivenAndTakenAway(t *testing.T) {
	gpu := mobyfs.Taint{Key: "gpu", Value: "yes", Effect: mobyfs.TaintNoPlace}
	old := mobyfs.Taint{Key: "old", Effect: mobyfs.TaintPreferNot}
	oldStrict := mobyfs.Taint{Key: "old", Effect: mobyfs.TaintNoPlace}
	for _, tc := range []struct {
		has  []mobyfs.Taint
		args string
		want []mobyfs.Taint
	}{
		{nil, "gpu=yes:no-place", []mobyfs.Taint{gpu}},
		{nil, "gpu=yes", []mobyfs.Taint{gpu}},
		{[]mobyfs.Taint{{Key: "gpu", Value: "no", Effect: mobyfs.TaintNoPlace}}, "gpu=yes", []mobyfs.Taint{gpu}},
		{[]mobyfs.Taint{gpu, old}, "gpu-", []mobyfs.Taint{old}},
		{[]mobyfs.Taint{old, oldStrict}, "old-", []mobyfs.Taint{}},
		{[]mobyfs.Taint{old, oldStrict}, "old:prefer-not-", []mobyfs.Taint{oldStrict}},
		{[]mobyfs.Taint{old}, "gpu- old:no-place", []mobyfs.Taint{old, oldStrict}},
	} {
		got, err := tainted(tc.has, strings.Fields(tc.args))
		if err != nil || !cmp.Equal(got, tc.want) {
			t.Errorf("%v %s: got %v, %v, want %v", tc.has, tc.args, got, err, tc.want)
		}
	}
	for _, bad := range []string{"gpu:never", "=x", "", "-"} {
		if _, err := tainted(nil, []string{bad}); mobyfs.CodeOf(err) != mobyfs.CodeInvalid {
			t.Errorf("%q: got %v", bad, err)
		}
	}
}

// contested is a node that somebody else changes in between, so many times.
type contested struct {
	node    mobyfs.Node
	changes int
}

func (c *contested) Node(context.Context, string) (mobyfs.Node, error) { return c.node, nil }

func (c *contested) PatchNode(ctx context.Context, _ string, patch api.NodePatch) (mobyfs.Node, error) {
	if c.changes > 0 {
		c.changes--
		c.node.Revision++
		c.node.Taints = append(c.node.Taints, mobyfs.Taint{Key: "theirs", Effect: mobyfs.TaintNoPlace})
	}
	if revision, asked := mobyfs.MatchOf(ctx); !asked || revision != c.node.Revision {
		return mobyfs.Node{}, mobyfs.Errorf(mobyfs.CodeChanged, "it has changed")
	}
	c.node.Taints = *patch.Taints
	return c.node, nil
}

func TestTaintsThatOthersGiveMeanwhileStay(t *testing.T) {
	c := &contested{node: mobyfs.Node{Revision: 7}, changes: 1}
	n, err := changeTaints(t.Context(), c, "h1", []string{"mine"})
	if err != nil || shownTaints(n.Taints) != "theirs:no-place, mine:no-place" {
		t.Errorf("got %v, %v", n.Taints, err)
	}
	c.changes = 100
	if _, err := changeTaints(t.Context(), c, "h1", []string{"mine"}); mobyfs.CodeOf(err) != mobyfs.CodeChanged {
		t.Errorf("of a node that changes all the time: %v", err)
	}
}

func TestLabelsAreGivenAndTakenAway(t *testing.T) {
	got, err := parseLabels([]string{"disk=ssd", "old-", "empty=", "tail=a-"})
	text := func(s string) *string { return &s }
	if want := map[string]*string{"disk": text("ssd"), "old": nil, "empty": text(""), "tail": text("a-")}; err != nil || !cmp.Equal(got, want) {
		t.Errorf("got %v, %v", got, err)
	}
	if _, err := parseLabels([]string{"disk"}); mobyfs.CodeOf(err) != mobyfs.CodeInvalid || mobyfs.HintOf(err) == "" {
		t.Errorf("got %v", err)
	}
}

func TestExplanationIsATableOfNodes(t *testing.T) {
	var b strings.Builder
	printPlacement(&b, api.Placement{Node: "h2", Verdicts: []mobyfs.Verdict{
		{Node: "h2", Fits: true, Reason: "10 GiB free for new volumes", Score: 71.25}, {Node: "h1", Reason: "cordoned"},
	}}, "created")
	want := "NODE   FITS   SCORE   WHY\nh2     yes    71.2    10 GiB free for new volumes\nh1     no     -       cordoned\nit would go to h2; nothing was created\n"
	if b.String() != want {
		t.Errorf("got\n%swant\n%s", b.String(), want)
	}
}
