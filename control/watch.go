package control

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/api"
	"github.com/mobyfs/mobyfs/control/store"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// Watch implements api.Service. While each takes its time, changes of one object become one.
func (c *Control) Watch(ctx context.Context, who pki.Identity, each func(mobyfs.Change) error) error {
	if err := c.allow(who, doWatch); err != nil {
		return err
	}
	box := c.store.Subscribe() // before the snapshot, so that nothing falls in between
	defer box.Close()
	if err := each(c.snapshot()); err != nil {
		return err
	}
	for {
		refs, err := box.Next(ctx)
		if errors.Is(err, store.ErrClosed) {
			return mobyfs.Errorf(mobyfs.CodeUnavailable, "control is stopping").WithHint("connect again in a moment")
		}
		if err != nil {
			return err
		}
		for _, ref := range refs {
			if change, ok := c.change(ref); ok {
				if err := each(change); err != nil {
					return err
				}
			}
		}
	}
}

// change tells how a record is now. It tells nothing of one that can't be read: that is no reason for an agent to
// take a volume for gone.
func (c *Control) change(ref store.Ref) (mobyfs.Change, bool) {
	var change mobyfs.Change
	ok := false
	if ref.Kind == store.KindAuthority || ref.Kind == store.KindEviction {
		c.store.View(func(view store.View) { change.Revision = view.Revision() })
		change.Trust = c.trust()
		return change, change.Trust != nil
	}
	c.store.View(func(view store.View) {
		change.Revision = view.Revision()
		switch ref.Kind {
		case store.KindNode:
			var n mobyfs.Node
			if n, ok = view.Node(ref.ID); ok {
				n = c.told.node(n)
				change.Node = &n
			}
		case store.KindVolume:
			id := mobyfs.VolumeID(ref.ID)
			if v, there := view.Volume(id); there {
				v = c.told.volume(v)
				change.Revision, change.Volume, ok = v.Revision, &v, true
			} else if ok = view.Readable(id); ok {
				change.Gone = id
			}
		}
	})
	return change, ok
}

// snapshot is everything, sorted by name.
func (c *Control) snapshot() mobyfs.Change {
	full := mobyfs.Snapshot{Cluster: c.cfg.Cluster, Volumes: []mobyfs.Volume{}, Nodes: []mobyfs.Node{}, Trust: c.trust()}
	var revision int64
	c.store.View(func(view store.View) {
		revision = view.Revision()
		for v := range view.Volumes {
			full.Volumes = append(full.Volumes, c.told.volume(v))
		}
		for n := range view.Nodes {
			full.Nodes = append(full.Nodes, c.told.node(n))
		}
	})
	byName(full.Volumes)
	slices.SortFunc(full.Nodes, func(a, b mobyfs.Node) int { return strings.Compare(a.Name, b.Name) })
	return mobyfs.Change{Revision: revision, Full: &full}
}

// Cluster implements api.Service.
func (c *Control) Cluster(_ context.Context, who pki.Identity) (api.Cluster, error) {
	if err := c.allow(who, doList); err != nil {
		return api.Cluster{}, err
	}
	now := c.snapshot()
	s := api.Cluster{
		Classes: c.cfg.Classes,
		Cluster: c.cfg.Cluster, Version: c.cfg.Version, Revision: now.Revision,
		Nodes: len(now.Full.Nodes), Volumes: len(now.Full.Volumes),
	}
	for _, n := range now.Full.Nodes {
		if n.Ready {
			s.ReadyNodes++
		}
	}
	for _, v := range now.Full.Volumes {
		if v.Lease != nil {
			s.InUse++
		}
		if v.Migration != nil {
			s.Moving++
		}
	}
	for _, u := range c.store.Unreadable() {
		s.Unreadable = append(s.Unreadable, api.Unreadable{Key: u.Key, Cause: u.Cause})
	}
	slices.SortFunc(s.Unreadable, func(a, b api.Unreadable) int { return strings.Compare(a.Key, b.Key) })
	return s, nil
}
