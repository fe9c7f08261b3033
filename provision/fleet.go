package provision

import (
	"net"
	"slices"
	"strings"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/control/placement"
	"github.com/mobyfs/mobyfs/internal/discovery"
	"github.com/mobyfs/mobyfs/provision/cloud"
	"github.com/mobyfs/mobyfs/provision/host"
)

// Fleet is the hosts that shall be a cluster.
type Fleet struct {
	Cluster     string
	Hosts       []host.Target
	Controls    []string // names of the hosts that have the control plane: 1, 3 or 5
	ControlPort int
	PeerPort    int // at which those hear each other
	AgentPort   int
	Endpoint    discovery.Endpoint // where Docker calls the driver, on each host
	Trash       string             // how long what was removed stays in the trash, as agents read it
	Linger      string             // how long a lease stays after the last container, as agents read it
	Shared      string             // directory that all nodes see; empty for none
	Classes     []mobyfs.VolumeClass
	Monitoring  Monitoring
	Placement   placement.Policy           // how control chooses nodes for volumes
	Quota       string                     // of the store on each control host; control's default if empty
	SessionTTL  string                     // of nodes; control's default if empty
	Nodes       map[string]mobyfs.NodeSpec // what is said of each node, by its name
	// PasswordNeeded tells that cluster.yaml wants a sudo password asked for.
	PasswordNeeded bool
}

// NewFleet joins cluster.yaml with the hosts that a provider told.
func NewFleet(c *Config, specs []cloud.HostSpec) (Fleet, error) {
	f := Fleet{
		Cluster: c.Cluster, Controls: c.Control.names(),
		ControlPort: c.Ports.Control, PeerPort: first(c.Ports.Peer, DefaultPeerPort), AgentPort: c.Ports.Agent,
		Endpoint:       c.Docker.Address,
		Linger:         c.Volumes.Linger,
		Trash:          c.Volumes.Trash,
		Shared:         c.Volumes.Shared,
		Classes:        c.classes(),
		Monitoring:     c.Monitoring,
		Placement:      c.Volumes.Placement.policy(),
		Quota:          c.Control.Quota,
		SessionTTL:     c.Control.SessionTTL,
		Nodes:          map[string]mobyfs.NodeSpec{},
		PasswordNeeded: c.SSH.Sudo == host.SudoWithPassword,
	}
	if len(specs) == 0 {
		return f, mobyfs.Errorf(mobyfs.CodeInvalid, "cluster %s has no hosts", c.Cluster).WithHint("list them in cluster.yaml")
	}
	var names []string
	for _, s := range specs {
		if err := mobyfs.CheckNodeName(s.Name); err != nil {
			return f, err
		}
		if slices.Contains(names, s.Name) {
			return f, mobyfs.Errorf(mobyfs.CodeInvalid, "two hosts have the name %q", s.Name)
		}
		names = append(names, s.Name)
		f.Nodes[s.Name] = s.Node
		f.Hosts = append(f.Hosts, host.Target{
			Name: s.Name, Address: s.Address, HostKey: s.HostKey,
			Port: first(s.Port, c.SSH.Port), User: first(s.User, c.SSH.User),
			IdentityFile: first(s.IdentityFile, c.SSH.IdentityFile), KnownHosts: c.SSH.KnownHosts,
			HostKeys: c.SSH.HostKeys, Sudo: c.SSH.Sudo,
		})
	}
	if len(f.Controls) == 0 {
		f.Controls = names[:1]
	}
	if why := evenControls(len(f.Controls)); why != "" {
		return f, mobyfs.Errorf(mobyfs.CodeInvalid, "%s", why).WithHint("change control in cluster.yaml")
	}
	for _, name := range f.Controls {
		if !slices.Contains(names, name) {
			return f, mobyfs.Errorf(mobyfs.CodeInvalid, "the control plane shall run on %q, but no host has that name%s", name, didYouMean(name, names)).
				WithHint("the hosts are %s", strings.Join(names, ", "))
		}
	}
	return f, nil
}

func first[T comparable](a, b T) T {
	var none T
	if a != none {
		return a
	}
	return b
}

func address(host string, port int) string { return net.JoinHostPort(host, itoa(port)) }
