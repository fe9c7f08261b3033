package pki

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/mobyfs/mobyfs/internal/failpoint"
)

// claims is the body of a token: the payload, and who may not use it after when.
type claims struct {
	jwt.RegisteredClaims
	Payload json.RawMessage `json:"mobyfs"`
}

// SignToken makes a token (a JWT, ES256, with the signer's certificate and its
// intermediate in x5c) that anyone who trusts the authority can check without asking anybody.
func (f Files) SignToken(payload any, life time.Duration) (string, error) {
	id, err := f.load()
	if err != nil {
		return "", err
	}
	body, err := json.Marshal(payload)
	if err != nil {
		return "", err
	}
	t := jwt.NewWithClaims(jwt.SigningMethodES256, claims{
		RegisteredClaims: jwt.RegisteredClaims{ExpiresAt: jwt.NewNumericDate(failpoint.Now().Add(life))},
		Payload:          body,
	})
	var chain []string
	for _, der := range id.cert.Certificate {
		chain = append(chain, base64.StdEncoding.EncodeToString(der))
	}
	t.Header["x5c"] = chain
	return t.SignedString(id.cert.PrivateKey)
}

// OpenToken checks that someone of the role, certified by the same authority, signed the token and that it has not
// expired; then it fills payload.
func (f Files) OpenToken(token, role string, payload any) error {
	id, err := f.load()
	if err != nil {
		return err
	}
	var c claims
	_, err = jwt.ParseWithClaims(token, &c, func(t *jwt.Token) (any, error) { return signerKey(t, id, role) },
		jwt.WithValidMethods([]string{jwt.SigningMethodES256.Alg()}), jwt.WithExpirationRequired(), jwt.WithTimeFunc(failpoint.Now))
	if err != nil {
		return fmt.Errorf("check the token: %w", err)
	}
	return json.Unmarshal(c.Payload, payload)
}

// maxChain is the most certificates that a token may carry.
const maxChain = 4

// signerKey finds the key in the certificate that came with the token and checks whose it is.
func signerKey(t *jwt.Token, id loaded, role string) (any, error) {
	texts, _ := t.Header["x5c"].([]any)
	if len(texts) == 0 || len(texts) > maxChain {
		return nil, errors.New("it carries no certificate")
	}
	var chain []*x509.Certificate
	for _, x := range texts {
		text, _ := x.(string)
		der, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			return nil, err
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, err
		}
		chain = append(chain, cert)
	}
	if err := verify(chain, id.roots, x509.VerifyOptions{KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		return nil, err
	}
	who, err := IdentityOf(chain[0])
	if err != nil {
		return nil, err
	}
	if who.Role != role {
		return nil, fmt.Errorf("it was signed by %s, not by a %s", who, role)
	}
	return chain[0].PublicKey, nil
}
