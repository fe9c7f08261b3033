package control

import (
	"context"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/api"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// people are the names of those who are in, as ana is told.
func (f *fleet) people() map[string]mobyfs.Person {
	f.t.Helper()
	all, err := f.person().People(f.t.Context())
	if err != nil {
		f.t.Fatal(err)
	}
	by := map[string]mobyfs.Person{}
	for _, p := range all {
		by[p.Role+"/"+p.Name] = p
	}
	return by
}

func TestPersonWithATokenIsInForTwelveHoursAndAWeekOfNotCalling(t *testing.T) {
	f := newFleet(t, true)
	begun := f.clock.Now()
	files, err := f.join(f.token(api.TokenRequest{Role: pki.RoleViewer, Name: "vic"}), "vic")
	if err != nil {
		t.Fatal(err)
	}
	lasts := func() time.Duration {
		_, until, err := files.Identity()
		if err != nil {
			t.Fatal(err)
		}
		return until.Sub(f.clock.Now()).Round(time.Minute)
	}
	if lasts() != pki.PersonLife {
		t.Errorf("the certificate lasts %v", lasts())
	}
	for _, pass := range []time.Duration{pki.PersonLife / 2, pki.PersonLife + pki.PersonGrace - time.Minute} {
		f.clock.advance(pass)
		if err := f.renew(files); err != nil {
			t.Fatalf("after %v: %v", pass, err)
		}
		if lasts() != pki.PersonLife {
			t.Errorf("renewed after %v it lasts %v", pass, lasts())
		}
	}
	if p := f.people()["viewer/vic"]; p.Since.Sub(begun).Abs() > time.Minute || p.Until.Sub(f.clock.Now()).Round(time.Minute) != pki.PersonLife {
		t.Errorf("the record says %+v", p)
	}
	f.clock.advance(pki.PersonLife + pki.PersonGrace + time.Minute)
	err = f.renew(files)
	wantCode(t, err, mobyfs.CodeDenied)
	if mobyfs.HintOf(err) == "" {
		t.Error("who was away too long is not told the way out")
	}
}

// Those whom bootstrap certified are known from their first call on.
func TestPeopleWhoCallAreListedUntilTheyAreShutOut(t *testing.T) {
	f := newFleet(t, true)
	if _, err := f.join(f.token(api.TokenRequest{Role: pki.RoleOperator, Name: "bob"}), "bob"); err != nil {
		t.Fatal(err)
	}
	waitFor := func(who string, there bool) {
		t.Helper()
		box := f.control.store.Subscribe() // who was met is written down beside the call
		defer box.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		for {
			if _, ok := f.people()[who]; ok == there {
				return
			}
			if _, err := box.Next(ctx); err != nil {
				t.Fatalf("%s: listed %v, want %v", who, !there, there)
			}
		}
	}
	waitFor("operator/ana", true)
	waitFor("operator/bob", true)
	if err := f.person().Evict(t.Context(), pki.RoleOperator, "bob", "left"); err != nil {
		t.Fatal(err)
	}
	waitFor("operator/bob", false)
	for _, role := range []string{pki.RoleNode, pki.RoleViewer} {
		_, err := f.client(f.authority, role, "h1").People(t.Context())
		wantCode(t, err, mobyfs.CodeDenied)
	}
}
