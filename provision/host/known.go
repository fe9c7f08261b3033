package host

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/skeema/knownhosts"
	"golang.org/x/crypto/ssh"
	xknownhosts "golang.org/x/crypto/ssh/knownhosts"
)

// UnknownKey is a host key that nobody has vouched for yet. It wraps in the Problem of kind HostKeyUnknown that Dial
// returns under HostKeysAsk.
type UnknownKey struct {
	Host        string // Target.Name
	Fingerprint string
	Type        string
	name        string // as known_hosts knows the host
	file        string
	policy      HostKeyPolicy
	key         ssh.PublicKey
}

func (u *UnknownKey) Error() string {
	return fmt.Sprintf("%s shows the %s key %s, and no known_hosts file has it", u.name, u.Type, u.Fingerprint)
}

// MayBeTrusted reports whether the policy leaves the decision to a person, and there is a file to keep it in.
func (u *UnknownKey) MayBeTrusted() bool { return u.policy == HostKeysAsk && u.file != "" }

// Trust writes keys to known_hosts, so that the next Dial accepts them and nothing else.
func (d *Dialer) Trust(keys ...*UnknownKey) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, k := range keys {
		if err := remember(k); err != nil {
			return fmt.Errorf("remember the key of %s: %w", k.Host, err)
		}
	}
	return nil
}

func remember(k *UnknownKey) (err error) {
	if err := os.MkdirAll(filepath.Dir(k.file), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(k.file, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	text, err := os.ReadFile(k.file)
	if err != nil {
		return err
	}
	line := knownhosts.Line([]string{k.name}, k.key) + "\n"
	if len(text) > 0 && !bytes.HasSuffix(text, []byte("\n")) {
		line = "\n" + line
	}
	_, err = f.WriteAt([]byte(line), int64(len(text)))
	return err
}

// guard decides about the key that one host shows.
type guard struct {
	target  Target
	dialer  *Dialer
	name    string // host:port, or the alias
	file    string // where new keys go
	db      *knownhosts.HostKeyDB
	problem *Problem // why the key was refused
}

// newGuard reads those of the known_hosts files that exist.
func (d *Dialer) newGuard(t Target, s settings) (*guard, error) {
	g := &guard{target: t, dialer: d}
	if s.alias != "" {
		g.name = net.JoinHostPort(s.alias, "22")
	} else {
		g.name = net.JoinHostPort(s.host, fmt.Sprint(s.port))
	}
	var files []string
	for _, f := range s.known {
		if _, err := os.Stat(f); err == nil {
			files = append(files, f)
		}
	}
	if len(s.known) > 0 {
		g.file = s.known[0]
	}
	db, err := knownhosts.NewDB(files...)
	if err != nil {
		return nil, SSHConfig.Problem(t.Name, "read known_hosts: %w", err).WithFix("mend the line that the text names")
	}
	g.db = db
	return g, nil
}

// preferred are the types of host keys, best first. Without an order of our own a host that is known by one type
// would be asked for another and seem changed.
var preferred = []string{
	ssh.KeyAlgoED25519, ssh.KeyAlgoSKED25519,
	ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521,
	ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256,
}

// algorithms lists what to ask the host for, in the order of attempts. A pin does not tell its type, so each
// type may need an attempt; otherwise there is one.
func (g *guard) algorithms() [][]string {
	if g.target.HostKey != "" {
		return [][]string{preferred, preferred[2:], preferred[5:]}
	}
	if known := g.db.HostKeyAlgorithms(g.name); len(known) > 0 {
		return [][]string{known}
	}
	return [][]string{preferred}
}

// check is the ssh.HostKeyCallback. What it refuses, it explains in g.problem.
func (g *guard) check(_ string, remote net.Addr, key ssh.PublicKey) error {
	g.problem = g.judge(remote, key)
	if g.problem == nil {
		return nil
	}
	return g.problem
}

func (g *guard) judge(remote net.Addr, key ssh.PublicKey) *Problem {
	t, shown := g.target, ssh.FingerprintSHA256(key)
	if t.HostKey != "" {
		if shown == t.HostKey {
			return nil
		}
		return HostKeyPin.Problem(t.Name, "%s shows another key than cluster.yaml pins", g.name).
			WithDetail("pinned "+t.HostKey, "now    "+shown+" "+keyType(key))
	}
	err := g.db.HostKeyCallback()(g.name, remote, key)
	var known *xknownhosts.KeyError
	switch {
	case err == nil:
		return nil
	case knownhosts.IsHostKeyChanged(err) && errors.As(err, &known):
		return g.changed(known, key)
	case !knownhosts.IsHostUnknown(err):
		return HostKeyChanged.Problem(t.Name, "%s: %w", g.name, err)
	}
	return g.unknown(&UnknownKey{
		Host: t.Name, Fingerprint: shown, Type: keyType(key), name: g.name, file: g.file, policy: t.HostKeys, key: key,
	})
}

func (g *guard) changed(known *xknownhosts.KeyError, key ssh.PublicKey) *Problem {
	p := HostKeyChanged.Problem(g.target.Name, "%s shows another key than known_hosts has", g.name)
	for _, w := range known.Want {
		p = p.WithDetail(fmt.Sprintf("known %s %s (%s:%d)", ssh.FingerprintSHA256(w.Key), keyType(w.Key), w.Filename, w.Line))
	}
	p = p.WithDetail("now   " + ssh.FingerprintSHA256(key) + " " + keyType(key))
	return p.WithFix("if %s was installed anew: ssh-keygen -R %s -f %s; otherwise someone may be in between",
		g.target.Name, quote(knownhosts.Normalize(g.name)), known.Want[0].Filename)
}

func (g *guard) unknown(u *UnknownKey) *Problem {
	switch p := HostKeyUnknown.Problem(u.Host, "%w", u); {
	case g.target.HostKeys == HostKeysPinned:
		return p.WithFix("compare the fingerprint on the host, then write into cluster.yaml: hostKey: %s", u.Fingerprint)
	case g.target.HostKeys != HostKeysAcceptNew:
		return p.WithFix("compare the fingerprint on the host, then pin it in cluster.yaml (hostKey: %s), or connect once with ssh", u.Fingerprint)
	case u.file == "":
		return p.WithFix("ssh has no known_hosts file to remember the key in; pin it in cluster.yaml: hostKey: %s", u.Fingerprint)
	default:
		if err := g.dialer.Trust(u); err != nil {
			return HostKeyUnknown.Problem(u.Host, "%w", err).WithFix("make %s writable", u.file)
		}
		return nil
	}
}
