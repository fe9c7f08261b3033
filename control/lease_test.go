package control

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/api"
)

func TestHomeGetsTheLeaseOnce(t *testing.T) {
	both(t, func(t *testing.T, f *fleet) {
		ctx, h1 := t.Context(), f.node("h1")
		v := f.ready("pgdata", "h1")
		g := must[mobyfs.Grant](t)(h1.Claim(ctx, v.ID))
		if g.Fence != v.Fence+1 || g.From != nil || g.Volume.Lease == nil || g.Volume.Lease.Node != "h1" || g.Volume.Lease.Fence != g.Fence {
			t.Errorf("the grant is %+v", g)
		}
		again := must[mobyfs.Grant](t)(h1.Claim(ctx, v.ID))
		if again.Fence != g.Fence || again.Volume.Revision != g.Volume.Revision {
			t.Errorf("claimed again: fence %d at revision %d, before %d at %d", again.Fence, again.Volume.Revision, g.Fence, g.Volume.Revision)
		}
	})
}

// TestWhatIsClaimedCanBeReleased: an agent that has lost its memory asks for the lease that it has, and releases what it was told.
func TestWhatIsClaimedCanBeReleased(t *testing.T) {
	both(t, func(t *testing.T, f *fleet) {
		ctx, h1 := t.Context(), f.liveNode("h1")
		f.liveNode("h2")
		v := f.ready("pgdata", "h1")
		first := must[mobyfs.Grant](t)(h1.Claim(ctx, v.ID))
		must[mobyfs.Volume](t)(f.operator().Move(ctx, "pgdata", api.MoveRequest{To: "h2", Live: true})) // a decision since
		g := must[mobyfs.Grant](t)(h1.Claim(ctx, v.ID))
		if l := g.Volume.Lease; l == nil || l.Node != "h1" || l.Fence != g.Fence || g.Fence <= first.Fence {
			t.Errorf("the grant after %v is %v of the lease %+v", first.Fence, g.Fence, l)
		}
		if again := must[mobyfs.Grant](t)(h1.Claim(ctx, v.ID)); again.Fence != g.Fence {
			t.Errorf("claimed again: fence %v, before %v", again.Fence, g.Fence)
		}
		if err := h1.Release(ctx, v.ID, first.Fence); err != nil { // late
			t.Error(err)
		}
		if f.record("pgdata").Lease == nil {
			t.Error("a late release has ended the lease")
		}
		if err := h1.Release(ctx, v.ID, g.Fence); err != nil {
			t.Error(err)
		}
		if l := f.record("pgdata").Lease; l != nil {
			t.Errorf("after the release there is a lease: %+v", l)
		}
	})
}

func TestReleaseTakesBackOnlyTheLeaseItNames(t *testing.T) {
	both(t, func(t *testing.T, f *fleet) {
		ctx, h1, h2 := t.Context(), f.node("h1"), f.node("h2")
		v := f.ready("pgdata", "h1")
		if err := h1.Release(ctx, v.ID, 1); err != nil { // nothing is held
			t.Error(err)
		}
		first := must[mobyfs.Grant](t)(h1.Claim(ctx, v.ID))
		wantCode(t, h1.Release(ctx, v.ID, first.Fence+1), mobyfs.CodeInvalid)
		wantCode(t, h2.Release(ctx, v.ID, first.Fence), mobyfs.CodeDenied)
		for range 2 {
			if err := h1.Release(ctx, v.ID, first.Fence); err != nil {
				t.Error(err)
			}
		}
		free := f.record("pgdata")
		if free.Lease != nil || free.Fence != first.Fence+1 {
			t.Errorf("after the release: %+v", free)
		}
		second := must[mobyfs.Grant](t)(h1.Claim(ctx, v.ID))
		if err := h1.Release(ctx, v.ID, first.Fence); err != nil { // late, of the first lease
			t.Error(err)
		}
		if got := f.record("pgdata"); got.Lease == nil || got.Lease.Fence != second.Fence {
			t.Error("a late release has cancelled the newer lease")
		}
		if err := h1.Release(ctx, "01jnosuchvolume0000000000x", 5); err != nil {
			t.Errorf("release of a volume that is gone: %v", err)
		}
	})
}

func TestClaimOfAVolumeInUseNamesNodeAndContainers(t *testing.T) {
	both(t, func(t *testing.T, f *fleet) {
		ctx, h1, h2 := t.Context(), f.node("h1"), f.node("h2")
		v := f.ready("pgdata", "h1")
		must[mobyfs.Grant](t)(h1.Claim(ctx, v.ID))
		f.report(h1, mobyfs.Report{Address: "h1:8080", Users: map[mobyfs.VolumeID][]string{v.ID: {"web-1", "job\x1b[2J"}}})
		_, err := h2.Claim(ctx, v.ID)
		wantCode(t, err, mobyfs.CodeInUse)
		if want := `volume "pgdata" is in use on h1 by containers web-1, job[2J`; err.Error() != want {
			t.Errorf("got  %q\nwant %q", err, want)
		}
		if want := "stop it there, then try again"; mobyfs.HintOf(err) != want {
			t.Errorf("the hint is %q, want %q", mobyfs.HintOf(err), want)
		}
		f.advance(time.Hour) // nothing is taken from a silent node
		_, err = h2.Claim(ctx, v.ID)
		wantCode(t, err, mobyfs.CodeInUse)
	})
}

// yields makes a node give its lease back as soon as somebody wants the volume, as an agent does that only lingers.
func (f *fleet) yields(n caller, id mobyfs.VolumeID) {
	f.t.Helper()
	ctx, stop := context.WithCancel(f.t.Context())
	watching, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		_ = n.Watch(ctx, func(ch mobyfs.Change) {
			switch {
			case ch.Full != nil:
				close(watching)
			case ch.Volume != nil && ch.Volume.ID == id && ch.Volume.Lease != nil && ch.Volume.Lease.Wanted != "":
				if err := n.Release(ctx, id, ch.Volume.Lease.Fence); err != nil {
					f.t.Errorf("give the lease back: %v", err)
				}
			}
		})
	}()
	f.t.Cleanup(func() { stop(); <-ended })
	<-watching
}

func TestWantedVolumeWhoseHolderOnlyLingersIsGivenAtOnce(t *testing.T) {
	both(t, func(t *testing.T, f *fleet) {
		ctx, h1, h2, op := t.Context(), f.node("h1"), f.node("h2"), f.operator()
		for what, want := range map[string]func(v mobyfs.Volume) error{
			"claim":  func(v mobyfs.Volume) error { _, err := h2.Claim(ctx, v.ID); return err },
			"move":   func(v mobyfs.Volume) error { _, err := op.MoveVolume(ctx, v.Name, "h2"); return err },
			"remove": func(v mobyfs.Volume) error { return op.RemoveVolume(ctx, v.Name) },
		} {
			v := f.ready("lingers-"+what, "h1")
			must[mobyfs.Grant](t)(h1.Claim(ctx, v.ID))
			f.yields(h1, v.ID)
			start := time.Now()
			if err := want(v); err != nil {
				t.Errorf("%s: %v", what, err)
			}
			if took := time.Since(start); took > recallWait {
				t.Errorf("%s took %v", what, took)
			}
		}
	})
}

func TestWishForAVolumeInUseChangesNothingButIsRemembered(t *testing.T) {
	f := newFleet(t, false)
	ctx, h1, h2, h3 := t.Context(), f.node("h1"), f.node("h2"), f.node("h3")
	v := f.ready("pgdata", "h1")
	g := must[mobyfs.Grant](t)(h1.Claim(ctx, v.ID))
	for _, n := range []caller{h2, h3} {
		_, err := n.Claim(ctx, v.ID)
		wantCode(t, err, mobyfs.CodeInUse)
	}
	now := f.record("pgdata")
	if now.Fence != g.Fence || now.Lease == nil || now.Lease.Fence != g.Fence || now.Lease.Wanted != "h2" {
		t.Errorf("after two wishes: %+v, lease %+v", now, now.Lease)
	}
	if again := must[mobyfs.Grant](t)(h1.Claim(ctx, v.ID)); again.Fence != g.Fence {
		t.Errorf("the holder claims again and gets fence %d, want %d", again.Fence, g.Fence)
	}
	if err := h1.Release(ctx, v.ID, g.Fence); err != nil {
		t.Fatal(err)
	}
	if next := must[mobyfs.Grant](t)(h1.Claim(ctx, v.ID)); next.Volume.Lease.Wanted != "" {
		t.Error("a new lease carries the wish of an old one")
	}
}

func TestClaimElsewhereBeginsAMigrationThatBringsTheLease(t *testing.T) {
	both(t, func(t *testing.T, f *fleet) {
		ctx, h1, h2, h3 := t.Context(), f.node("h1"), f.node("h2"), f.node("h3")
		v := f.ready("pgdata", "h1")
		g := must[mobyfs.Grant](t)(h2.Claim(ctx, v.ID))
		m := g.Volume.Migration
		if m == nil || m.From != "h1" || m.To != "h2" || !m.Mount || m.Fence != v.Fence+1 || m.State != mobyfs.MigrationCopying {
			t.Fatalf("the migration is %+v", m)
		}
		if g.From == nil || g.From.Node != "h1" || g.From.Address != "h1:8080" || g.From.Migration != m.ID || g.Fence != m.Fence {
			t.Fatalf("the grant says %+v", g)
		}
		var ticket mobyfs.Ticket
		if err := f.files(f.authority, "node", "h1").OpenToken(g.From.Ticket, "control", &ticket); err != nil {
			t.Fatal(err)
		}
		if left := ticket.Expires.Sub(f.clock.Now()); left > ticketLife || left < ticketLife-time.Second {
			t.Errorf("the ticket lasts %v, want %v", left, ticketLife)
		}
		ticket.Expires = time.Time{}
		if want := (mobyfs.Ticket{Migration: m.ID, Volume: v.ID, From: "h1", To: "h2", Fence: m.Fence}); ticket != want {
			t.Errorf("the ticket says %+v, want %+v", ticket, want)
		}
		again := must[mobyfs.Grant](t)(h2.Claim(ctx, v.ID))
		if again.From == nil || again.From.Migration != m.ID || again.Fence != g.Fence || again.Volume.Revision != g.Volume.Revision {
			t.Errorf("claimed again: %+v", again)
		}
		for name, n := range map[string]caller{"the home": h1, "a third node": h3} {
			_, err := n.Claim(ctx, v.ID)
			wantCode(t, err, mobyfs.CodeMoving)
			if !strings.Contains(err.Error(), "from h1 to h2") || mobyfs.HintOf(err) == "" {
				t.Errorf("%s is told %q, hint %q", name, err, mobyfs.HintOf(err))
			}
		}
		done := must[mobyfs.Grant](t)(h2.Commit(ctx, v.ID, m.ID, someReceipt))
		if l := done.Volume.Lease; done.Fence != m.Fence+1 || done.Volume.Node != "h2" || l == nil || l.Node != "h2" || l.Fence != done.Fence {
			t.Errorf("after the commit: %+v", done)
		}
	})
}

func TestClaimJoinsTheMoveOfAnOperator(t *testing.T) {
	f := newFleet(t, false)
	ctx, op := t.Context(), f.operator()
	f.node("h1")
	h2 := f.node("h2")
	v := f.ready("pgdata", "h1")
	moving := must[mobyfs.Volume](t)(op.MoveVolume(ctx, "pgdata", "h2"))
	if moving.Migration.Mount {
		t.Error("an operator's move gives the lease")
	}
	g := must[mobyfs.Grant](t)(h2.Claim(ctx, v.ID))
	if g.From == nil || g.From.Migration != moving.Migration.ID || !g.Volume.Migration.Mount || g.Volume.Fence != moving.Fence {
		t.Errorf("the claim gave %+v", g)
	}
	if done := must[mobyfs.Grant](t)(h2.Commit(ctx, v.ID, g.From.Migration, someReceipt)); done.Volume.Lease == nil {
		t.Error("the commit did not bring the lease")
	}
}

func TestHomeWinsBackFromASilentDestination(t *testing.T) {
	f := newFleet(t, false)
	ctx, h1, h2 := t.Context(), f.node("h1"), f.node("h2")
	v := f.ready("pgdata", "h1")
	g := must[mobyfs.Grant](t)(h2.Claim(ctx, v.ID))
	f.advance(mobyfs.NodeSilence)
	_, err := h1.Claim(ctx, v.ID)
	wantCode(t, err, mobyfs.CodeMoving)
	f.advance(time.Second)
	back := must[mobyfs.Grant](t)(h1.Claim(ctx, v.ID))
	if l := back.Volume.Lease; l == nil || l.Node != "h1" || back.Fence <= g.Fence || back.Volume.Migration != nil {
		t.Errorf("the home got %+v", back)
	}
	if last := back.Volume.LastMove; last.State != mobyfs.MigrationAborted || !strings.Contains(last.Reason, "h2 fell silent") {
		t.Errorf("the last move is %+v", last)
	}
	_, err = h2.Commit(ctx, v.ID, g.From.Migration, someReceipt)
	wantCode(t, err, mobyfs.CodeStaleFence)
	if got := f.record("pgdata"); got.Node != "h1" || got.Fence != back.Fence {
		t.Errorf("the late commit changed the record: %+v", got)
	}
}

func TestClaimOfAVolumeOnASilentNodeSaysSo(t *testing.T) {
	f := newFleet(t, false)
	ctx := t.Context()
	f.node("h1")
	h2 := f.node("h2")
	v := f.ready("pgdata", "h1")
	f.advance(time.Minute)
	_, err := h2.Claim(ctx, v.ID)
	wantCode(t, err, mobyfs.CodeUnavailable)
	if !strings.Contains(err.Error(), "on h1, which has been silent for 1m0s") || !strings.Contains(mobyfs.HintOf(err), "h1") {
		t.Errorf("it says %q, hint %q", err, mobyfs.HintOf(err))
	}
	if got := f.record("pgdata"); got.Migration != nil {
		t.Error("a migration began that can't go on")
	}
}

func TestClaimWithoutRoomSaysSoBeforeAnythingMoves(t *testing.T) {
	f := newFleet(t, false)
	ctx, h1, h2 := t.Context(), f.node("h1"), f.node("h2")
	v := f.ready("pgdata", "h1")
	f.report(h1, mobyfs.Report{Address: "h1:8080", Used: map[mobyfs.VolumeID]int64{v.ID: 5 * gib}})
	f.report(h2, mobyfs.Report{Address: "h2:8080", Capacity: mobyfs.Capacity{TotalBytes: 10 * gib, FreeBytes: 4 * gib}})
	_, err := h2.Claim(ctx, v.ID)
	wantCode(t, err, mobyfs.CodeNoSpace)
	if !strings.Contains(err.Error(), "4.0 GiB") || !strings.Contains(err.Error(), "5.0 GiB") {
		t.Errorf("it says %q", err)
	}
}

func TestClaimOfWhatIsNotThere(t *testing.T) {
	f := newFleet(t, false)
	ctx, h1 := t.Context(), f.node("h1")
	stranger := f.caller("node", "h9")
	v := f.ready("pgdata", "h1")
	for _, id := range []mobyfs.VolumeID{"", "01jnosuchvolume0000000000x", "../../m/cluster"} {
		_, err := h1.Claim(ctx, id)
		wantCode(t, err, mobyfs.CodeNotFound)
	}
	_, err := stranger.Claim(ctx, v.ID) // has a certificate but never reported; it must not take the volume for gone
	wantCode(t, err, mobyfs.CodeUnavailable)
	if err := f.operator().RemoveVolume(ctx, "pgdata"); err != nil {
		t.Fatal(err)
	}
	_, err = h1.Claim(ctx, v.ID)
	wantCode(t, err, mobyfs.CodeNotFound)
}
