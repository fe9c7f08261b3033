package control

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/api"
	"github.com/mobyfs/mobyfs/control/store"
	"github.com/mobyfs/mobyfs/internal/audit"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// controls are several control processes on one store in memory.
func controls(t *testing.T, names ...string) (*fleet, map[string]*Control) {
	t.Helper()
	memory := store.NewMemory()
	f := &fleet{t: t, clock: &clock{now: time.Now()}, heard: map[string]time.Time{}}
	var err error
	if f.authority, err = pki.NewAuthority(t.TempDir(), "shop"); err != nil {
		t.Fatal(err)
	}
	all := map[string]*Control{}
	for _, name := range names {
		c, err := Open(t.Context(), Config{
			Cluster: "shop", Root: t.TempDir(), Version: "v1", Now: f.clock.Now, Identity: f.files(f.authority, pki.RoleControl, name), Log: quiet(),
			OpenStore: openMemory(memory),
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		})
		all[name] = c
		f.control = c
	}
	return f, all
}

func openMemory(m *store.Memory) func(context.Context, store.Config) (*store.Store, error) {
	return func(ctx context.Context, cfg store.Config) (*store.Store, error) {
		return store.OpenMemory(ctx, cfg, m.Line())
	}
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// told are all events that a call tells from the beginning, until they are complete.
func (f *fleet) told(follow func(context.Context, int64, func(mobyfs.Event) error, func(api.Complete) error) error) (all []mobyfs.Event) {
	f.t.Helper()
	err := follow(f.t.Context(), 0, func(e mobyfs.Event) error { all = append(all, e); return nil }, func(api.Complete) error { return errEnough })
	if !errors.Is(err, errEnough) {
		f.t.Fatalf("the events end with %v", err)
	}
	return all
}

// trailOf reads what a control has on its disk and checks that it is whole.
func trailOf(t *testing.T, c *Control) (texts [][]byte, chain audit.Chain) {
	t.Helper()
	aud := pki.Identity{Cluster: "shop", Role: pki.RoleAuditor, Name: "aud"}
	trail := must[api.AuditTrail](t)(c.AuditTrail(t.Context(), aud))
	for _, n := range trail.Segments {
		text := must[[]byte](t)(c.AuditSegment(t.Context(), aud, n))
		if err := chain.Add(text); err != nil {
			t.Fatal(err)
		}
		texts = append(texts, text)
	}
	if err := chain.End(trail.Head); err != nil {
		t.Fatal(err)
	}
	return texts, chain
}

// note writes events, as decisions do.
func recordEvents(t *testing.T, c *Control, n int) {
	t.Helper()
	for range n {
		if err := c.store.Update(t.Context(), func(tx *store.Tx) error { return tx.Record(mobyfs.Event{Text: "test"}) }); err != nil {
			t.Fatal(err)
		}
	}
}

func keep(t *testing.T, c *Control) {
	t.Helper()
	if err := c.keepTrail(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestControlsAgreeOnTheTrailWithoutAGapOrADouble(t *testing.T) {
	_, all := controls(t, "c1", "c2", "c3")
	c1, c2, c3 := all["c1"], all["c2"], all["c3"]
	recordEvents(t, c1, 5)
	done := make(chan error)
	for _, c := range all { // all at once: one of them seals
		go func() { done <- c.keepTrail(t.Context()) }()
	}
	for range all {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	recordEvents(t, c2, 7)
	for _, c := range []*Control{c3, c1, c2, c1} {
		keep(t, c)
	}
	first, chain := trailOf(t, c1)
	if chain.Events != 12 {
		t.Errorf("the trail has %d events, want 12", chain.Events)
	}
	for name, c := range all {
		if texts, _ := trailOf(t, c); !bytes.Equal(bytes.Join(texts, nil), bytes.Join(first, nil)) {
			t.Errorf("%s has another trail", name)
		}
	}
}

func TestEventsLeaveTheStoreOnceEveryControlHasThem(t *testing.T) {
	f, all := controls(t, "c1", "c2")
	c1, c2 := all["c1"], all["c2"]
	keep(t, c2) // it is there, and then stays behind
	recordEvents(t, c1, 450)
	keep(t, c1)
	f.clock.advance(keepEvents + time.Minute)
	keep(t, c1)
	left := func() int {
		events, _, err := c1.store.EventsSince(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		return len(events)
	}
	if n := left(); n != 450 {
		t.Fatalf("%d events are in the store, though c2 has none", n)
	}
	keep(t, c2)
	keep(t, c1)
	if n := left(); n != 0 {
		t.Errorf("%d events are in the store, though both have them", n)
	}
	recordEvents(t, c1, 3)
	keep(t, c1)
	keep(t, c2)
	if _, chain := trailOf(t, c2); chain.Events != 453 {
		t.Errorf("the trail has %d events, want 453", chain.Events)
	}
	ana := pki.Identity{Cluster: "shop", Role: pki.RoleOperator, Name: "ana"}
	err := c1.Events(t.Context(), ana, 1, func([]mobyfs.Event, int64) error { return errEnough })
	wantCode(t, err, mobyfs.CodeNotFound)
	if err := c1.Events(t.Context(), ana, 0, func(events []mobyfs.Event, _ int64) error {
		if len(events) != 3 {
			t.Errorf("from the beginning come %d events, want 3", len(events))
		}
		return errEnough
	}); !errors.Is(err, errEnough) {
		t.Error(err)
	}
}

func TestControlThatIsLostForGoodIsNotWaitedFor(t *testing.T) {
	f, all := controls(t, "c1", "c2")
	keep(t, all["c2"])
	recordEvents(t, all["c1"], 3)
	keep(t, all["c1"])
	f.clock.advance(forgetCopy + time.Minute)
	keep(t, all["c1"])
	if events, _, err := all["c1"].store.EventsSince(t.Context(), 0); err != nil || len(events) != 0 {
		t.Errorf("%d events are in the store, %v", len(events), err)
	}
}

// TestAttackTamperedFilesAreNotGivenOutAsWhole: an intruder on a control host changes its part of the trail.
func TestAttackTamperedFilesAreNotGivenOutAsWhole(t *testing.T) {
	_, all := controls(t, "c1")
	c := all["c1"]
	recordEvents(t, c, 3)
	keep(t, c)
	file := c.segmentFile(1)
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file is %v, %v", info.Mode(), err)
	}
	if info, err := os.Stat(filepath.Dir(file)); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the directory is %v, %v", info.Mode(), err)
	}
	text := must[[]byte](t)(os.ReadFile(file))
	if err := os.WriteFile(file, []byte(strings.Replace(string(text), `"text":"test"`, `"text":"tess"`, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	aud := pki.Identity{Cluster: "shop", Role: pki.RoleAuditor, Name: "aud"}
	trail := must[api.AuditTrail](t)(c.AuditTrail(t.Context(), aud))
	var chain audit.Chain
	if err := chain.Add(must[[]byte](t)(c.AuditSegment(t.Context(), aud, 1))); err != nil {
		t.Fatal(err)
	}
	wantCode(t, chain.End(trail.Head), mobyfs.CodeCorrupt)
}

func TestRefusalsAreInTheTrailAndBounded(t *testing.T) {
	f := newFleet(t, true)
	f.node("h1")
	f.ready("pgdata", "h1")
	vic := f.client(f.authority, pki.RoleViewer, "vic")
	const tries = 30
	for range tries {
		wantCode(t, vic.RemoveVolume(t.Context(), "pgdata"), mobyfs.CodeDenied)
	}
	f.clock.advance(denialEvery)
	wantCode(t, vic.RemoveVolume(t.Context(), "pgdata"), mobyfs.CodeDenied)
	var denied []mobyfs.Event
	for _, e := range f.told(f.client(f.authority, pki.RoleAuditor, "aud").Audit) {
		if e.Denied != "" {
			denied = append(denied, e)
		}
	}
	if len(denied) != 2 || denied[0].Who != "spiffe://shop/viewer/vic" || denied[0].From == "" || denied[0].Denied != mobyfs.CodeDenied ||
		!strings.Contains(denied[0].Text, "remove-volume") || !strings.Contains(denied[1].Text, "29 refusals before it") {
		t.Errorf("of %d refusals the trail has %+v", tries+1, denied)
	}
	for _, e := range f.told(vic.Events) {
		if e.Denied != "" || e.Who != "" || e.From != "" {
			t.Errorf("a viewer is told %+v", e)
		}
	}
	wantCode(t, vic.Audit(t.Context(), 0, func(mobyfs.Event) error { return nil }, func(api.Complete) error { return nil }), mobyfs.CodeDenied)
}
