package control

import (
	"bytes"
	"context"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/api"
	"github.com/mobyfs/mobyfs/internal/pki"
)

const day = 24 * time.Hour

// wallClock is the clock of control that anybody can set, beside the one that nobody can.
type wallClock struct{ wrong atomic.Int64 }

func (w *wallClock) set(wrong time.Duration) { w.wrong.Store(int64(wrong)) }

// withWallClock is a control plane whose wall clock can be set.
func withWallClock(t *testing.T, wire bool) (*fleet, *wallClock) {
	t.Helper()
	f, w := newFleet(t, false), &wallClock{}
	f.close()
	f.cfg.Now = func() time.Time { return f.clock.Now().Add(time.Duration(w.wrong.Load())) }
	f.open(wire)
	return f, w
}

func TestClockOfControlADayOffTakesNothingAway(t *testing.T) {
	f, wall := withWallClock(t, false)
	ctx, op, h1, h2 := t.Context(), f.operator(), f.node("h1"), f.node("h2")
	had := f.shared("pgdata", mobyfs.TakeoverAuto, "h1")
	f.ready("logs", "h1")
	if _, err := op.MoveVolume(ctx, "logs", "h2"); err != nil {
		t.Fatal(err)
	}
	for _, wrong := range []time.Duration{day, -day, 0} {
		wall.set(wrong)
		f.control.reconcile(ctx)
		f.control.sweep(ctx)
		_, err := h2.Claim(ctx, had.Volume.ID)
		wantCode(t, err, mobyfs.CodeInUse)
		_, err = op.TakeOver(ctx, "pgdata", "h2", "the clock says so")
		wantCode(t, err, mobyfs.CodeInUse)
		if again := must[mobyfs.Grant](t)(h1.Claim(ctx, had.Volume.ID)); again.Fence != had.Fence {
			t.Errorf("%v off: the holder's fence went from %v to %v", wrong, had.Fence, again.Fence)
		}
		for _, n := range must[[]mobyfs.Node](t)(op.Nodes(ctx)) {
			if !n.Ready {
				t.Errorf("%v off: node %s passes for silent", wrong, n.Name)
			}
		}
		if v := f.record("logs"); v.Migration == nil {
			t.Errorf("%v off: the move was given up", wrong)
		}
		f.report(h1, mobyfs.Report{Address: "h1:8080"})
		f.report(h2, mobyfs.Report{Address: "h2:8080"})
	}
}

func TestLockDelayIsNotOfTheClockThatCanBeSet(t *testing.T) {
	f, wall := withWallClock(t, false)
	ctx, h2 := t.Context(), f.node("h2")
	f.node("h1")
	had := f.shared("pgdata", mobyfs.TakeoverAuto, "h1")
	f.advance(mobyfs.SessionTTL + time.Second) // h1 falls silent
	f.report(h2, mobyfs.Report{Address: "h2:8080"})
	for _, wrong := range []time.Duration{day, -day} {
		wall.set(wrong)
		_, err := h2.Claim(ctx, had.Volume.ID)
		wantCode(t, err, mobyfs.CodeUnavailable)
	}
	f.advance(mobyfs.SessionTTL - 2*time.Second)
	f.report(h2, mobyfs.Report{Address: "h2:8080"})
	f.advance(time.Second)
	if got := must[mobyfs.Grant](t)(h2.Claim(ctx, had.Volume.ID)); got.Fence <= had.Fence {
		t.Errorf("taken over with fence %v after %v", got.Fence, had.Fence)
	}
}

// TestAttackTokenIsUsedOnceWhateverTheClock: set back it lives longer, and is worth nothing to a second one.
func TestAttackTokenIsUsedOnceWhateverTheClock(t *testing.T) {
	f, wall := withWallClock(t, true)
	enrol := func(token, name string) error {
		_, csr := somebody(t)
		_, err := doorClient(t, f).Enroll(t.Context(), api.EnrollRequest{Token: token, Name: name, Request: csr, Clock: f.cfg.Now()})
		return err
	}
	first, second := f.token(api.TokenRequest{Role: pki.RoleNode}), f.token(api.TokenRequest{Role: pki.RoleNode})
	wall.set(day)
	wantCode(t, enrol(first, "h7"), mobyfs.CodeDenied)
	wall.set(0)
	if err := enrol(second, "h7"); err != nil {
		t.Fatal(err)
	}
	for _, wrong := range []time.Duration{day, 0, -day} {
		wall.set(wrong)
		wantCode(t, enrol(second, "h8"), mobyfs.CodeDenied)
	}
}

// TestRenewalFromAWrongClockIsNotTaken: a certificate that is not good here would lock a node out that has a good one.
func TestRenewalFromAWrongClockIsNotTaken(t *testing.T) {
	f, wall := withWallClock(t, true)
	f.node("h1")
	files := f.files(f.authority, pki.RoleNode, "h1")
	before := read(t, files)
	wall.set(day)
	err := api.RenewFiles(t.Context(), []string{f.address}, files)
	wantCode(t, err, mobyfs.CodeInvalid)
	if err == nil || !strings.Contains(err.Error(), "a clock is wrong") || !strings.Contains(mobyfs.HintOf(err), "timedatectl") {
		t.Errorf("got %v (hint %q), want that a clock is wrong and how to set it", err, mobyfs.HintOf(err))
	}
	wall.set(-day - 2*time.Hour)
	if err := api.RenewFiles(t.Context(), []string{f.address}, files); err == nil {
		t.Error("a certificate is renewed that is not good yet by control's clock")
	}
	if !bytes.Equal(before, read(t, files)) {
		t.Error("the certificate that was good is gone")
	}
	wall.set(0)
	if err := api.RenewFiles(t.Context(), []string{f.address}, files); err != nil {
		t.Errorf("with the clock set right: %v", err)
	}
	if bytes.Equal(before, read(t, files)) {
		t.Error("nothing was renewed")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	tlsConfig, err := files.ClientTLS(pki.RoleControl, "control")
	if err != nil {
		t.Fatal(err)
	}
	c := api.NewClient([]string{f.address}, tlsConfig)
	defer c.Close()
	if err := c.Healthy(ctx); err != nil {
		t.Error(err)
	}
}

// read is the key and the certificate as they lie on the disk.
func read(t *testing.T, files pki.Files) []byte {
	t.Helper()
	var all []byte
	for _, path := range []string{files.Key, files.Cert} {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, text...)
	}
	return all
}
