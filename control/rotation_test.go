package control

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/api"
	"github.com/mobyfs/mobyfs/control/store"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// follow does what a member does when control tells it whom to trust, and reports.
func (f *fleet) follow(files pki.Files) {
	f.t.Helper()
	trust := f.control.trust()
	if err := files.SetRoots([]byte(trust.Roots)); err != nil {
		f.t.Fatal(err)
	}
	_, issuer, err := files.Held()
	if err == nil && issuer != trust.Issuing {
		err = f.renew(files)
	}
	if err != nil {
		f.t.Fatal(err)
	}
	who, _, err := files.Identity()
	if err == nil && who.Role == pki.RoleNode {
		err = errOf(f.as(files).Report(f.t.Context(), reportOf(files, f.t)))
	}
	if err != nil {
		f.t.Fatalf("%v: %v", who, err)
	}
}

// phase lets the keeper work and tells the phase.
func (f *fleet) phase() mobyfs.RotationPhase {
	f.t.Helper()
	for range 3 {
		if err := f.control.keeper.round(f.t.Context()); err != nil {
			f.t.Fatal(err)
		}
	}
	return f.control.rotation().Phase
}

func TestRootIsReplacedWithoutAnyoneLeftBehind(t *testing.T) {
	f := newFleet(t, true)
	joined := func(role, name string) pki.Files {
		files, err := f.join(f.token(api.TokenRequest{Role: role}), name)
		if err != nil {
			t.Fatal(err)
		}
		if role == pki.RoleNode {
			f.follow(files)
		}
		return files
	}
	h1, h2 := joined(pki.RoleNode, "h1"), joined(pki.RoleNode, "h2")
	ana := joined(pki.RoleOperator, "ana")
	before := f.control.rotation()
	expect := func(want mobyfs.RotationPhase, lacking ...string) {
		t.Helper()
		got := f.phase()
		var who []string
		for _, l := range f.control.rotation().Lacking {
			who = append(who, l.Who)
		}
		if got != want || strings.Join(who, " ") != strings.Join(lacking, " ") {
			t.Fatalf("the phase is %q, it lacks %v; want %q, %v", got, f.control.rotation().Lacking, want, lacking)
		}
	}
	heard := func(who ...pki.Files) {
		t.Helper()
		for _, files := range who {
			if _, err := f.as(files).Volume(t.Context(), "none"); mobyfs.CodeOf(err) != mobyfs.CodeNotFound {
				id, _, _ := files.Identity()
				t.Errorf("in phase %q %s is not heard: %v", f.control.rotation().Phase, id, err)
			}
		}
	}

	if _, err := f.as(ana).Rotate(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	expect(mobyfs.RotationAdd, "node/h1", "node/h2")
	heard(h1, h2, ana)
	f.follow(h1)
	h3 := joined(pki.RoleNode, "h3") // in the middle of it: its first roots are those of the phase
	expect(mobyfs.RotationAdd, "node/h2")
	if roots, err := os.ReadFile(h3.CA); err != nil || len(pki.Roots(roots)) != 2 {
		t.Errorf("who joins in the middle trusts %d roots, %v", len(pki.Roots(roots)), err)
	}
	f.follow(h2)
	expect(mobyfs.RotationIssue, "node/h1", "node/h2", "node/h3")
	heard(h1, h2, h3, ana)
	h4 := joined(pki.RoleNode, "h4")
	if _, issuer, err := h4.Held(); err != nil || issuer != f.control.rotation().Next {
		t.Errorf("who joins now has a certificate of %q, %v", issuer, err)
	}
	for _, files := range []pki.Files{ana, h1, h3} {
		f.follow(files)
	}
	expect(mobyfs.RotationIssue, "node/h2")
	f.restart() // nothing of it is lost with the process
	expect(mobyfs.RotationIssue, "node/h2")
	f.follow(h2)
	expect(mobyfs.RotationRetire, "node/h1", "node/h2", "node/h3", "node/h4")
	for _, files := range []pki.Files{ana, h1, h2, h3, h4} {
		f.follow(files)
	}
	expect(mobyfs.RotationNone)
	after := f.control.rotation()
	if after.Root != before.Root && after.Next == "" && len(pki.Roots([]byte(f.control.trust().Roots))) == 1 {
		heard(h1, h2, h3, h4, ana)
	} else {
		t.Errorf("the root was %v and is %v", before, after)
	}
	// What was below the old root alone is worth nothing any more.
	old := f.files(f.authority, pki.RoleNode, "h9")
	if err := old.SetRoots([]byte(f.control.trust().Roots)); err != nil {
		t.Fatal(err)
	}
	if _, err := f.as(old).Volume(t.Context(), "none"); mobyfs.CodeOf(err) != mobyfs.CodeUnavailable {
		t.Errorf("a certificate of the old root: %v", err)
	}
	// The authority on disk signs with the new root, and a second rotation works like the first.
	disk, err := pki.OpenAuthority(f.dir + "/pki")
	if err != nil || disk.Fingerprint() != after.Root {
		t.Fatalf("on disk another one signs, %v", err)
	}
	if _, err := f.as(ana).Rotate(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	all := []pki.Files{ana, h1, h2, h3, h4}
	for range 3 {
		f.phase()
		for _, files := range all {
			f.follow(files)
		}
	}
	expect(mobyfs.RotationNone)
	if f.control.rotation().Root == after.Root {
		t.Error("the second rotation changed nothing")
	}
	heard(all...)
}

func TestRotationWaitsUnlessForcedByName(t *testing.T) {
	f := newFleet(t, true)
	var files []pki.Files
	for _, name := range []string{"h1", "h2", "h3"} {
		file, err := f.join(f.token(api.TokenRequest{Role: pki.RoleNode}), name)
		if err != nil {
			t.Fatal(err)
		}
		f.follow(file)
		files = append(files, file)
	}
	_, err := f.person().Rotate(t.Context(), []string{"node/h2"})
	wantCode(t, err, mobyfs.CodeInvalid) // before there is something to force
	if _, err := f.person().Rotate(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if f.phase() != mobyfs.RotationAdd {
		t.Fatalf("the phase is %q", f.phase())
	}
	f.follow(files[0])
	if err := f.person().Evict(t.Context(), pki.RoleNode, "h3", ""); err != nil { // who is evicted is not waited for
		t.Fatal(err)
	}
	if f.phase() != mobyfs.RotationAdd {
		t.Error("it did not wait for h2")
	}
	r, err := f.person().Rotate(t.Context(), []string{"node/h2"})
	if err != nil || len(r.Forced) != 1 {
		t.Fatalf("%+v, %v", r, err)
	}
	if f.phase() != mobyfs.RotationIssue {
		t.Errorf("it waits for %v although that was forced", f.control.rotation().Lacking)
	}
}

// Each step of the authority's record goes forward, and each is told from the others by what members lack in it.
func TestPhasesGoForward(t *testing.T) {
	dir := t.TempDir()
	one, err := pki.NewAuthority(dir, "shop")
	if err != nil {
		t.Fatal(err)
	}
	two, err := pki.NextAuthority(dir, one)
	if err != nil {
		t.Fatal(err)
	}
	a := store.Authority{Phase: mobyfs.RotationAsked, Root: string(one.RootPEM()), Next: string(two.RootPEM())}
	var seen []string
	for range 4 {
		a = after(a)
		signs := "old"
		if signing(a) == two.Fingerprint() {
			signs = "new"
		}
		seen = append(seen, fmt.Sprintf("%s: %d trusted, %s signs", a.Phase, len(pki.Roots(trusted(a))), signs))
	}
	want := "add: 2 trusted, old signs; issue: 2 trusted, new signs; retire: 1 trusted, new signs; : 1 trusted, new signs"
	if got := strings.Join(seen, "; "); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if again, err := pki.NextAuthority(dir, one); err != nil || again.Fingerprint() != two.Fingerprint() {
		t.Errorf("begun again the next root is another, %v", err)
	}
}

// What a control lacks as a member of the store, and who keeps its turn to begin anew, in each phase.
func TestPeersLackWhatThePhaseAsksAndTakeTurns(t *testing.T) {
	dir := t.TempDir()
	one, err := pki.NewAuthority(dir, "shop")
	if err != nil {
		t.Fatal(err)
	}
	two, err := pki.NextAuthority(dir, one)
	if err != nil {
		t.Fatal(err)
	}
	was, will := one.Issuer(pki.IssuerPeer).OwnPEM(), two.Issuer(pki.IssuerPeer).OwnPEM()
	old, both, next := pki.TrustID(was), pki.TrustID(append(bytes.Clone(was), will...)), pki.TrustID(will)
	a := store.Authority{Root: string(one.RootPEM()), Next: string(two.RootPEM()), Peer: string(was), NextPeer: string(will), Turn: "control/h1"}
	seats := []string{"h1", "h2"}
	for _, tc := range []struct {
		phase         mobyfs.RotationPhase
		trust, issuer string
		lacks, turn   bool
	}{
		{mobyfs.RotationNone, old, fingerprint(a.Peer), false, true},
		{mobyfs.RotationAdd, "", "", true, true},
		{mobyfs.RotationAdd, old, fingerprint(a.Peer), true, true},
		{mobyfs.RotationAdd, both, fingerprint(a.Peer), false, false},
		{mobyfs.RotationIssue, both, fingerprint(a.Peer), true, false},
		{mobyfs.RotationIssue, both, fingerprint(a.NextPeer), false, false},
		{mobyfs.RotationRetire, both, fingerprint(a.NextPeer), true, true},
		{mobyfs.RotationRetire, next, fingerprint(a.NextPeer), false, false},
	} {
		a.Phase = tc.phase
		h := mobyfs.Held{PeerTrust: tc.trust, PeerIssuer: tc.issuer}
		if got := lacksAsPeer(a, h); (got != "") != tc.lacks {
			t.Errorf("%q with %+v: it lacks %q", tc.phase, h, got)
		}
		if got := hasTurn(a, h, seats); got != tc.turn {
			t.Errorf("%q with %+v: it keeps its turn: %v", tc.phase, h, got)
		}
		if hasTurn(a, h, []string{"h2"}) {
			t.Errorf("%q: who was taken out of the store keeps its turn", tc.phase)
		}
		forced := a
		forced.Forced = []string{"control/h1"}
		if hasTurn(forced, h, seats) {
			t.Errorf("%q: who is left behind keeps its turn", tc.phase)
		}
	}
	a.NextPeer, a.Phase = "", mobyfs.RotationAdd
	if lacksAsPeer(a, mobyfs.Held{}) != "" || peersTrusted(a) != nil {
		t.Error("a rotation that leaves the peers alone asks something of them")
	}
}

// TestNobodyBeginsAnewBeforeItsFilesFollow: a phase may begin between two parts of a keeper's round. Who begins anew then
// finds on its disk what it trusts already, and has to begin anew once more.
func TestNobodyBeginsAnewBeforeItsFilesFollow(t *testing.T) {
	f := newFleet(t, false)
	k := f.control.keeper
	k.mu.Lock() // no round but by this test
	defer k.mu.Unlock()
	peer := k.peerFiles()
	csr, err := peer.NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := f.authority.Sign(csr, pki.Identity{Cluster: "shop", Role: pki.RolePeer, Name: f.control.name})
	if err == nil {
		err = peer.Install(cert, f.authority.CertPEM)
	}
	if err != nil {
		t.Fatal(err)
	}
	if k.runs, _, err = peer.HeldByPeer(); err != nil {
		t.Fatal(err)
	}
	next, err := pki.NewAuthority(t.TempDir(), "shop")
	if err != nil {
		t.Fatal(err)
	}
	err = f.control.store.Update(t.Context(), func(tx *store.Tx) error {
		return store.Authorities.Put(tx, store.TheAuthority, store.Authority{
			Phase: mobyfs.RotationAdd, Root: string(f.authority.RootPEM()), Next: string(next.RootPEM()),
			Peer: string(f.authority.Issuer(pki.IssuerPeer).OwnPEM()), NextPeer: string(next.Issuer(pki.IssuerPeer).OwnPEM()),
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	asked := func() bool {
		t.Helper()
		if err := k.beginAnew(t.Context()); err != nil {
			t.Fatal(err)
		}
		select {
		case <-f.control.Restart():
			return true
		default:
			return false
		}
	}
	if asked() || k.authority().Turn != "" {
		t.Error("it begins anew before its files say what to trust")
	}
	if err := k.followPeers(); err != nil {
		t.Fatal(err)
	}
	if !asked() || k.authority().Turn != "control/"+f.control.name {
		t.Error("its files say what to trust, and it does not begin anew")
	}
}
