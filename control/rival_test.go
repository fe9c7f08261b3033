package control

import (
	"strings"
	"testing"

	"github.com/mobyfs/mobyfs"
)

// Whoever looks at the nodes sees that there are two machines of one name, and the trail says since when and where.
func TestTwoAgentsOfOneNodeAreToldOfOnceAMinute(t *testing.T) {
	f := newFleet(t, false)
	h1 := f.caller("node", "h1")
	beat := func(instance, address string, begins bool) error {
		_, err := h1.Report(t.Context(), mobyfs.Report{Address: address, Instance: instance, Begins: begins})
		return err
	}
	for _, err := range []error{beat("a", "h1:8080", true), beat("b", "10.0.0.9:8080", true)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	rivals := func() (n int) {
		events, _, err := f.control.store.EventsSince(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events {
			if strings.Contains(e.Text, "two agents speak for h1: the one at h1:8080") {
				n++
			}
		}
		return n
	}
	node := func() mobyfs.Node { return must[[]mobyfs.Node](t)(f.operator().Nodes(t.Context()))[0] }
	if node().Rival(f.clock.Now()) || rivals() != 0 {
		t.Error("an agent that began anew is told of as a rival")
	}
	for range 5 {
		wantCode(t, beat("a", "h1:8080", false), mobyfs.CodeStaleFence)
	}
	if !node().Rival(f.clock.Now()) || rivals() != 1 || node().Address != "10.0.0.9:8080" {
		t.Errorf("after five refusals it is told %d times, and the node is %+v", rivals(), node())
	}
	f.clock.advance(mobyfs.RivalEvery)
	wantCode(t, beat("a", "h1:8080", false), mobyfs.CodeStaleFence)
	if rivals() != 2 {
		t.Errorf("a minute later it is told %d times", rivals())
	}
	f.clock.advance(4 * mobyfs.RivalEvery)
	if node().Rival(f.clock.Now()) {
		t.Error("a rival that has gone is told of still")
	}
}
