package seal

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
)

// Why something does not open.
var (
	// ErrKey: it was sealed by a key that is not in the file. It may be whole.
	ErrKey = errors.New("it was sealed by a key that is not here")
	// ErrCut: bytes are missing, or too many, or it was never sealed.
	ErrCut = errors.New("it was cut, or is nothing that was sealed")
	// ErrSwapped: it was sealed under another name: somebody put it in another's place.
	ErrSwapped = errors.New("it was sealed for another place")
	// ErrTampered: it is not what was sealed.
	ErrTampered = errors.New("it was changed after it was sealed")
)

// What is sealed, in bytes (base64 in a record):
//
//	4 magic · 8 id of the KEK · 8 digest of the name · 4 length of the secret · 60 sealed DEK · 28+length sealed secret
//
// The DEK is sealed by the KEK with all of the head and the whole name as additional data, the secret by the DEK with
// magic, digest, length and name: so neither opens in another record's place, and a KEK can be replaced without
// touching the secret.
const (
	magic     = "mbs1"
	headSize  = len(magic) + idSize + tagSize + 4
	tagSize   = 8
	overhead  = 12 + 16 // nonce and tag of GCM
	dekSealed = keySize + overhead
)

// Seal makes a text of a secret that opens with this key for this record only, such as the key of the record that will
// hold it.
func (k *Key) Seal(record string, secret []byte) string {
	return base64.StdEncoding.EncodeToString(k.seal(record, secret))
}

// Open gives back what was sealed for the record.
func (k *Key) Open(record, sealed string) ([]byte, error) {
	raw, err := decode(sealed)
	if err == nil {
		raw, err = k.open(record, raw)
	}
	if err != nil {
		return nil, fmt.Errorf("open what is sealed in %s: %w", record, err)
	}
	return raw, nil
}

// Rewrap is what sealed becomes under the newest key, and whether that is news. The secret is not opened.
func (k *Key) Rewrap(record, sealed string) (string, bool, error) {
	raw, err := decode(sealed)
	if err != nil {
		return "", false, fmt.Errorf("seal %s anew: %w", record, err)
	}
	h, dek, err := k.unwrap(record, raw)
	if err != nil {
		return "", false, fmt.Errorf("seal %s anew: %w", record, err)
	}
	if h.kek == k.keys[0].id {
		return sealed, false, nil
	}
	h.kek = k.keys[0].id
	raw = append(h.seal(k.keys[0], dek, record), raw[headSize+dekSealed:]...)
	return base64.StdEncoding.EncodeToString(raw), true, nil
}

func decode(sealed string) ([]byte, error) {
	raw, err := base64.StdEncoding.Strict().DecodeString(sealed)
	if err != nil {
		return nil, ErrCut
	}
	return raw, nil
}

func (k *Key) seal(name string, secret []byte) []byte {
	var dek [keySize]byte
	_, _ = rand.Read(dek[:]) // never fails
	h := head{kek: k.keys[0].id, tag: tagOf(name), size: uint32(len(secret))}
	return gcm(dek[:]).Seal(h.seal(k.keys[0], dek[:], name), nil, secret, h.inner(name))
}

func (k *Key) open(name string, sealed []byte) ([]byte, error) {
	h, dek, err := k.unwrap(name, sealed)
	if err != nil {
		return nil, err
	}
	secret, err := gcm(dek).Open(nil, nil, sealed[headSize+dekSealed:], h.inner(name))
	if err != nil {
		return nil, ErrTampered
	}
	return secret, nil
}

// unwrap checks the head and opens the DEK.
func (k *Key) unwrap(name string, sealed []byte) (head, []byte, error) {
	h, err := parseHead(sealed)
	if err != nil {
		return h, nil, err
	}
	one, ok := k.find(h.kek[:])
	switch {
	case !ok:
		return h, nil, fmt.Errorf("%w (%x)", ErrKey, h.kek)
	case h.tag != tagOf(name):
		return h, nil, ErrSwapped
	}
	dek, err := one.aead.Open(nil, nil, sealed[headSize:headSize+dekSealed], h.outer(name))
	if err != nil {
		return h, nil, ErrTampered
	}
	return h, dek, nil
}

// head is the beginning of a sealed record.
type head struct {
	kek  [idSize]byte
	tag  [tagSize]byte
	size uint32
}

func parseHead(sealed []byte) (h head, err error) {
	if len(sealed) < headSize+dekSealed+overhead || !bytes.HasPrefix(sealed, []byte(magic)) {
		return h, ErrCut
	}
	rest := sealed[len(magic):]
	copy(h.kek[:], rest)
	copy(h.tag[:], rest[idSize:])
	h.size = binary.BigEndian.Uint32(rest[idSize+tagSize:])
	if len(sealed) != headSize+dekSealed+overhead+int(h.size) {
		return h, ErrCut
	}
	return h, nil
}

// seal is the head and the sealed DEK.
func (h head) seal(by key, dek []byte, name string) []byte {
	return by.aead.Seal(h.outer(""), nil, dek, h.outer(name))
}

// outer is the head and the name, which the KEK vouches for.
func (h head) outer(name string) []byte {
	b := append([]byte(magic), h.kek[:]...)
	return append(h.rest(b), name...)
}

// inner is what the DEK vouches for: all but who sealed the DEK.
func (h head) inner(name string) []byte { return append(h.rest([]byte(magic)), name...) }

func (h head) rest(b []byte) []byte {
	return binary.BigEndian.AppendUint32(append(b, h.tag[:]...), h.size)
}

func tagOf(name string) (tag [tagSize]byte) {
	sum := sha256.Sum256([]byte(name))
	copy(tag[:], sum[:])
	return tag
}
