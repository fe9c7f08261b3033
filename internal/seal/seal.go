// Package seal keeps secrets in records that others can read: backups, snapshots, a member's disk.
//
// What is sealed (AES-256-GCM) opens with the same key for the same record alone: the ID of the key and the record's
// name are authenticated with it, so a sealed secret can't be moved to another record.
package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/mobyfs/mobyfs/internal/durable"
)

// keySize is that of AES-256, in bytes.
const keySize = 32

// Key seals and opens. It may be used at once.
type Key struct {
	id   string
	aead cipher.AEAD
}

// PathIn is where a control's key lies in its root. It is the same on each control host.
func PathIn(root string) string { return filepath.Join(root, "pki", "kek") }

// Load reads a key from a file. fs.ErrNotExist if there is none.
func Load(path string) (*Key, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	secret, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(secret) != keySize {
		return nil, fmt.Errorf("%s holds no key to seal with", path)
	}
	return newKey(secret)
}

// Make loads the key from a file, or makes one there, 0600, if there is none.
func Make(path string) (*Key, error) {
	k, err := Load(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return k, err
	}
	secret := make([]byte, keySize)
	if _, err := rand.Read(secret); err != nil {
		return nil, err
	}
	text := base64.StdEncoding.EncodeToString(secret) + "\n"
	if err := durable.WriteFile("seal.key", path, []byte(text), 0o600); err != nil {
		return nil, err
	}
	return newKey(secret)
}

func newKey(secret []byte) (*Key, error) {
	block, err := aes.NewCipher(secret)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(append([]byte("mobyfs key "), secret...))
	return &Key{hex.EncodeToString(sum[:8]), aead}, nil
}

// ID names the key without telling it.
func (k *Key) ID() string { return k.id }

// Seal makes a text of a secret that only Open of the same key and record reads.
func (k *Key) Seal(record string, secret []byte) string {
	return k.id + ":" + base64.StdEncoding.EncodeToString(k.aead.Seal(nil, nil, secret, k.bound(record)))
}

// Open gives back what was sealed for the record.
func (k *Key) Open(record, sealed string) ([]byte, error) {
	id, text, ok := strings.Cut(sealed, ":")
	if !ok {
		return nil, fmt.Errorf("%s is not sealed", record)
	}
	if id != k.id {
		return nil, fmt.Errorf("%s is sealed with the key %s, this is %s", record, id, k.id)
	}
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil, fmt.Errorf("read what is sealed in %s: %w", record, err)
	}
	secret, err := k.aead.Open(nil, nil, raw, k.bound(record))
	if err != nil {
		return nil, fmt.Errorf("what is sealed in %s was changed, or is another record's", record)
	}
	return secret, nil
}

// bound is what is authenticated beside the secret.
func (k *Key) bound(record string) []byte { return []byte(k.id + "\x00" + record) }
