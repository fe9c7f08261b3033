package pki

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"net/url"
	"os"
	"testing"
	"time"
)

// asDocker connects as dockerd does: it checks the address it calls, not a name, and speaks TLS 1.2 at least.
func asDocker(t *testing.T, f Files) *tls.Config {
	t.Helper()
	id, err := f.load()
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: id.roots, ServerName: Loopback, Certificates: []tls.Certificate{id.cert}}
}

func TestC23OnlyTheDockerdOfThisNodeIsLetIn(t *testing.T) {
	a, other := authority(t, "shop"), authority(t, "shop")
	node, own := member(t, a, RoleNode, "h1"), member(t, a, RoleDocker, "h1")
	server, err := node.DockerTLS(Identity{"shop", RoleDocker, "h1"}, own)
	if err != nil {
		t.Fatal(err)
	}
	good := asDocker(t, own)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		client := good.Clone()
		client.MaxVersion = version
		if s, c := handshake(t, server, client); s != nil || c != nil {
			t.Errorf("its own dockerd with %s: server %v, client %v", tls.VersionName(version), s, c)
		}
	}
	foreign := asDocker(t, member(t, other, RoleDocker, "h1"))
	foreign.RootCAs = good.RootCAs // the stranger does believe this server
	old := good.Clone()
	old.MaxVersion = tls.VersionTLS11
	old.MinVersion = tls.VersionTLS10
	none := good.Clone()
	none.Certificates = nil
	for name, client := range map[string]*tls.Config{
		"another authority":         foreign,
		"another node's dockerd":    asDocker(t, member(t, a, RoleDocker, "h2")),
		"the node itself":           asDocker(t, node),
		"another node":              asDocker(t, member(t, a, RoleNode, "h2")),
		"an operator":               asDocker(t, member(t, a, RoleOperator, "ana")),
		"control":                   asDocker(t, member(t, a, RoleControl, "control")),
		"no certificate":            none,
		"an expired certificate":    asDocker(t, expired(t, a, Identity{"shop", RoleDocker, "h1"})),
		"a version that is too old": old,
	} {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			client := client.Clone()
			if client.MaxVersion == 0 {
				client.MaxVersion = version
			}
			if s, _ := handshake(t, server, client); s == nil {
				t.Errorf("%s was let in with %s", name, tls.VersionName(version))
			}
		}
	}
}

func TestC23DockerTakesNobodyElseForItsDriver(t *testing.T) {
	a, other := authority(t, "shop"), authority(t, "shop")
	client := asDocker(t, member(t, a, RoleDocker, "h1"))
	for name, f := range map[string]Files{
		"another authority's node": member(t, other, RoleNode, "h1"),
		"a dockerd":                member(t, a, RoleDocker, "h1"),
		"an operator":              member(t, a, RoleOperator, "ana"),
		"control":                  member(t, a, RoleControl, "control"),
	} {
		server, err := f.ServerTLS()
		if err != nil {
			t.Fatal(err)
		}
		server.MinVersion = tls.VersionTLS12
		if _, c := handshake(t, server, client); c == nil {
			t.Errorf("dockerd took %s for its driver", name)
		}
	}
}

func TestC23RenewedServerCertificateNeedsNoNewClient(t *testing.T) {
	a := authority(t, "shop")
	node, own := member(t, a, RoleNode, "h1"), member(t, a, RoleDocker, "h1")
	server, err := node.DockerTLS(Identity{"shop", RoleDocker, "h1"}, own)
	if err != nil {
		t.Fatal(err)
	}
	client := asDocker(t, own)
	seen := map[string]bool{}
	client.VerifyConnection = func(s tls.ConnectionState) error {
		seen[s.PeerCertificates[0].SerialNumber.String()] = true
		return nil
	}
	for range 2 {
		if s, c := handshake(t, server, client); s != nil || c != nil {
			t.Fatalf("server %v, client %v", s, c)
		}
		csr, err := node.NewRequest()
		if err != nil {
			t.Fatal(err)
		}
		cert, err := a.Sign(csr, Identity{"shop", RoleNode, "h1"})
		if err == nil {
			err = node.Install(cert, a.CertPEM)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if len(seen) != 2 {
		t.Errorf("the client saw %d certificates, want 2", len(seen))
	}
}

// dockerd read its certificate and the root once. The driver is renewed below another root meanwhile, and forgets the old
// one; both go on believing each other, and nobody else is let in by it.
func TestC23DockerOutlivesTheRootItBeganWith(t *testing.T) {
	dir := t.TempDir()
	a, err := NewAuthority(dir, "shop")
	if err != nil {
		t.Fatal(err)
	}
	node, own := member(t, a, RoleNode, "h1"), member(t, a, RoleDocker, "h1")
	began, other := asDocker(t, own), asDocker(t, member(t, a, RoleDocker, "h1"))
	server, err := node.DockerTLS(Identity{"shop", RoleDocker, "h1"}, own)
	if err != nil {
		t.Fatal(err)
	}
	next, err := NextAuthority(dir, a)
	if err != nil {
		t.Fatal(err)
	}
	r, err := node.Renew()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := next.Sign([]byte(r.Request), Identity{"shop", RoleNode, "h1"})
	if err == nil {
		err = r.Install(cert, next.RootPEM())
	}
	if err != nil {
		t.Fatal(err)
	}
	if s, c := handshake(t, server, began); s != nil || c != nil {
		t.Errorf("the dockerd that was there before: server %v, client %v", s, c)
	}
	if s, _ := handshake(t, server, other); s == nil {
		t.Error("another certificate below the old root was let in")
	}
}

func TestDockersCertificateLastsAsLongAsTheAuthority(t *testing.T) {
	a := authority(t, "shop")
	_, until, err := member(t, a, RoleDocker, "h1").Identity()
	if err != nil {
		t.Fatal(err)
	}
	if until.After(a.cert.NotAfter) || a.cert.NotAfter.Sub(until) > time.Minute {
		t.Errorf("it lasts until %v, the authority until %v", until, a.cert.NotAfter)
	}
}

// expired gives an identity whose time is over.
func expired(t *testing.T, a *Authority, id Identity) Files {
	t.Helper()
	f := member(t, a, id.Role, id.Name)
	key, err := loadKey(f.Key)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: serial(), NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(-time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, URIs: []*url.URL{id.URI()}, DNSNames: id.dnsNames(),
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.Issuer(IssuerNode).cert, key.Public(), a.Issuer(IssuerNode).key)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(f.Cert, append(encodeCert(der), a.Issuer(IssuerNode).CertPEM...), 0o600); err != nil {
		t.Fatal(err)
	}
	return f
}
