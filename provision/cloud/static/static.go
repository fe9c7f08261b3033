// Package static takes the hosts as cluster.yaml lists them.
package static

import (
	"context"

	"github.com/mobyfs/mobyfs/provision/cloud"
)

// Hosts is a list of hosts that exist already. It is a cloud.Provider.
type Hosts []cloud.HostSpec

// Hosts returns the list.
func (h Hosts) Hosts(context.Context) ([]cloud.HostSpec, error) { return h, nil }
