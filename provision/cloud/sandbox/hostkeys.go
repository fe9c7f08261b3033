package sandbox

import (
	"context"
	"net"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/mobyfs/mobyfs"
)

// hostKeys are the public keys of one host's sshd.
type hostKeys []ssh.PublicKey

// readHostKeys reads them from the container, through Docker, so that nobody in between can forge them.
func readHostKeys(ctx context.Context, h Host) (hostKeys, error) {
	out, err := docker(ctx, "exec", h.Container, "sh", "-c", "cat /etc/ssh/ssh_host_*_key.pub")
	if err != nil {
		return nil, err
	}
	return parseHostKeys(out)
}

func parseHostKeys(out []byte) (hostKeys, error) {
	var keys hostKeys
	for rest := out; len(strings.TrimSpace(string(rest))) > 0; {
		k, _, _, after, err := ssh.ParseAuthorizedKey(rest)
		if err != nil {
			return nil, mobyfs.Errorf(mobyfs.CodeInternal, "decode host keys: %w", err)
		}
		keys, rest = append(keys, k), after
	}
	if len(keys) == 0 {
		return nil, mobyfs.Errorf(mobyfs.CodeInternal, "sshd has no host keys")
	}
	return keys, nil
}

// fingerprint is that of the ed25519 key, or of the first if there is none.
func (k hostKeys) fingerprint() string {
	i := slices.IndexFunc(k, func(p ssh.PublicKey) bool { return p.Type() == ssh.KeyAlgoED25519 })
	return ssh.FingerprintSHA256(k[max(i, 0)])
}

// check is an ssh.HostKeyCallback that takes these keys and no other.
func (k hostKeys) check(_ string, _ net.Addr, shown ssh.PublicKey) error {
	for _, p := range k {
		if p.Type() == shown.Type() && string(p.Marshal()) == string(shown.Marshal()) {
			return nil
		}
	}
	return mobyfs.Errorf(mobyfs.CodeDenied, "another machine answers: it shows host key %s", ssh.FingerprintSHA256(shown))
}

// login runs a command over SSH with the fleet's key, as whoever sets the host up will. A refused connection is tried
// again until ctx ends; anything else is final, because sshd punishes those who try often.
func login(ctx context.Context, f Fleet, h Host, signer ssh.Signer, keys hostKeys) error {
	config := &ssh.ClientConfig{
		User: f.User, Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)}, HostKeyCallback: keys.check, Timeout: 20 * time.Second,
	}
	address := net.JoinHostPort(h.Address, "22")
	var conn net.Conn
	err := poll(ctx, func() (err error) {
		conn, err = (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "tcp", address)
		return err
	})
	if err != nil {
		return mobyfs.Errorf(mobyfs.CodeUnavailable, "connect to sshd: %w", err).
			WithHint("the sandbox needs Docker Engine on this very machine, not in a virtual machine or elsewhere")
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(config.Timeout))
	c, channels, requests, err := ssh.NewClientConn(conn, address, config)
	if err != nil {
		return mobyfs.Errorf(mobyfs.CodeDenied, "log in over SSH as %s: %w", f.User, err)
	}
	client := ssh.NewClient(c, channels, requests)
	defer func() { _ = client.Close() }()
	session, err := client.NewSession()
	if err == nil {
		err = session.Run("true")
	}
	if err != nil {
		return mobyfs.Errorf(mobyfs.CodeUnavailable, "run a command over SSH: %w", err)
	}
	return nil
}
