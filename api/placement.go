package api

import (
	"context"
	"net/http"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/pki"
)

var explainPlacement = call{http.MethodPost, "/v1/placement:explain", "explain-placement", "Tell where a volume would go, and why, without making it"}

// PlacementQuestion is a volume of which is asked where it would go.
type PlacementQuestion struct {
	Volume string            `json:"volume,omitempty" doc:"the name of one that there is: where it could move"`
	Spec   mobyfs.VolumeSpec `json:"spec,omitzero" doc:"of a new volume, if no volume is named"`
	Node   string            `json:"node,omitempty" doc:"asks of this node alone"`
}

// Placement is where a volume would go, and what each node has to do with it.
type Placement struct {
	Node     string            `json:"node" doc:"that would be chosen; empty if none can take it"`
	Spec     mobyfs.VolumeSpec `json:"spec" doc:"that the volume would have"`
	Verdicts []mobyfs.Verdict  `json:"verdicts" doc:"of the nodes, the best first"`
}

func (s *Server) servePlacement() {
	handle(s, explainPlacement, func(ctx context.Context, who pki.Identity, in *reply[PlacementQuestion]) (*reply[Placement], error) {
		return replied(s.service.ExplainPlacement(ctx, who, in.Body))
	})
}

// ExplainPlacement tells where a volume would go, and why. Nothing is made or changed.
func (c *Client) ExplainPlacement(ctx context.Context, q PlacementQuestion) (p Placement, err error) {
	err = c.ask(ctx, explainPlacement, "", q, &p)
	return p, err
}
