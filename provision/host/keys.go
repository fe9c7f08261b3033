package host

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// maxKeys is how many keys are offered: sshd counts each one and locks out an address that offers too many.
const maxKeys = 5

// keyring is the keys to log in with, in the order of offering, and what to tell if none is accepted.
type keyring struct {
	signers []ssh.Signer
	tried   []string // one line for each signer
	skipped []string // keys that could not be offered, and why
}

func (k *keyring) has(key ssh.PublicKey) bool {
	for _, s := range k.signers {
		if bytes.Equal(s.PublicKey().Marshal(), key.Marshal()) {
			return true
		}
	}
	return false
}

func (k *keyring) add(s ssh.Signer, from string) {
	line := fmt.Sprintf("%s %s (%s)", ssh.FingerprintSHA256(s.PublicKey()), keyType(s.PublicKey()), from)
	switch {
	case k.has(s.PublicKey()):
	case len(k.signers) == maxKeys:
		k.skipped = append(k.skipped, line+": not offered, since no more than 5 are; set identityFile")
	default:
		k.signers = append(k.signers, s)
		k.tried = append(k.tried, line)
	}
}

// keys collects as ssh does: the files that are configured, through the agent where it has them, then the agent's
// other keys. A file that is named in cluster.yaml must be usable.
func (d *Dialer) keys(t Target, s settings) (*keyring, error) {
	ring := &keyring{}
	held := d.agentKeys(s.agent)
	for _, path := range s.identities {
		signer, err := loadIdentity(path, held)
		switch {
		case err == nil:
			ring.add(signer, path)
		case t.IdentityFile != "":
			return nil, KeyUnusable.Problem(t.Name, "%w", err).WithFix("%s", keyFix(path, err))
		case !errors.Is(err, fs.ErrNotExist):
			ring.skipped = append(ring.skipped, err.Error())
		}
	}
	if !s.identitiesOnly {
		for _, signer := range held {
			ring.add(signer, "agent")
		}
	}
	return ring, nil
}

// errEncrypted is about a key that only the agent could use.
var errEncrypted = errors.New("it is encrypted, and the SSH agent does not have it")

// loadIdentity reads a private key, or finds it in the agent by the public key beside it.
func loadIdentity(path string, held []ssh.Signer) (ssh.Signer, error) {
	if text, err := os.ReadFile(path + ".pub"); err == nil {
		if pub, _, _, _, err := ssh.ParseAuthorizedKey(text); err == nil {
			for _, s := range held {
				if bytes.Equal(s.PublicKey().Marshal(), pub.Marshal()) {
					return s, nil
				}
			}
		}
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the key %s: %w", path, errors.Unwrap(err))
	}
	signer, err := ssh.ParsePrivateKey(text)
	if missing := (*ssh.PassphraseMissingError)(nil); errors.As(err, &missing) {
		if missing.PublicKey != nil {
			for _, s := range held {
				if bytes.Equal(s.PublicKey().Marshal(), missing.PublicKey.Marshal()) {
					return s, nil
				}
			}
		}
		return nil, fmt.Errorf("use the key %s: %w", path, errEncrypted)
	}
	if err != nil {
		return nil, fmt.Errorf("read the key %s: %w", path, err)
	}
	return signer, nil
}

func keyFix(path string, err error) string {
	switch {
	case errors.Is(err, errEncrypted):
		return "ssh-add " + path
	case errors.Is(err, fs.ErrNotExist):
		return "check the path in identityFile"
	default:
		return KeyUnusable.Fix
	}
}

// agentKeys lists the keys of the SSH agent. One that does not answer has none.
func (d *Dialer) agentKeys(socket string) []ssh.Signer {
	if socket == "" {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if keys, ok := d.agents[socket]; ok {
		return keys
	}
	var keys []ssh.Signer
	if conn, err := net.Dial("unix", socket); err == nil {
		if keys, err = agent.NewClient(conn).Signers(); err != nil || len(keys) == 0 {
			conn.Close()
		}
	}
	d.agents[socket] = keys
	return keys
}

// keyType is the short word for a key's type, as ssh says it.
func keyType(k ssh.PublicKey) string {
	t := strings.TrimPrefix(strings.TrimPrefix(k.Type(), "ssh-"), "ecdsa-sha2-")
	if strings.HasPrefix(t, "nistp") {
		return "ecdsa"
	}
	return t
}
