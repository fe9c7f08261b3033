package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math"
	mrand "math/rand/v2"
	"os"
	"slices"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/durable"
)

// Renewal asks for a certificate in place of one that ends or has ended. It needs no other proof of who asks than its
// own: that the request was signed with the key of the certificate. Whoever repeats it gets nothing of use, for the new
// certificate is for the key of the request.
type Renewal struct {
	Chain   string `json:"chain" doc:"the certificate to renew and its intermediates, PEM"`
	Request string `json:"request" doc:"a certificate request for the new key, PEM"`
	Proof   string `json:"proof" doc:"signature of the request with the old key, base64"`
}

// Renewing is a renewal under way: the new key, which nobody has seen yet.
type Renewing struct {
	Renewal
	files Files
	key   *ecdsa.PrivateKey
}

// Renew begins to renew the certificate in the files, with a fresh key. Nothing on disk changes before Install.
func (f Files) Renew() (*Renewing, error) {
	id, err := f.load()
	if err != nil {
		return nil, err
	}
	chain, err := os.ReadFile(f.Cert)
	if err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, err
	}
	signer, ok := id.cert.PrivateKey.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("the key %s can't sign", f.Key)
	}
	proof, err := signer.Sign(rand.Reader, renewalDigest(der), crypto.SHA256)
	if err != nil {
		return nil, err
	}
	request := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
	return &Renewing{
		Renewal: Renewal{string(chain), string(request), base64.StdEncoding.EncodeToString(proof)},
		files:   f, key: key,
	}, nil
}

func renewalDigest(csr []byte) []byte {
	sum := sha256.Sum256(append([]byte("mobyfs renewal\x00"), csr...))
	return sum[:]
}

// Install puts the new certificate and key in place of the old ones. Killed at any point, the files hold the one or the
// other: while there are two keys, the one that belongs to the certificate counts.
func (r *Renewing) Install(chainPEM, rootsPEM []byte) error {
	return r.install(chainPEM, rootsPEM, durable.WriteFile)
}

func (r *Renewing) install(chainPEM, rootsPEM []byte, write func(moment, path string, data []byte, mode os.FileMode) error) error {
	key, err := encodeKey(r.key)
	if err != nil {
		return err
	}
	was, _, err := r.files.Identity()
	if err != nil {
		return err
	}
	return r.files.replace(was, key, chainPEM, rootsPEM, write)
}

// Adopt makes the identity in from that of these files, in place of the one that they have, if they have one. It must be
// of the same cluster. Killed at any point, the files hold the one or the other, and it may be repeated.
func (f Files) Adopt(from Files) error {
	who, _, err := from.Identity()
	if err != nil {
		return err
	}
	var texts [3][]byte
	for i, path := range []string{from.Key, from.Cert, from.CA} {
		if texts[i], err = os.ReadFile(path); err != nil {
			return err
		}
	}
	if was, _, err := f.Identity(); err == nil && was.Cluster != who.Cluster {
		return fmt.Errorf("the identity is of cluster %q, not of %q", who.Cluster, was.Cluster)
	}
	return f.replace(who, texts[0], texts[1], texts[2], durable.WriteFile)
}

// replace puts an identity in place of the one that is there, if one is.
func (f Files) replace(who Identity, key, chainPEM, rootsPEM []byte, write func(moment, path string, data []byte, mode os.FileMode) error) error {
	pair, err := tls.X509KeyPair(chainPEM, key)
	if err != nil {
		return fmt.Errorf("the certificate received is not for the key that was made for it: %w", err)
	}
	if is, err := IdentityOf(pair.Leaf); err != nil || is != who {
		return fmt.Errorf("the certificate received is that of %s, not of %s", is, who)
	}
	if !ChainsTo(rootsPEM, chainPEM) {
		return errors.New("the certificate received is not of the authority beside it")
	}
	old, err := os.ReadFile(f.Key)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, w := range []struct {
		moment, path string
		data         []byte
		mode         os.FileMode
	}{
		{"pki.renew.key", f.Key, append(slices.Clone(key), old...), 0o600},
		{"pki.renew.ca", f.CA, rootsPEM, 0o644},
		{"pki.renew.cert", f.Cert, chainPEM, 0o644},
		{"pki.renew.done", f.Key, key, 0o600},
	} {
		if err := write(w.moment, w.path, w.data, w.mode); err != nil {
			return err
		}
	}
	return nil
}

// GoodAt refuses a certificate, with its chain, that is not good yet or no longer: who signed it, or this host, has a clock
// that is wrong. The one that is there may be good for longer than the clock is wrong, so it should be kept.
func GoodAt(chainPEM []byte, now time.Time) error {
	chain, err := parseCerts(chainPEM)
	if err != nil {
		return err
	}
	cert := chain[0]
	wrong := ""
	switch {
	case now.Before(cert.NotBefore):
		wrong = "is not good before " + cert.NotBefore.UTC().Format(time.DateTime)
	case now.After(cert.NotAfter):
		wrong = "was good until " + cert.NotAfter.UTC().Format(time.DateTime)
	default:
		return nil
	}
	return mobyfs.Errorf(mobyfs.CodeInvalid, "the certificate received %s UTC, and here it is %s: a clock is wrong; the old certificate stays", wrong, now.UTC().Format(time.DateTime)).
		WithHint("set the clocks of this host and of the control hosts by NTP: timedatectl set-ntp true; timedatectl shows how they are")
}

// CheckRenewal tells whose certificate a renewal is for, after checking that one of the roots has certified it, that it
// has not ended longer than grace ago, and that who asks has its key. Whether they may still be here is another question.
func CheckRenewal(r Renewal, rootsPEM []byte, grace time.Duration, now time.Time) (*x509.Certificate, Identity, error) {
	none := Identity{}
	chain, err := parseCerts([]byte(r.Chain))
	if err != nil || len(chain) > maxChain {
		return nil, none, errors.New("the certificate to renew can't be read")
	}
	leaf, roots := chain[0], x509.NewCertPool()
	if !roots.AppendCertsFromPEM(rootsPEM) {
		return nil, none, errors.New("there are no roots")
	}
	at := now
	if now.After(leaf.NotAfter) && !now.After(leaf.NotAfter.Add(grace)) {
		at = leaf.NotAfter // it is in its grace
	}
	if err := verify(chain, roots, x509.VerifyOptions{CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		return nil, none, err
	}
	who, err := IdentityOf(leaf)
	if err != nil {
		return nil, none, err
	}
	csr, err := ParseRequest([]byte(r.Request))
	if err != nil {
		return nil, none, err
	}
	key, ok := leaf.PublicKey.(*ecdsa.PublicKey)
	proof, err := base64.StdEncoding.DecodeString(r.Proof)
	if !ok || err != nil || !ecdsa.VerifyASN1(key, renewalDigest(csr.Raw), proof) {
		return nil, none, fmt.Errorf("who asks does not have the key of the certificate of %s", who)
	}
	return leaf, who, nil
}

// RenewAt is when to renew a certificate: at half its life, a tenth earlier or later, so that those who were certified
// together do not come together. draw gives a number from 0 to 1; rand's if nil.
func RenewAt(cert *x509.Certificate, draw func() float64) time.Time {
	if draw == nil {
		draw = mrand.Float64
	}
	begin := cert.NotBefore.Add(backdate)
	half := float64(cert.NotAfter.Sub(begin)) / 2
	return begin.Add(time.Duration(math.Round(half * (0.9 + 0.2*draw()))))
}
