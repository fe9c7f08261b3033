package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"net"
	"net/url"
	"os"
	"testing"
	"time"
)

// Whoever stole the key of one intermediate wants to be of a role that another certifies.
func TestAttackStolenIntermediateCertifiesNoOtherRole(t *testing.T) {
	a := authority(t, "shop")
	server, err := member(t, a, RoleControl, "control").ServerTLS()
	if err != nil {
		t.Fatal(err)
	}
	tries := 0
	for _, kind := range Kinds() {
		for _, other := range Kinds() {
			if other == kind {
				continue
			}
			for _, role := range other.roles() {
				thief := *a.Issuer(kind)
				thief.Kind = other // its rules are not those of whoever has the key
				id := Identity{"shop", role, "mallory"}
				for name, change := range map[string]func(*x509.Certificate){
					"as it should be":         func(*x509.Certificate) {},
					"with no DNS name":        func(c *x509.Certificate) { c.DNSNames = nil },
					"with its own DNS name":   func(c *x509.Certificate) { c.DNSNames = []string{ServerName(kind.roles()[0], "mallory")} },
					"as another intermediate": func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true },
				} {
					tries++
					if err := forgedIsRefused(t, a, &thief, id, server, change); err == "" {
						t.Errorf("the key of the intermediate %s made %s %s", kind, id, name)
					}
				}
			}
		}
	}
	t.Logf("%d certificates forged with stolen intermediates, all refused", tries)
}

// forgedIsRefused signs a certificate that the intermediate must not sign, connects with it, and tells why that failed.
func forgedIsRefused(t *testing.T, a *Authority, by *Issuer, id Identity, server *tls.Config, change func(*x509.Certificate)) string {
	t.Helper()
	f := FilesIn(t.TempDir(), "x")
	if _, err := f.NewRequest(); err != nil {
		t.Fatal(err)
	}
	key, err := loadKey(f.Key)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: serial(), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), URIs: []*url.URL{id.URI()},
		DNSNames: id.dnsNames(), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	change(tmpl)
	der, err := x509.CreateCertificate(rand.Reader, tmpl, by.cert, key.Public(), by.key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, f.Cert, append(encodeCert(der), by.CertPEM...))
	write(t, f.CA, a.CertPEM)
	var as string
	watched := server.Clone()
	inner := server.GetConfigForClient
	watched.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		c, err := inner(h)
		if err != nil {
			return nil, err
		}
		c.VerifyConnection = func(s tls.ConnectionState) error { // as the API does for each request
			who, err := PeerIdentity(&s)
			as = who.String()
			return err
		}
		return c, nil
	}
	client, err := f.ClientTLS(RoleControl, "control")
	if err != nil {
		t.Fatal(err)
	}
	if s, _ := handshake(t, watched, client); s != nil {
		return s.Error()
	}
	if as != id.String() {
		return "it was taken for " + as
	}
	return ""
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// A request that asks for more than a key gets nothing of it.
func TestAttackRequestAsksForMore(t *testing.T) {
	a := authority(t, "shop")
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject:     pkix.Name{CommonName: "operator/ana"},
		DNSNames:    []string{ServerName(RoleControl, "control"), "example.org"},
		IPAddresses: []net.IP{net.IPv4(10, 0, 0, 1)},
		URIs:        []*url.URL{{Scheme: "spiffe", Host: "shop", Path: "/operator/ana"}},
		ExtraExtensions: []pkix.Extension{
			{Id: []int{2, 5, 29, 19}, Critical: true, Value: []byte{0x30, 0x03, 0x01, 0x01, 0xff}},                           // CA:true
			{Id: []int{2, 5, 29, 37}, Value: []byte{0x30, 0x0a, 0x06, 0x08, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x03}}, // code signing
			{Id: []int{2, 5, 29, 15}, Critical: true, Value: []byte{0x03, 0x02, 0x01, 0x06}},                                 // signs certificates
		},
	}, key)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := a.Sign(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr}), Identity{"shop", RoleNode, "h1"})
	if err != nil {
		t.Fatal(err)
	}
	cert, err := parseCert(answer)
	if err != nil {
		t.Fatal(err)
	}
	who, err := IdentityOf(cert)
	if err != nil || who != (Identity{"shop", RoleNode, "h1"}) || len(cert.DNSNames) != 1 {
		t.Errorf("it became %v with the names %v, %v", who, cert.DNSNames, err)
	}
	if cert.IsCA || cert.KeyUsage != x509.KeyUsageDigitalSignature || len(cert.ExtKeyUsage) != 2 || len(cert.UnknownExtKeyUsage) != 0 {
		t.Errorf("it may do more than a node: CA %v, usage %v, extended %v", cert.IsCA, cert.KeyUsage, cert.ExtKeyUsage)
	}
	if len(cert.IPAddresses) != 1 || !cert.IPAddresses[0].IsLoopback() || cert.Subject.CommonName != "node/h1" {
		t.Errorf("it is good for %v, its name is %q", cert.IPAddresses, cert.Subject.CommonName)
	}
}

// A request whose signature is not that of its key proves nothing, and neither does one for a weak key.
func TestAttackRequestForAnothersKey(t *testing.T) {
	a := authority(t, "shop")
	csr, err := FilesIn(t.TempDir(), "x").NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(csr)
	block.Bytes[len(block.Bytes)-1] ^= 1
	if _, err := a.Sign(pem.EncodeToMemory(block), Identity{"shop", RoleNode, "h1"}); err == nil {
		t.Error("a request without proof of its key was signed")
	}
	weak, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, weak)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Sign(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), Identity{"shop", RoleNode, "h1"}); err == nil {
		t.Error("a request for a weak key was signed")
	}
}

// peer gives a new peer of the authority's store.
func peer(t *testing.T, a *Authority, name string) Files {
	t.Helper()
	f := PeerFiles(t.TempDir())
	csr, err := f.NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := a.Sign(csr, Identity{a.Cluster, RolePeer, name})
	if err == nil {
		err = f.Install(cert, a.CertPEM)
	}
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestPeersTrustPeersAlone(t *testing.T) {
	a, other := authority(t, "shop"), authority(t, "shop")
	server, err := peer(t, a, "h1").PeerTLS()
	if err != nil {
		t.Fatal(err)
	}
	client, err := peer(t, a, "h2").PeerTLS()
	if err != nil {
		t.Fatal(err)
	}
	if s, c := handshake(t, server, client); s != nil || c != nil {
		t.Fatalf("two peers: server %v, client %v", s, c)
	}
	for name, f := range map[string]Files{
		"a node": member(t, a, RoleNode, "h1"), "a dockerd": member(t, a, RoleDocker, "h1"), "control": member(t, a, RoleControl, "h1"),
		"an operator": member(t, a, RoleOperator, "ana"), "an admin": member(t, a, RoleAdmin, "ana"), "another cluster's peer": peer(t, other, "h2"),
	} {
		id, err := f.load()
		if err != nil {
			t.Fatal(err)
		}
		as := client.Clone()
		as.GetClientCertificate = f.clientCertificate
		if s, _ := handshake(t, server, as); s == nil {
			t.Errorf("the peer let in %s", name)
		}
		pretender := &tls.Config{Certificates: []tls.Certificate{id.cert}}
		if _, c := handshake(t, pretender, client); c == nil {
			t.Errorf("a peer took %s for a peer", name)
		}
	}
}

// A peer is nothing to the API: it has no rights there, and poses as no control.
func TestAttackPeerPosesAsControl(t *testing.T) {
	a := authority(t, "shop")
	f := member(t, a, RolePeer, "control")
	f.CA = member(t, a, RoleNode, "h1").CA
	server, err := f.ServerTLS()
	if err != nil {
		t.Fatal(err)
	}
	client, err := member(t, a, RoleNode, "h1").ClientTLS(RoleControl, "control")
	if err != nil {
		t.Fatal(err)
	}
	if _, c := handshake(t, server, client); c == nil {
		t.Error("a node took a peer for control")
	}
}

func TestNoSessionIsResumed(t *testing.T) {
	a := authority(t, "shop")
	server, err := member(t, a, RoleControl, "control").ServerTLS()
	if err != nil {
		t.Fatal(err)
	}
	client, err := member(t, a, RoleNode, "h1").ClientTLS(RoleControl, "control")
	if err != nil {
		t.Fatal(err)
	}
	client.ClientSessionCache = tls.NewLRUClientSessionCache(8)
	verify := client.VerifyConnection
	client.VerifyConnection = func(s tls.ConnectionState) error {
		if s.DidResume {
			t.Error("a session was resumed")
		}
		return verify(s)
	}
	for range 3 {
		if s, c := handshake(t, server, client); s != nil || c != nil {
			t.Fatalf("server %v, client %v", s, c)
		}
	}
}

func TestControlIsFoundUnderItsHostAndUnderTheCommonName(t *testing.T) {
	a := authority(t, "shop")
	server, err := member(t, a, RoleControl, "h1").ServerTLS()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{"h1": true, "control": true, "h2": false} {
		client, err := member(t, a, RoleNode, "h3").ClientTLS(RoleControl, name)
		if err != nil {
			t.Fatal(err)
		}
		if _, c := handshake(t, server, client); (c == nil) != want {
			t.Errorf("control/h1 asked for as %q: %v", name, c)
		}
	}
}
