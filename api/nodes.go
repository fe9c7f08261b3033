package api

import (
	"context"
	"net/http"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// Calls about what operators say of nodes, for placement to go by.
var (
	getNode      = call{http.MethodGet, "/v1/nodes/{node}", "get-node", "Get a node by its name"}
	patchNode    = call{http.MethodPatch, "/v1/nodes/{node}", "patch-node", "Change what is said of a node"}
	cordonNode   = call{http.MethodPost, "/v1/nodes/{node}:cordon", "cordon-node", "Let a node get no volumes; those that are there stay"}
	uncordonNode = call{http.MethodPost, "/v1/nodes/{node}:uncordon", "uncordon-node", "Let a node get volumes again"}
)

// NodePatch is a change of what is said of a node. What is nil stays as it is.
type NodePatch struct {
	Labels map[string]*string `json:"labels,omitempty" nullable:"false" doc:"null takes a label away"`
	Zone   *string            `json:"zone,omitempty" doc:"empty takes it away"`
	Rack   *string            `json:"rack,omitempty" doc:"empty takes it away"`
	Taints *[]mobyfs.Taint    `json:"taints,omitempty" doc:"all of them, in place of those that there are"`
	// Described comes before the rest of a patch.
	Described *mobyfs.NodeSpec `json:"described,omitempty" doc:"all that cluster.yaml says of it: what it says otherwise than last time is changed, unless somebody has set it since"`
}

type nodeNamed struct {
	Node string `path:"node"`
}

func (s *Server) serveNodes() {
	handle(s, getNode, func(ctx context.Context, who pki.Identity, in *nodeNamed) (*revised[mobyfs.Node], error) {
		return ofNodeRecord(s.service.Node(ctx, who, in.Node))
	})
	handle(s, patchNode, func(ctx context.Context, who pki.Identity, in *onNode[NodePatch]) (*revised[mobyfs.Node], error) {
		return ofNodeRecord(s.service.PatchNode(ctx, who, in.Node, in.Body))
	})
	handle(s, cordonNode, func(ctx context.Context, who pki.Identity, in *nodeNamed) (*revised[mobyfs.Node], error) {
		return ofNodeRecord(s.service.CordonNode(ctx, who, in.Node, true))
	})
	handle(s, uncordonNode, func(ctx context.Context, who pki.Identity, in *nodeNamed) (*revised[mobyfs.Node], error) {
		return ofNodeRecord(s.service.CordonNode(ctx, who, in.Node, false))
	})
}

func ofNodeRecord(n mobyfs.Node, err error) (*revised[mobyfs.Node], error) {
	return &revised[mobyfs.Node]{etag(n.Revision), n}, err
}

// Node tells of one node. CodeNotFound if there is none.
func (c *Client) Node(ctx context.Context, name string) (n mobyfs.Node, err error) {
	err = c.ask(ctx, getNode, name, nil, &n)
	return n, err
}

// PatchNode changes what is said of a node.
func (c *Client) PatchNode(ctx context.Context, name string, patch NodePatch) (n mobyfs.Node, err error) {
	err = c.ask(ctx, patchNode, name, patch, &n)
	return n, err
}

// DescribeNode tells what cluster.yaml says of a node. What operators have set since it said so last stays; see
// mobyfs.Node.Describe.
func (c *Client) DescribeNode(ctx context.Context, name string, spec mobyfs.NodeSpec) (mobyfs.Node, error) {
	return c.PatchNode(ctx, name, NodePatch{Described: &spec})
}

// CordonNode lets a node get no volumes, or lets it get them again.
func (c *Client) CordonNode(ctx context.Context, name string, cordon bool) (n mobyfs.Node, err error) {
	what := uncordonNode
	if cordon {
		what = cordonNode
	}
	err = c.ask(ctx, what, name, nil, &n)
	return n, err
}
