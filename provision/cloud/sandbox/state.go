package sandbox

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/durable"
)

// state is what is written down of one fleet: fleet.json, the private key and known_hosts, in a directory that
// only its owner may read.
type state struct {
	name string
	root string // of all fleets
	dir  string
}

// stateRoot is $XDG_DATA_HOME/mobyfs/sandbox, or the same below ~/.local/share.
func stateRoot() (string, error) {
	data := os.Getenv("XDG_DATA_HOME")
	if !filepath.IsAbs(data) { // as the XDG specification wants it
		home, err := os.UserHomeDir()
		if err != nil {
			return "", err
		}
		data = filepath.Join(home, ".local", "share")
	}
	return filepath.Join(data, "mobyfs", "sandbox"), nil
}

func stateOf(name string) (state, error) {
	if err := checkName(name); err != nil {
		return state{}, err
	}
	root, err := stateRoot()
	return state{name: name, root: root, dir: filepath.Join(root, name)}, err
}

// savedFleets are the names of the fleets that are written down.
func savedFleets() ([]string, error) {
	root, err := stateRoot()
	if err != nil {
		return nil, err
	}
	files, err := filepath.Glob(filepath.Join(root, "*", "fleet.json"))
	var names []string
	for _, f := range files {
		names = append(names, filepath.Base(filepath.Dir(f)))
	}
	return names, err
}

func (s state) path(name string) string { return filepath.Join(s.dir, name) }

// lock keeps others from changing the fleet until unlock is called, which also removes the directories above the
// fleet's that have become empty, up to the user's data directory.
func (s state) lock(ctx context.Context) (unlock func(), err error) {
	unlockFile, err := lockFile(ctx, filepath.Join(s.root, "."+s.name+".lock"))
	return func() {
		unlockFile()
		_ = os.Remove(filepath.Dir(s.root)) // refused unless it is empty
	}, err
}

// newFleet is a fleet without hosts that nothing was made of.
func (s state) newFleet() Fleet {
	return Fleet{
		Name: s.name, Network: networkOf(s.name), User: "root",
		Key: s.path("id_ed25519"), KnownHosts: s.path("known_hosts"),
	}
}

func (s state) load() (Fleet, error) {
	f := s.newFleet()
	err := durable.ReadJSON(s.path("fleet.json"), &f)
	if errors.Is(err, fs.ErrNotExist) {
		return Fleet{}, mobyfs.Errorf(mobyfs.CodeNotFound, "there is no sandbox fleet %q", s.name).
			WithHint("make it: mobyctl sandbox up --name %s", s.name)
	}
	f.Key, f.KnownHosts = s.path("id_ed25519"), s.path("known_hosts") // a home that was moved is fine
	return f, err
}

func (s state) save(f Fleet) error {
	if err := s.makeDir(); err != nil {
		return err
	}
	return durable.WriteJSON("sandbox.fleet", s.path("fleet.json"), f, 0o600)
}

func (s state) makeDir() error { return os.MkdirAll(s.dir, 0o700) }

// remove forgets the fleet.
func (s state) remove() error { return os.RemoveAll(s.dir) }

// publicKey is the public half of a fleet's key.
type publicKey struct {
	line  string // as authorized_keys wants it
	isNew bool   // no host can know it yet
}

// makeKey makes the fleet's key pair if there is none.
func (s state) makeKey(fleet string) (publicKey, error) {
	file := s.path("id_ed25519")
	saved, err := os.ReadFile(file)
	if err == nil {
		signer, err := ssh.ParsePrivateKey(saved)
		if err != nil {
			return publicKey{}, fmt.Errorf("read %s: %w", file, err)
		}
		return publicKey{line: authorizedKey(signer.PublicKey(), fleet)}, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return publicKey{}, err
	}
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return publicKey{}, err
	}
	block, err := ssh.MarshalPrivateKey(private, "mobyfs-sandbox-"+fleet)
	if err != nil {
		return publicKey{}, err
	}
	public, err := ssh.NewPublicKey(private.Public())
	if err != nil {
		return publicKey{}, err
	}
	if err := s.makeDir(); err != nil {
		return publicKey{}, err
	}
	line := authorizedKey(public, fleet)
	if err := durable.WriteFile("sandbox.public", file+".pub", []byte(line), 0o600); err != nil {
		return publicKey{}, err
	}
	return publicKey{line, true}, durable.WriteFile("sandbox.key", file, pem.EncodeToMemory(block), 0o600)
}

func authorizedKey(k ssh.PublicKey, fleet string) string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(k))) + " mobyfs-sandbox-" + fleet + "\n"
}

// saveKnownHosts writes down by which keys the hosts are known, so that SSH need never trust at first sight.
func (s state) saveKnownHosts(f Fleet, keys []hostKeys) error {
	var b strings.Builder
	for i, h := range f.Hosts {
		for _, k := range keys[i] {
			fmt.Fprintf(&b, "%s %s", h.Address, ssh.MarshalAuthorizedKey(k))
		}
	}
	return durable.WriteFile("sandbox.known_hosts", s.path("known_hosts"), []byte(b.String()), 0o600)
}

// withFleetsOf adds to names the fleets that only their containers tell of.
func withFleetsOf(names []string, made []container) []string {
	names = slices.Clone(names)
	for _, c := range made {
		names = append(names, c.Config.Labels[labelFleet])
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// withStates tells how each host of a fleet stands. Containers that are written down nowhere are hosts too.
func withStates(f Fleet, made []container) []Host {
	hosts := slices.Clone(f.Hosts)
	for i := range hosts {
		hosts[i].State = "missing"
	}
	for _, c := range made {
		if c.Config.Labels[labelFleet] != f.Name {
			continue
		}
		i := slices.IndexFunc(hosts, func(h Host) bool { return h.Container == c.Name })
		if i < 0 {
			i = len(hosts)
			hosts = append(hosts, Host{Name: c.Config.Labels[labelHost], Container: c.Name})
		}
		hosts[i].State = c.State.Status
	}
	slices.SortFunc(hosts, func(a, b Host) int { return hostNumber(a.Name) - hostNumber(b.Name) })
	return hosts
}

func hostNumber(name string) int {
	n, _ := strconv.Atoi(strings.TrimPrefix(name, "h")) // what has no number comes first
	return n
}
