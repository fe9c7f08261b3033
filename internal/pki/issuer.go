package pki

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"slices"
	"strconv"
	"time"
)

// Kind names an intermediate of the authority.
type Kind string

// Kinds of intermediates.
const (
	IssuerPeer     Kind = "peer"
	IssuerNode     Kind = "node" // control, nodes and the dockerds beside them
	IssuerOperator Kind = "operator"
)

// Kinds lists the intermediates that every authority has.
func Kinds() []Kind { return []Kind{IssuerPeer, IssuerNode, IssuerOperator} }

// roles are those that the intermediate may certify.
func (k Kind) roles() []string {
	switch k {
	case IssuerPeer:
		return []string{RolePeer}
	case IssuerNode:
		return []string{RoleControl, RoleNode, RoleDocker}
	case IssuerOperator:
		return []string{RoleOperator, RoleAdmin, RoleViewer, RoleAuditor}
	default:
		return nil
	}
}

// uses are what the certificates of the intermediate are good for at most.
func (k Kind) uses() []x509.ExtKeyUsage {
	if k == IssuerOperator {
		return []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	}
	return []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}
}

// IssuerOf tells which intermediate certifies a role; "" if none does.
func IssuerOf(role string) Kind {
	for _, k := range Kinds() {
		if slices.Contains(k.roles(), role) {
			return k
		}
	}
	return ""
}

// Issuer is an intermediate: it signs the certificates of its roles.
type Issuer struct {
	Kind    Kind
	Cluster string
	CertPEM []byte // its own first; then those under which older roots know it, or of peers the others to be trusted now
	cert    *x509.Certificate
	key     *ecdsa.PrivateKey
}

// ParseIssuer reads an intermediate as KeyPEM and CertPEM give it.
func ParseIssuer(kind Kind, cluster string, certPEM, keyPEM []byte) (*Issuer, error) {
	cert, err := parseCert(certPEM)
	if err != nil {
		return nil, fmt.Errorf("read the intermediate %s: %w", kind, err)
	}
	key, err := parseKey(keyPEM)
	if err != nil {
		return nil, fmt.Errorf("read the key of the intermediate %s: %w", kind, err)
	}
	if !key.PublicKey.Equal(cert.PublicKey) {
		return nil, fmt.Errorf("the key of the intermediate %s is not that of its certificate", kind)
	}
	return &Issuer{Kind: kind, Cluster: cluster, CertPEM: certPEM, cert: cert, key: key}, nil
}

// KeyPEM is the intermediate's private key.
func (i *Issuer) KeyPEM() ([]byte, error) { return encodeKey(i.key) }

// OwnPEM is the intermediate's own certificate.
func (i *Issuer) OwnPEM() []byte { return encodeCert(i.cert.Raw) }

// beside puts those intermediates of peers, PEM, into what it hands out that are to be trusted beside itself.
func (i *Issuer) beside(peersPEM []byte) {
	own := fingerprint(i.cert)
	peers := Roots(peersPEM)
	i.CertPEM = i.OwnPEM()
	for _, f := range slices.Sorted(maps.Keys(peers)) {
		if f != own {
			i.CertPEM = append(i.CertPEM, peers[f]...)
		}
	}
}

// Until is when the intermediate ends.
func (i *Issuer) Until() time.Time { return i.cert.NotAfter }

// Signed reports whether the intermediate signed a certificate.
func (i *Issuer) Signed(cert *x509.Certificate) bool { return cert.CheckSignatureFrom(i.cert) == nil }

// ParseRequest reads a certificate request and checks that who made it has the key. It is kept small: of what a request
// says, nothing counts but the key.
func ParseRequest(csrPEM []byte) (*x509.CertificateRequest, error) {
	block, _ := pem.Decode(csrPEM)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return nil, errors.New("this is no certificate request in PEM")
	}
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("read the certificate request: %w", err)
	}
	if err := csr.CheckSignature(); err != nil {
		return nil, fmt.Errorf("check the certificate request: %w", err)
	}
	if key, ok := csr.PublicKey.(*ecdsa.PublicKey); !ok || key.Curve.Params().BitSize < 256 {
		return nil, errors.New("the certificate request is not for an ECDSA key of 256 bits or more")
	}
	return csr, nil
}

// Sign answers a request with a certificate for id, followed by that of the intermediate. Of the request only the key
// is taken. Who holds it is let in from now on.
func (i *Issuer) Sign(csrPEM []byte, id Identity, now time.Time) (chainPEM []byte, err error) {
	return i.SignSince(csrPEM, id, now, now)
}

// SignSince is Sign for who was let in at a time in the past: renewing does not change since when someone is in, so what
// was refused stays refused.
func (i *Issuer) SignSince(csrPEM []byte, id Identity, since, now time.Time) (chainPEM []byte, err error) {
	return i.SignFor(lifeOf(id.Role), csrPEM, id, since, now)
}

// SignFor is SignSince with a life of the certificate that is not the role's usual one.
func (i *Issuer) SignFor(life time.Duration, csrPEM []byte, id Identity, since, now time.Time) (chainPEM []byte, err error) {
	if id.Cluster != i.Cluster {
		return nil, fmt.Errorf("this is the authority of cluster %q, not of %q", i.Cluster, id.Cluster)
	}
	if IssuerOf(id.Role) != i.Kind {
		return nil, fmt.Errorf("the intermediate %s does not certify the role %q", i.Kind, id.Role)
	}
	csr, err := ParseRequest(csrPEM)
	if err != nil {
		return nil, err
	}
	tmpl := template(id, since, now, life)
	if tmpl.NotAfter.After(i.cert.NotAfter) {
		tmpl.NotAfter = i.cert.NotAfter
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, i.cert, csr.PublicKey, i.key)
	if err != nil {
		return nil, err
	}
	return append(encodeCert(der), i.CertPEM...), nil
}

// template is what a certificate for id says that is good for life.
func template(id Identity, since, now time.Time, life time.Duration) *x509.Certificate {
	tmpl := &x509.Certificate{
		SerialNumber: serial(),
		Subject: pkix.Name{
			CommonName: id.String(), Organization: []string{"mobyfs"}, SerialNumber: strconv.FormatInt(since.UnixMilli(), 10),
		},
		NotBefore:   now.Add(-backdate),
		NotAfter:    now.Add(life),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		URIs:        []*url.URL{id.URI()},
		DNSNames:    id.dnsNames(),
	}
	if id.Role == RoleControl || id.Role == RoleNode || id.Role == RolePeer {
		tmpl.ExtKeyUsage = append(tmpl.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	if id.Role == RoleNode {
		tmpl.IPAddresses = []net.IP{net.ParseIP(Loopback)}
	}
	return tmpl
}

// EndOf tells when a certificate ends; the zero time if it can't be read.
func EndOf(chainPEM []byte) time.Time {
	cert, err := parseCert(chainPEM)
	if err != nil {
		return time.Time{}
	}
	return cert.NotAfter
}

// IsShort reports whether a certificate has the life of a person's who was let in with a token.
func IsShort(cert *x509.Certificate) bool {
	return cert.NotAfter.Sub(cert.NotBefore) <= PersonLife+backdate
}

// Since tells when who holds a certificate was let into the cluster, in milliseconds; the zero time if it does not say.
func Since(cert *x509.Certificate) time.Time {
	ms, err := strconv.ParseInt(cert.Subject.SerialNumber, 10, 64)
	if err != nil {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}

// lifeOf tells for how long certificates of a role are signed.
func lifeOf(role string) time.Duration {
	switch role {
	case RoleDocker:
		return DockerLife
	case RolePeer:
		return PeerLife
	case RoleNode:
		return NodeLife
	default:
		return LeafLife
	}
}
