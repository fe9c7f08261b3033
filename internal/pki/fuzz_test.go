package pki

import (
	"crypto/x509"
	"encoding/pem"
	"strings"
	"testing"
	"time"
)

// FuzzInvitation: a text is a token to join with, word for word, or it is refused without telling what it held.
func FuzzInvitation(f *testing.F) {
	a, err := NewAuthority(f.TempDir(), "shop")
	if err != nil {
		f.Fatal(err)
	}
	good, err := NewInvitation(RoleNode, "01abc", a.CertPEM)
	if err != nil {
		f.Fatal(err)
	}
	for _, text := range []string{good.String(), " " + good.String() + "\n", "mby1....", "mby2.node.x.y.z", strings.Repeat(".", 99), good.String() + ".x"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		i, err := ParseInvitation(text)
		if err != nil {
			if strings.Contains(err.Error(), good.Secret) || len(err.Error()) > 200 {
				t.Fatalf("%q is refused with %q", text, err)
			}
			return
		}
		if i.String() != strings.TrimSpace(text) || i.Role == "" || i.ID == "" {
			t.Fatalf("%q is read as %q", text, i)
		}
		if i.Is(good.Hash()) != (i.Secret == good.Secret) {
			t.Fatalf("the secret of %q passes for another", text)
		}
		if root, err := i.Pinned(a.CertPEM); (err == nil) != (i.Pin == good.Pin) || err == nil && len(root) == 0 {
			t.Fatalf("%q pins %q, %v", text, root, err)
		}
	})
}

// FuzzRequest: of a certificate request nothing counts but its key, and that it is there.
func FuzzRequest(f *testing.F) {
	a, err := NewAuthority(f.TempDir(), "shop")
	if err != nil {
		f.Fatal(err)
	}
	csr, err := FilesIn(f.TempDir(), "x").NewRequest()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(csr)
	f.Add([]byte("-----BEGIN CERTIFICATE REQUEST-----\nMA==\n-----END CERTIFICATE REQUEST-----\n"))
	f.Add(a.CertPEM)
	id := Identity{"shop", RoleNode, "h1"}
	f.Fuzz(func(t *testing.T, text []byte) {
		if _, err := KeyID(text); err != nil {
			if chain, err := a.Sign(text, id); err == nil {
				t.Fatalf("%q can't be read and is signed: %q", text, chain)
			}
			return
		}
		chain, err := a.Sign(text, id)
		if err != nil {
			t.Fatalf("%q can be read and not signed: %v", text, err)
		}
		cert, err := parseCert(chain)
		if err != nil {
			t.Fatal(err)
		}
		if who, err := IdentityOf(cert); err != nil || who != id || cert.IsCA || len(cert.DNSNames) != 1 || len(cert.URIs) != 1 {
			t.Fatalf("%q became %v, %v, with the names %v", text, who, err, cert.DNSNames)
		}
	})
}

// FuzzTicket: no text but one that control signed opens as a ticket.
func FuzzTicket(f *testing.F) {
	a, err := NewAuthority(f.TempDir(), "shop")
	if err != nil {
		f.Fatal(err)
	}
	files := func(role string) Files {
		files := FilesIn(f.TempDir(), "x")
		csr, err := files.NewRequest()
		if err == nil {
			var cert []byte
			if cert, err = a.Sign(csr, Identity{"shop", role, "h1"}); err == nil {
				err = files.Install(cert, a.CertPEM)
			}
		}
		if err != nil {
			f.Fatal(err)
		}
		return files
	}
	control, node := files(RoleControl), files(RoleNode)
	good, err := control.SignToken("volume v1", time.Hour)
	if err != nil {
		f.Fatal(err)
	}
	others, err := node.SignToken("volume v1", time.Hour)
	if err != nil {
		f.Fatal(err)
	}
	signed := good[:strings.LastIndex(good, ".")] // its signature may be written in more than one way
	for _, text := range []string{good, others, good[:len(good)-1], signed + ".", "..", "e30.e30.", "eyJhbGciOiJub25lIn0.e30."} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var payload string
		if err := node.OpenToken(text, RoleControl, &payload); err == nil && !strings.HasPrefix(text, signed+".") {
			t.Fatalf("%q opens as %q", text, payload)
		}
	})
}

// FuzzIdentity: a certificate says who somebody is in one way, or it says nothing.
func FuzzIdentity(f *testing.F) {
	a, err := NewAuthority(f.TempDir(), "shop")
	if err != nil {
		f.Fatal(err)
	}
	for _, role := range []string{RoleNode, RoleControl, RoleOperator, RolePeer} {
		csr, err := FilesIn(f.TempDir(), "x").NewRequest()
		if err != nil {
			f.Fatal(err)
		}
		chain, err := a.Sign(csr, Identity{"shop", role, "h1"})
		if err != nil {
			f.Fatal(err)
		}
		block, _ := pem.Decode(chain)
		f.Add(block.Bytes)
	}
	f.Fuzz(func(t *testing.T, der []byte) {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return
		}
		who, err := IdentityOf(cert)
		if err != nil {
			return
		}
		if who.Name == "" || len(cert.URIs) != 1 || who.URI().String() != cert.URIs[0].String() && cert.URIs[0].RawPath == "" && cert.URIs[0].RawQuery == "" && cert.URIs[0].Fragment == "" {
			t.Fatalf("%v is read as %v", cert.URIs, who)
		}
		_ = Since(cert)
		if certifies := ChainsTo(a.CertPEM, encodeCert(der)); certifies && cert.CheckSignatureFrom(a.cert) != nil && !a.Issuer(IssuerNode).Signed(cert) {
			t.Fatal("it passes for one of the authority's")
		}
	})
}

// FuzzRenewal: whatever comes as a renewal, nobody renews what they have no key of.
func FuzzRenewal(f *testing.F) {
	a, err := NewAuthority(f.TempDir(), "shop")
	if err != nil {
		f.Fatal(err)
	}
	files := FilesIn(f.TempDir(), "x")
	csr, err := files.NewRequest()
	if err == nil {
		var cert []byte
		if cert, err = a.Sign(csr, Identity{"shop", RoleNode, "h1"}); err == nil {
			err = files.Install(cert, a.CertPEM)
		}
	}
	if err != nil {
		f.Fatal(err)
	}
	r, err := files.Renew()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(r.Chain, r.Request, r.Proof)
	f.Add(r.Chain, string(csr), r.Proof)
	f.Add(r.Chain, r.Request, "")
	f.Add("", "", "")
	proven := renewalOf(f, r.Renewal)
	f.Fuzz(func(t *testing.T, chain, request, proof string) {
		given := Renewal{Chain: chain, Request: request, Proof: proof}
		_, who, err := CheckRenewal(given, a.CertPEM, Grace, time.Now())
		if err == nil && (renewalOf(t, given) != proven || who.Name != "h1") {
			t.Fatalf("%+v renews %v", given, who)
		}
	})
}

// renewalOf is the request of a renewal, of which there is one that was signed.
func renewalOf(t testing.TB, r Renewal) string {
	t.Helper()
	csr, err := ParseRequest([]byte(r.Request))
	if err != nil {
		return ""
	}
	return string(csr.Raw)
}

// FuzzAnswer: what mobyfs-control sign printed on another host is a certificate and its roots, or it is refused.
func FuzzAnswer(f *testing.F) {
	a, err := NewAuthority(f.TempDir(), "shop")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(append(append([]byte{}, a.Issuer(IssuerNode).CertPEM...), a.CertPEM...))
	f.Add(a.CertPEM)
	f.Add([]byte("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		cert, ca, err := SplitAnswer(text)
		if (err == nil) != (len(cert) > 0 && len(ca) > 0) {
			t.Fatalf("%q gives %q and %q, %v", text, cert, ca, err)
		}
	})
}
