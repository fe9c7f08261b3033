package control

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/api"
	"github.com/mobyfs/mobyfs/control/store"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// liveNode is node with an agent that knows live migrations.
func (f *fleet) liveNode(name string) caller {
	f.t.Helper()
	n := f.caller(pki.RoleNode, name)
	f.report(n, mobyfs.Report{Address: name + ":8080", Live: true})
	return n
}

// frozenAs is the receipt of a freeze.
func frozenAs(freeze int) mobyfs.Receipt {
	r := someReceipt
	r.Freeze = freeze
	return r
}

// flight is a volume in the middle of a live move from h1, which uses it, to h2.
type flight struct {
	*fleet
	op, h1, h2, h3 caller
	name           string
	id             mobyfs.VolumeID
	lease          mobyfs.Fence // of h1
	m              mobyfs.MigrationID
}

// flights are ways to make flights of volumes of one fleet.
type flights struct {
	*fleet
	op, h1, h2, h3 caller
	n              int
}

func newFlights(t *testing.T, wire bool) *flights {
	f := newFleet(t, wire)
	return &flights{fleet: f, op: f.operator(), h1: f.liveNode("h1"), h2: f.liveNode("h2"), h3: f.liveNode("h3")}
}

func (f *flights) begin(t *testing.T, o mobyfs.MoveOptions) *flight {
	t.Helper()
	f.n++
	x := &flight{fleet: f.fleet, op: f.op, h1: f.h1, h2: f.h2, h3: f.h3, name: fmt.Sprintf("vol-%d", f.n)}
	x.id = f.ready(x.name, "h1").ID
	x.lease = must[mobyfs.Grant](t)(f.h1.Claim(t.Context(), x.id)).Fence
	x.m = must[mobyfs.Volume](t)(f.op.Move(t.Context(), x.name, api.MoveRequest{To: "h2", Live: true, Options: o})).Migration.ID
	return x
}

func (x *flight) freeze(t *testing.T) int {
	t.Helper()
	return must[mobyfs.Volume](t)(x.h1.Freeze(t.Context(), x.id, x.m)).Migration.Freezes
}

func (x *flight) thaw(t *testing.T, freeze int) {
	t.Helper()
	must[mobyfs.Volume](t)(x.h1.Thaw(t.Context(), x.id, x.m, freeze, "the session broke"))
}

func (x *flight) commit(t *testing.T, freeze int) mobyfs.Grant {
	t.Helper()
	return must[mobyfs.Grant](t)(x.h2.Commit(t.Context(), x.id, x.m, frozenAs(freeze)))
}

// stands says in a few words how the record stands: the state of the migration, its freezes, who has the lease, and the
// home.
func (x *flight) stands() string {
	v := x.record(x.name)
	m, lease := v.Migration, "-"
	if m == nil {
		m = v.LastMove
	}
	if v.Lease != nil {
		lease = v.Lease.Node
	}
	return fmt.Sprintf("%s/%d lease %s home %s", m.State, m.Freezes, lease, v.Node)
}

// states are all states in which a live migration can be, and how it gets there.
var liveStates = []struct {
	name  string
	reach func(t *testing.T, x *flight)
}{
	{"copying", func(*testing.T, *flight) {}},
	{"freezing", func(t *testing.T, x *flight) { x.freeze(t) }},
	{"thawed", func(t *testing.T, x *flight) { x.thaw(t, x.freeze(t)) }},
	{"refrozen", func(t *testing.T, x *flight) { x.thaw(t, x.freeze(t)); x.freeze(t) }},
	{"committed", func(t *testing.T, x *flight) { x.commit(t, x.freeze(t)) }},
	{"aborted", func(t *testing.T, x *flight) {
		x.freeze(t)
		if err := x.h2.Abort(t.Context(), x.id, x.m, "no more"); err != nil {
			t.Fatal(err)
		}
	}},
}

// TestEveryCallInEveryStateOfALiveMigration walks all pairs: what each call answers, and what is true afterwards. What is
// not named changes nothing. Each call is made twice, and the second one changes nothing more.
func TestEveryCallInEveryStateOfALiveMigration(t *testing.T) {
	const (
		ok    = mobyfs.Code("")
		stale = mobyfs.CodeStaleFence
		other = mobyfs.CodeChanged
		never = mobyfs.CodeInvalid
		no    = mobyfs.CodeDenied
		busy  = mobyfs.CodeMoving
		used  = mobyfs.CodeInUse
		gone  = mobyfs.CodeNotFound
	)
	type want struct {
		code  mobyfs.Code
		after string // how it stands; "" as before
	}
	calls := []struct {
		name string
		do   func(t *testing.T, x *flight) error
		want [6]want // in the order of liveStates
	}{
		{"freeze by the source", func(t *testing.T, x *flight) error { _, err := x.h1.Freeze(t.Context(), x.id, x.m); return err },
			[6]want{{ok, "freezing/1 lease h1 home h1"}, {ok, ""}, {ok, "freezing/2 lease h1 home h1"}, {ok, ""}, {stale, ""}, {stale, ""}}},
		{"freeze by the destination", func(t *testing.T, x *flight) error { _, err := x.h2.Freeze(t.Context(), x.id, x.m); return err },
			[6]want{{no, ""}, {no, ""}, {no, ""}, {no, ""}, {stale, ""}, {stale, ""}}},
		{"thaw 1 by the source", func(t *testing.T, x *flight) error {
			_, err := x.h1.Thaw(t.Context(), x.id, x.m, 1, "why not")
			return err
		}, [6]want{{never, ""}, {ok, "copying/1 lease h1 home h1"}, {ok, ""}, {other, ""}, {stale, ""}, {ok, ""}}},
		{"thaw 2 by the source", func(t *testing.T, x *flight) error {
			_, err := x.h1.Thaw(t.Context(), x.id, x.m, 2, "why not")
			return err
		}, [6]want{{never, ""}, {never, ""}, {never, ""}, {ok, "copying/2 lease h1 home h1"}, {stale, ""}, {ok, ""}}},
		{"thaw 1 by the destination", func(t *testing.T, x *flight) error {
			_, err := x.h2.Thaw(t.Context(), x.id, x.m, 1, "why not")
			return err
		}, [6]want{{no, ""}, {no, ""}, {no, ""}, {no, ""}, {no, ""}, {no, ""}}},
		{"commit of no freeze", func(t *testing.T, x *flight) error {
			_, err := x.h2.Commit(t.Context(), x.id, x.m, frozenAs(0))
			return err
		}, [6]want{{never, ""}, {never, ""}, {never, ""}, {never, ""}, {ok, ""}, {stale, ""}}},
		{"commit of freeze 1", func(t *testing.T, x *flight) error {
			_, err := x.h2.Commit(t.Context(), x.id, x.m, frozenAs(1))
			return err
		}, [6]want{{never, ""}, {ok, "committed/1 lease - home h2"}, {other, ""}, {other, ""}, {ok, ""}, {stale, ""}}},
		{"commit of freeze 2", func(t *testing.T, x *flight) error {
			_, err := x.h2.Commit(t.Context(), x.id, x.m, frozenAs(2))
			return err
		}, [6]want{{never, ""}, {never, ""}, {never, ""}, {ok, "committed/2 lease - home h2"}, {ok, ""}, {stale, ""}}},
		{"commit by the source", func(t *testing.T, x *flight) error {
			_, err := x.h1.Commit(t.Context(), x.id, x.m, frozenAs(1))
			return err
		}, [6]want{{no, ""}, {no, ""}, {no, ""}, {no, ""}, {stale, ""}, {stale, ""}}},
		{"abort by the source", func(t *testing.T, x *flight) error { return x.h1.Abort(t.Context(), x.id, x.m, "I can't") },
			[6]want{{ok, "aborted/0 lease h1 home h1"}, {ok, "aborted/1 lease h1 home h1"}, {ok, "aborted/1 lease h1 home h1"}, {ok, "aborted/2 lease h1 home h1"}, {stale, ""}, {ok, ""}}},
		{"abort by the destination", func(t *testing.T, x *flight) error { return x.h2.Abort(t.Context(), x.id, x.m, "I can't") },
			[6]want{{ok, "aborted/0 lease h1 home h1"}, {ok, "aborted/1 lease h1 home h1"}, {ok, "aborted/1 lease h1 home h1"}, {ok, "aborted/2 lease h1 home h1"}, {stale, ""}, {ok, ""}}},
		{"abort by a third node", func(t *testing.T, x *flight) error { return x.h3.Abort(t.Context(), x.id, x.m, "I can't") },
			[6]want{{no, ""}, {no, ""}, {no, ""}, {no, ""}, {no, ""}, {no, ""}}},
		{"cancel by an operator", func(t *testing.T, x *flight) error { _, err := x.op.CancelMove(t.Context(), x.name); return err },
			[6]want{{ok, "aborted/0 lease h1 home h1"}, {ok, "aborted/1 lease h1 home h1"}, {ok, "aborted/1 lease h1 home h1"}, {ok, "aborted/2 lease h1 home h1"}, {gone, ""}, {ok, ""}}},
		{"accept by the destination", func(t *testing.T, x *flight) error { _, err := x.h2.Accept(t.Context(), x.id, x.m); return err },
			[6]want{{ok, ""}, {ok, ""}, {ok, ""}, {ok, ""}, {gone, ""}, {gone, ""}}},
		{"claim by the source, which has the lease", func(t *testing.T, x *flight) error { _, err := x.h1.Claim(t.Context(), x.id); return err },
			[6]want{{ok, ""}, {busy, ""}, {ok, ""}, {busy, ""}, {ok, "moving back"}, {ok, ""}}},
		{"claim by a third node", func(t *testing.T, x *flight) error { _, err := x.h3.Claim(t.Context(), x.id); return err },
			[6]want{{busy, ""}, {busy, ""}, {busy, ""}, {busy, ""}, {ok, "moving on"}, {used, ""}}},
		{"release by the source", func(t *testing.T, x *flight) error { return x.h1.Release(t.Context(), x.id, x.lease) },
			[6]want{{ok, "copying/0 lease - home h1"}, {ok, "freezing/1 lease - home h1"}, {ok, "copying/1 lease - home h1"}, {ok, "freezing/2 lease - home h1"}, {ok, ""}, {ok, "aborted/1 lease - home h1"}}},
		{"removal", func(t *testing.T, x *flight) error { return x.op.RemoveVolume(t.Context(), x.name) },
			[6]want{{used, ""}, {used, ""}, {used, ""}, {used, ""}, {ok, "removed"}, {used, ""}}},
		{"the same move again", func(t *testing.T, x *flight) error {
			_, err := x.op.Move(t.Context(), x.name, api.MoveRequest{To: "h2", Live: true})
			return err
		}, [6]want{{ok, ""}, {ok, ""}, {ok, ""}, {ok, ""}, {ok, ""}, {ok, "copying/0 lease h1 home h1"}}},
		{"another move", func(t *testing.T, x *flight) error {
			_, err := x.op.Move(t.Context(), x.name, api.MoveRequest{To: "h3", Live: true})
			return err
		}, [6]want{{busy, ""}, {busy, ""}, {busy, ""}, {busy, ""}, {ok, "copying/0 lease - home h2"}, {ok, "copying/0 lease h1 home h1"}}},
		{"what became of it, by the destination", func(t *testing.T, x *flight) error {
			return x.h2.Moved(t.Context(), x.id, x.m, mobyfs.MoveReport{Pause: time.Second})
		}, [6]want{{ok, ""}, {ok, ""}, {ok, ""}, {ok, ""}, {ok, ""}, {stale, ""}}},
		{"what became of it, by the source", func(t *testing.T, x *flight) error {
			return x.h1.Moved(t.Context(), x.id, x.m, mobyfs.MoveReport{Pause: time.Second})
		}, [6]want{{ok, ""}, {ok, ""}, {ok, ""}, {ok, ""}, {no, ""}, {no, ""}}},
	}
	f := newFlights(t, false)
	for i, state := range liveStates {
		for _, call := range calls {
			t.Run(state.name+"/"+call.name, func(t *testing.T) {
				x, want := f.begin(t, mobyfs.MoveOptions{}), call.want[i]
				state.reach(t, x)
				before := x.stands()
				for again := range 2 {
					wantCode(t, call.do(t, x), want.code)
					switch want.after {
					case "removed":
						_, err := x.op.Volume(t.Context(), x.name)
						wantCode(t, err, mobyfs.CodeNotFound)
						return
					case "moving back", "moving on":
						if m := x.record(x.name).Migration; m == nil || m.ID == x.m || m.From != "h2" {
							t.Errorf("it is %+v", m)
						}
						return
					case "":
						want.after = before
					}
					if got := x.stands(); got != want.after {
						t.Fatalf("call %d: it stands %s, want %s", again+1, got, want.after)
					}
				}
			})
		}
	}
}

// The whole of it, over the wire too: what a container writes after a freeze was taken back is never left behind.
func TestCommitNamesTheFreezeWhoseBytesItBrings(t *testing.T) {
	for name, wire := range map[string]bool{"in process": false, "over mTLS": true} {
		t.Run(name, func(t *testing.T) {
			f := newFlights(t, wire)
			ctx := t.Context()
			x := f.begin(t, mobyfs.MoveOptions{WithContainers: true, MaxPause: time.Second, OnBusy: mobyfs.BusyFreeze})
			begun := f.record(x.name)
			if m := begun.Migration; !m.Live || m.Options.MaxPause != time.Second || begun.Lease == nil || begun.Lease.Fence != x.lease || begun.Fence <= x.lease {
				t.Fatalf("it began as %+v of %+v", m, begun)
			}
			if g := must[mobyfs.Grant](t)(x.h2.Accept(ctx, x.id, x.m)); g.From == nil {
				t.Error("there is no ticket")
			} else {
				var ticket mobyfs.Ticket
				if err := f.cfg.Identity.OpenToken(g.From.Ticket, pki.RoleControl, &ticket); err != nil || !ticket.Live {
					t.Errorf("the ticket says %+v, %v", ticket, err)
				}
			}
			first := x.freeze(t)
			if v := f.record(x.name); v.Lease == nil || v.Lease.Fence != x.lease || v.Migration.FrozenAt.IsZero() {
				t.Errorf("frozen it is %+v", v)
			}
			x.thaw(t, first)
			second := x.freeze(t)
			if first != 1 || second != 2 {
				t.Errorf("the freezes are %d and %d", first, second)
			}
			_, err := x.h2.Commit(ctx, x.id, x.m, frozenAs(first))
			wantCode(t, err, mobyfs.CodeChanged)
			if mobyfs.HintOf(err) == "" || !strings.Contains(err.Error(), "freeze 1 of 2 was taken back") {
				t.Errorf("the refusal says %q, hint %q", err, mobyfs.HintOf(err))
			}
			g := x.commit(t, second)
			v := g.Volume
			if v.Node != "h2" || v.Lease == nil || v.Lease.Node != "h2" || v.Lease.Fence != g.Fence || g.Fence <= begun.Fence || v.LastMove.Freezes != 2 {
				t.Errorf("committed it is %+v", v)
			}
			_, err = x.h1.Thaw(ctx, x.id, x.m, second, "I came back")
			wantCode(t, err, mobyfs.CodeStaleFence)
			wantCode(t, x.h1.Release(ctx, x.id, x.lease), "")
			if after := f.record(x.name); after.Lease == nil || after.Lease.Node != "h2" {
				t.Error("the old lease was released and the new one with it")
			}
			report := mobyfs.MoveReport{Pause: 321 * time.Millisecond, Containers: []string{"web-1"}, Trouble: "web-2 does not start\n"}
			for range 2 {
				if err := x.h2.Moved(ctx, x.id, x.m, report); err != nil {
					t.Fatal(err)
				}
			}
			after := f.record(x.name)
			if last := after.LastMove; last.Pause != report.Pause || len(last.Containers) != 1 || last.Trouble != "web-2 does not start" || after.Fence != v.Fence {
				t.Errorf("it is told of as %+v", last)
			}
		})
	}
}

// TestDestinationThatBeganAnewTellsWithoutAPause: whoever waits for the move need not wait for a measurement that nobody has. What
// is told later completes it.
func TestDestinationThatBeganAnewTellsWithoutAPause(t *testing.T) {
	f := newFlights(t, false)
	x := f.begin(t, mobyfs.MoveOptions{WithContainers: true})
	x.commit(t, x.freeze(t))
	for _, s := range []struct {
		report     mobyfs.MoveReport
		containers []string
		pause      time.Duration
		changes    bool
	}{
		{mobyfs.MoveReport{Containers: []string{"web-1"}, Trouble: "web-2 does not start"}, []string{"web-1"}, 0, true},
		{mobyfs.MoveReport{Containers: []string{"web-1"}}, []string{"web-1"}, 0, false},
		{mobyfs.MoveReport{Containers: []string{"web-2"}}, []string{"web-1", "web-2"}, 0, true},
		{mobyfs.MoveReport{Pause: time.Second}, []string{"web-1", "web-2"}, time.Second, true}, // the life before, whose call took long
		{mobyfs.MoveReport{Pause: time.Minute}, []string{"web-1", "web-2"}, time.Second, false},
		{mobyfs.MoveReport{}, []string{"web-1", "web-2"}, time.Second, false},
	} {
		before := f.record(x.name).Revision
		if err := x.h2.Moved(t.Context(), x.id, x.m, s.report); err != nil {
			t.Fatal(err)
		}
		v := f.record(x.name)
		if m := v.LastMove; !m.Told() || m.Pause != s.pause || !slices.Equal(m.Containers, s.containers) || m.Trouble != "web-2 does not start" || (v.Revision > before) != s.changes {
			t.Errorf("after %+v it is %+v, changed: %v", s.report, m, v.Revision > before)
		}
		if f.control.starting(v.LastMove) {
			t.Error("its operation waits still")
		}
	}
}

// TestThawOfWhatIsNotKnown: after a restore control may know nothing of a migration whose source is frozen. It must not
// say that containers may go on, nor that they never may.
func TestThawOfWhatIsNotKnown(t *testing.T) {
	f := newFlights(t, false)
	x := f.begin(t, mobyfs.MoveOptions{})
	_, err := x.h1.Thaw(t.Context(), x.id, "01jnosuchmigration0000000x", 1, "")
	wantCode(t, err, mobyfs.CodeNotFound)
	x.commit(t, x.freeze(t))
	_, err = x.h1.Thaw(t.Context(), x.id, "01jnosuchmigration0000000x", 1, "")
	wantCode(t, err, mobyfs.CodeStaleFence) // whatever it was, the volume is elsewhere
}

// TestThawCommitAbortAndCancelExcludeEachOther: asked for at once, exactly one of them happens, and who let go on what it
// had stopped was told that it may.
func TestThawCommitAbortAndCancelExcludeEachOther(t *testing.T) {
	f := newFlights(t, false)
	ctx := t.Context()
	for range 25 {
		x := f.begin(t, mobyfs.MoveOptions{})
		freeze := x.freeze(t)
		var all sync.WaitGroup
		var thawed, committed, aborted, cancelled error
		all.Go(func() { _, thawed = x.h1.Thaw(ctx, x.id, x.m, freeze, "race") })
		all.Go(func() { _, committed = x.h2.Commit(ctx, x.id, x.m, frozenAs(freeze)) })
		all.Go(func() { aborted = x.h2.Abort(ctx, x.id, x.m, "race") })
		all.Go(func() { _, cancelled = x.op.CancelMove(ctx, x.name) })
		all.Wait()
		v := f.record(x.name)
		won := committed == nil
		if won != (v.Node == "h2") || won != (thawed != nil) || won && (aborted == nil || cancelled == nil) {
			t.Fatalf("home %s, %s; thaw: %v, commit: %v, abort: %v, cancel: %v", v.Node, x.stands(), thawed, committed, aborted, cancelled)
		}
		for _, err := range []error{thawed, committed, aborted, cancelled} {
			if err != nil && mobyfs.CodeOf(err) != mobyfs.CodeStaleFence && mobyfs.CodeOf(err) != mobyfs.CodeChanged && mobyfs.CodeOf(err) != mobyfs.CodeNotFound {
				t.Errorf("refused with %v (%s)", err, mobyfs.CodeOf(err))
			}
		}
		if won != (v.Lease == nil) {
			t.Errorf("the lease is %+v", v.Lease)
		}
	}
}

// TestSourceGoesOnUsingAVolumeThatMovesLive: until it freezes it may release and claim as always, and its fences rise.
func TestSourceGoesOnUsingAVolumeThatMovesLive(t *testing.T) {
	f := newFlights(t, false)
	ctx, x := t.Context(), f.begin(t, mobyfs.MoveOptions{})
	if err := x.h1.Release(ctx, x.id, x.lease); err != nil {
		t.Fatal(err)
	}
	g := must[mobyfs.Grant](t)(x.h1.Claim(ctx, x.id))
	if g.From != nil || g.Fence <= x.lease || g.Volume.Migration == nil || g.Volume.Migration.ID != x.m {
		t.Fatalf("claimed again: %+v", g)
	}
	freeze := x.freeze(t)
	_, err := x.h1.Claim(ctx, x.id)
	wantCode(t, err, mobyfs.CodeMoving)
	if err := x.h1.Release(ctx, x.id, g.Fence); err != nil { // its containers were stopped, not frozen
		t.Fatal(err)
	}
	_, err = x.h1.Claim(ctx, x.id)
	wantCode(t, err, mobyfs.CodeMoving)
	x.thaw(t, freeze)
	if again := must[mobyfs.Grant](t)(x.h1.Claim(ctx, x.id)); again.Fence <= g.Fence {
		t.Errorf("claimed once more: %+v", again)
	}
	if waits := must[mobyfs.Grant](t)(x.h2.Claim(ctx, x.id)); waits.From == nil || !waits.Volume.Migration.Mount {
		t.Errorf("a container at the destination waits: %+v", waits)
	}
	done := x.commit(t, x.freeze(t))
	if done.Volume.Lease == nil || done.Volume.Lease.Node != "h2" {
		t.Errorf("committed it is %+v", done.Volume)
	}
}

// TestMoveOfWhatIsInUseIsRefusedWithTheWayOut: and nothing is written but that somebody wants it.
func TestMoveOfWhatIsInUseIsRefusedWithTheWayOut(t *testing.T) {
	f := newFleet(t, false)
	ctx, op := t.Context(), f.operator()
	h1 := f.node("h1") // an older agent
	f.liveNode("h2")
	v := f.ready("pgdata", "h1")
	must[mobyfs.Grant](t)(h1.Claim(ctx, v.ID))
	_, err := op.MoveVolume(ctx, "pgdata", "h2")
	wantCode(t, err, mobyfs.CodeInUse)
	for _, word := range []string{"--live", "--with-container", "volume move pgdata --to h2"} {
		if !strings.Contains(mobyfs.HintOf(err), word) {
			t.Errorf("the hint %q does not name %s", mobyfs.HintOf(err), word)
		}
	}
	live := api.MoveRequest{To: "h2", Live: true}
	_, err = op.Move(ctx, "pgdata", live)
	wantCode(t, err, mobyfs.CodeInvalid)
	if err != nil && !strings.Contains(err.Error(), "h1 runs mobyfs v1") {
		t.Errorf("it says %v", err)
	}
	f.report(h1, mobyfs.Report{Address: "h1:8080", Live: true})
	f.node("h3")
	_, err = op.Move(ctx, "pgdata", api.MoveRequest{To: "h3", Live: true})
	wantCode(t, err, mobyfs.CodeNoSpace)
	if err != nil && !strings.Contains(err.Error(), "can't take volumes while they are used") {
		t.Errorf("it says %v", err)
	}
	for _, bad := range []mobyfs.MoveOptions{{MaxPause: -1}, {MaxPause: 2 * time.Hour}, {MaxRounds: -1}, {OnBusy: "panic"}, {Consistency: "fuzzy"}, {BytesPerSecond: 5}, {BytesPerSecond: -1}} {
		_, err := op.Move(ctx, "pgdata", api.MoveRequest{To: "h2", Live: true, Options: bad})
		wantCode(t, err, mobyfs.CodeInvalid)
		if mobyfs.HintOf(err) == "" {
			t.Errorf("%+v: %v has no way out", bad, err)
		}
	}
	_, err = op.Move(ctx, "pgdata", api.MoveRequest{To: "h2", Options: mobyfs.MoveOptions{WithContainers: true}})
	wantCode(t, err, mobyfs.CodeInvalid)
	if got := f.record("pgdata"); got.Migration != nil {
		t.Fatalf("a move began: %+v", got.Migration)
	}
	live.To, live.Options = "", mobyfs.MoveOptions{OnBusy: "ask", Consistency: "crash"}
	got := must[mobyfs.Volume](t)(op.Move(ctx, "pgdata", live))
	if m := got.Migration; m == nil || m.To != "h2" || !m.Live || m.Options != (mobyfs.MoveOptions{}) {
		t.Errorf("control chose %+v", m)
	}
	o := must[mobyfs.Operation](t)(op.Operation(ctx, got.Migration.Operation))
	if !o.Live || o.Phase != mobyfs.OperationRunning {
		t.Errorf("the operation is %+v", o)
	}
}

// TestEvictionAndSilenceEndAFreezeByAnAbort: so a source that is frozen may read in the record that it may go on.
func TestEvictionAndSilenceEndAFreezeByAnAbort(t *testing.T) {
	aborted := func(t *testing.T, x *flight, why string) {
		t.Helper()
		v := x.record(x.name)
		if v.Migration != nil || v.LastMove == nil || v.LastMove.State != mobyfs.MigrationAborted || !strings.Contains(v.LastMove.Reason, why) ||
			v.Node != "h1" || v.Lease == nil || v.Lease.Fence != x.lease {
			t.Fatalf("it is %+v, last move %+v", v, v.LastMove)
		}
		_, err := x.h2.Commit(t.Context(), x.id, x.m, frozenAs(1))
		if mobyfs.CodeOf(err) != mobyfs.CodeStaleFence && mobyfs.CodeOf(err) != mobyfs.CodeDenied {
			t.Errorf("commit: %v", err)
		}
	}
	for _, evicted := range []string{"h1", "h2"} {
		t.Run("eviction of "+evicted, func(t *testing.T) {
			f := newFlights(t, false)
			x := f.begin(t, mobyfs.MoveOptions{})
			x.freeze(t)
			must[mobyfs.Operation](t)(f.op.EvictNode(t.Context(), evicted, "stolen"))
			f.control.carry(t.Context())
			for deadline := time.Now().Add(time.Minute); x.record(x.name).Migration != nil && time.Now().Before(deadline); {
				f.control.carry(t.Context())
			}
			aborted(t, x, "evicted")
		})
	}
	t.Run("silence of the destination", func(t *testing.T) {
		f := newFlights(t, false)
		x := f.begin(t, mobyfs.MoveOptions{})
		x.freeze(t)
		f.advance(giveUpAfter + time.Second)
		f.control.reconcile(t.Context())
		aborted(t, x, "h2 has been silent")
		must[mobyfs.Volume](t)(x.h1.Thaw(t.Context(), x.id, x.m, 1, "late"))
	})
}

// TestNothingIsDecidedInAnUnknownState: a newer control wrote it, and this one must neither commit nor thaw in it.
func TestNothingIsDecidedInAnUnknownState(t *testing.T) {
	f := newFlights(t, false)
	ctx, x := t.Context(), f.begin(t, mobyfs.MoveOptions{})
	x.freeze(t)
	err := f.control.store.Update(ctx, func(tx *store.Tx) error {
		v, err := tx.Volume(x.id)
		if err != nil {
			return err
		}
		v.Migration.State = "post-copying"
		return tx.PutVolume(&v)
	})
	if err != nil {
		t.Fatal(err)
	}
	_, commit := x.h2.Commit(ctx, x.id, x.m, frozenAs(1))
	_, thaw := x.h1.Thaw(ctx, x.id, x.m, 1, "")
	_, freeze := x.h1.Freeze(ctx, x.id, x.m)
	_, claim := x.h1.Claim(ctx, x.id)
	for name, err := range map[string]error{"commit": commit, "thaw": thaw, "freeze": freeze, "claim": claim, "abort": x.h2.Abort(ctx, x.id, x.m, "")} {
		if mobyfs.CodeOf(err) != mobyfs.CodeCorrupt {
			t.Errorf("%s: %v (%s)", name, err, mobyfs.CodeOf(err))
		}
	}
	if bad := f.control.store.Unreadable(); len(bad) != 1 || !strings.Contains(bad[0].Cause, "post-copying") {
		t.Errorf("set aside is %+v", bad)
	}
	if _, err := x.op.Volume(ctx, x.name); err == nil || errors.Is(err, ctx.Err()) {
		t.Errorf("it is told of: %v", err)
	}
}

// TestOptionsOfALiveMoveChangeWhileItRuns: and tries to come have them too.
func TestOptionsOfALiveMoveChangeWhileItRuns(t *testing.T) {
	for name, wire := range map[string]bool{"in process": false, "over mTLS": true} {
		t.Run(name, func(t *testing.T) {
			f := newFlights(t, wire)
			ctx, x := t.Context(), f.begin(t, mobyfs.MoveOptions{MaxRounds: 3, BytesPerSecond: 1 << 20})
			none, freeze := int64(0), mobyfs.BusyFreeze
			for range 2 {
				v := must[mobyfs.Volume](t)(x.op.ChangeMove(ctx, x.name, api.MovePatch{BytesPerSecond: &none, OnBusy: &freeze}))
				if want := (mobyfs.MoveOptions{MaxRounds: 3, OnBusy: freeze}); v.Migration.Options != want || v.Migration.ID != x.m {
					t.Fatalf("they are %+v, want %+v", v.Migration.Options, want)
				}
			}
			panics := mobyfs.OnBusy("panic")
			_, err := x.op.ChangeMove(ctx, x.name, api.MovePatch{OnBusy: &panics})
			wantCode(t, err, mobyfs.CodeInvalid)
			v := must[mobyfs.Volume](t)(x.op.CancelMove(ctx, x.name))
			_, err = x.op.ChangeMove(ctx, x.name, api.MovePatch{OnBusy: &freeze})
			wantCode(t, err, mobyfs.CodeNotFound)
			must[mobyfs.Operation](t)(x.op.RetryOperation(ctx, v.LastMove.Operation))
			f.control.carry(ctx)
			for deadline := time.Now().Add(time.Minute); x.record(x.name).Migration == nil && time.Now().Before(deadline); {
				f.control.carry(ctx)
			}
			if m := x.record(x.name).Migration; m == nil || !m.Live || m.Options.OnBusy != freeze || m.ID == x.m {
				t.Errorf("tried again: %+v", m)
			}
		})
	}
}

// TestOperationTellsHowFarALiveMoveIs from the first moment to what the destination tells at the end.
func TestOperationTellsHowFarALiveMoveIs(t *testing.T) {
	f := newFlights(t, false)
	ctx, x := t.Context(), f.begin(t, mobyfs.MoveOptions{})
	id := x.record(x.name).Migration.Operation
	now := func(step string, phase mobyfs.OperationPhase) mobyfs.Operation {
		t.Helper()
		f.control.carry(ctx)
		o := must[mobyfs.Operation](t)(x.op.Operation(ctx, id))
		if o.Step != step || o.Phase != phase {
			t.Fatalf("it is %q, %s, want %q, %s", o.Step, o.Phase, step, phase)
		}
		return o
	}
	tell := func(p mobyfs.Progress) {
		f.report(x.h2, mobyfs.Report{Address: "h2:8080", Live: true, Progress: map[mobyfs.MigrationID]mobyfs.Progress{x.m: p}})
	}
	now("preparing", mobyfs.OperationRunning)
	p := mobyfs.Progress{Files: 3, Bytes: 40 << 20, TotalBytes: 100 << 20, Round: 2, Rate: 10 << 20, DirtyRate: 4 << 20, PredictedPause: 3 * time.Second, Feed: "rescan"}
	tell(p)
	if o := now("round 2", mobyfs.OperationRunning); o.Pull != p || o.ETA.Sub(f.clock.Now()).Round(time.Second) > 11*time.Second || o.ETA.IsZero() {
		t.Errorf("it tells %+v, done %v", o.Pull, o.ETA)
	}
	p.Asks = true
	tell(p)
	if o := now("asking", mobyfs.OperationWaiting); !strings.Contains(o.Cause, "3s, longer than 500ms") || !strings.Contains(o.Cause, "--on-busy freeze") {
		t.Errorf("it asks %q", o.Cause)
	}
	p.Asks = false
	tell(p)
	now("round 2", mobyfs.OperationRunning)
	throttle, rounds := mobyfs.BusyThrottle, 1
	must[mobyfs.Volume](t)(x.op.ChangeMove(ctx, x.name, api.MovePatch{OnBusy: &throttle, MaxRounds: &rounds}))
	now("round 2, containers are slowed down to 1/4", mobyfs.OperationRunning)
	freeze := x.freeze(t)
	f.advance(7 * time.Second)
	if got := f.control.longestFrozen(); got != 7*time.Second {
		t.Errorf("frozen for %v", got)
	}
	now("freezing", mobyfs.OperationRunning)
	x.commit(t, freeze)
	now("starting", mobyfs.OperationRunning)
	if err := x.h2.Moved(ctx, x.id, x.m, mobyfs.MoveReport{Pause: time.Second}); err != nil {
		t.Fatal(err)
	}
	now("", mobyfs.OperationDone)
	if got := f.control.longestFrozen(); got != 0 {
		t.Errorf("still frozen for %v", got)
	}
}

// TestUndoGoesBackTheWayItCame: live if it came so or is used, and only while the last move is why the volume is there.
func TestUndoGoesBackTheWayItCame(t *testing.T) {
	f := newFlights(t, false)
	ctx, x := t.Context(), f.begin(t, mobyfs.MoveOptions{WithContainers: true})
	_, err := x.op.UndoMove(ctx, x.name)
	wantCode(t, err, mobyfs.CodeInvalid)
	x.commit(t, x.freeze(t))
	var back mobyfs.Volume
	for range 2 {
		back = must[mobyfs.Volume](t)(x.op.UndoMove(ctx, x.name))
		if m := back.Migration; m == nil || m.From != "h2" || m.To != "h1" || !m.Live || m.Undoes != x.m || !m.Options.WithContainers {
			t.Fatalf("it goes back as %+v", m)
		}
	}
	must[mobyfs.Volume](t)(x.op.CancelMove(ctx, x.name))
	_, err = x.op.UndoMove(ctx, x.name) // the last move is the one that was cancelled
	wantCode(t, err, mobyfs.CodeInvalid)
	if mobyfs.HintOf(err) == "" {
		t.Error("the refusal tells no way out")
	}
}

// TestLiveDrainMovesWhatIsUsedToo: and leaves on a node with an older agent only what is used there.
func TestLiveDrainMovesWhatIsUsedToo(t *testing.T) {
	f := newFlights(t, false)
	ctx := t.Context()
	v := f.ready("used", "h1")
	must[mobyfs.Grant](t)(f.h1.Claim(ctx, v.ID))
	o := must[mobyfs.Operation](t)(f.op.Drain(ctx, "h1", api.DrainRequest{Live: true, Options: mobyfs.MoveOptions{WithContainers: true}}))
	moving := func(name string) *mobyfs.Migration {
		for deadline := time.Now().Add(time.Minute); f.record(name).Migration == nil && time.Now().Before(deadline); {
			f.control.carry(ctx)
		}
		return f.record(name).Migration
	}
	if m := moving("used"); m == nil || !m.Live || !m.Options.WithContainers || m.Operation != partID(o.ID, v.ID) {
		t.Fatalf("it moves as %+v", m)
	}
	old := f.node("h4") // with an older agent
	for _, name := range []string{"unused", "held"} {
		f.ready(name, "h4")
	}
	must[mobyfs.Grant](t)(old.Claim(ctx, f.record("held").ID))
	must[mobyfs.Operation](t)(f.op.Drain(ctx, "h4", api.DrainRequest{Live: true}))
	if m := moving("unused"); m == nil || m.Live {
		t.Errorf("what nobody uses moves as %+v", m)
	}
	if m := f.record("held").Migration; m != nil {
		t.Errorf("what an older agent's containers use moves as %+v", m)
	}
	_, err := f.op.Drain(ctx, "h2", api.DrainRequest{Options: mobyfs.MoveOptions{WithContainers: true}})
	wantCode(t, err, mobyfs.CodeInvalid)
}
