package pki

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// Invitation lets one machine or person into a cluster. Its text is
//
//	mby1.<role>.<id>.<secret>.<SHA-256 of the root's public key>
//
// so whoever has it can tell the cluster from one that only poses as it, before the secret is said.
type Invitation struct {
	Role   string
	ID     string
	Secret string // 256 bits, base64
	Pin    string // hexadecimal
}

const inviteVersion = "mby1"

// NewInvitation makes one with a fresh secret for the cluster of a root. Only who made it and who gets it know the
// secret; Hash is what is kept.
func NewInvitation(role, id string, rootPEM []byte) (Invitation, error) {
	root, err := parseCert(rootPEM)
	if err != nil {
		return Invitation{}, err
	}
	secret := make([]byte, 32)
	if _, err := rand.Read(secret); err != nil {
		return Invitation{}, err
	}
	return Invitation{role, id, base64.RawURLEncoding.EncodeToString(secret), fingerprint(root)}, nil
}

func (i Invitation) String() string {
	return strings.Join([]string{inviteVersion, i.Role, i.ID, i.Secret, i.Pin}, ".")
}

// maxInvitation is how many bytes of a file or of stdin are read for the text of one.
const maxInvitation = 4 << 10

// ReadInvitation reads the text of one, which need not be right, from a file, or from stdin if the file is "-".
func ReadInvitation(file string, stdin io.Reader) (string, error) {
	in := stdin
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return "", fmt.Errorf("read the token: %w", err)
		}
		defer f.Close()
		in = f
	}
	text, err := io.ReadAll(io.LimitReader(in, maxInvitation))
	if err != nil {
		return "", fmt.Errorf("read the token: %w", err)
	}
	return string(text), nil
}

// ParseInvitation reads the text of one, with space around it. Errors do not tell what it holds.
func ParseInvitation(text string) (Invitation, error) {
	parts := strings.Split(strings.TrimSpace(text), ".")
	if len(parts) != 5 || parts[0] != inviteVersion {
		return Invitation{}, errors.New("this is no token to join with: one begins with mby1. and has five parts")
	}
	i := Invitation{parts[1], parts[2], parts[3], parts[4]}
	secret, secretErr := base64.RawURLEncoding.DecodeString(i.Secret)
	pin, pinErr := hex.DecodeString(i.Pin)
	if secretErr != nil || pinErr != nil || len(secret) != 32 || len(pin) != sha256.Size || i.Role == "" || i.ID == "" {
		return Invitation{}, errors.New("the token to join with is damaged: it was not copied whole")
	}
	return i, nil
}

// Hash is what is kept of the secret.
func (i Invitation) Hash() string {
	sum := sha256.Sum256([]byte(i.Secret))
	return hex.EncodeToString(sum[:])
}

// Is reports whether this is the secret that was kept as hash.
func (i Invitation) Is(hash string) bool {
	return subtle.ConstantTimeCompare([]byte(i.Hash()), []byte(hash)) == 1
}

// Pinned finds among roots, which nobody has vouched for, the one that the invitation names.
func (i Invitation) Pinned(rootsPEM []byte) (rootPEM []byte, err error) {
	for block, rest := pem.Decode(rootsPEM); block != nil; block, rest = pem.Decode(rest) {
		cert, err := x509.ParseCertificate(block.Bytes)
		if err == nil && cert.IsCA && cert.CheckSignatureFrom(cert) == nil && fingerprint(cert) == i.Pin {
			return pem.EncodeToMemory(block), nil
		}
	}
	return nil, fmt.Errorf("who answers is not the cluster of the token: none of its roots has the fingerprint %.16s…", i.Pin)
}

// Roots splits a PEM text into its certificates' fingerprints and texts.
func Roots(rootsPEM []byte) map[string][]byte {
	all := map[string][]byte{}
	for block, rest := pem.Decode(rootsPEM); block != nil; block, rest = pem.Decode(rest) {
		if cert, err := x509.ParseCertificate(block.Bytes); err == nil {
			all[fingerprint(cert)] = pem.EncodeToMemory(block)
		}
	}
	return all
}

// KeyID is the SHA-256 of the key that a certificate request is for.
func KeyID(csrPEM []byte) (string, error) {
	csr, err := ParseRequest(csrPEM)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(csr.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:]), nil
}
