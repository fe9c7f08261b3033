package pki

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// member gives a new identity of the authority's cluster.
func member(t *testing.T, a *Authority, role, name string) Files {
	t.Helper()
	f := FilesIn(t.TempDir(), name)
	csr, err := f.NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := a.Sign(csr, Identity{Cluster: a.Cluster, Role: role, Name: name})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Install(cert, a.CertPEM); err != nil {
		t.Fatal(err)
	}
	return f
}

func authority(t *testing.T, cluster string) *Authority {
	t.Helper()
	a, err := NewAuthority(t.TempDir(), cluster)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// handshake connects client to server over loopback and returns the error that each end saw.
func handshake(t *testing.T, server, client *tls.Config) (serverErr, clientErr error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	done := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			done <- err
			return
		}
		defer c.Close()
		tc := tls.Server(c, server)
		if err := tc.Handshake(); err != nil {
			done <- err
			return
		}
		_, err = tc.Write([]byte("ok"))
		done <- err
	}()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	tc := tls.Client(conn, client)
	_, clientErr = io.ReadAll(tc) // TLS 1.3: a refused client certificate shows at the first read
	return <-done, clientErr
}

func TestMembersOfOneClusterTrustEachOther(t *testing.T) {
	a := authority(t, "shop")
	server, err := member(t, a, RoleControl, "control").ServerTLS()
	if err != nil {
		t.Fatal(err)
	}
	client, err := member(t, a, RoleNode, "h1").ClientTLS(RoleControl, "control")
	if err != nil {
		t.Fatal(err)
	}
	if s, c := handshake(t, server, client); s != nil || c != nil {
		t.Errorf("handshake: server %v, client %v", s, c)
	}
}

func TestStrangersAreRefused(t *testing.T) {
	a, other := authority(t, "shop"), authority(t, "shop")
	node := member(t, a, RoleNode, "h1")
	server, _ := member(t, a, RoleControl, "control").ServerTLS()
	foreign, _ := member(t, other, RoleNode, "h1").ClientTLS(RoleControl, "control")
	foreign.VerifyConnection = nil // the stranger does not care whom it speaks to
	if s, _ := handshake(t, server, foreign); s == nil {
		t.Error("the server let in a certificate of another authority with the same cluster name")
	}
	anonymous := &tls.Config{InsecureSkipVerify: true}
	if s, _ := handshake(t, server, anonymous); s == nil {
		t.Error("the server let in a client without a certificate")
	}
	wrongRole, _ := member(t, a, RoleNode, "h2").ServerTLS()
	client, _ := node.ClientTLS(RoleControl, "control")
	if _, c := handshake(t, wrongRole, client); c == nil {
		t.Error("the client took a node for control")
	}
}

func TestOperatorsCantServe(t *testing.T) {
	a := authority(t, "shop")
	server, _ := member(t, a, RoleOperator, "ana").ServerTLS()
	client, _ := member(t, a, RoleNode, "h1").ClientTLS(RoleOperator, "ana")
	if _, c := handshake(t, server, client); c == nil {
		t.Error("a client took an operator's certificate for a server's")
	}
}

func TestAuthorityIgnoresWhatTheRequestSays(t *testing.T) {
	a := authority(t, "shop")
	f := member(t, a, RoleNode, "h1")
	who, until, err := f.Identity()
	if err != nil {
		t.Fatal(err)
	}
	if want := (Identity{"shop", RoleNode, "h1"}); who != want {
		t.Errorf("got %v, want %v", who, want)
	}
	if left := time.Until(until); left > NodeLife || left < NodeLife-time.Minute {
		t.Errorf("the certificate lasts %v, want %v", left, NodeLife)
	}
	if _, err := a.Sign([]byte("junk"), Identity{"shop", RoleNode, "h1"}); err == nil {
		t.Error("junk was signed")
	}
}

func TestAuthorityIsMadeOnce(t *testing.T) {
	dir := t.TempDir()
	first, err := NewAuthority(dir, "shop")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "ca.crt")); err != nil { // killed between key and certificate
		t.Fatal(err)
	}
	second, err := NewAuthority(dir, "shop")
	if err != nil {
		t.Fatal(err)
	}
	if first.Fingerprint() != second.Fingerprint() {
		t.Error("the authority's key changed")
	}
	if _, err := NewAuthority(dir, "other"); err == nil {
		t.Error("the authority of one cluster was taken for another's")
	}
	info, err := os.Stat(filepath.Join(dir, "ca.key"))
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("ca.key has mode %v, want 0600", info.Mode().Perm())
	}
}

func TestAuthorityWhoseKeyWasTakenAwayIsNotMadeAnew(t *testing.T) {
	dir := t.TempDir()
	first, err := NewAuthority(dir, "shop")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "ca.key")); err != nil {
		t.Fatal(err)
	}
	if _, err := NewAuthority(dir, "shop"); err == nil {
		t.Error("another authority was made")
	}
	if cert, err := os.ReadFile(filepath.Join(dir, "ca.crt")); err != nil || string(cert) != string(first.CertPEM) {
		t.Errorf("the certificate has changed, %v", err)
	}
}

// Killed at any write of a renewal, the files hold an identity that works: the old one or the new one.
func TestRenewalKilledAnywhereLeavesAnIdentity(t *testing.T) {
	a := authority(t, "shop")
	for k := range 5 {
		f := member(t, a, RoleNode, "h1")
		r, err := f.Renew()
		if err != nil {
			t.Fatal(err)
		}
		cert, err := a.Sign([]byte(r.Request), Identity{"shop", RoleNode, "h1"})
		if err != nil {
			t.Fatal(err)
		}
		left := k
		failed := errors.New("killed")
		err = r.install(cert, a.CertPEM, func(moment, path string, data []byte, mode os.FileMode) error {
			if left--; left < 0 {
				return failed
			}
			return os.WriteFile(path, data, mode)
		})
		if (k < 4) != (err != nil) {
			t.Errorf("after %d writes: %v", k, err)
		}
		if who, _, err := f.Identity(); err != nil || who.Name != "h1" {
			t.Errorf("killed after %d writes the files hold %v, %v", k, who, err)
		}
		if again, err := f.Renew(); err != nil || again.Chain == "" {
			t.Errorf("killed after %d writes it can't be renewed: %v", k, err)
		}
	}
}

func TestRenewalsAreSpreadAroundHalfTheLife(t *testing.T) {
	a := authority(t, "shop")
	chain, err := member(t, a, RoleNode, "h1").Chain()
	if err != nil {
		t.Fatal(err)
	}
	begin := chain[0].NotBefore.Add(backdate)
	for draw, want := range map[float64]time.Duration{0: 45 * NodeLife / 100, 0.5: NodeLife / 2, 1: 55 * NodeLife / 100} {
		if got := RenewAt(chain[0], func() float64 { return draw }).Sub(begin); (got - want).Abs() > time.Second {
			t.Errorf("with %v drawn it is renewed after %v, want %v", draw, got, want)
		}
	}
}

func TestInstallRefusesAnothersCertificate(t *testing.T) {
	a := authority(t, "shop")
	h1, h2 := member(t, a, RoleNode, "h1"), member(t, a, RoleNode, "h2")
	cert, err := os.ReadFile(h2.Cert)
	if err != nil {
		t.Fatal(err)
	}
	if err := h1.Install(cert, a.CertPEM); err == nil {
		t.Error("h1 installed the certificate of h2")
	}
	if who, _, err := h1.Identity(); err != nil || who.Name != "h1" {
		t.Errorf("after the refusal h1 is %v (%v)", who, err)
	}
}

func TestTokens(t *testing.T) {
	a, other := authority(t, "shop"), authority(t, "shop")
	control, node := member(t, a, RoleControl, "control"), member(t, a, RoleNode, "h1")
	stranger := member(t, other, RoleControl, "control")
	type body struct{ N int }
	sign := func(f Files, life time.Duration) string {
		s, err := f.SignToken(body{7}, life)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	good := sign(control, time.Minute)
	var got body
	if err := node.OpenToken(good, RoleControl, &got); err != nil || got.N != 7 {
		t.Errorf("a good token: got %v, %v", got, err)
	}
	parts := strings.Split(good, ".")
	for name, bad := range map[string]string{
		"signed by a node":             sign(node, time.Minute),
		"signed by another authority":  sign(stranger, time.Minute),
		"expired":                      sign(control, -time.Minute),
		"body changed":                 parts[0] + "." + strings.Split(sign(control, time.Hour), ".")[1] + "." + parts[2],
		"signature cut":                parts[0] + "." + parts[1] + ".",
		"algorithm none, no signature": "eyJhbGciOiJub25lIn0." + parts[1] + ".",
		"empty":                        "",
	} {
		if err := node.OpenToken(bad, RoleControl, &got); err == nil {
			t.Errorf("%s: the token was accepted", name)
		}
	}
}

// A peer that is certified in the middle of a rotation trusts the intermediates of the phase, whichever of them signs.
func TestPeerCertifiedInARotationTrustsBothIntermediates(t *testing.T) {
	dir := t.TempDir()
	a, err := NewAuthority(dir, "shop")
	if err != nil {
		t.Fatal(err)
	}
	next, err := NextAuthority(dir, a)
	if err != nil {
		t.Fatal(err)
	}
	was, will := a.Issuer(IssuerPeer), next.Issuer(IssuerPeer)
	if bytes.Equal(was.OwnPEM(), will.OwnPEM()) {
		t.Fatal("the next authority has the intermediate of peers of the one before")
	}
	both := append(bytes.Clone(was.OwnPEM()), will.OwnPEM()...)
	certify := func(signing *Issuer, trusts int) Files {
		t.Helper()
		if err := PeerFiles(dir).SetRoots(both); err != nil {
			t.Fatal(err)
		}
		if trusts == 1 {
			if err := PeerFiles(dir).SetRoots(will.OwnPEM()); err != nil {
				t.Fatal(err)
			}
		}
		now, err := OpenAuthority(dir)
		if err != nil {
			t.Fatal(err)
		}
		f := PeerFiles(t.TempDir())
		csr, err := f.NewRequest()
		if err != nil {
			t.Fatal(err)
		}
		cert, err := now.Sign(csr, Identity{"shop", RolePeer, "h2"})
		if err == nil {
			err = f.Install(cert, now.CertPEM)
		}
		if err != nil {
			t.Fatal(err)
		}
		trusted, err := os.ReadFile(f.CA)
		if _, issuer, e := f.HeldByPeer(); err != nil || e != nil || len(Roots(trusted)) != trusts || issuer != fingerprint(signing.cert) {
			t.Errorf("it trusts %d intermediates, want %d; its certificate is of %.8s…: %v", len(Roots(trusted)), trusts, issuer, errors.Join(err, e))
		}
		return f
	}
	old := certify(was, 2)
	if err := Trust(dir, append(bytes.Clone(next.RootPEM()), a.RootPEM()...), next.Fingerprint()); err != nil {
		t.Fatal(err)
	}
	certify(will, 2)
	certify(will, 1)

	key, err := os.ReadFile(old.Key)
	if err == nil {
		err = old.Recertify(will, time.Now())
	}
	if err != nil {
		t.Fatal(err)
	}
	if after, err := os.ReadFile(old.Key); err != nil || !bytes.Equal(after, key) {
		t.Errorf("certified anew the key is another one: %v", err)
	}
	if trust, issuer, err := old.HeldByPeer(); err != nil || issuer != fingerprint(will.cert) || trust != TrustID(both) {
		t.Errorf("certified anew it holds %s of %s: %v", trust, issuer, err)
	}
}
