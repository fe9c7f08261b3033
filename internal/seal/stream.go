package seal

import (
	"errors"
	"fmt"
	"io"

	"filippo.io/age"
)

// stanza is how a sealed stream's head names our way of sealing its key.
const stanza = "mobyfs.dev/kek"

// Writer seals a stream for one place, in chunks that can't be cut, reordered or exchanged unnoticed (age's format:
// STREAM with ChaCha20-Poly1305). Only Close makes it whole. Nobody without the key can make one that opens.
func (k *Key) Writer(w io.Writer, name string) (io.WriteCloser, error) {
	sealing, err := age.Encrypt(w, wrapper{k, name})
	if err != nil {
		return nil, fmt.Errorf("seal %s: %w", name, err)
	}
	return sealing, nil
}

// Reader opens what Writer made under the same name. What it gives out is true, but the whole is only known to be there
// when it says io.EOF: a stream that was cut or changed ends in another error.
func (k *Key) Reader(r io.Reader, name string) (io.Reader, error) {
	opened, err := age.Decrypt(r, wrapper{k, name})
	if err == nil {
		return checked{opened, name}, nil
	}
	for _, reason := range []error{ErrKey, ErrSwapped, ErrTampered} {
		if errors.Is(err, reason) {
			return nil, fmt.Errorf("open %s: %w", name, reason)
		}
	}
	return nil, fmt.Errorf("open %s: %w", name, ErrCut)
}

// checked tells errors of the stream as what they are.
type checked struct {
	r    io.Reader
	name string
}

func (c checked) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if err != nil && err != io.EOF {
		err = fmt.Errorf("open %s: %w (%w)", c.name, ErrTampered, err)
	}
	return n, err
}

// wrapper seals the key of a stream, and opens it.
type wrapper struct {
	k    *Key
	name string
}

// place is the name under which the key of a stream is sealed: no record's.
func (w wrapper) place() string { return "stream:" + w.name }

// Wrap implements age.Recipient.
func (w wrapper) Wrap(fileKey []byte) ([]*age.Stanza, error) {
	return []*age.Stanza{{Type: stanza, Args: []string{w.k.ID()}, Body: w.k.seal(w.place(), fileKey)}}, nil
}

// Unwrap implements age.Identity.
func (w wrapper) Unwrap(stanzas []*age.Stanza) ([]byte, error) {
	for _, s := range stanzas {
		if s.Type == stanza {
			return w.k.open(w.place(), s.Body)
		}
	}
	return nil, age.ErrIncorrectIdentity
}
