package control

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mobyfs/mobyfs"
)

func TestMoveCommitsOnceAndForAll(t *testing.T) {
	both(t, func(t *testing.T, f *fleet) {
		ctx, op, h1, h2, h3 := t.Context(), f.operator(), f.node("h1"), f.node("h2"), f.node("h3")
		v := f.ready("pgdata", "h1")
		moving := must[mobyfs.Volume](t)(op.MoveVolume(ctx, "pgdata", "h2"))
		m := moving.Migration
		if m == nil || m.From != "h1" || m.To != "h2" || m.Mount || m.Fence != v.Fence+1 || moving.Fence != m.Fence || moving.Node != "h1" {
			t.Fatalf("the move is %+v of %+v", m, moving)
		}
		if again := must[mobyfs.Volume](t)(op.MoveVolume(ctx, "pgdata", "h2")); again.Revision != moving.Revision || again.Migration.ID != m.ID {
			t.Errorf("asked again: %+v", again)
		}
		_, err := op.MoveVolume(ctx, "pgdata", "h3")
		wantCode(t, err, mobyfs.CodeMoving)

		g := must[mobyfs.Grant](t)(h2.Accept(ctx, v.ID, m.ID))
		if g.From == nil || g.From.Address != "h1:8080" || g.Fence != m.Fence || g.From.Ticket == "" {
			t.Errorf("accept gave %+v", g)
		}
		for name, other := range map[string]caller{"the source": h1, "a third node": h3} {
			_, err = other.Accept(ctx, v.ID, m.ID)
			wantCode(t, err, mobyfs.CodeDenied)
			_, err = other.Commit(ctx, v.ID, m.ID, someReceipt)
			wantCode(t, err, mobyfs.CodeDenied)
			wantCode(t, other.Abort(ctx, v.ID, m.ID, "mine"), mobyfs.CodeDenied)
			if got := f.record("pgdata"); got.Migration == nil || got.Fence != m.Fence {
				t.Fatalf("%s changed the record: %+v", name, got)
			}
		}
		_, err = h2.Accept(ctx, v.ID, "01jnosuchmigration0000000x")
		wantCode(t, err, mobyfs.CodeNotFound)
		_, err = h2.Commit(ctx, v.ID, m.ID, mobyfs.Receipt{})
		wantCode(t, err, mobyfs.CodeInvalid)

		f.advance(3 * time.Second)
		done := must[mobyfs.Grant](t)(h2.Commit(ctx, v.ID, m.ID, someReceipt))
		after := done.Volume
		if after.Node != "h2" || after.Migration != nil || after.Lease != nil || done.Fence != m.Fence+1 || after.Fence != done.Fence || after.Arrived != m.ID {
			t.Errorf("after the commit: %+v", done)
		}
		last := after.LastMove
		if last.ID != m.ID || last.State != mobyfs.MigrationCommitted || last.Digest != someReceipt.Digest || last.Progress != someReceipt.Progress ||
			last.EndedAt.Sub(last.StartedAt) != 3*time.Second {
			t.Errorf("the last move is %+v", last)
		}
		again := must[mobyfs.Grant](t)(h2.Commit(ctx, v.ID, m.ID, someReceipt))
		if !cmp.Equal(again, done) {
			t.Errorf("committed again: %s", cmp.Diff(done, again))
		}
		wantCode(t, h2.Abort(ctx, v.ID, m.ID, "too late"), mobyfs.CodeStaleFence)
		_, err = h1.Commit(ctx, v.ID, m.ID, someReceipt)
		wantCode(t, err, mobyfs.CodeDenied)
		_, err = h2.Accept(ctx, v.ID, m.ID)
		wantCode(t, err, mobyfs.CodeNotFound)
		if got := must[mobyfs.Volume](t)(op.MoveVolume(ctx, "pgdata", "h2")); got.Migration != nil || got.Revision != after.Revision {
			t.Errorf("moved to where it is: %+v", got)
		}
	})
}

func TestAbortAndCommitExcludeEachOther(t *testing.T) {
	both(t, func(t *testing.T, f *fleet) {
		ctx, op, h1, h2 := t.Context(), f.operator(), f.node("h1"), f.node("h2")
		v := f.ready("pgdata", "h1")
		m := must[mobyfs.Volume](t)(op.MoveVolume(ctx, "pgdata", "h2")).Migration
		f.report(h2, mobyfs.Report{Address: "h2:8080", Progress: map[mobyfs.MigrationID]mobyfs.Progress{m.ID: {Files: 1, Bytes: 10, TotalBytes: 100}}})
		for range 2 { // the second is the same abort told again
			if err := h2.Abort(ctx, v.ID, m.ID, "no space\nleft\x1b[0m"); err != nil {
				t.Fatal(err)
			}
		}
		got := f.record("pgdata")
		if got.Node != "h1" || got.Migration != nil || got.Fence != m.Fence+1 || got.Arrived != "" {
			t.Errorf("after the abort: %+v", got)
		}
		if last := got.LastMove; last.State != mobyfs.MigrationAborted || last.Reason != "no space left[0m" || last.Progress.Bytes != 10 {
			t.Errorf("the last move is %+v", last)
		}
		_, err := h2.Commit(ctx, v.ID, m.ID, someReceipt)
		wantCode(t, err, mobyfs.CodeStaleFence)
		if !strings.Contains(err.Error(), "no space") {
			t.Errorf("the refusal does not say why: %v", err)
		}
		_, err = h2.Commit(ctx, v.ID, "01jnosuchmigration0000000x", someReceipt)
		wantCode(t, err, mobyfs.CodeStaleFence)
		if g := must[mobyfs.Grant](t)(h1.Claim(ctx, v.ID)); g.Fence <= m.Fence {
			t.Errorf("the home's new fence %d is not above that of the export %d", g.Fence, m.Fence)
		}
	})
}

func TestCancelGivesAMoveUp(t *testing.T) {
	both(t, func(t *testing.T, f *fleet) {
		ctx, op, h2 := t.Context(), f.operator(), f.node("h2")
		f.node("h1")
		v := f.ready("pgdata", "h1")
		_, err := op.CancelMove(ctx, "pgdata")
		wantCode(t, err, mobyfs.CodeNotFound)
		m := must[mobyfs.Volume](t)(op.MoveVolume(ctx, "pgdata", "h2")).Migration
		got := must[mobyfs.Volume](t)(op.CancelMove(ctx, "pgdata"))
		if got.Migration != nil || got.Node != "h1" || got.LastMove.Reason != "cancelled by operator/ana" || got.Fence != m.Fence+1 {
			t.Errorf("after the cancel: %+v", got)
		}
		if again := must[mobyfs.Volume](t)(op.CancelMove(ctx, "pgdata")); again.Revision != got.Revision {
			t.Error("cancelled again it was written again")
		}
		_, err = h2.Accept(ctx, v.ID, m.ID)
		wantCode(t, err, mobyfs.CodeNotFound)
		_, err = h2.Commit(ctx, v.ID, m.ID, someReceipt)
		wantCode(t, err, mobyfs.CodeStaleFence)
	})
}

func TestMoveIsRefusedWithTheReason(t *testing.T) {
	f := newFleet(t, false)
	ctx, op, h1 := t.Context(), f.operator(), f.node("h1")
	f.node("h2")
	v := f.ready("pgdata", "h1")
	move := func(to string, want mobyfs.Code, words string) {
		t.Helper()
		_, err := op.MoveVolume(ctx, "pgdata", to)
		wantCode(t, err, want)
		if err != nil && (!strings.Contains(err.Error(), words) || mobyfs.HintOf(err) == "") {
			t.Errorf("move to %q: %q (hint %q), want the words %q", to, err, mobyfs.HintOf(err), words)
		}
	}
	move("h9", mobyfs.CodeNotFound, `no node "h9"`)
	move("H2!", mobyfs.CodeInvalid, "H2!")
	g := must[mobyfs.Grant](t)(h1.Claim(ctx, v.ID))
	move("h2", mobyfs.CodeInUse, "in use on h1")
	if err := h1.Release(ctx, v.ID, g.Fence); err != nil {
		t.Fatal(err)
	}
	f.advance(time.Minute)
	f.report(h1, mobyfs.Report{Address: "h1:8080"})
	move("h2", mobyfs.CodeUnavailable, "silent")
	_, err := op.MoveVolume(ctx, "nosuch", "h2")
	wantCode(t, err, mobyfs.CodeNotFound)
	if got := f.record("pgdata"); got.Migration != nil {
		t.Error("a move has begun all the same")
	}
	creating := must[mobyfs.Volume](t)(op.CreateVolume(ctx, "young", mobyfs.VolumeSpec{}, "h1"))
	_, err = op.MoveVolume(ctx, creating.Name, "h2")
	wantCode(t, err, mobyfs.CodeUnavailable)
}

// A node that dies between commit and adopt must find out that its sealed bytes are the volume, even if another
// move of the volume was tried and given up in between.
func TestLaterAbortedMoveDoesNotHideWhereTheBytesCameFrom(t *testing.T) {
	f := newFleet(t, false)
	ctx, op, h2 := t.Context(), f.operator(), f.node("h2")
	f.node("h1")
	f.node("h3")
	v := f.ready("pgdata", "h1")
	m := must[mobyfs.Volume](t)(op.MoveVolume(ctx, "pgdata", "h2")).Migration
	must[mobyfs.Grant](t)(h2.Commit(ctx, v.ID, m.ID, someReceipt))
	must[mobyfs.Volume](t)(op.MoveVolume(ctx, "pgdata", "h3"))
	got := must[mobyfs.Volume](t)(op.CancelMove(ctx, "pgdata"))
	if got.LastMove.ID == m.ID || got.Arrived != m.ID {
		t.Errorf("last move %s, arrived %s; want the move to h2 (%s) in arrived", got.LastMove.ID, got.Arrived, m.ID)
	}
	g := must[mobyfs.Grant](t)(h2.Commit(ctx, v.ID, m.ID, someReceipt))
	if g.Fence != got.Fence || g.From != nil {
		t.Errorf("the commit repeated gave %+v", g)
	}
	wantCode(t, h2.Abort(ctx, v.ID, m.ID, "late"), mobyfs.CodeStaleFence)
}

func TestMigrationToASilentNodeIsGivenUp(t *testing.T) {
	f := newFleet(t, false)
	ctx, op, h1, h2 := t.Context(), f.operator(), f.node("h1"), f.node("h2")
	f.node("h3")
	f.ready("stays", "h1")
	f.ready("goes", "h1")
	must[mobyfs.Volume](t)(op.MoveVolume(ctx, "stays", "h3"))
	m := must[mobyfs.Volume](t)(op.MoveVolume(ctx, "goes", "h2")).Migration
	f.advance(giveUpAfter)
	f.control.reconcile(ctx)
	if f.record("stays").Migration == nil {
		t.Error("the migration was given up too early")
	}
	f.report(h2, mobyfs.Report{Address: "h2:8080"})
	f.report(h1, mobyfs.Report{Address: "h1:8080"})
	f.advance(time.Second)
	f.control.reconcile(ctx)
	got := f.record("stays")
	if got.Migration != nil || got.LastMove.State != mobyfs.MigrationAborted || !strings.Contains(got.LastMove.Reason, "h3 has been silent for 1m1s") {
		t.Errorf("after the silence: %+v", got.LastMove)
	}
	if still := f.record("goes").Migration; still == nil || still.ID != m.ID {
		t.Error("the migration to a node that is there was given up")
	}
}

func TestRestartOfControlGivesNodesTimeToReport(t *testing.T) {
	f := newFleet(t, false)
	ctx, h2 := t.Context(), f.node("h2")
	f.node("h1")
	v := f.ready("pgdata", "h1")
	g := must[mobyfs.Grant](t)(h2.Claim(ctx, v.ID))
	f.clock.advance(time.Hour) // control was down for an hour
	f.restart()
	f.control.reconcile(ctx)
	_, err := f.caller("node", "h1").Claim(ctx, v.ID)
	wantCode(t, err, mobyfs.CodeMoving)
	if f.record("pgdata").Migration == nil {
		t.Fatal("the restart ended a migration")
	}
	h2 = f.caller("node", "h2") // has not reported to this process yet
	if again := must[mobyfs.Grant](t)(h2.Accept(ctx, v.ID, g.From.Migration)); again.From == nil {
		t.Error("the destination can't go on")
	}
	must[mobyfs.Grant](t)(h2.Commit(ctx, v.ID, g.From.Migration, someReceipt))
}
