// Package seal keeps secrets at rest from whoever gets hold of the store's files or of a backup: AES-256-GCM, with a key
// per secret, and above those the one key that lies in a file of its own.
//
// That file is made once and is the same on every control host. Whoever has it and a backup has the cluster; whoever
// lost it has lost what it sealed.
package seal

import (
	"bytes"
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

const (
	keySize = 32 // bytes of every key
	idSize  = 8  // bytes that name a key
	maxKeys = 16 // in one file
	maxFile = 64 << 10
	linePre = "kek1."
)

// fileHead begins the file of keys, for people.
const fileHead = "# mobyfs: seals the cluster's secrets and backups. Keep a copy elsewhere: without it no backup opens.\n"

// Key seals and opens: it is the key that seals others: the newest, and those of before that are still needed to open. It never changes;
// all methods may be called at once.
type Key struct{ keys []key } // newest first, one at least

// key is one key and its name.
type key struct {
	secret [keySize]byte
	id     [idSize]byte
	aead   cipher.AEAD
}

// newKey names a key by its digest, of which nothing leads back.
func newKey(secret [keySize]byte) key {
	sum := sha256.Sum256(append([]byte("mobyfs kek id\x00"), secret[:]...))
	k := key{secret: secret, aead: gcm(secret[:])}
	copy(k.id[:], sum[:])
	return k
}

// gcm is AES-256-GCM with a random nonce in front of each message.
func gcm(secret []byte) cipher.AEAD {
	block, err := aes.NewCipher(secret)
	if err != nil {
		panic(err) // only a wrong length
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(err) // only another block size
	}
	return aead
}

func randomKey() key {
	var secret [keySize]byte
	_, _ = rand.Read(secret[:]) // never fails
	return newKey(secret)
}

// PathIn is where a control's key lies in its root. It is the same on each control host.
func PathIn(root string) string { return filepath.Join(root, "pki", "kek") }

// Make loads the key from a file, or makes one there (0600, whole or not there) if there is none.
func Make(path string) (*Key, error) {
	k, err := Load(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return k, err
	}
	k = &Key{[]key{randomKey()}}
	return k, k.write(path)
}

// Load reads the key from a file. fs.ErrNotExist if there is none; a file that others may read is refused.
func Load(path string) (*Key, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("load the key: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("load the key: %s may be read by others (%v): chmod 600 it", path, info.Mode().Perm())
	}
	if info.Size() > maxFile {
		return nil, fmt.Errorf("load the key: %s holds none", path)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("load the key: %w", err)
	}
	k, err := Parse(text)
	if err != nil {
		return nil, fmt.Errorf("load the key from %s: %w", path, err)
	}
	return k, nil
}

// Parse reads what a file of keys holds. A line that was cut or mistyped is an error.
func Parse(text []byte) (*Key, error) {
	k := &Key{}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		one, err := parseLine(line)
		if err != nil {
			return nil, err
		}
		if k.keys = append(k.keys, one); len(k.keys) > maxKeys {
			return nil, fmt.Errorf("it holds more than %d keys", maxKeys)
		}
	}
	if len(k.keys) == 0 {
		return nil, errors.New("it holds no key")
	}
	return k, nil
}

// parseLine reads kek1.<id>.<secret>. The errors don't tell the line.
func parseLine(line string) (key, error) {
	rest, ok := strings.CutPrefix(line, linePre)
	name, text, two := strings.Cut(rest, ".")
	if !ok || !two {
		return key{}, errors.New("it holds a line that is no key")
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil || len(raw) != keySize {
		return key{}, errors.New("it holds a key that was cut or mistyped")
	}
	k := newKey([keySize]byte(raw))
	if name != hex.EncodeToString(k.id[:]) {
		return key{}, errors.New("it holds a key that was cut or mistyped")
	}
	return k, nil
}

// Text is what a file of these keys holds.
func (k *Key) Text() []byte {
	var b bytes.Buffer
	b.WriteString(fileHead)
	for _, one := range k.keys {
		fmt.Fprintf(&b, "%s%x.%s\n", linePre, one.id, base64.RawURLEncoding.EncodeToString(one.secret[:]))
	}
	return b.Bytes()
}

// write puts the keys into a file in place of the one that is there.
func (k *Key) write(path string) error {
	if err := durable.WriteFile("seal.key", path, k.Text(), 0o600); err != nil {
		return fmt.Errorf("write the key: %w", err)
	}
	return nil
}

// ID names the newest key.
func (k *Key) ID() string { return hex.EncodeToString(k.keys[0].id[:]) }

// IDs names all keys, the newest first.
func (k *Key) IDs() []string {
	var all []string
	for _, one := range k.keys {
		all = append(all, hex.EncodeToString(one.id[:]))
	}
	return all
}

// Rotate puts a new key in front and writes the file. What was sealed before still opens; Rewrap moves it to the new
// key. Killed in between, the file is the old one or the new one, and both open all there is.
func (k *Key) Rotate(path string) (*Key, error) {
	if len(k.keys) == maxKeys {
		return nil, fmt.Errorf("rotate the key: the file holds %d keys already: retire the old ones first", maxKeys)
	}
	next := &Key{append([]key{randomKey()}, k.keys...)}
	return next, next.write(path)
}

// Retire drops all keys but the newest from the file: what was sealed by them and not moved is lost.
func (k *Key) Retire(path string) (*Key, error) {
	next := &Key{k.keys[:1:1]}
	return next, next.write(path)
}

// find is the key of an id.
func (k *Key) find(id []byte) (key, bool) {
	for _, one := range k.keys {
		if bytes.Equal(one.id[:], id) {
			return one, true
		}
	}
	return key{}, false
}
