package pki

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/mobyfs/mobyfs/internal/durable"
)

// An authority that follows another lies in a directory of its own beside it, next-<fingerprint>; the file issuing names
// the one that signs. So which one signs changes in one step.

const issuingFile = "issuing"

// signingDir is where in dir the authority lies that signs.
func signingDir(dir string) (string, error) {
	name, err := os.ReadFile(filepath.Join(dir, issuingFile))
	if errors.Is(err, fs.ErrNotExist) {
		return dir, nil
	}
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, filepath.Base(string(bytes.TrimSpace(name)))), nil
}

// NextAuthority makes the authority that shall follow a, in dir, or opens the one that was begun. Its intermediates are
// certified by a's root as well, so that who trusts only that one goes on believing those who show the new ones; that of
// the peers is not, for their trust hangs on no root.
func NextAuthority(dir string, a *Authority) (*Authority, error) {
	next := filepath.Join(dir, "next-"+a.Fingerprint()[:16])
	if err := os.MkdirAll(next, 0o700); err != nil {
		return nil, err
	}
	b, err := NewAuthority(next, a.Cluster)
	if err != nil {
		return nil, err
	}
	for _, kind := range []Kind{IssuerNode, IssuerOperator} {
		if err := a.crossSign(next, b.issuers[kind]); err != nil {
			return nil, err
		}
	}
	return OpenAuthority(next)
}

// crossSign certifies another authority's intermediate as well, unless that was done.
func (a *Authority) crossSign(dir string, i *Issuer) error {
	certs, err := parseCerts(i.CertPEM)
	if err != nil || len(certs) > 1 {
		return err
	}
	tmpl := *i.cert
	tmpl.SerialNumber, tmpl.NotBefore, tmpl.NotAfter = serial(), a.cert.NotBefore, a.cert.NotAfter
	tmpl.AuthorityKeyId = nil
	der, err := x509.CreateCertificate(rand.Reader, &tmpl, a.cert, i.cert.PublicKey.(*ecdsa.PublicKey), a.key)
	if err != nil {
		return err
	}
	both := append(bytes.Clone(i.CertPEM), encodeCert(der)...)
	return durable.WriteFile("pki.cross", issuerPath(dir, i.Kind, "crt"), both, 0o644)
}

// Trust makes what signs in dir the authority with the root of that fingerprint, if there is an authority in dir, and the
// roots in dir those. It may be repeated. An authority that has nothing to do with that root stays as it is: it is an
// error.
func Trust(dir string, rootsPEM []byte, signing string) error {
	if err := switchTo(dir, signing); err != nil {
		return err
	}
	path := filepath.Join(dir, "ca.crt")
	now, err := os.ReadFile(path)
	if err != nil || bytes.Equal(now, rootsPEM) {
		return err
	}
	return durable.WriteFile("pki.trust", path, rootsPEM, 0o644)
}

// switchTo makes the authority with the root of that fingerprint sign, if it lies here and does not sign already.
func switchTo(dir, root string) error {
	current, err := OpenAuthority(dir)
	if errors.Is(err, fs.ErrNotExist) || err == nil && current.Fingerprint() == root {
		return nil // another host has the root, or it is done
	}
	if err != nil {
		return err
	}
	name := "next-" + current.Fingerprint()[:16]
	next, err := openIn(filepath.Join(dir, name))
	if err != nil || next.Fingerprint() != root {
		return fmt.Errorf("the authority in %s is not that of the cluster's store, %.16s…", dir, root)
	}
	return durable.WriteFile("pki.issuing", filepath.Join(dir, issuingFile), []byte(name+"\n"), 0o644)
}

// RootPEM is the certificate of the authority's own root.
func (a *Authority) RootPEM() []byte { return encodeCert(a.cert.Raw) }

// RootKeyPEM is the root's private key.
func (a *Authority) RootKeyPEM() ([]byte, error) { return encodeKey(a.key) }

// SignedBy tells the fingerprint of that one among roots under which a chain was made, "" if none was: the root that
// certified the first of the intermediates beside the leaf.
func SignedBy(chain []*x509.Certificate, rootsPEM []byte) string {
	if len(chain) < 2 || chain[0].CheckSignatureFrom(chain[1]) != nil {
		return ""
	}
	roots, err := parseCerts(rootsPEM)
	if err != nil {
		return ""
	}
	for _, root := range roots {
		if chain[1].CheckSignatureFrom(root) == nil {
			return fingerprint(root)
		}
	}
	return ""
}

// TrustID names a set of roots.
func TrustID(rootsPEM []byte) string {
	h := sha256.New()
	for _, root := range slices.Sorted(maps.Keys(Roots(rootsPEM))) {
		h.Write([]byte(root))
	}
	return hex.EncodeToString(h.Sum(nil))[:16]
}

// Held is what the files hold: which roots, and below which of them the certificate was made.
func (f Files) Held() (trust, issuer string, err error) {
	roots, err := os.ReadFile(f.CA)
	if err != nil {
		return "", "", err
	}
	chain, err := f.Chain()
	if err != nil {
		return "", "", err
	}
	return TrustID(roots), SignedBy(chain, roots), nil
}

// SetRoots makes the roots of the files those.
func (f Files) SetRoots(rootsPEM []byte) error {
	if len(Roots(rootsPEM)) == 0 {
		return errors.New("these are no roots")
	}
	return durable.WriteFile("pki.trust", f.CA, rootsPEM, 0o644)
}
