// Package cloud says where the hosts of a cluster come from. Each provider has a folder of its own.
package cloud

import (
	"context"

	"github.com/mobyfs/mobyfs"
)

// Provider finds or makes hosts.
type Provider interface {
	// Hosts tells all hosts, always in the same order. It may be called again and then tells the same hosts.
	Hosts(ctx context.Context) ([]HostSpec, error)
}

// HostSpec is how one host is reached over SSH, and what it is like as a node. An empty field is left to the defaults of cluster.yaml and to the
// user's SSH configuration.
type HostSpec struct {
	Name         string // of the node it becomes; mobyfs.CheckNodeName holds
	Address      string // name or IP address; other hosts reach it there too
	Port         int    // of sshd
	User         string // root, or one that may use sudo
	IdentityFile string // private key
	HostKey      string // "SHA256:…" pins the host's key; no known_hosts file is asked then

	Node mobyfs.NodeSpec // what is said of the node it becomes
}
