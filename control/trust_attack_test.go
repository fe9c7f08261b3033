package control

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/api"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// somebody is a key without a certificate, and its request.
func somebody(t *testing.T) (pki.Files, string) {
	t.Helper()
	files := pki.FilesIn(t.TempDir(), "node")
	csr, err := files.NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	return files, string(csr)
}

// Each of these comes with a token that is not good for it. None is let in, and none uses the token up.
func TestAttackTokenOfAnother(t *testing.T) {
	f := newFleet(t, true)
	node := f.token(api.TokenRequest{Role: pki.RoleNode, Name: "h7"})
	parts := strings.Split(node, ".")
	as := func(role string) string {
		return strings.Join([]string{parts[0], role, parts[2], parts[3], parts[4]}, ".")
	}
	removed := f.token(api.TokenRequest{Role: pki.RoleNode})
	if err := f.person().RemoveToken(t.Context(), strings.Split(removed, ".")[2]); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		token, as string
		want      mobyfs.Code
	}{
		"for another name":        {node, "h8", mobyfs.CodeDenied},
		"from another network":    {f.token(api.TokenRequest{Role: pki.RoleNode, Network: "10.9.0.0/16"}), "h8", mobyfs.CodeDenied},
		"as an operator":          {as(pki.RoleOperator), "h7", mobyfs.CodeDenied},
		"as an admin":             {as(pki.RoleAdmin), "h7", mobyfs.CodeDenied},
		"as control":              {as(pki.RoleControl), "h7", mobyfs.CodeInvalid},
		"as a peer":               {as(pki.RolePeer), "h7", mobyfs.CodeInvalid},
		"as a dockerd":            {as(pki.RoleDocker), "h7", mobyfs.CodeInvalid},
		"with another secret":     {strings.Replace(node, parts[3], strings.Repeat("A", len(parts[3])), 1), "h7", mobyfs.CodeDenied},
		"with another's ID":       {strings.Replace(node, parts[2], "x", 1), "h7", mobyfs.CodeDenied},
		"with a path for an ID":   {strings.Replace(node, parts[2], "../node/h1", 1), "h7", mobyfs.CodeInvalid},
		"removed":                 {removed, "h7", mobyfs.CodeDenied},
		"with a path for a name":  {node, "../operator/ana", mobyfs.CodeInvalid},
		"with capitals in a name": {node, "H7", mobyfs.CodeInvalid},
		"cut short":               {node[:len(node)-9], "h7", mobyfs.CodeInvalid},
		"junk":                    {"junk", "h7", mobyfs.CodeInvalid},
	} {
		_, csr := somebody(t)
		c := doorClient(t, f)
		_, err := c.Enroll(t.Context(), api.EnrollRequest{Token: tc.token, Name: tc.as, Request: csr, Clock: f.clock.Now()})
		if mobyfs.CodeOf(err) != tc.want {
			t.Errorf("%s: got %v, want %v", name, err, tc.want)
		}
	}
	if _, err := f.join(node, "h7"); err != nil {
		t.Errorf("after all that the right one is refused: %v", err)
	}
}

func doorClient(t *testing.T, f *fleet) *api.Client {
	t.Helper()
	config, err := pki.DoorTLS(f.authority.CertPEM)
	if err != nil {
		t.Fatal(err)
	}
	c := api.NewClient([]string{f.address}, config)
	t.Cleanup(c.Close)
	return c
}

func TestAttackExpiredToken(t *testing.T) {
	f := newFleet(t, true)
	token := f.token(api.TokenRequest{Role: pki.RoleNode})
	f.clock.advance(tokenLife)
	_, err := f.join(token, "h7")
	wantCode(t, err, mobyfs.CodeDenied)
}

// Whoever saw a token that was used gets nothing with it, neither under the same name nor another.
func TestAttackTokenReplayed(t *testing.T) {
	f := newFleet(t, true)
	token := f.token(api.TokenRequest{Role: pki.RoleNode})
	files, err := f.join(token, "h7")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"h7", "h8"} {
		_, err := f.join(token, name)
		wantCode(t, err, mobyfs.CodeDenied)
	}
	_, err = api.Join(t.Context(), []string{f.address}, token, "h8", files, f.clock.Now) // its own key, another name
	wantCode(t, err, mobyfs.CodeDenied)
	f.clock.advance(tokenLife + tokenKept + time.Hour)
	if err := f.control.dropOldTokens(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, err = f.join(token, "h9")
	if err == nil {
		t.Error("the token was good again when it was forgotten")
	}
}

// Of many that come with one token at once, exactly one is let in.
func TestAttackRaceForOneToken(t *testing.T) {
	f := newFleet(t, true)
	token := f.token(api.TokenRequest{Role: pki.RoleNode})
	const racers = 16
	in := make(chan string, racers)
	var racing sync.WaitGroup
	for i := range racers {
		name := "r" + string(rune('a'+i))
		files := pki.FilesIn(t.TempDir(), "node")
		racing.Go(func() {
			_, err := api.Join(t.Context(), []string{f.address}, token, name, files, f.clock.Now)
			if err == nil {
				in <- name
			} else if mobyfs.CodeOf(err) != mobyfs.CodeDenied {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	racing.Wait()
	close(in)
	var won []string
	for name := range in {
		won = append(won, name)
	}
	nodes, err := f.person().Nodes(t.Context())
	if err != nil || len(won) != 1 || len(nodes) != 1 || nodes[0].Name != won[0] {
		t.Errorf("%v were let in, the nodes are %v, %v", won, nodes, err)
	}
}

// A man in the middle, who has a certificate of his own or even tells the true roots, does not get to see the secret.
func TestAttackManInTheMiddleOfAJoin(t *testing.T) {
	f := newFleet(t, true)
	token := f.token(api.TokenRequest{Role: pki.RoleNode})
	evil, err := pki.NewAuthority(t.TempDir(), "shop")
	if err != nil {
		t.Fatal(err)
	}
	for name, roots := range map[string][]byte{"his own roots": evil.CertPEM, "the true roots": f.authority.CertPEM, "both": slices.Concat(evil.CertPEM, f.authority.CertPEM)} {
		heard := &recorder{roots: string(roots), now: f.clock.Now()}
		address := heard.serve(t, f.files(evil, pki.RoleControl, "control"))
		files := pki.FilesIn(t.TempDir(), "node")
		_, err := api.Join(t.Context(), []string{address}, token, "h7", files, f.clock.Now)
		if err == nil {
			t.Errorf("%s: the join succeeded", name)
		}
		secret := strings.Split(token, ".")[3]
		if heard.saw(secret) {
			t.Errorf("%s: the secret was told", name)
		}
		if heard.saw("") == false {
			t.Errorf("%s: nobody asked him, the test tests nothing", name)
		}
	}
	if _, err := f.join(token, "h7"); err != nil {
		t.Errorf("after that the token is not good any more: %v", err)
	}
}

// recorder is a control that is none, and remembers what it was told.
type recorder struct {
	roots string
	now   time.Time
	mu    sync.Mutex
	heard []string
}

func (r *recorder) saw(secret string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.ContainsFunc(r.heard, func(s string) bool { return strings.Contains(s, secret) })
}

func (r *recorder) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	body, _ := io.ReadAll(q.Body)
	r.mu.Lock()
	r.heard = append(r.heard, q.URL.String()+string(body))
	r.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	_, _ = io.WriteString(w, `{"cluster":"shop","issuing":"x","now":"`+r.now.Format(time.RFC3339Nano)+`","roots":"`+strings.ReplaceAll(r.roots, "\n", `\n`)+`"}`)
}

func (r *recorder) serve(t *testing.T, files pki.Files) string {
	t.Helper()
	config, err := files.ControlTLS()
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(r)
	_ = s.Listener.Close()
	s.Listener = tls.NewListener(l, config)
	s.Start()
	t.Cleanup(s.Close)
	return l.Addr().String()
}

// Behind the door, where no certificate is asked for, there is nothing else.
func TestAttackThroughTheDoor(t *testing.T) {
	f := newFleet(t, true)
	f.node("h1")
	v := f.ready("pgdata", "h1")
	c := doorClient(t, f)
	for name, ask := range calls(mobyfs.Volume{ID: v.ID, Name: v.Name, Migration: &mobyfs.Migration{ID: "m"}}) {
		wantCode(t, ask(t.Context(), outside{c}), mobyfs.CodeDenied)
		_ = name
	}
	for name, err := range map[string]error{
		"tokens": errOf(c.Tokens(t.Context())), "token": errOf(c.CreateToken(t.Context(), api.TokenRequest{Role: pki.RoleNode})),
		"rotate": errOf(c.Rotate(t.Context(), nil)), "evict": c.Evict(t.Context(), pki.RoleNode, "h1", ""),
	} {
		if mobyfs.CodeOf(err) != mobyfs.CodeDenied {
			t.Errorf("%s through the door: %v", name, err)
		}
	}
}

// outside is a client over the wire as the tests of rights see it.
type outside struct{ *api.Client }

func errOf[T any](_ T, err error) error { return err }

// Nodes, viewers and auditors let nobody in and shut nobody out.
func TestAttackInvitingWithoutTheRight(t *testing.T) {
	f := newFleet(t, true)
	for _, role := range []string{pki.RoleNode, pki.RoleViewer, pki.RoleAuditor, pki.RoleDocker, pki.RoleControl} {
		c := f.client(f.authority, role, "h1")
		for name, err := range map[string]error{
			"create": errOf(c.CreateToken(t.Context(), api.TokenRequest{Role: pki.RoleOperator})), "list": errOf(c.Tokens(t.Context())),
			"remove": c.RemoveToken(t.Context(), "some-token"), "rotate": errOf(c.Rotate(t.Context(), nil)), "evict": c.Evict(t.Context(), pki.RoleNode, "h2", ""),
		} {
			if mobyfs.CodeOf(err) != mobyfs.CodeDenied {
				t.Errorf("%s: %s: %v", role, name, err)
			}
		}
	}
}

// Whoever has seen somebody's certificate, but not the key, can't have it renewed; nor has a role renewed that is not
// renewed in this way.
func TestAttackRenewalByAnother(t *testing.T) {
	f := newFleet(t, true)
	victim := f.files(f.authority, pki.RoleNode, "h1")
	thief := f.files(f.authority, pki.RoleNode, "h2")
	chain, err := os.ReadFile(victim.Cert)
	if err != nil {
		t.Fatal(err)
	}
	mine, err := thief.Renew()
	if err != nil {
		t.Fatal(err)
	}
	his, err := victim.Renew()
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := pki.NewAuthority(t.TempDir(), "shop")
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := f.files(stranger, pki.RoleNode, "h1").Renew()
	if err != nil {
		t.Fatal(err)
	}
	tries := map[string]pki.Renewal{
		"another's certificate, own proof":     {Chain: string(chain), Request: mine.Request, Proof: mine.Proof},
		"another's renewal, for an own key":    {Chain: his.Chain, Request: mine.Request, Proof: his.Proof},
		"no proof":                             {Chain: his.Chain, Request: his.Request},
		"a certificate of another authority":   foreign.Renewal,
		"an intermediate in place of the leaf": {Chain: string(f.authority.Issuer(pki.IssuerNode).CertPEM), Request: mine.Request, Proof: mine.Proof},
		"no certificate":                       {Request: mine.Request, Proof: mine.Proof},
		"a hundred certificates":               {Chain: strings.Repeat(string(chain), 50), Request: his.Request, Proof: his.Proof},
		"a request that is none":               {Chain: his.Chain, Request: "junk", Proof: his.Proof},
		"the root as if it were a member":      {Chain: string(f.authority.CertPEM), Request: mine.Request, Proof: mine.Proof},
	}
	for _, role := range []string{pki.RoleControl, pki.RoleDocker, pki.RolePeer} {
		r, err := f.files(f.authority, role, "h1").Renew()
		if err != nil {
			t.Fatal(err)
		}
		tries["the role "+role] = r.Renewal
	}
	c := doorClient(t, f)
	for name, r := range tries {
		_, err := c.Renew(t.Context(), r)
		if mobyfs.CodeOf(err) != mobyfs.CodeDenied {
			t.Errorf("%s: got %v, want denied", name, err)
		}
	}
	// A renewal that somebody repeats gives a certificate for a key that he does not have.
	for range 2 {
		cert, err := c.Renew(t.Context(), his.Renewal)
		if err != nil {
			t.Fatal(err)
		}
		if err := thief.Install([]byte(cert.Chain), []byte(cert.Roots)); err == nil {
			t.Error("the thief has a key for the certificate")
		}
	}
	if len(tries) < 12 {
		t.Errorf("only %d tries", len(tries))
	}
}

// A person whose certificate has expired has no grace.
func TestAttackExpiredOperator(t *testing.T) {
	f := newFleet(t, false)
	files := f.files(f.authority, pki.RoleOperator, "ana")
	f.clock.advance(pki.LeafLife + time.Minute)
	wantCode(t, f.renew(files), mobyfs.CodeDenied)
}

// Eviction takes effect on the connection that is open, while a watch streams over it, on new connections, on resumed
// ones, and when the certificate is to be renewed.
func TestAttackEvictedNodeGoesOn(t *testing.T) {
	t.Run("over HTTP/2", func(t *testing.T) { attackEvictedNodeGoesOn(t, api.NewClient) })
	t.Run("over a link", func(t *testing.T) { attackEvictedNodeGoesOn(t, api.NewAgentClient) })
}

func attackEvictedNodeGoesOn(t *testing.T, newClient func([]string, *tls.Config) *api.Client) {
	t.Helper()
	f := newFleet(t, true)
	files, err := f.join(f.token(api.TokenRequest{Role: pki.RoleNode}), "h1")
	if err != nil {
		t.Fatal(err)
	}
	config, err := files.ClientTLS(pki.RoleControl, "control")
	if err != nil {
		t.Fatal(err)
	}
	config.ClientSessionCache = tls.NewLRUClientSessionCache(8)
	c := newClient([]string{f.address}, config)
	defer c.Close()
	if err := errOf(c.Report(t.Context(), reportOf(files, t))); err != nil {
		t.Fatal(err)
	}
	watching, ended := make(chan struct{}), make(chan time.Time, 1)
	var once sync.Once
	go func() {
		_ = c.Watch(t.Context(), func(mobyfs.Change) { once.Do(func() { close(watching) }) })
		ended <- time.Now()
	}()
	<-watching
	begun := time.Now()
	if err := f.person().Evict(t.Context(), pki.RoleNode, "h1", "stolen"); err != nil {
		t.Fatal(err)
	}
	select {
	case at := <-ended:
		t.Logf("the live connection was cut %v after the eviction was asked for", at.Sub(begun).Round(100*time.Microsecond))
		if cut := at.Sub(begun); cut > time.Second {
			t.Errorf("its watch went on for %v", cut)
		}
	case <-time.After(time.Minute):
		t.Fatal("its watch goes on")
	}
	for name, err := range map[string]error{
		"the old client": errOf(c.Report(t.Context(), reportOf(files, t))), "a new client": errOf(f.as(files).Report(t.Context(), reportOf(files, t))),
		"a renewal": api.RenewFiles(t.Context(), []string{f.address}, files),
	} {
		if err == nil {
			t.Errorf("%s is answered", name)
		}
	}
	f.restart()
	if err := errOf(f.as(files).Report(t.Context(), reportOf(files, t))); err == nil {
		t.Error("after a restart of control it is heard again")
	}
	f.clock.advance(time.Second)
	anew, err := f.join(f.token(api.TokenRequest{Role: pki.RoleNode, Name: "h1"}), "h1")
	if err != nil {
		t.Fatalf("let in again: %v", err)
	}
	if err := errOf(f.as(anew).Report(t.Context(), reportOf(anew, t))); err != nil {
		t.Errorf("let in again it is not heard: %v", err)
	}
	if err := errOf(f.as(files).Report(t.Context(), reportOf(files, t))); err == nil {
		t.Error("with the old certificate it is heard again")
	}
}

// The old certificate may be much used at the moment of eviction: no call that begins after it is answered.
func TestAttackEvictedNodeInFullFlight(t *testing.T) {
	f := newFleet(t, true)
	files, err := f.join(f.token(api.TokenRequest{Role: pki.RoleNode}), "h1")
	if err != nil {
		t.Fatal(err)
	}
	var out, flying sync.WaitGroup
	out.Add(1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for range 8 {
		c := f.as(files)
		flying.Go(func() {
			for ctx.Err() == nil {
				_ = errOf(c.Report(ctx, reportOf(files, t)))
			}
		})
	}
	if err := f.person().Evict(t.Context(), pki.RoleNode, "h1", ""); err != nil {
		t.Fatal(err)
	}
	for range 50 {
		if err := errOf(f.as(files).Report(t.Context(), reportOf(files, t))); err == nil {
			t.Fatal("a call that began after the eviction was answered")
		}
	}
	cancel()
	flying.Wait()
	out.Done()
}

// A joiner whose clock is far off is told so, before it says anything and by control as well.
func TestJoinRefusesClocksFarApart(t *testing.T) {
	f := newFleet(t, true)
	token := f.token(api.TokenRequest{Role: pki.RoleNode})
	for apart, word := range map[time.Duration]string{10 * time.Minute: "ahead of", -10 * time.Minute: "behind"} {
		off := func() time.Time { return f.clock.Now().Add(apart) }
		_, err := api.Join(t.Context(), []string{f.address}, token, "h7", pki.FilesIn(t.TempDir(), "node"), off)
		wantCode(t, err, mobyfs.CodeInvalid)
		if err == nil || !strings.Contains(err.Error(), word) || !strings.Contains(mobyfs.HintOf(err), "timedatectl") {
			t.Errorf("%v apart: %v; hint %q", apart, err, mobyfs.HintOf(err))
		}
		_, csr := somebody(t)
		_, err = doorClient(t, f).Enroll(t.Context(), api.EnrollRequest{Token: token, Name: "h7", Request: csr, Clock: off()})
		wantCode(t, err, mobyfs.CodeInvalid)
	}
	apart, err := api.Join(t.Context(), []string{f.address}, token, "h7", pki.FilesIn(t.TempDir(), "node"), func() time.Time { return f.clock.Now().Add(-2 * time.Minute) })
	if err != nil || apart < 119*time.Second || apart > 121*time.Second {
		t.Errorf("2 minutes behind: %v, %v", apart, err)
	}
}
