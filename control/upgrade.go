package control

import (
	"context"
	"fmt"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/control/store"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// upgradeRest is how long a node must be there with the new version before the next may be upgraded: two heartbeats and
// a half, so that one which comes up and ends again is noticed.
const upgradeRest = 25 * time.Second

// UpgradeNodes implements api.Service. Control installs nothing: the row says whose turn it is, and whoever installs goes
// by that.
func (c *Control) UpgradeNodes(ctx context.Context, who pki.Identity, version string) (mobyfs.Operation, error) {
	if err := c.allow(who, doOperate); err != nil {
		return mobyfs.Operation{}, err
	}
	if version == "" || len(version) > maxVersion || !printable(version) {
		return mobyfs.Operation{}, mobyfs.Errorf(mobyfs.CodeInvalid, "%.40q can't be a version", clean(version, maxVersion)).
			WithHint("give the one that mobyfs version prints")
	}
	under, ok := c.underWay(mobyfs.OperationUpgrade)
	if ok && under.Version == version {
		return c.completedOperation(under), nil
	}
	if ok {
		return mobyfs.Operation{}, mobyfs.Errorf(mobyfs.CodeExists, "an upgrade to %s is under way", under.Version).
			WithHint("wait for it: mobyctl operation wait %s, or: mobyctl operation cancel %s", under.ID, under.ID)
	}
	o := c.start(ctx, mobyfs.OperationUpgrade, mobyfs.OperationID(c.newID()))
	o.Version = version
	return c.beginRow(ctx, o)
}

// underWay is the operation of a kind that has not ended, as this process knows it.
func (c *Control) underWay(kind mobyfs.OperationKind) (found mobyfs.Operation, ok bool) {
	c.store.View(func(view store.View) {
		for _, o := range store.Operations.All(view) {
			if o.Kind == kind && !o.Phase.Ended() {
				found, ok = o, true
			}
		}
	})
	return found, ok
}

// beginRow writes the row of an operation that is about no record.
func (c *Control) beginRow(ctx context.Context, o mobyfs.Operation) (mobyfs.Operation, error) {
	begun := o
	err := c.store.Update(ctx, func(tx *store.Tx) error {
		begun = o
		return putOperation(tx, mobyfs.Operation{}, &begun)
	})
	if err == nil {
		c.sayOperation(mobyfs.Operation{}, begun)
	}
	return c.completedOperation(begun), err
}

// stepUpgrade says whose turn it is: one node after the other, and none after one that did not come back with the version.
func (c *Control) stepUpgrade(o *mobyfs.Operation) {
	nodes := c.nodes()
	var next, turn mobyfs.Node
	done, silent, total := 0, 0, 0
	for _, n := range nodes {
		if n.Use() == mobyfs.NodeEvicted {
			continue
		}
		total++
		switch {
		case n.Name == o.Node:
			turn = n
		case n.Version == o.Version:
			done++
		case !n.Ready:
			silent++
		case next.Name == "":
			next = n
		}
	}
	if o.StartedAt.IsZero() {
		o.StartedAt = c.now().UTC()
	}
	had := turn.Name != "" && turn.Version == o.Version && turn.Ready
	if had {
		done++
	}
	o.Progress = mobyfs.Work{Done: done, Total: total, Waiting: silent}
	switch {
	case turn.Name != "" && !had:
		o.NextTry = time.Time{}
		c.hold(o, turn)
	case had && o.NextTry.IsZero() && done < total:
		o.NextTry = c.now().Add(upgradeRest).UTC() // it is watched for a while
	case had && done < total && c.now().Before(o.NextTry):
	case next.Name != "":
		o.Phase, o.Node, o.Cause, o.NextTry = mobyfs.OperationRunning, next.Name, "", time.Time{}
	case silent > 0:
		o.Phase, o.Node, o.Cause = mobyfs.OperationWaiting, "", fmt.Sprintf("%d nodes are silent, and have another version", silent)
	default:
		o.Node = ""
		c.finish(o, mobyfs.OperationDone, "")
	}
}

// hold says why it is still the turn of a node.
func (c *Control) hold(o *mobyfs.Operation, turn mobyfs.Node) {
	if turn.Ready {
		o.Phase, o.Cause = mobyfs.OperationRunning, ""
		return
	}
	o.Phase = mobyfs.OperationWaiting
	o.Cause = fmt.Sprintf("%s is silent with %s: no other node is to be upgraded before it is back", turn.Name, turn.Version)
}
