package control

import (
	"context"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/api"
	"github.com/mobyfs/mobyfs/control/placement"
	"github.com/mobyfs/mobyfs/control/store"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// ExplainPlacement implements api.Service. It goes by what this process knows, as placing does, and promises nothing.
func (c *Control) ExplainPlacement(ctx context.Context, who pki.Identity, asked api.PlacementQuestion) (api.Placement, error) {
	if err := c.allow(who, doList); err != nil {
		return api.Placement{}, err
	}
	q, err := c.question(ctx, asked)
	if err != nil {
		return api.Placement{}, err
	}
	answer := api.Placement{Spec: q.Spec}
	c.store.View(func(view store.View) {
		answer.Node, answer.Verdicts, err = explained(view.Field(), q, asked.Node)
	})
	return answer, err
}

// question is what is asked of nodes for a volume that there is, or for a new one.
func (c *Control) question(ctx context.Context, asked api.PlacementQuestion) (placement.Question, error) {
	if asked.Node != "" {
		if err := mobyfs.CheckNodeName(asked.Node); err != nil {
			return placement.Question{}, err
		}
	}
	if asked.Volume == "" {
		full, err := c.fill("like this", asked.Spec)
		return placement.ForNew(full, c.cfg.Placement), err
	}
	v, err := c.named(ctx, asked.Volume)
	return placement.ForMove(c.told.volume(v), c.cfg.Placement), err
}

// explained is the node that is chosen, and what becomes of each; or of one alone, if that is asked for.
func explained(f *placement.Field, q placement.Question, node string) (string, []mobyfs.Verdict, error) {
	if node == "" {
		return placement.Choose(f, q), placement.Explain(f, q), nil
	}
	v, known := placement.Judge(f, q, node)
	switch {
	case !known:
		return "", nil, notJoined(node, f, false)
	case v.Fits:
		return node, []mobyfs.Verdict{v}, nil
	}
	return "", []mobyfs.Verdict{v}, nil
}
