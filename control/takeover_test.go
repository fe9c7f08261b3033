package control

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/control/store"
)

// shared makes a volume whose bytes all nodes see, used on a node.
func (f *fleet) shared(name string, takeover mobyfs.Takeover, node string) mobyfs.Grant {
	f.t.Helper()
	op, n := f.operator(), f.caller("node", node)
	v, err := op.CreateVolume(f.t.Context(), name, mobyfs.VolumeSpec{Backend: mobyfs.SharedBackend, Takeover: takeover}, node)
	if err != nil {
		f.t.Fatal(err)
	}
	if _, err := n.Created(f.t.Context(), v.ID); err != nil {
		f.t.Fatal(err)
	}
	g, err := n.Claim(f.t.Context(), v.ID)
	if err != nil {
		f.t.Fatal(err)
	}
	return g
}

func TestVolumeOfASilentNodeIsTakenOverAfterTheLockDelay(t *testing.T) {
	f := newFleet(t, false)
	ctx, h1, h2 := t.Context(), f.node("h1"), f.node("h2")
	had := f.shared("pgdata", mobyfs.TakeoverAuto, "h1")
	_, err := h2.Claim(ctx, had.Volume.ID)
	wantCode(t, err, mobyfs.CodeInUse)

	f.advance(mobyfs.SessionTTL + time.Second) // h1 falls silent
	f.report(h2, mobyfs.Report{Address: "h2:8080"})
	f.advance(mobyfs.SessionTTL - 2*time.Second)
	_, err = h2.Claim(ctx, had.Volume.ID)
	wantCode(t, err, mobyfs.CodeUnavailable)
	if !strings.Contains(mobyfs.HintOf(err), "in 1s") {
		t.Errorf("the hint is %q, want how long to wait", mobyfs.HintOf(err))
	}
	f.report(h2, mobyfs.Report{Address: "h2:8080"})
	f.advance(time.Second)
	got := must[mobyfs.Grant](t)(h2.Claim(ctx, had.Volume.ID))
	if l := got.Volume.Lease; l == nil || l.Node != "h2" || got.Volume.Node != "h2" || got.Fence <= had.Fence || got.From != nil {
		t.Errorf("taken over: %+v", got)
	}
	if again := must[mobyfs.Grant](t)(h2.Claim(ctx, had.Volume.ID)); again.Fence != got.Fence {
		t.Error("asked again it decided again")
	}
	f.report(h1, mobyfs.Report{Address: "h1:8080"}) // back
	if err := h1.Release(ctx, had.Volume.ID, had.Fence); err != nil {
		t.Errorf("its old lease is given back: %v", err)
	}
	_, err = h1.Claim(ctx, had.Volume.ID)
	wantCode(t, err, mobyfs.CodeInUse)
	if now := f.record("pgdata"); now.Lease == nil || now.Lease.Node != "h2" || now.Fence != got.Fence {
		t.Errorf("the old holder changed the record: %+v", now)
	}
}

func TestNodeThatIsBackInTimeKeepsItsVolume(t *testing.T) {
	f := newFleet(t, false)
	ctx, h1, h2 := t.Context(), f.node("h1"), f.node("h2")
	had := f.shared("pgdata", mobyfs.TakeoverAuto, "h1")
	f.advance(3 * mobyfs.SessionTTL)
	f.report(h2, mobyfs.Report{Address: "h2:8080"})
	f.report(h1, mobyfs.Report{Address: "h1:8080"})
	_, err := h2.Claim(ctx, had.Volume.ID)
	wantCode(t, err, mobyfs.CodeInUse)
	if now := f.record("pgdata"); now.Lease == nil || now.Lease.Node != "h1" || now.Lease.Fence != had.Fence {
		t.Errorf("the record is %+v", now)
	}
}

func TestTakeoverIsRefusedWhereItMayNotBe(t *testing.T) {
	f := newFleet(t, false)
	ctx, op, h2 := t.Context(), f.operator(), f.node("h2")
	f.node("h1")
	f.shared("never", mobyfs.TakeoverNever, "h1")
	manual := f.shared("manual", mobyfs.TakeoverManual, "h1")
	f.ready("local", "h1")
	_, err := op.TakeOver(ctx, "manual", "h2", "h1 burns")
	wantCode(t, err, mobyfs.CodeInUse) // h1 is there
	f.advance(3 * mobyfs.SessionTTL)
	_, err = op.TakeOver(ctx, "manual", "h2", "h1 burns")
	wantCode(t, err, mobyfs.CodeUnavailable) // h2 is silent too
	f.report(h2, mobyfs.Report{Address: "h2:8080"})
	for name, words := range map[string]string{"never": "its takeover is never", "local": "its bytes are there and nowhere else"} {
		_, err := op.TakeOver(ctx, name, "h2", "h1 burns")
		wantCode(t, err, mobyfs.CodeInvalid)
		if err != nil && !strings.Contains(err.Error(), words) || mobyfs.HintOf(err) == "" {
			t.Errorf("%s: %v (hint %q), want the words %q", name, err, mobyfs.HintOf(err), words)
		}
	}
	_, err = op.TakeOver(ctx, "manual", "h2", " \n")
	wantCode(t, err, mobyfs.CodeInvalid) // no reason
	_, err = h2.Claim(ctx, manual.Volume.ID)
	wantCode(t, err, mobyfs.CodeInUse) // nobody decides it but an operator
	got := must[mobyfs.Volume](t)(op.TakeOver(ctx, "manual", "h2", "h1 burns"))
	if got.Node != "h2" || got.Lease != nil || got.Fence <= manual.Fence {
		t.Errorf("taken over by an operator: %+v", got)
	}
	if again := must[mobyfs.Volume](t)(op.TakeOver(ctx, "manual", "h2", "h1 burns")); again.Fence != got.Fence {
		t.Error("asked again it decided again")
	}
	events, _, err := f.control.store.EventsSince(ctx, got.Revision)
	if err != nil || len(events) != 1 || !strings.Contains(events[0].Text, "h1 burns") {
		t.Errorf("the event is %+v, %v; want one with the reason", events, err)
	}
}

func TestSharedVolumeMovesWithoutACopy(t *testing.T) {
	f := newFleet(t, false)
	ctx, op, h1, h2 := t.Context(), f.operator(), f.node("h1"), f.node("h2")
	g := f.shared("pgdata", "", "h1")
	_, err := op.MoveVolume(ctx, "pgdata", "h2")
	wantCode(t, err, mobyfs.CodeInUse)
	if err := h1.Release(ctx, g.Volume.ID, g.Fence); err != nil {
		t.Fatal(err)
	}
	if v := must[mobyfs.Volume](t)(op.MoveVolume(ctx, "pgdata", "h2")); v.Node != "h2" || v.Migration != nil {
		t.Errorf("moved: %+v", v)
	}
	must[mobyfs.Grant](t)(h2.Claim(ctx, g.Volume.ID))
	wantCode(t, second(h1.Claim(ctx, g.Volume.ID)), mobyfs.CodeInUse)
}

func second[T any](_ T, err error) error { return err }

func TestTakeoverNeedsBytesThatOutliveTheNode(t *testing.T) {
	f := newFleet(t, false)
	f.node("h1")
	for _, takeover := range []mobyfs.Takeover{mobyfs.TakeoverAuto, mobyfs.TakeoverManual, "sometimes"} {
		_, err := f.operator().CreateVolume(t.Context(), "pgdata", mobyfs.VolumeSpec{Takeover: takeover}, "")
		wantCode(t, err, mobyfs.CodeInvalid)
		if mobyfs.HintOf(err) == "" {
			t.Errorf("takeover %s: no way out", takeover)
		}
	}
}

func TestSecondAgentOfANodeEndsTheSessionOfTheFirst(t *testing.T) {
	f := newFleet(t, false)
	h1 := f.caller("node", "h1")
	beat := func(instance string, begins bool) (mobyfs.Session, error) {
		return h1.Report(t.Context(), mobyfs.Report{Address: "h1:8080", Instance: instance, Begins: begins})
	}
	first := must[mobyfs.Session](t)(beat("a", true))
	if first.TTL() != mobyfs.SessionTTL {
		t.Errorf("the session lasts %v", first.TTL())
	}
	if again := must[mobyfs.Session](t)(beat("a", true)); again != first {
		t.Errorf("the same first heartbeat again began %+v, before %+v", again, first)
	}
	second := must[mobyfs.Session](t)(beat("b", true))
	if second.Epoch != first.Epoch+1 {
		t.Errorf("the second agent's epoch is %d after %d", second.Epoch, first.Epoch)
	}
	_, err := beat("a", false)
	wantCode(t, err, mobyfs.CodeStaleFence)
	if !strings.Contains(mobyfs.HintOf(err), "two machines have the certificate") {
		t.Errorf("the first agent is told %q", mobyfs.HintOf(err))
	}
	if still := must[mobyfs.Session](t)(beat("b", false)); still != second {
		t.Errorf("the second agent's session became %+v", still)
	}
	f.heard["h1"] = f.clock.Now()
	f.lose("h1")
	if third := must[mobyfs.Session](t)(beat("b", false)); third.Epoch != second.Epoch+1 {
		t.Errorf("after its session ended the epoch is %d", third.Epoch)
	}
}

// TestAnOutageOfManyIsWrittenDownTogether: all nodes are silent when control starts, and one has a record that can't be read.
func TestAnOutageOfManyIsWrittenDownTogether(t *testing.T) {
	f := newFleet(t, false)
	var nodes []string
	err := f.control.store.Update(t.Context(), func(tx *store.Tx) error {
		for i := range 2*downAtOnce + 1 {
			nodes = append(nodes, fmt.Sprintf("n%03d", i))
			if err := store.Nodes.Put(tx, nodes[i], mobyfs.Node{Name: nodes[i], Epoch: 7}); err != nil {
				return err
			}
		}
		return store.Nodes.Put(tx, "broken", mobyfs.Node{Name: "of another"})
	})
	if err != nil {
		t.Fatal(err)
	}
	wantCode(t, f.control.writeDownTogether(t.Context(), []string{nodes[0], "broken", nodes[1], "forgotten"}), mobyfs.CodeCorrupt)
	f.restart()
	f.restart()
	events, _, err := f.control.store.EventsSince(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	told, changes := map[string]int{}, map[int64]bool{}
	for _, e := range events {
		if e.Text == "session has ended" {
			told[e.Node]++
			changes[e.Revision] = true
		}
	}
	f.control.store.View(func(v store.View) {
		for _, node := range nodes {
			if down, ok := store.Downs.In(v, node); !ok || down.Epoch != 7 || told[node] != 1 {
				t.Errorf("%s: %+v, told %d times", node, down, told[node])
			}
		}
	})
	if len(told) != len(nodes) || len(changes) != 3 {
		t.Errorf("%d nodes are told in %d changes, want %d in 3", len(told), len(changes), len(nodes))
	}
}

func TestEndOfASessionIsWrittenDownOnce(t *testing.T) {
	f := newFleet(t, false)
	f.node("h1")
	f.advance(mobyfs.SessionTTL + time.Second)
	for range 3 {
		if err := f.control.writeDown(t.Context(), "h1"); err != nil {
			t.Fatal(err)
		}
	}
	events, _, err := f.control.store.EventsSince(t.Context(), 0)
	n := 0
	for _, e := range events {
		if e.Text == "session has ended" && e.Node == "h1" {
			n++
		}
	}
	if err != nil || n != 1 {
		t.Errorf("it is told %d times, %v", n, err)
	}
	var down store.Down
	f.control.store.View(func(v store.View) { down, _ = store.Downs.In(v, "h1") })
	if down.Epoch != 1 {
		t.Errorf("the record is %+v", down)
	}
}

// A volume that all nodes see goes where a container wants it, or where a person takes it, but not beside another of its
// group.
func TestSharedVolumesOfAGroupStayApartWhoeverMountsThem(t *testing.T) {
	f := newFleet(t, false)
	ctx, op, h1, h2, h3 := t.Context(), f.operator(), f.node("h1"), f.node("h2"), f.node("h3")
	spec := mobyfs.VolumeSpec{Backend: mobyfs.SharedBackend, Takeover: mobyfs.TakeoverAuto, Apart: "db"}
	ready := func(name, node string) mobyfs.VolumeID {
		t.Helper()
		v := must[mobyfs.Volume](t)(op.CreateVolume(ctx, name, spec, node))
		if _, err := f.caller("node", node).Created(ctx, v.ID); err != nil {
			t.Fatal(err)
		}
		return v.ID
	}
	a, b := ready("db-a", "h1"), ready("db-b", "h2")
	_, err := h1.Claim(ctx, b)
	wantCode(t, err, mobyfs.CodeInUse)
	if !strings.Contains(err.Error(), "group db") || f.record("db-b").Node != "h2" {
		t.Errorf("refused by %q, it is on %s", err, f.record("db-b").Node)
	}
	if _, err := h3.Claim(ctx, b); err != nil {
		t.Errorf("to a node without another of the group: %v", err)
	}
	if _, err := h1.Claim(ctx, a); err != nil {
		t.Errorf("at its home: %v", err)
	}

	for range 2 { // h1 falls silent with its lease
		f.advance(mobyfs.SessionTTL + time.Second)
		f.report(h2, mobyfs.Report{Address: "h2:8080"})
		f.report(h3, mobyfs.Report{Address: "h3:8080"})
	}
	_, err = h3.Claim(ctx, a) // the takeover of a silent node's volume by a mount
	if mobyfs.CodeOf(err) != mobyfs.CodeInUse || !strings.Contains(err.Error(), "group db") {
		t.Errorf("a mount beside the other takes it over: %v", err)
	}
	_, err = op.TakeOver(ctx, "db-a", "h3", "h1 is lost")
	if mobyfs.CodeOf(err) != mobyfs.CodeInUse || !strings.Contains(err.Error(), "group db") {
		t.Errorf("a person takes it over beside the other: %v", err)
	}
	if v := must[mobyfs.Volume](t)(op.TakeOver(ctx, "db-a", "h2", "h1 is lost")); v.Node != "h2" {
		t.Errorf("taken over it is on %s", v.Node)
	}
}
