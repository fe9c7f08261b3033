package pki

import (
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/mobyfs/mobyfs/internal/durable"
)

// Files is where an identity lies on disk.
type Files struct {
	Key  string // PKCS #8, PEM, 0600; two of them while one replaces the other
	Cert string // PEM, with the intermediate that signed it
	CA   string // PEM, of the cluster's authority: all roots that are to be trusted
}

// FilesIn names the files of an identity in a directory.
func FilesIn(dir, name string) Files {
	return Files{
		Key:  filepath.Join(dir, name+".key"),
		Cert: filepath.Join(dir, name+".crt"),
		CA:   filepath.Join(dir, "ca.crt"),
	}
}

// PeerFiles names the files of a member of the store. Its CA is the intermediate that signs for peers, two of them while
// one replaces the other, and nothing else.
func PeerFiles(dir string) Files {
	f := FilesIn(dir, "peer")
	f.CA = filepath.Join(dir, "peer-ca.crt")
	return f
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

// Chain is the certificate that the files hold, and the intermediates that came with it.
func (f Files) Chain() ([]*x509.Certificate, error) {
	text, err := os.ReadFile(f.Cert)
	if err != nil {
		return nil, err
	}
	return parseCerts(text)
}

type loaded struct {
	cert  tls.Certificate
	roots *x509.CertPool
}

func (f Files) load() (loaded, error) {
	chain, err := os.ReadFile(f.Cert)
	if err != nil {
		return loaded{}, fmt.Errorf("load the certificate: %w", err)
	}
	keys, err := os.ReadFile(f.Key)
	if err != nil {
		return loaded{}, fmt.Errorf("load the key of the certificate: %w", err)
	}
	cert, err := keyPair(chain, keys)
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

// keyPair joins a chain with that key among keys which belongs to it.
func keyPair(chain, keys []byte) (cert tls.Certificate, err error) {
	err = errors.New("there is no key in PEM")
	for block, rest := pem.Decode(keys); block != nil; block, rest = pem.Decode(rest) {
		if cert, err = tls.X509KeyPair(chain, pem.EncodeToMemory(block)); err == nil {
			return cert, nil
		}
	}
	return tls.Certificate{}, err
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

// Install stores what the authority answered, after checking that the certificate belongs to the key in f.Key. Of a
// peer ca is not what the others trust, but the intermediates beside its certificate.
func (f Files) Install(cert, ca []byte) error {
	key, err := os.ReadFile(f.Key)
	if err != nil {
		return err
	}
	pair, err := keyPair(cert, key)
	if err != nil {
		return fmt.Errorf("the certificate received does not belong to the key %s: %w", f.Key, err)
	}
	if who, err := IdentityOf(pair.Leaf); err == nil && who.Role == RolePeer && len(pair.Certificate) > 1 {
		ca = nil
		for _, der := range pair.Certificate[1:] {
			ca = append(ca, encodeCert(der)...)
		}
	}
	if err := durable.WriteFile("pki.ca", f.CA, ca, 0o644); err != nil {
		return err
	}
	return durable.WriteFile("pki.cert", f.Cert, cert, 0o644)
}

// SplitAnswer parts what mobyfs-control sign printed: the certificate with its intermediate, and the authority's roots,
// which are those that signed themselves.
func SplitAnswer(answer []byte) (cert, ca []byte, err error) {
	for block, rest := pem.Decode(answer); block != nil; block, rest = pem.Decode(rest) {
		c, err := x509.ParseCertificate(block.Bytes)
		if block.Type != "CERTIFICATE" || err != nil {
			return nil, nil, errors.New("the answer holds something else than certificates")
		}
		if c.CheckSignatureFrom(c) == nil {
			ca = append(ca, pem.EncodeToMemory(block)...)
		} else {
			cert = append(cert, pem.EncodeToMemory(block)...)
		}
	}
	if cert == nil || ca == nil {
		return nil, nil, errors.New("the answer does not hold a certificate and its authority")
	}
	return cert, ca, nil
}
