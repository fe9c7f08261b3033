package control

import (
	"context"
	"slices"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// SettleVolume implements api.Service.
func (c *Control) SettleVolume(ctx context.Context, who pki.Identity, name, use, drop string) (mobyfs.Volume, error) {
	if err := c.allow(who, doBackup); err != nil {
		return mobyfs.Volume{}, err
	}
	if (use == "") == (drop == "") {
		return mobyfs.Volume{}, mobyfs.Errorf(mobyfs.CodeInvalid, "settle volume %q: name either the node whose bytes to use, or the one whose bytes to give up", name).
			WithHint("mobyctl volume settle %s --use NODE, or --drop NODE", name)
	}
	v, err := c.named(ctx, name)
	if err != nil {
		return mobyfs.Volume{}, err
	}
	v, err = c.decide(ctx, v.ID, func(v *mobyfs.Volume) (string, error) {
		if use != "" {
			return c.useKept(v, use)
		}
		return c.dropKept(v, drop)
	})
	return c.told.volume(v), err
}

// dropKept gives up the bytes that a node keeps besides those of the volume. The node puts them into its trash.
func (c *Control) dropKept(v *mobyfs.Volume, node string) (string, error) {
	if !v.KeepsAt(node) {
		return "", nil // given up before, or never there
	}
	if v.Aside != nil {
		return "", mobyfs.Errorf(mobyfs.CodeInvalid, "%s is set aside: the bytes that %s keeps may be all there are", title(*v), node).
			WithHint("to use them: mobyctl volume settle %s --use %s; or remove the volume", v.Name, node)
	}
	v.Kept = without(v.Kept, node)
	c.raise(v)
	return "other bytes of the volume are given up, on " + node, nil
}

// useKept makes a node the home whose bytes were kept besides those of the volume. Those take their place.
func (c *Control) useKept(v *mobyfs.Volume, node string) (string, error) {
	switch {
	case v.Node == node && v.Aside == nil:
		return "", nil
	case !v.KeepsAt(node):
		return "", mobyfs.Errorf(mobyfs.CodeInvalid, "%s keeps no other bytes of %s", node, title(*v)).
			WithHint("mobyctl volume inspect %s tells who does", v.Name)
	case v.State != mobyfs.VolumeReady:
		return "", notReady(*v)
	case v.Lease != nil:
		return "", c.inUse(*v, "try again")
	case v.Migration != nil:
		return "", c.moving(*v)
	}
	kept := without(v.Kept, node)
	if v.Aside == nil {
		kept = append(kept, v.Node)
		slices.Sort(kept)
	}
	v.Node, v.Arrived, v.Aside, v.Kept = node, "", nil, kept
	c.raise(v)
	return "home of the volume is " + node + ", with the bytes that were kept there", nil
}

func without(nodes []string, node string) []string {
	return slices.DeleteFunc(slices.Clone(nodes), func(n string) bool { return n == node })
}
