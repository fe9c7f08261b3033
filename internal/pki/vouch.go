package pki

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
)

// Vouch signs a text for a purpose: whoever knows the intermediate can tell later that it was signed by one who had its
// key, for that purpose, in that cluster. No certificate and no text for another purpose passes for it.
func (i *Issuer) Vouch(purpose string, text []byte) ([]byte, error) {
	sig, err := ecdsa.SignASN1(rand.Reader, i.key, vouched(i.Cluster, purpose, text))
	if err != nil {
		return nil, fmt.Errorf("sign with the intermediate %s: %w", i.Kind, err)
	}
	return sig, nil
}

// VouchedBy reports whether sig is what Vouch gave of the intermediate with the certificate, PEM, in a cluster.
func VouchedBy(certPEM []byte, cluster, purpose string, text, sig []byte) bool {
	cert, err := parseCert(certPEM)
	if err != nil {
		return false
	}
	key, ok := cert.PublicKey.(*ecdsa.PublicKey)
	return ok && ecdsa.VerifyASN1(key, vouched(cluster, purpose, text), sig)
}

// vouched is what is signed. What is signed of a certificate begins otherwise.
func vouched(cluster, purpose string, text []byte) []byte {
	sum := sha256.Sum256(fmt.Appendf(nil, "mobyfs vouches %q %q %q", cluster, purpose, text))
	return sum[:]
}
