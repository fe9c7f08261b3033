package control

import (
	"errors"
	"slices"
	"testing"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/api"
	"github.com/mobyfs/mobyfs/internal/pki"
)

var errEnough = errors.New("enough")

// events are all that an identity is told from a revision on, until they are complete.
func (f *fleet) events(c *api.Client, since int64) (all []mobyfs.Event, upTo int64) {
	f.t.Helper()
	err := c.Events(f.t.Context(), since,
		func(e mobyfs.Event) error { all = append(all, e); return nil },
		func(c api.Complete) error { upTo = c.Revision; return errEnough })
	if !errors.Is(err, errEnough) {
		f.t.Fatalf("the events end with %v", err)
	}
	return all, upTo
}

func texts(events []mobyfs.Event) []string {
	var all []string
	for _, e := range events {
		all = append(all, e.Text)
	}
	return all
}

func TestEventsTellEachDecisionOnceWithWhoAskedForIt(t *testing.T) {
	f := newFleet(t, true)
	h1 := f.node("h1")
	v := f.ready("pgdata", "h1")
	g := must[mobyfs.Grant](t)(h1.Claim(t.Context(), v.ID))
	must[mobyfs.Grant](t)(h1.Claim(t.Context(), v.ID)) // asked again: answered, not decided
	all, upTo := f.events(f.client(f.authority, pki.RoleOperator, "ana"), 0)
	if got, want := texts(all), []string{"node joined", "volume placed", "volume is ready", "lease given"}; !slices.Equal(got, want) {
		t.Fatalf("told are %q, want %q", got, want)
	}
	last := all[3]
	if last.Volume != v.ID || last.Name != "pgdata" || last.Fence != g.Fence || last.Who != "spiffe://shop/node/h1" || last.From == "" || last.Revision != upTo {
		t.Errorf("the last is %+v, complete up to %d", last, upTo)
	}
	if v := f.record("pgdata"); v.Revision != last.Revision {
		t.Errorf("the event is of revision %d, the record of %d", last.Revision, v.Revision)
	}
}

func TestWhoeverConnectsAgainMissesNoEvent(t *testing.T) {
	f := newFleet(t, true)
	f.node("h1")
	v := f.ready("pgdata", "h1")
	ana := f.client(f.authority, pki.RoleOperator, "ana")
	before, upTo := f.events(ana, 0)
	h1 := f.caller(pki.RoleNode, "h1")
	for range 5 {
		g := must[mobyfs.Grant](t)(h1.Claim(t.Context(), v.ID))
		if err := h1.Release(t.Context(), v.ID, g.Fence); err != nil {
			t.Fatal(err)
		}
	}
	after, newest := f.events(ana, upTo+1)
	all, _ := f.events(ana, 0)
	if got, want := texts(slices.Concat(before, after)), texts(all); !slices.Equal(got, want) || len(after) != 10 {
		t.Errorf("in two parts: %q\nin one: %q", got, want)
	}
	if rest, _ := f.events(ana, newest+1); len(rest) != 0 {
		t.Errorf("behind the newest come %q", texts(rest))
	}
	err := ana.Events(t.Context(), newest+1000, func(mobyfs.Event) error { return nil }, func(api.Complete) error { return nil })
	wantCode(t, err, mobyfs.CodeInvalid)
}

func TestFollowersAreToldWhileItHappens(t *testing.T) {
	f := newFleet(t, true)
	ana := f.client(f.authority, pki.RoleOperator, "ana")
	following := make(chan struct{})
	told := make(chan mobyfs.Event, 1)
	ended := make(chan error, 1)
	go func() {
		ended <- ana.Events(t.Context(), 0,
			func(e mobyfs.Event) error { told <- e; return errEnough },
			func(api.Complete) error { close(following); return nil })
	}()
	<-following
	f.node("h1")
	if e := <-told; e.Text != "node joined" || e.Node != "h1" {
		t.Errorf("told is %+v", e)
	}
	if err := <-ended; !errors.Is(err, errEnough) {
		t.Errorf("it ended with %v", err)
	}
}
