package pki

import (
	"fmt"
	"os"
	"time"

	"github.com/mobyfs/mobyfs/internal/durable"
)

// HeldByPeer is what the files of a peer hold: which intermediates they trust, as TrustID names them, and the fingerprint
// of the one that made the certificate.
func (f Files) HeldByPeer() (trust, issuer string, err error) {
	peers, err := os.ReadFile(f.CA)
	if err != nil {
		return "", "", err
	}
	chain, err := f.Chain()
	if err != nil {
		return "", "", err
	}
	if len(chain) > 1 && chain[0].CheckSignatureFrom(chain[1]) == nil {
		issuer = fingerprint(chain[1])
	}
	return TrustID(peers), issuer, nil
}

// Recertify gives the files a certificate of another intermediate, as the same and for the key that is there: whoever
// reads key and certificate one after the other, as the store does at each handshake, finds a pair at any time. What the
// files trust stays.
func (f Files) Recertify(i *Issuer, now time.Time) error {
	chain, err := f.Chain()
	if err != nil {
		return err
	}
	who, _, err := f.Identity()
	if err != nil {
		return err
	}
	csr, err := f.NewRequest()
	if err != nil {
		return err
	}
	cert, err := i.SignSince(csr, who, Since(chain[0]), now)
	if err != nil {
		return fmt.Errorf("certify %s anew: %w", who, err)
	}
	return durable.WriteFile("pki.cert", f.Cert, cert, 0o644)
}
