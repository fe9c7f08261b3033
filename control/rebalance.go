package control

import (
	"context"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/control/store"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// defaultGain is how much emptier, of 1, a volume's new node must be than its old one for a move to be worth it.
const defaultGain = 0.05

// PlanRebalance implements api.Service.
func (c *Control) PlanRebalance(_ context.Context, who pki.Identity, minGain float64) ([]mobyfs.PlannedMove, error) {
	if err := c.allow(who, doList); err != nil {
		return nil, err
	}
	if err := checkGain(minGain); err != nil {
		return nil, err
	}
	return c.planRebalance(minGain), nil
}

// planRebalance is the plan by what is known now. 0 is the default gain.
func (c *Control) planRebalance(minGain float64) []mobyfs.PlannedMove {
	if minGain == 0 {
		minGain = defaultGain
	}
	plan := []mobyfs.PlannedMove{}
	for _, m := range c.planMoves(minGain) {
		plan = append(plan, mobyfs.PlannedMove(m))
	}
	return plan
}

func checkGain(minGain float64) error {
	if minGain >= 0 && minGain < 1 {
		return nil
	}
	return mobyfs.Errorf(mobyfs.CodeInvalid, "a gain of %v is no part of a node's space", minGain).
		WithHint("give a number from 0 to 1, such as %v", defaultGain)
}

// Rebalance implements api.Service.
func (c *Control) Rebalance(ctx context.Context, who pki.Identity, minGain float64) (mobyfs.Operation, error) {
	if err := c.allow(who, doOperate); err != nil {
		return mobyfs.Operation{}, err
	}
	if err := checkGain(minGain); err != nil {
		return mobyfs.Operation{}, err
	}
	// Two at once, begun at two control processes, do no harm: each moves what is worth it then.
	if under, ok := c.underWay(mobyfs.OperationRebalance); ok {
		return mobyfs.Operation{}, mobyfs.Errorf(mobyfs.CodeExists, "a rebalance is under way").
			WithHint("wait for it: mobyctl operation wait %s, or: mobyctl operation cancel %s", under.ID, under.ID)
	}
	o := c.start(ctx, mobyfs.OperationRebalance, mobyfs.OperationID(c.newID()))
	o.MinGain = minGain
	return c.beginRow(ctx, o)
}

// stepRebalance begins the first moves of the plan as it is now, and the next ones once these have ended, for what moves
// changes the plan. It is done when there is none that is worth it.
func (c *Control) stepRebalance(tx *store.Tx, o *mobyfs.Operation) error {
	p := c.partsOf(*o)
	if p.active > 0 || o.Paused {
		c.count(o, p, p.active)
		return nil
	}
	begun := 0
	for _, m := range c.planRebalance(o.MinGain) {
		if begun == movesOfCluster {
			break
		}
		if was, has := p.byVolume[m.Volume]; has && was.Phase != mobyfs.OperationDone {
			continue // it has failed: an operator's matter
		}
		part := c.part(tx, *o, mobyfs.Volume{ID: m.Volume, Name: m.Name})
		part.From, part.To = m.From, m.To
		if err := c.putPart(tx, part); err != nil {
			return err
		}
		begun++
	}
	c.count(o, p, begun)
	if begun == 0 {
		c.finish(o, mobyfs.OperationDone, o.Cause)
	}
	return nil
}
