package control

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/api"
	"github.com/mobyfs/mobyfs/control/store"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// inWithTokens lets a node and a person in and gives their files.
func (f *inMemory) inWithTokens(t *testing.T) (node, person pki.Files) {
	t.Helper()
	node = must[pki.Files](t)(f.join(f.token(api.TokenRequest{Role: pki.RoleNode}), "h3"))
	person = must[pki.Files](t)(f.join(f.token(api.TokenRequest{Role: pki.RoleOperator}), "eve"))
	return node, person
}

// admits is what control says to the certificate in files.
func (f *inMemory) admits(files pki.Files) error {
	f.t.Helper()
	chain, err := files.Chain()
	if err != nil {
		f.t.Fatal(err)
	}
	return f.control.Admit(chain[0])
}

// agentsHear is what agents have heard of evictions.
func (f *inMemory) agentsHear() []mobyfs.Eviction { return f.control.trust().Evicted }

// tellsEvicted makes a node tell what it has heard of evictions, and what it holds.
func (f *inMemory) tellsEvicted(node string, evicted []mobyfs.Eviction, holdings ...mobyfs.Holding) {
	f.t.Helper()
	part := mobyfs.Inventory{History: f.control.store.History(), Evicted: evicted}
	if err := f.caller(pki.RoleNode, node).Inventory(f.t.Context(), part); err != nil {
		f.t.Fatal(err)
	}
	f.tells(node, holdings...)
}

// Who was evicted after the backup gets back in only until the first node has told what it has heard, and can do no harm
// until then.
func TestWhoWasEvictedAfterTheBackupIsEvictedAfterTheRestore(t *testing.T) {
	f := newInMemory(t)
	f.close()
	f.open(true)
	for _, n := range []string{"h1", "h2"} {
		f.node(n)
	}
	ctx := t.Context()
	node, person := f.inWithTokens(t)
	must[mobyfs.Session](t)(f.as(node).Report(ctx, reportOf(node, t)))
	v := f.ready("pgdata", "h1")
	made := f.backup()

	f.clock.advance(time.Second)
	must[mobyfs.Operation](t)(f.person().EvictNode(ctx, "h3", "stolen"))
	if err := f.person().Evict(ctx, pki.RoleOperator, "eve", "left"); err != nil {
		t.Fatal(err)
	}
	heard := f.agentsHear()
	if len(heard) != 2 || len(heard[0].Proof) == 0 || len(heard[1].Proof) == 0 {
		t.Fatalf("agents hear of %+v", heard)
	}
	f.restore(made)

	// Until a node has told, control takes them for who they were.
	evil := f.as(person)
	for what, err := range map[string]error{
		"token":    func() error { _, err := evil.CreateToken(ctx, api.TokenRequest{Role: pki.RoleAdmin}); return err }(),
		"evict":    evil.Evict(ctx, pki.RoleNode, "h1", "mine now"),
		"cordon":   func() error { _, err := evil.CordonNode(ctx, "h1", true); return err }(),
		"converge": func() error { _, err := evil.Converge(ctx, []string{"h1", "h2"}); return err }(),
	} {
		if mobyfs.CodeOf(err) != mobyfs.CodeUnavailable || !strings.Contains(err.Error(), "who was evicted since") || mobyfs.HintOf(err) == "" {
			t.Errorf("%s: got %v", what, err)
		}
	}
	lie := mobyfs.Holding{ID: v.ID, Bytes: true, Fence: v.Fence + 1000, Known: &v}
	if err := f.as(node).Inventory(ctx, mobyfs.Inventory{History: f.control.store.History(), Holdings: []mobyfs.Holding{lie}, Epoch: mobyfs.MaxEpoch, Last: true}); err != nil {
		t.Fatal(err)
	}

	f.tellsEvicted("h1", heard, holds(v))
	for what, files := range map[string]pki.Files{"node": node, "person": person} {
		if err := f.admits(files); mobyfs.CodeOf(err) != mobyfs.CodeDenied {
			t.Errorf("the %s is let in again: %v", what, err)
		}
		if err := f.renew(files); mobyfs.CodeOf(err) != mobyfs.CodeDenied {
			t.Errorf("the certificate of the %s is renewed: %v", what, err)
		}
	}
	f.tells("h2")
	f.converged()
	if s := f.control.restoreStatus(); s.Backup != "" {
		t.Errorf("it still waits: %+v", s)
	}
	if n := must[mobyfs.Node](t)(f.operator().Node(ctx, "h3")); n.Use() != mobyfs.NodeEvicted {
		t.Errorf("h3 is %s", n.Use())
	}
	if got := f.record("pgdata"); got.Node != "h1" || f.control.store.Epoch() != 1 {
		t.Errorf("what the evicted node told counts: pgdata is on %s, epoch %d", got.Node, f.control.store.Epoch())
	}
	if again := f.agentsHear(); !slices.EqualFunc(again, heard, func(a, b mobyfs.Eviction) bool { return string(evidence(a)) == string(evidence(b)) }) {
		t.Errorf("agents hear of %+v, before of %+v", again, heard)
	}
	if _, err := f.join(f.token(api.TokenRequest{Role: pki.RoleNode, Name: "h3"}), "h3"); err != nil {
		t.Errorf("an operator can't let it in again: %v", err)
	}
}

// A node can't shut others out by what it says it has heard.
func TestAnEvictionThatControlDidNotSignCountsForNothing(t *testing.T) {
	f := newInMemory(t)
	for _, n := range []string{"h1", "h2", "h3"} {
		f.node(n)
	}
	signed := mobyfs.Eviction{Role: pki.RoleNode, Name: "h3", Until: f.clock.Now().UTC().Truncate(time.Millisecond)}
	f.control.sign(&signed)
	made := f.backup()
	f.restore(made)
	later, other, unsigned, control := signed, signed, signed, signed
	later.Until = signed.Until.Add(time.Hour)
	other.Name = "h2"
	unsigned.Proof = nil
	control.Role, control.Name = pki.RoleControl, "control"
	f.control.sign(&control)
	f.tellsEvicted("h1", []mobyfs.Eviction{later, other, unsigned, control})
	f.control.store.View(func(v store.View) {
		if n := store.Evictions.Count(v); n > 0 {
			t.Errorf("%d are evicted", n)
		}
	})
	if said := saidOf(f.fleet, "h1"); !strings.Contains(strings.Join(said, "\n"), "h1 says that control/control; node/h2; node/h3 were evicted") {
		t.Errorf("told is %q", said)
	}
	f.tellsEvicted("h2", []mobyfs.Eviction{signed})
	if n := must[mobyfs.Node](t)(f.operator().Node(t.Context(), "h3")); n.Use() != mobyfs.NodeEvicted {
		t.Errorf("h3, whose eviction is signed, is %s", n.Use())
	}
}

// Whoever was evicted and let in again after the backup stays in.
func TestWhoWasLetInAgainAfterTheEvictionStaysIn(t *testing.T) {
	f := newInMemory(t)
	f.close()
	f.open(true)
	f.node("h1")
	_, old := f.inWithTokens(t)
	made := f.backup()
	f.clock.advance(time.Second)
	if err := f.person().Evict(t.Context(), pki.RoleOperator, "eve", ""); err != nil {
		t.Fatal(err)
	}
	heard := f.agentsHear()
	fresh := must[pki.Files](t)(f.join(f.token(api.TokenRequest{Role: pki.RoleOperator, Name: "eve"}), "eve"))
	f.restore(made)
	f.tellsEvicted("h1", heard)
	if err := errors.Join(f.admits(fresh), f.renew(fresh)); err != nil {
		t.Errorf("who was let in again is out: %v", err)
	}
	if err := f.renew(old); mobyfs.CodeOf(err) != mobyfs.CodeDenied {
		t.Errorf("the old certificate: %v", err)
	}
}
