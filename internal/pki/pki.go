// Package pki gives every part of a cluster an identity: a key that never leaves its machine and a certificate
// from the cluster's own authority.
//
// An identity stands in the certificate as a URI, spiffe://<cluster>/<role>/<name>; that is what authorisation
// reads. It stands there a second time as a DNS name, <name>.<role>.mobyfs, so that the standard check of a
// server's name says with whom one speaks, whatever its address. All connections are mutual TLS 1.3.
package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/mobyfs/mobyfs/internal/durable"
)

// Roles.
const (
	RoleControl  = "control"
	RoleNode     = "node"
	RoleOperator = "operator"
	RoleDocker   = "docker" // the dockerd of the node of that name; it may call that node's driver and nobody else
)

// Lifetimes of certificates. Leaves are renewed by running bootstrap again, which plans it from RenewBefore on.
//
// dockerd reads its certificate once in its life, so that one must outlive any dockerd that began with it: it lasts
// as long as the authority lets it, and is renewed while it still has years.
const (
	AuthorityLife     = 10 * 365 * 24 * time.Hour
	LeafLife          = 90 * 24 * time.Hour
	RenewBefore       = 30 * 24 * time.Hour
	DockerLife        = AuthorityLife
	RenewDockerBefore = 5 * 365 * 24 * time.Hour
	backdate          = time.Hour // for clocks that are behind
)

// Loopback is the address at which a node's certificate is good for dockerd, which checks the address it calls.
const Loopback = "127.0.0.1"

// Identity is who holds a certificate.
type Identity struct {
	Cluster string
	Role    string
	Name    string
}

func (id Identity) String() string { return id.Role + "/" + id.Name }

// URI is the identity as it stands in the certificate.
func (id Identity) URI() *url.URL {
	return &url.URL{Scheme: "spiffe", Host: id.Cluster, Path: "/" + id.Role + "/" + id.Name}
}

// ServerName is the DNS name under which a TLS client checks that a server has the role and name.
func ServerName(role, name string) string { return name + "." + role + ".mobyfs" }

// IdentityOf reads the identity out of a certificate that TLS has verified.
func IdentityOf(cert *x509.Certificate) (Identity, error) {
	if len(cert.URIs) != 1 || cert.URIs[0].Scheme != "spiffe" {
		return Identity{}, errors.New("the certificate holds no identity of a cluster")
	}
	role, name, ok := strings.Cut(strings.TrimPrefix(cert.URIs[0].Path, "/"), "/")
	if !ok || name == "" {
		return Identity{}, fmt.Errorf("the certificate's identity %q has no role and name", cert.URIs[0])
	}
	return Identity{Cluster: cert.URIs[0].Host, Role: role, Name: name}, nil
}

// PeerIdentity is the identity of the other end of a connection.
func PeerIdentity(state *tls.ConnectionState) (Identity, error) {
	if state == nil || len(state.VerifiedChains) == 0 {
		return Identity{}, errors.New("the connection carries no verified certificate")
	}
	return IdentityOf(state.VerifiedChains[0][0])
}

// Files is where an identity lies on disk.
type Files struct {
	Key  string // PKCS #8, PEM, 0600
	Cert string // PEM
	CA   string // PEM, of the cluster's authority
}

// FilesIn names the files of an identity in a directory.
func FilesIn(dir, name string) Files {
	return Files{
		Key:  filepath.Join(dir, name+".key"),
		Cert: filepath.Join(dir, name+".crt"),
		CA:   filepath.Join(dir, "ca.crt"),
	}
}

// ServerTLS serves with the identity and demands a certificate of the same authority. Files are read again at
// each handshake, so a renewed certificate needs no restart.
func (f Files) ServerTLS() (*tls.Config, error) {
	return f.serverTLS(func() *tls.Config {
		return &tls.Config{MinVersion: tls.VersionTLS13, NextProtos: []string{"h2", "http/1.1"}}
	})
}

// DockerTLS is ServerTLS for the one client that only is. Anybody else's handshake is refused, whoever signed for
// them. It takes TLS 1.2 as well, which is what Docker promises to speak, and HTTP/1.1 alone.
func (f Files) DockerTLS(only Identity) (*tls.Config, error) {
	return f.serverTLS(func() *tls.Config {
		return &tls.Config{
			MinVersion:             tls.VersionTLS12,
			NextProtos:             []string{"http/1.1"},
			SessionTicketsDisabled: true, // each connection shows its certificate
			VerifyConnection: func(state tls.ConnectionState) error {
				who, err := PeerIdentity(&state)
				if err == nil && who != only {
					err = fmt.Errorf("%s of cluster %s is not %s of cluster %s", who, who.Cluster, only, only.Cluster)
				}
				return err
			},
		}
	})
}

// serverTLS fills in the identity and what it demands of clients, anew for each connection.
func (f Files) serverTLS(config func() *tls.Config) (*tls.Config, error) {
	if _, err := f.load(); err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion: config().MinVersion,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			id, err := f.load()
			if err != nil {
				return nil, err
			}
			c := config()
			c.Certificates = []tls.Certificate{id.cert}
			c.ClientAuth, c.ClientCAs = tls.RequireAndVerifyClientCert, id.roots
			return c, nil
		},
	}, nil
}

// ClientTLS connects with the identity to a server of the given role and name.
func (f Files) ClientTLS(role, name string) (*tls.Config, error) {
	id, err := f.load()
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		RootCAs:    id.roots,
		ServerName: ServerName(role, name),
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			id, err := f.load()
			if err != nil {
				return nil, err
			}
			return &id.cert, nil
		},
	}, nil
}

// AddressTLS connects with the identity as dockerd does: it believes a server of the authority that is certified for
// the address it calls.
func (f Files) AddressTLS() (*tls.Config, error) {
	id, err := f.load()
	if err != nil {
		return nil, err
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: id.roots, Certificates: []tls.Certificate{id.cert}}, nil
}

// Identity tells whose certificate the files hold, and until when it is valid.
func (f Files) Identity() (Identity, time.Time, error) {
	id, err := f.load()
	if err != nil {
		return Identity{}, time.Time{}, err
	}
	who, err := IdentityOf(id.cert.Leaf)
	return who, id.cert.Leaf.NotAfter, err
}

type loaded struct {
	cert  tls.Certificate
	roots *x509.CertPool
}

func (f Files) load() (loaded, error) {
	cert, err := tls.LoadX509KeyPair(f.Cert, f.Key)
	if err != nil {
		return loaded{}, fmt.Errorf("load the certificate %s: %w", f.Cert, err)
	}
	ca, err := os.ReadFile(f.CA)
	if err != nil {
		return loaded{}, fmt.Errorf("load the authority's certificate: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return loaded{}, fmt.Errorf("%s holds no certificate", f.CA)
	}
	return loaded{cert, roots}, nil
}

// NewRequest returns a certificate request for the key in f.Key, which it makes if there is none. Names in the
// request mean nothing: the authority puts in the identity that it was told.
func (f Files) NewRequest() (csr []byte, err error) {
	key, err := loadKey(f.Key)
	if errors.Is(err, fs.ErrNotExist) {
		key, err = newKey(f.Key)
	}
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), nil
}

// Install stores what the authority answered, after checking that the certificate belongs to the key in f.Key.
func (f Files) Install(cert, ca []byte) error {
	key, err := os.ReadFile(f.Key)
	if err != nil {
		return err
	}
	if _, err := tls.X509KeyPair(cert, key); err != nil {
		return fmt.Errorf("the certificate received does not belong to the key %s: %w", f.Key, err)
	}
	if err := durable.WriteFile("pki.ca", f.CA, ca, 0o644); err != nil {
		return err
	}
	return durable.WriteFile("pki.cert", f.Cert, cert, 0o644)
}

// Authority signs for one cluster. Its key lives on the control host alone.
type Authority struct {
	Cluster string
	CertPEM []byte
	cert    *x509.Certificate
	key     *ecdsa.PrivateKey
}

// OpenAuthority loads the authority that lies in dir (ca.key, ca.crt). fs.ErrNotExist if there is none.
func OpenAuthority(dir string) (*Authority, error) {
	key, err := loadKey(filepath.Join(dir, "ca.key"))
	if err != nil {
		return nil, err
	}
	certPEM, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(certPEM)
	if block == nil {
		return nil, fmt.Errorf("%s holds no certificate", filepath.Join(dir, "ca.crt"))
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, err
	}
	return &Authority{Cluster: cert.Subject.CommonName, CertPEM: certPEM, cert: cert, key: key}, nil
}

// NewAuthority makes the authority of a cluster in dir, or opens the one that is there. Killed in between, it
// makes the certificate anew for the key that is there.
func NewAuthority(dir, cluster string) (*Authority, error) {
	a, err := OpenAuthority(dir)
	if err == nil && a.Cluster != cluster {
		return nil, fmt.Errorf("%s holds the authority of cluster %q, not of %q", dir, a.Cluster, cluster)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return a, err
	}
	path := filepath.Join(dir, "ca.key")
	key, err := loadKey(path)
	if errors.Is(err, fs.ErrNotExist) {
		key, err = newKey(path)
	}
	if err != nil {
		return nil, err
	}
	now := time.Now()
	tmpl := &x509.Certificate{
		SerialNumber:          serial(),
		Subject:               pkix.Name{CommonName: cluster, Organization: []string{"mobyfs"}},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(AuthorityLife),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if err := durable.WriteFile("pki.authority", filepath.Join(dir, "ca.crt"), certPEM, 0o644); err != nil {
		return nil, err
	}
	return OpenAuthority(dir)
}

// Sign answers a request with a certificate for id. Of the request only the key is taken.
func (a *Authority) Sign(csrPEM []byte, id Identity) (certPEM []byte, err error) {
	if id.Cluster != a.Cluster {
		return nil, fmt.Errorf("this is the authority of cluster %q, not of %q", a.Cluster, id.Cluster)
	}
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
	now := time.Now()
	tmpl := &x509.Certificate{
		SerialNumber: serial(),
		Subject:      pkix.Name{CommonName: id.String(), Organization: []string{"mobyfs"}},
		NotBefore:    now.Add(-backdate),
		NotAfter:     now.Add(LeafLife),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		URIs:         []*url.URL{id.URI()},
		DNSNames:     []string{ServerName(id.Role, id.Name)},
	}
	if id.Role == RoleControl || id.Role == RoleNode {
		tmpl.ExtKeyUsage = append(tmpl.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	if id.Role == RoleNode {
		tmpl.IPAddresses = []net.IP{net.ParseIP(Loopback)}
	}
	if id.Role == RoleDocker {
		tmpl.NotAfter = now.Add(DockerLife)
		if tmpl.NotAfter.After(a.cert.NotAfter) {
			tmpl.NotAfter = a.cert.NotAfter
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, csr.PublicKey, a.key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}

// Fingerprint is the SHA-256 of a certificate's public key in hexadecimal, to compare by eye.
func (a *Authority) Fingerprint() string {
	sum := sha256.Sum256(a.cert.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

func serial() *big.Int {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		panic(err) // crypto/rand does not fail on the systems Go runs on
	}
	return n
}

func newKey(path string) (*ecdsa.PrivateKey, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	data := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	return key, durable.WriteFile("pki.key", path, data, 0o600)
}

func loadKey(path string) (*ecdsa.PrivateKey, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil {
		return nil, fmt.Errorf("%s holds no key in PEM", path)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("read the key %s: %w", path, err)
	}
	ec, ok := key.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s holds a %T, an ECDSA key was expected", path, key)
	}
	return ec, nil
}
