package control

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/api"
	"github.com/mobyfs/mobyfs/control/store"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// Node implements api.Service.
func (c *Control) Node(ctx context.Context, who pki.Identity, name string) (mobyfs.Node, error) {
	if err := c.allow(who, doList); err != nil {
		return mobyfs.Node{}, err
	}
	var n mobyfs.Node
	err := c.store.Update(ctx, func(tx *store.Tx) (err error) {
		n, err = c.nodeNamed(tx, name)
		return err
	})
	return c.told.node(n), err
}

// nodeNamed reads the record of a node.
func (c *Control) nodeNamed(tx *store.Tx, name string) (mobyfs.Node, error) {
	if err := mobyfs.CheckNodeName(name); err != nil {
		return mobyfs.Node{}, err
	}
	n, err := tx.Node(name)
	if mobyfs.CodeOf(err) == mobyfs.CodeNotFound {
		err = c.noNode(name)
	}
	return n, err
}

// PatchNode implements api.Service. All of a patch is done, or nothing of it. No volume moves for it: where one is allowed
// to be is asked when it is placed.
func (c *Control) PatchNode(ctx context.Context, who pki.Identity, name string, patch api.NodePatch) (mobyfs.Node, error) {
	return c.changeNode(ctx, who, name, func(n *mobyfs.Node) (string, error) {
		after := *n
		if patch.Described != nil {
			if err := patch.Described.Check(); err != nil {
				return "", err
			}
			after = n.Describe(*patch.Described)
		}
		after.Labels = patched(after.Labels, patch.Labels)
		if patch.Zone != nil {
			after.Zone = *patch.Zone
		}
		if patch.Rack != nil {
			after.Rack = *patch.Rack
		}
		if patch.Taints != nil {
			after.Taints = *patch.Taints
		}
		if err := checkNodeSpec(after); err != nil {
			return "", err
		}
		did := changesOf(*n, after)
		*n = after
		return strings.Join(did, ", "), nil
	})
}

// checkNodeSpec tells what is wrong with what is said of a node, or nil.
func checkNodeSpec(n mobyfs.Node) error {
	if err := n.CheckLabels(); err != nil {
		return err
	}
	return mobyfs.CheckTaints(n.Taints)
}

// changesOf says in words in what two records of a node differ.
func changesOf(before, after mobyfs.Node) []string {
	var did []string
	if !maps.Equal(before.Labels, after.Labels) {
		did = append(did, "labels changed")
	}
	if before.Zone != after.Zone {
		did = append(did, "zone changed")
	}
	if before.Rack != after.Rack {
		did = append(did, "rack changed")
	}
	if !slices.Equal(before.Taints, after.Taints) {
		did = append(did, "taints changed")
	}
	if !before.Description().Equal(after.Description()) {
		did = append(did, "description changed")
	}
	return did
}

// CordonNode implements api.Service.
func (c *Control) CordonNode(ctx context.Context, who pki.Identity, name string, cordon bool) (mobyfs.Node, error) {
	n, err := c.changeNode(ctx, who, name, func(n *mobyfs.Node) (string, error) {
		switch use := n.Use(); {
		case use == mobyfs.NodeEvicted:
			return "", mobyfs.Errorf(mobyfs.CodeInvalid, "%s was evicted", name).
				WithHint("to let it in again: mobyctl token create --role node --name %s", name)
		case !cordon && use == mobyfs.NodeActive, cordon && (use == mobyfs.NodeCordoned || use == mobyfs.NodeDrained):
			return "", nil // it is so
		case cordon && use == mobyfs.NodeDraining:
			return "", mobyfs.Errorf(mobyfs.CodeInvalid, "%s is being drained, and gets no volumes", name).
				WithHint("mobyctl operation cancel %s ends the drain and leaves it cordoned", n.Operation)
		case cordon:
			n.Availability = mobyfs.NodeCordoned
			return "node cordoned", nil
		}
		n.Availability, n.Operation = mobyfs.NodeActive, "" // a drain sees that, and ends
		return "node uncordoned", nil
	})
	if err == nil && !cordon {
		c.wakeCarrier()
	}
	return n, err
}

// changeNode changes what is said of a node, in one transaction with its event. rule says in a few words what it changed,
// or nothing if nothing is to be written; it may be called several times.
func (c *Control) changeNode(ctx context.Context, who pki.Identity, name string, rule func(n *mobyfs.Node) (string, error)) (mobyfs.Node, error) {
	if err := c.allow(who, doOperate); err != nil {
		return mobyfs.Node{}, err
	}
	var n mobyfs.Node
	var did string
	err := c.store.Update(ctx, func(tx *store.Tx) (err error) {
		if n, err = c.nodeNamed(tx, name); err != nil {
			return err
		}
		if err = matches(ctx, n.Revision, "node "+name); err != nil {
			return err
		}
		if did, err = rule(&n); err != nil || did == "" {
			return err
		}
		n.Generation++
		if err := tx.RevisedNode(&n); err != nil {
			return err
		}
		return tx.Record(mobyfs.Event{Text: did, Node: name})
	})
	if err == nil && did != "" {
		c.log.Info(did, "node", name, "generation", n.Generation)
	}
	return c.told.node(n), err
}
