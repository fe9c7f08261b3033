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

// Follow implements api.Service.
func (c *Control) Follow(_ context.Context, who pki.Identity, wake func()) (api.Feed, error) {
	if err := c.allow(who, doWatch); err != nil {
		return nil, err
	}
	f := &feed{control: c, wake: wake}
	if who.Role == pki.RoleNode {
		f.node = who.Name
	}
	return f, nil
}

// isLarge reports whether agents watch what concerns their nodes alone.
func (c *Control) isLarge() (large bool) {
	c.store.View(func(view store.View) {
		large = view.Count(store.By{}) > c.cfg.WholeVolumes || store.Nodes.Count(view) > c.cfg.WholeNodes
	})
	return large
}

// feed tells one watcher everything, or a node of a large cluster the volumes that concern it, and who belongs to the
// cluster. One that it was told of is told once more when it concerns it no longer.
type feed struct {
	control *Control
	wake    func()
	node    string // "" of who is no node
	part    bool   // it tells what concerns the node
	box     *store.Mailbox
	refs    []store.Ref // to be told of, the oldest first
}

// Next implements api.Feed.
func (f *feed) Next() (change mobyfs.Change, ok bool, err error) {
	if f.box == nil {
		return f.full(), true, nil
	}
	for {
		if len(f.refs) == 0 {
			if f.refs, err = f.box.Take(); len(f.refs) == 0 {
				if errors.Is(err, store.ErrClosed) {
					err = mobyfs.Errorf(mobyfs.CodeUnavailable, "control is stopping").WithHint("connect again in a moment")
				}
				return change, false, err
			}
		}
		ref := f.refs[0]
		if f.refs = f.refs[1:]; len(f.refs) == 0 {
			f.refs = nil
		}
		if change, ok = f.control.change(ref); !ok {
			continue
		}
		if f.grown() {
			f.box.Close()
			return f.full(), true, nil
		}
		if f.part && change.Node != nil {
			continue // it knows about itself
		}
		return change, true, nil
	}
}

// grown reports whether the cluster has become one of which a node is not told everything any more.
func (f *feed) grown() bool { return f.node != "" && !f.part && f.control.isLarge() }

// full begins anew with the full state.
func (f *feed) full() mobyfs.Change {
	f.refs = nil
	f.part = f.part || f.grown()
	if !f.part {
		f.box = f.control.store.Notify(f.wake) // before the snapshot, so that nothing falls in between
		return f.control.snapshot()
	}
	f.box = f.control.store.Notify(f.wake, store.NodeRef(f.node), store.AllOf(store.KindAuthority), store.AllOf(store.KindEviction))
	return f.control.snapshotOf(f.node)
}

// Close implements api.Feed.
func (f *feed) Close() {
	if f.box != nil {
		f.box.Close()
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
	full := mobyfs.Snapshot{Cluster: c.cfg.Cluster, Trust: c.trust()}
	var revision int64
	c.store.View(func(view store.View) {
		revision = view.Revision()
		full.Volumes = copies(view, store.By{})
	})
	c.completed(full.Volumes)
	full.Nodes = c.nodes()
	return mobyfs.Change{Revision: revision, Full: &full}
}

// copies are of the records that by names, sorted by name.
func copies(view store.View, by store.By) []mobyfs.Volume {
	all := make([]mobyfs.Volume, 0, view.Count(by))
	for v := range view.Ordered(by, store.Place{}) {
		all = append(all, *v)
	}
	return all
}

// snapshotOf is what concerns a node.
func (c *Control) snapshotOf(node string) mobyfs.Change {
	full := mobyfs.Snapshot{Cluster: c.cfg.Cluster, Partial: true, Nodes: []mobyfs.Node{}, Trust: c.trust()}
	var revision int64
	c.store.View(func(view store.View) {
		revision = view.Revision()
		full.Volumes = copies(view, store.OfNode(node))
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
