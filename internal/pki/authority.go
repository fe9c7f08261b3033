package pki

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/mobyfs/mobyfs/internal/durable"
	"github.com/mobyfs/mobyfs/internal/failpoint"
)

// Authority signs for one cluster. Its root's key lives on the first control host alone, and may be taken away from
// there: what is signed every day, the intermediates sign.
type Authority struct {
	Cluster string
	CertPEM []byte // all roots that are to be trusted
	cert    *x509.Certificate
	key     *ecdsa.PrivateKey
	issuers map[Kind]*Issuer
}

// OpenAuthority loads the authority that lies in dir: ca.crt, ca.key, and for each intermediate such as node node-ca.crt
// and node-ca.key. fs.ErrNotExist if there is none, or if it is not whole.
//
// After a rotation it is the authority that signs now; CertPEM is in any case what is to be trusted, of dir.
func OpenAuthority(dir string) (*Authority, error) {
	signing, err := signingDir(dir)
	if err != nil {
		return nil, err
	}
	a, err := openIn(signing)
	if err != nil {
		return nil, err
	}
	if a.CertPEM, err = os.ReadFile(filepath.Join(dir, "ca.crt")); err != nil {
		return nil, err
	}
	peers, err := os.ReadFile(issuerPath(dir, IssuerPeer, "crt"))
	if err != nil {
		return nil, err
	}
	a.issuers[IssuerPeer].beside(peers)
	return a, nil
}

func openIn(dir string) (*Authority, error) {
	a, err := openRoot(dir)
	if err != nil {
		return nil, err
	}
	for _, kind := range Kinds() {
		issuer, err := openIssuer(dir, kind, a.Cluster)
		if err != nil {
			return nil, err
		}
		if kind != IssuerPeer && issuer.cert.CheckSignatureFrom(a.cert) != nil {
			return nil, fmt.Errorf("the intermediate %s in %s is that of another authority: %w", kind, dir, fs.ErrNotExist)
		}
		a.issuers[kind] = issuer
	}
	return a, nil
}

func openRoot(dir string) (*Authority, error) {
	key, err := loadKey(filepath.Join(dir, "ca.key"))
	if err != nil {
		return nil, err
	}
	path := filepath.Join(dir, "ca.crt")
	roots, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	cert, err := certOf(&key.PublicKey, roots)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if cert.MaxPathLen == 0 {
		return nil, fmt.Errorf("the authority in %s can have no intermediates: %w", dir, fs.ErrNotExist)
	}
	return &Authority{Cluster: cert.Subject.CommonName, CertPEM: roots, cert: cert, key: key, issuers: map[Kind]*Issuer{}}, nil
}

// certOf finds the certificate of a key.
func certOf(key *ecdsa.PublicKey, certsPEM []byte) (*x509.Certificate, error) {
	for block, rest := pem.Decode(certsPEM); block != nil; block, rest = pem.Decode(rest) {
		if cert, err := x509.ParseCertificate(block.Bytes); err == nil && key.Equal(cert.PublicKey) {
			return cert, nil
		}
	}
	return nil, errors.New("it holds no certificate of the key beside it")
}

func issuerPath(dir string, kind Kind, ending string) string {
	return filepath.Join(dir, string(kind)+"-ca."+ending)
}

func openIssuer(dir string, kind Kind, cluster string) (*Issuer, error) {
	key, err := os.ReadFile(issuerPath(dir, kind, "key"))
	if err != nil {
		return nil, err
	}
	cert, err := os.ReadFile(issuerPath(dir, kind, "crt"))
	if err != nil {
		return nil, err
	}
	if kind != IssuerPeer {
		return ParseIssuer(kind, cluster, cert, key)
	}
	k, err := parseKey(key)
	if err != nil {
		return nil, err
	}
	own, err := certOf(&k.PublicKey, cert) // in the file that peers trust others may be beside it
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", issuerPath(dir, kind, "crt"), err)
	}
	return ParseIssuer(kind, cluster, encodeCert(own.Raw), key)
}

// NewAuthority makes the authority of a cluster in dir, or opens the one that is there. Killed in between, it
// makes certificates anew for the keys that are there.
func NewAuthority(dir, cluster string) (*Authority, error) {
	signing, err := signingDir(dir)
	if err != nil {
		return nil, err
	}
	a, err := openRoot(signing)
	if errors.Is(err, fs.ErrNotExist) && signing == dir {
		if err = newRoot(dir, cluster); err == nil {
			a, err = openRoot(dir)
		}
	}
	if err != nil {
		return nil, err
	}
	if a.Cluster != cluster {
		return nil, fmt.Errorf("%s holds the authority of cluster %q, not of %q", dir, a.Cluster, cluster)
	}
	if signing != dir {
		return OpenAuthority(dir) // what followed it was whole before it signed
	}
	for _, kind := range Kinds() {
		issuer, err := openIssuer(dir, kind, cluster)
		if err == nil && (kind == IssuerPeer || issuer.cert.CheckSignatureFrom(a.cert) == nil) {
			continue
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		if err := a.newIssuer(dir, kind); err != nil {
			return nil, err
		}
	}
	return OpenAuthority(dir)
}

func newRoot(dir, cluster string) error {
	_, keyErr := os.Stat(filepath.Join(dir, "ca.key"))
	_, certErr := os.Stat(filepath.Join(dir, "ca.crt"))
	if certErr == nil && errors.Is(keyErr, fs.ErrNotExist) {
		return fmt.Errorf("the key of the authority in %s is not here: it was taken away, so bring it back to sign with it", dir)
	}
	key, err := keyAt(filepath.Join(dir, "ca.key"))
	if err != nil {
		return err
	}
	now := failpoint.Now()
	tmpl := &x509.Certificate{
		SerialNumber:          serial(),
		Subject:               pkix.Name{CommonName: cluster, Organization: []string{"mobyfs"}},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(AuthorityLife),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLen:            1,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		return err
	}
	return durable.WriteFile("pki.authority", filepath.Join(dir, "ca.crt"), encodeCert(der), 0o644)
}

// newIssuer makes an intermediate that is good for its cluster, its roles and what they do, and for nothing else.
func (a *Authority) newIssuer(dir string, kind Kind) error {
	key, err := keyAt(issuerPath(dir, kind, "key"))
	if err != nil {
		return err
	}
	tmpl := &x509.Certificate{
		SerialNumber:                serial(),
		Subject:                     pkix.Name{CommonName: a.Cluster + " " + string(kind), Organization: []string{"mobyfs"}},
		NotBefore:                   a.cert.NotBefore,
		NotAfter:                    a.cert.NotAfter,
		KeyUsage:                    x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		ExtKeyUsage:                 kind.uses(),
		BasicConstraintsValid:       true,
		IsCA:                        true,
		MaxPathLenZero:              true,
		PermittedDNSDomainsCritical: true,
		PermittedURIDomains:         []string{a.Cluster},
		PermittedIPRanges:           []*net.IPNet{{IP: net.IPv4(127, 0, 0, 1).To4(), Mask: net.CIDRMask(32, 32)}},
	}
	for _, role := range kind.roles() {
		tmpl.PermittedDNSDomains = append(tmpl.PermittedDNSDomains, role+".mobyfs")
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, &key.PublicKey, a.key)
	if err != nil {
		return err
	}
	return durable.WriteFile("pki.issuer", issuerPath(dir, kind, "crt"), encodeCert(der), 0o644)
}

// Issuer is one of the authority's intermediates.
func (a *Authority) Issuer(kind Kind) *Issuer { return a.issuers[kind] }

// Sign answers a request with a certificate for id, followed by that of the intermediate which signed it. Of the
// request only the key is taken.
func (a *Authority) Sign(csrPEM []byte, id Identity) (chainPEM []byte, err error) {
	issuer := a.issuers[IssuerOf(id.Role)]
	if issuer == nil {
		return nil, fmt.Errorf("nobody certifies the role %q", id.Role)
	}
	return issuer.Sign(csrPEM, id, failpoint.Now())
}

// Fingerprint is the SHA-256 of the root's public key in hexadecimal, to compare by eye.
func (a *Authority) Fingerprint() string { return fingerprint(a.cert) }

func fingerprint(cert *x509.Certificate) string {
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

// ChainsTo reports whether the authority whose roots are given has signed a certificate, which stands first in its
// chain. What the certificate is good for and for how long is not looked at.
func ChainsTo(rootsPEM, chainPEM []byte) bool {
	chain, err := parseCerts(chainPEM)
	if err != nil {
		return false
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(bytes.TrimSpace(rootsPEM)) {
		return false
	}
	at := chain[0].NotBefore
	if len(chain) > 1 && chain[1].NotBefore.After(at) {
		at = chain[1].NotBefore
	}
	return verify(chain, roots, x509.VerifyOptions{CurrentTime: at.Add(time.Second), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}) == nil
}
