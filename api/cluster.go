package api

import (
	"context"
	"net/http"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// Calls about the cluster as a whole.
var (
	listNodes  = call{http.MethodGet, "/v1/nodes", "list-nodes", "List the nodes"}
	getCluster = call{http.MethodGet, "/v1/cluster", "get-cluster", "Tell how the cluster is"}
	getHealth  = call{http.MethodGet, "/healthz", "get-health", "Tell whether control can decide: its store answers"}
	getReady   = call{http.MethodGet, "/readyz", "get-ready", "Tell whether this control should be asked: it knows what the store holds, and can write. If not, 503 says why"}
)

type health struct {
	Status string `json:"status" enum:"ok"`
}

func (s *Server) serveCluster() {
	handle(s, listNodes, func(ctx context.Context, who pki.Identity, _ *none) (*reply[[]mobyfs.Node], error) {
		all, err := s.service.Nodes(ctx, who)
		return &reply[[]mobyfs.Node]{all}, err
	})
	handle(s, getCluster, func(ctx context.Context, who pki.Identity, _ *none) (*reply[Cluster], error) {
		c, err := s.service.Cluster(ctx, who)
		return &reply[Cluster]{c}, err
	})
	handle(s, getHealth, func(ctx context.Context, _ pki.Identity, _ *none) (*reply[health], error) {
		return &reply[health]{health{"ok"}}, s.service.Healthy(ctx)
	})
	handle(s, getReady, func(ctx context.Context, _ pki.Identity, _ *none) (*reply[health], error) {
		return &reply[health]{health{"ok"}}, s.service.Ready(ctx)
	})
}

// Nodes lists the nodes, sorted by name.
func (c *Client) Nodes(ctx context.Context) (all []mobyfs.Node, err error) {
	err = c.ask(ctx, listNodes, "", nil, &all)
	return all, err
}

// Cluster tells how the cluster is.
func (c *Client) Cluster(ctx context.Context) (cluster Cluster, err error) {
	err = c.ask(ctx, getCluster, "", nil, &cluster)
	return cluster, err
}

// Ready is nil if the control that answers knows what the store holds and can write.
func (c *Client) Ready(ctx context.Context) error {
	return c.ask(ctx, getReady, "", nil, nil)
}

// Healthy is nil if control can decide.
func (c *Client) Healthy(ctx context.Context) error {
	return c.ask(ctx, getHealth, "", nil, nil)
}
