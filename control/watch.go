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

// How large a cluster is at most of which every agent knows everything.
const (
	wholeVolumes = 10_000
	wholeNodes   = 500
)

// Watch implements api.Service. While each takes its time, changes of one object become one.
func (c *Control) Watch(ctx context.Context, who pki.Identity, each func(mobyfs.Change) error) error {
	if err := c.allow(who, doWatch); err != nil {
		return err
	}
	if who.Role != pki.RoleNode {
		return c.watchAll(ctx, func() bool { return false }, each)
	}
	if err := c.watchAll(ctx, c.isLarge, each); !errors.Is(err, errLarge) {
		return err
	}
	return c.watchNode(ctx, who.Name, each)
}

// errLarge says that the cluster has grown so that its agents do not watch everything any more.
var errLarge = errors.New("the cluster is large")

// isLarge reports whether agents watch what concerns their nodes alone.
func (c *Control) isLarge() (large bool) {
	c.store.View(func(view store.View) {
		large = view.Count(store.By{}) > c.cfg.WholeVolumes || store.Nodes.Count(view) > c.cfg.WholeNodes
	})
	return large
}

// watchAll tells everything until ctx ends, or enough says that it is too much: then it returns errLarge.
func (c *Control) watchAll(ctx context.Context, enough func() bool, each func(mobyfs.Change) error) error {
	if enough() {
		return errLarge
	}
	box := c.store.Subscribe() // before the snapshot, so that nothing falls in between
	defer box.Close()
	if err := each(c.snapshot()); err != nil {
		return err
	}
	return c.pass(ctx, box, func() bool { return !enough() }, each)
}

// watchNode tells the volumes that concern a node, and who belongs to the cluster. One that it was told of is told once more when it concerns it no
// longer.
func (c *Control) watchNode(ctx context.Context, node string, each func(mobyfs.Change) error) error {
	box := c.store.SubscribeTo(store.NodeRef(node), store.AllOf(store.KindAuthority), store.AllOf(store.KindEviction))
	defer box.Close()
	if err := each(c.snapshotOf(node)); err != nil {
		return err
	}
	return c.pass(ctx, box, func() bool { return true }, func(change mobyfs.Change) error {
		if change.Node != nil {
			return nil // it knows about itself
		}
		return each(change)
	})
}

// pass tells what comes into the box, as long as more says so.
func (c *Control) pass(ctx context.Context, box *store.Mailbox, more func() bool, each func(mobyfs.Change) error) error {
	for {
		refs, err := box.Next(ctx)
		if errors.Is(err, store.ErrClosed) {
			return mobyfs.Errorf(mobyfs.CodeUnavailable, "control is stopping").WithHint("connect again in a moment")
		}
		if err != nil {
			return err
		}
		for _, ref := range refs {
			change, ok := c.change(ref)
			if !ok {
				continue
			}
			if !more() {
				return errLarge
			}
			if err := each(change); err != nil {
				return err
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
	full := mobyfs.Snapshot{Cluster: c.cfg.Cluster, Volumes: []mobyfs.Volume{}, Trust: c.trust()}
	var revision int64
	c.store.View(func(view store.View) {
		revision = view.Revision()
		full.Volumes = slices.AppendSeq(full.Volumes, view.Ordered(store.By{}, store.Place{}))
	})
	c.completed(full.Volumes)
	full.Nodes = c.nodes()
	return mobyfs.Change{Revision: revision, Full: &full}
}

// snapshotOf is what concerns a node.
func (c *Control) snapshotOf(node string) mobyfs.Change {
	full := mobyfs.Snapshot{Cluster: c.cfg.Cluster, Partial: true, Volumes: []mobyfs.Volume{}, Nodes: []mobyfs.Node{}, Trust: c.trust()}
	var revision int64
	c.store.View(func(view store.View) {
		revision = view.Revision()
		full.Volumes = slices.AppendSeq(full.Volumes, view.Ordered(store.OfNode(node), store.Place{}))
		if n, ok := view.Node(node); ok {
			full.Nodes = append(full.Nodes, c.told.node(n))
		}
	})
	c.completed(full.Volumes)
	return mobyfs.Change{Revision: revision, Full: &full}
}

// completed adds to records what nodes have told of them.
func (c *Control) completed(volumes []mobyfs.Volume) {
	for i, v := range volumes {
		volumes[i] = c.told.volume(v)
	}
}

// nodes are all nodes, sorted by name.
func (c *Control) nodes() []mobyfs.Node {
	all := []mobyfs.Node{}
	c.store.View(func(view store.View) {
		for n := range view.Nodes {
			all = append(all, c.told.node(n))
		}
	})
	slices.SortFunc(all, func(a, b mobyfs.Node) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// Records implements api.Service.
func (c *Control) Records(_ context.Context, who pki.Identity, ids []mobyfs.VolumeID) (mobyfs.Records, error) {
	if err := c.allow(who, doWatch); err != nil {
		return mobyfs.Records{}, err
	}
	if len(ids) > mobyfs.MaxRecords {
		return mobyfs.Records{}, mobyfs.Errorf(mobyfs.CodeInvalid, "%d records are asked for, %d are the most", len(ids), mobyfs.MaxRecords).
			WithHint("ask for some, then for the others")
	}
	var all mobyfs.Records
	c.store.View(func(view store.View) {
		for _, id := range ids {
			if v, ok := view.Volume(id); ok {
				all.Volumes = append(all.Volumes, v)
			} else if view.Readable(id) {
				all.Gone = append(all.Gone, id)
			}
		}
	})
	c.completed(all.Volumes)
	return all, nil
}

// Cluster implements api.Service.
func (c *Control) Cluster(_ context.Context, who pki.Identity) (api.Cluster, error) {
	if err := c.allow(who, doList); err != nil {
		return api.Cluster{}, err
	}
	nodes := c.nodes()
	s := api.Cluster{Classes: c.cfg.Classes, Cluster: c.cfg.Cluster, Version: c.cfg.Version, Nodes: len(nodes), Rooms: c.room()}
	c.store.View(func(view store.View) {
		s.Revision, s.Volumes = view.Revision(), view.Count(store.By{})
		s.InUse, s.Moving = view.Count(store.Leased), view.Count(store.Moving)
	})
	for _, n := range nodes {
		if n.Ready {
			s.ReadyNodes++
		}
	}
	for _, u := range c.store.Unreadable() {
		s.Unreadable = append(s.Unreadable, api.Unreadable{Key: u.Key, Cause: u.Cause})
	}
	if newest, ok := c.newestBackup(); ok {
		b := shown(newest)
		s.Backup = &b
	}
	s.BackupDue = c.backupOverdue()
	if r := c.restoreStatus(); r.Backup != "" {
		s.Restore = &r
	}
	slices.SortFunc(s.Unreadable, func(a, b api.Unreadable) int { return strings.Compare(a.Key, b.Key) })
	return s, nil
}
