package control

import (
	"os"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/api"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// token makes a token as the operator.
func (f *fleet) token(r api.TokenRequest) string {
	f.t.Helper()
	t, err := f.person().CreateToken(f.t.Context(), r)
	if err != nil {
		f.t.Fatal(err)
	}
	return t.Token
}

// person is an operator over the wire.
func (f *fleet) person() *api.Client { return f.client(f.authority, pki.RoleOperator, "ana") }

// join enrols a new machine.
func (f *fleet) join(token, name string) (pki.Files, error) {
	f.t.Helper()
	files := pki.FilesIn(f.t.TempDir(), "node")
	_, err := api.Join(f.t.Context(), []string{f.address}, token, name, files, f.clock.Now)
	return files, err
}

// as is a client with the identity in files.
func (f *fleet) as(files pki.Files) *api.Client {
	f.t.Helper()
	config, err := files.ClientTLS(pki.RoleControl, "control")
	if err != nil {
		f.t.Fatal(err)
	}
	c := api.NewClient([]string{f.address}, config)
	f.t.Cleanup(c.Close)
	return c
}

// renew renews in process, for TLS does not know the fleet's clock.
func (f *fleet) renew(files pki.Files) error {
	f.t.Helper()
	r, err := files.Renew()
	if err != nil {
		f.t.Fatal(err)
	}
	cert, err := f.control.Renew(f.t.Context(), r.Renewal)
	if err != nil {
		return err
	}
	return r.Install([]byte(cert.Chain), []byte(cert.Roots))
}

func reportOf(files pki.Files, t testing.TB) mobyfs.Report {
	t.Helper()
	trust, issuer, err := files.Held()
	if err != nil {
		t.Fatal(err)
	}
	return mobyfs.Report{
		Address: "h:8080", Version: "v1", Instance: "one", Begins: true, Held: &mobyfs.Held{Trust: trust, Issuer: issuer},
		Capacity: mobyfs.Capacity{TotalBytes: 200 * gib, FreeBytes: 100 * gib},
	}
}

func TestTokenLetsOneNodeIn(t *testing.T) {
	f := newFleet(t, true)
	token := f.token(api.TokenRequest{Role: pki.RoleNode, Name: "h7", Network: "127.0.0.0/8", Labels: map[string]string{"zone": "a"}})
	files, err := f.join(token, "h7")
	if err != nil {
		t.Fatal(err)
	}
	who, until, err := files.Identity()
	if err != nil || who != (pki.Identity{Cluster: "shop", Role: pki.RoleNode, Name: "h7"}) {
		t.Errorf("it is %v, %v", who, err)
	}
	if left := until.Sub(f.clock.Now()); left > pki.NodeLife || left < pki.NodeLife-time.Minute {
		t.Errorf("its certificate lasts %v", left)
	}
	if err := errOf(f.as(files).Report(t.Context(), reportOf(files, t))); err != nil {
		t.Error(err)
	}
	first, err := os.ReadFile(files.Cert)
	if err != nil {
		t.Fatal(err)
	}
	// Killed before the answer was stored, it asks again with its key and gets the same answer.
	if _, err := api.Join(t.Context(), []string{f.address}, token, "h7", files, f.clock.Now); err != nil {
		t.Errorf("repeated: %v", err)
	}
	if again, err := os.ReadFile(files.Cert); err != nil || string(again) != string(first) {
		t.Errorf("repeated it got another certificate, %v", err)
	}
	if nodes, err := f.person().Nodes(t.Context()); err != nil || len(nodes) != 1 || nodes[0].Labels["zone"] != "a" {
		t.Errorf("the nodes are %+v, %v", nodes, err)
	}
	all, err := f.person().Tokens(t.Context())
	if err != nil || len(all) != 1 || all[0].UsedBy != "h7" || all[0].UsedAt.IsZero() {
		t.Errorf("the tokens are %+v, %v", all, err)
	}
}

func TestTokenLetsAPersonIn(t *testing.T) {
	f := newFleet(t, true)
	files, err := f.join(f.token(api.TokenRequest{Role: pki.RoleOperator, Name: "eva"}), "eva")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.as(files).Volumes(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestReplacingANodeShutsTheOldOneOut(t *testing.T) {
	f := newFleet(t, true)
	old, err := f.join(f.token(api.TokenRequest{Role: pki.RoleNode}), "h1")
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.join(f.token(api.TokenRequest{Role: pki.RoleNode}), "h1")
	wantCode(t, err, mobyfs.CodeExists)
	f.clock.advance(time.Minute)
	anew, err := f.join(f.token(api.TokenRequest{Role: pki.RoleNode, Name: "h1", Replace: true}), "h1")
	if err != nil {
		t.Fatal(err)
	}
	if err := errOf(f.as(anew).Report(t.Context(), reportOf(anew, t))); err != nil {
		t.Errorf("the new one: %v", err)
	}
	if err := errOf(f.as(old).Report(t.Context(), reportOf(old, t))); err == nil {
		t.Error("the one that was replaced is still heard")
	}
	wantCode(t, api.RenewFiles(t.Context(), []string{f.address}, old), mobyfs.CodeDenied)
}

func TestRenewalGivesAFreshKeyAlsoInTheGrace(t *testing.T) {
	f := newFleet(t, true)
	files, err := f.join(f.token(api.TokenRequest{Role: pki.RoleNode}), "h1")
	if err != nil {
		t.Fatal(err)
	}
	var keys []string
	for _, pass := range []time.Duration{0, pki.NodeLife / 2, pki.NodeLife + pki.Grace - time.Hour} {
		f.clock.advance(pass)
		key, err := os.ReadFile(files.Key)
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, string(key))
		if err := f.renew(files); err != nil {
			t.Fatalf("after %v: %v", pass, err)
		}
	}
	if keys[0] == keys[1] || keys[1] == keys[2] {
		t.Error("the key stayed the same")
	}
	f.clock.advance(pki.NodeLife + pki.Grace + time.Hour)
	wantCode(t, f.renew(files), mobyfs.CodeDenied)
}

func TestControlRenewsItself(t *testing.T) {
	f := newFleet(t, true)
	_, first, err := f.cfg.Identity.Identity()
	if err != nil {
		t.Fatal(err)
	}
	f.clock.advance(pki.LeafLife/2 + time.Hour)
	if err := f.control.keeper.round(t.Context()); err != nil {
		t.Fatal(err)
	}
	who, until, err := f.cfg.Identity.Identity()
	if err != nil || who.Role != pki.RoleControl || !until.After(first) {
		t.Errorf("control is %v until %v (before %v), %v", who, until, first, err)
	}
	if err := f.control.keeper.round(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, again, _ := f.cfg.Identity.Identity(); again != until {
		t.Error("it was renewed twice")
	}
}

func TestKeysInTheStoreAreSealed(t *testing.T) {
	f := newFleet(t, false)
	i := f.control.keeper
	if _, err := i.issuer(pki.IssuerNode); err != nil {
		t.Fatal(err)
	}
	i.seal = nil
	_, err := i.issuer(pki.IssuerNode)
	wantCode(t, err, mobyfs.CodeUnavailable)
	if hint := mobyfs.HintOf(err); hint == "" {
		t.Error("it does not say the way out")
	}
}
