// Package sandbox makes a fleet of hosts out of containers on this machine, so that mobyfs can be tried and tested
// without servers.
//
// A host is a container with systemd as its first process, sshd, and a Docker Engine of its own (not in a Light
// fleet). It has an address on a network of the fleet, and its first file system and /var/lib/docker survive a
// restart. Docker is spoken to through its command line, so whatever context that uses is used here too.
//
// A fleet is written down (fleet.json) before anything is made. Up makes what is missing of what is written, and
// Down finds what to remove by labels, so either may be killed at any point and run again.
package sandbox

import (
	"context"
	"fmt"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/provision/cloud"
)

// DefaultName is the fleet that is meant where none is named.
const DefaultName = "default"

// Options say which fleet Up makes.
type Options struct {
	Name    string            // DefaultName if empty
	Hosts   int               // 3 if 0, or as many as the fleet has
	Distros []string          // of the hosts in turn, beginning again at the end; bookworm and trixie if empty
	Image   string            // one's own image for all new hosts, in place of the ones made here
	Subnet  string            // 10.77.0.0/24 or the next free 10.77.x.0/24 if empty
	Light   bool              // new hosts run no Docker
	Mirror  string            // of Debian, for new images; that of this machine's apt if empty
	Keep    bool              // after a failure, leave what was made for a look
	Timeout time.Duration     // for one host to come up; 3 minutes if 0
	Log     func(line string) // is told each step; may be nil; calls may come at once
}

// Fleet is a set of hosts that Up made.
type Fleet struct {
	Name       string `json:"name"`
	Network    string `json:"network"` // of Docker
	Subnet     string `json:"subnet"`
	User       string `json:"user"`        // who may log in on every host with Key
	Key        string `json:"key"`         // file of the private key
	KnownHosts string `json:"known_hosts"` // file of the hosts' own keys, read from the containers
	Hosts      []Host `json:"hosts"`
}

// Host is one host of a fleet.
type Host struct {
	Name      string `json:"name"` // h1, h2 …
	Address   string `json:"address"`
	Container string `json:"container"`
	Distro    string `json:"distro,omitempty"` // empty with one's own image
	Image     string `json:"image"`
	Light     bool   `json:"light,omitempty"`
	HostKey   string `json:"host_key,omitempty"` // SHA256:… of its ed25519 key, once it was up
	State     string `json:"state,omitempty"`    // running, exited, paused … or missing; only List tells it
}

// Up makes the fleet, or what is missing of it: a host that is gone or stopped comes back, and more hosts are added
// when more are asked for. It never removes a host. When it returns without error every host was seen to accept
// the key over SSH, and its Docker to answer. After an error what this call made is gone again, unless Keep.
func Up(ctx context.Context, o Options) (Fleet, error) {
	o, err := o.withDefaults()
	if err != nil {
		return Fleet{}, err
	}
	m, err := lookAtMachine(ctx)
	if err != nil {
		return Fleet{}, err
	}
	s, err := stateOf(o.Name)
	if err != nil {
		return Fleet{}, err
	}
	unlock, err := s.lock(ctx)
	if err != nil {
		return Fleet{}, err
	}
	defer unlock()

	u := &raising{Options: o, machine: m, state: s}
	fleet, err := u.run(ctx)
	if err == nil {
		return fleet, nil
	}
	err = explain(err, "raise fleet %s", o.Name)
	if o.Keep {
		return Fleet{}, err
	}
	return Fleet{}, u.undo(context.WithoutCancel(ctx), err)
}

// Load returns a fleet that Up has made. It asks no Docker, so it can't tell whether the hosts run.
func Load(_ context.Context, name string) (Fleet, error) {
	s, err := stateOf(name)
	if err != nil {
		return Fleet{}, err
	}
	return s.load()
}

// List returns all fleets of this machine's Docker, sorted by name, with the state of each host. One that is not
// written down here, because it is another user's or its state was lost, has no Key, and its hosts no Address.
func List(ctx context.Context) ([]Fleet, error) {
	names, err := savedFleets()
	if err != nil {
		return nil, err
	}
	made, err := containers(ctx, "label="+labelFleet)
	if err != nil {
		return nil, err
	}
	var fleets []Fleet
	for _, name := range withFleetsOf(names, made) {
		f, err := Load(ctx, name)
		if mobyfs.CodeOf(err) == mobyfs.CodeNotFound {
			f = Fleet{Name: name} // Down still removes it
		} else if err != nil {
			return nil, err
		}
		f.Hosts = withStates(f, made)
		fleets = append(fleets, f)
	}
	return fleets, nil
}

// Provider gives a fleet's hosts to whoever sets them up. It is a cloud.Provider.
type Provider struct {
	Fleet string // DefaultName if empty
}

// Hosts tells the hosts of the fleet, each pinned to its real key.
func (p Provider) Hosts(ctx context.Context) ([]cloud.HostSpec, error) {
	name := p.Fleet
	if name == "" {
		name = DefaultName
	}
	f, err := Load(ctx, name)
	if err != nil {
		return nil, err
	}
	specs := make([]cloud.HostSpec, len(f.Hosts))
	for i, h := range f.Hosts {
		specs[i] = cloud.HostSpec{
			Name: h.Name, Address: h.Address, Port: 22, User: f.User, IdentityFile: f.Key, HostKey: h.HostKey,
		}
	}
	return specs, nil
}

func (o Options) withDefaults() (Options, error) {
	if o.Name == "" {
		o.Name = DefaultName
	}
	if o.Log == nil {
		o.Log = func(string) {}
	}
	if o.Timeout == 0 {
		o.Timeout = 3 * time.Minute
	}
	if o.Hosts < 0 || o.Hosts > maxHosts {
		return o, mobyfs.Errorf(mobyfs.CodeInvalid, "a fleet can't have %d hosts", o.Hosts).
			WithHint("ask for 1 to %d", maxHosts)
	}
	if o.Image != "" && len(o.Distros) > 0 {
		return o, mobyfs.Errorf(mobyfs.CodeInvalid, "image %s and distros %v were both asked for", o.Image, o.Distros).
			WithHint("give one of them: an image of your own is used for all new hosts")
	}
	if o.Hosts > 0 && len(o.Distros) > o.Hosts {
		return o, mobyfs.Errorf(mobyfs.CodeInvalid, "%d distros were given for %d hosts", len(o.Distros), o.Hosts).
			WithHint("give one for each host at most; they are used in turn")
	}
	for _, d := range o.Distros {
		if _, err := recipeFor(d); err != nil {
			return o, err
		}
	}
	if len(o.Distros) == 0 && o.Image == "" {
		o.Distros = []string{"bookworm", "trixie"}
	}
	if o.Subnet != "" {
		if _, err := parseSubnet(o.Subnet); err != nil {
			return o, err
		}
	}
	return o, checkName(o.Name)
}

// checkName keeps what becomes part of the names of containers, hosts and files short and plain.
func checkName(name string) error {
	if len(name) > 40 || mobyfs.CheckNodeName(name) != nil {
		return mobyfs.Errorf(mobyfs.CodeInvalid, "%q can't be the name of a fleet", name).
			WithHint("use up to 40 lower-case letters, digits and -, such as demo-1")
	}
	return nil
}

func (o Options) logf(format string, args ...any) { o.Log(fmt.Sprintf(format, args...)) }
