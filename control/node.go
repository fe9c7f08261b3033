package control

import (
	"context"
	"net"
	"slices"
	"strconv"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/control/store"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// Bounds of what a node may tell.
const (
	maxVersion  = 64 // bytes
	maxInstance = 64 // bytes
	maxBackends = 16
	maxBackend  = 63  // bytes
	maxUsers    = 100 // of one volume; more are not shown
	maxUser     = 253 // bytes
)

// Report implements api.Service.
func (c *Control) Report(ctx context.Context, who pki.Identity, r mobyfs.Report) (mobyfs.Session, error) {
	if err := c.allow(who, doReport); err != nil {
		return mobyfs.Session{}, err
	}
	if err := checkReport(who.Name, r); err != nil {
		return mobyfs.Session{}, err
	}
	r.Version = clean(r.Version, maxVersion)
	news := c.told.hear(who.Name, r, c.now()) // before its record, which is told as soon as it is written
	session, err := c.keepSession(ctx, who.Name, r)
	if err != nil {
		return mobyfs.Session{}, err
	}
	if err := c.describe(ctx, who.Name, r); err != nil {
		return mobyfs.Session{}, err
	}
	if r.Held != nil {
		if err := c.holds(ctx, who.String(), *r.Held); err != nil {
			return mobyfs.Session{}, err
		}
	}
	if news {
		c.store.Touch(store.NodeRef(who.Name))
	}
	for _, id := range c.hearOfMoves(who.Name, r.Progress) {
		c.store.Touch(store.VolumeRef(id))
	}
	if r.Backups != nil {
		if err := c.hearOfBackups(ctx, who.Name, *r.Backups); err != nil {
			return mobyfs.Session{}, err
		}
	}
	session.Tell, session.Keep = c.wantsInventory(who.Name), c.toKeep(who.Name)
	if session.Tell != "" || c.store.Restored() != nil {
		return session, nil // what it uses is part of what it holds
	}
	return session, c.hearOfUse(ctx, who.Name, r)
}

// checkReport refuses what can't be true of any node.
func checkReport(node string, r mobyfs.Report) error {
	host, port, err := net.SplitHostPort(r.Address)
	if n, convErr := strconv.Atoi(port); err != nil || host == "" || !printable(r.Address) || len(r.Address) > 300 || convErr != nil || n < 1 || n > 65535 {
		return mobyfs.Errorf(mobyfs.CodeInvalid, "the address %q of %s is not host:port", clean(r.Address, 300), node).
			WithHint("set MOBYFS_ADVERTISE to the address at which other nodes reach %s", node)
	}
	if len(r.Instance) > maxInstance || !printable(r.Instance) {
		return mobyfs.Errorf(mobyfs.CodeInvalid, "%s names its agent in a way that can't be shown", node).
			WithHint("install a mobyfs of the cluster's version on %s", node)
	}
	if r.Capacity.TotalBytes < 0 || r.Capacity.FreeBytes < 0 || r.Volumes < 0 {
		return mobyfs.Errorf(mobyfs.CodeInvalid, "%s reports a negative capacity or number of volumes", node).
			WithHint("look at its file system: df")
	}
	if len(r.Backends) > maxBackends || slices.ContainsFunc(r.Backends, func(b string) bool { return len(b) > maxBackend || !printable(b) }) {
		return mobyfs.Errorf(mobyfs.CodeInvalid, "%s names backends that can't be", node).
			WithHint("install a mobyfs of the cluster's version on %s", node)
	}
	if r.TrashSeconds < 0 || time.Duration(r.TrashSeconds) > mobyfs.MaxTrash/time.Second {
		return mobyfs.Errorf(mobyfs.CodeInvalid, "%s keeps what was removed for a time that can't be", node).
			WithHint("set MOBYFS_TRASH on %s to a time up to %v", node, mobyfs.MaxTrash)
	}
	return mobyfs.Node{Labels: r.Labels, Zone: r.Zone, Rack: r.Rack}.CheckLabels()
}

// describe writes the node's record if what other control processes must know of it has changed, and not for each
// heartbeat: of the space that is free they know a sixteenth more or less, and a fiftieth of all at most.
func (c *Control) describe(ctx context.Context, name string, r mobyfs.Report) error {
	var known mobyfs.Node
	var out mobyfs.Eviction // an old one, for who is evicted does not get here
	c.store.View(func(v store.View) {
		known, _ = v.Node(name)
		out, _ = store.Evictions.In(v, pki.RoleNode+"/"+name)
	})
	moved := known.Address != r.Address || known.Version != r.Version || !slices.Equal(known.Backends, r.Backends) || known.Live != r.Live || known.TrashSeconds != r.TrashSeconds || back(known, out, c.now())
	if !moved && known.Capacity.TotalBytes == r.Capacity.TotalBytes && !drifted(known.Capacity, r.Capacity) {
		return nil
	}
	err := c.store.Update(ctx, func(tx *store.Tx) error {
		n, err := tx.Node(name)
		if err != nil {
			return err
		}
		if back(n, out, c.now()) {
			n.JoinedAt, n.Availability = c.now().UTC(), mobyfs.NodeActive
			n.Generation++
		}
		if err := tx.PutNode(c.described(n, r)); err != nil || !moved {
			return err // space is no event
		}
		return tx.Record(mobyfs.Event{Text: "node changed", Node: name})
	})
	if err == nil && moved {
		c.log.Info("node changed", "node", name, "address", r.Address, "version", r.Version)
	}
	return err
}

// drifted reports whether the space that is free differs enough to be worth telling everybody. Placement goes by what is
// written, so the difference must stay well below the headroom of disks.
func drifted(a, b mobyfs.Capacity) bool {
	return differ(a.FreeBytes, b.FreeBytes) || max(a.FreeBytes-b.FreeBytes, b.FreeBytes-a.FreeBytes) > b.TotalBytes/50
}

// described is the record of a node that reports r.
func (c *Control) described(n mobyfs.Node, r mobyfs.Report) mobyfs.Node {
	n.Address, n.Version, n.Capacity, n.Volumes, n.LastSeenAt = r.Address, r.Version, r.Capacity, r.Volumes, c.now().UTC()
	n.Backends, n.Live, n.TrashSeconds = r.Backends, r.Live, r.TrashSeconds
	return n
}

// back reports whether a node that reports is one that was evicted and let in again by bootstrap. A report that was under
// way when it was evicted is not taken for that.
func back(n mobyfs.Node, out mobyfs.Eviction, now time.Time) bool {
	return covers(out, n) && now.After(out.Until.Add(time.Minute))
}

// hearOfMoves notes how far the pulls and copies of a node are, and returns the volumes that watchers should look at again.
func (c *Control) hearOfMoves(node string, progress map[mobyfs.MigrationID]mobyfs.Progress) []mobyfs.VolumeID {
	if len(progress) == 0 {
		return nil
	}
	var again []mobyfs.VolumeID
	c.store.View(func(view store.View) {
		for v := range view.Ordered(store.OfNode(node), store.Place{}) {
			if m := v.Migration; m != nil && m.To == node {
				if p, ok := progress[m.ID]; ok && sane(p) && c.told.setProgress(m.ID, p) {
					again = append(again, v.ID)
				}
			}
			if id := v.ID.Copying(); copying(v) && v.Node == node {
				if p, ok := progress[id]; ok && sane(p) {
					c.told.setProgress(id, p)
				}
			}
		}
	})
	return again
}

// hearOfUse notes what a node says of the use of volumes, as far as they are its own to speak of. Who uses a
// volume goes into its record with each change, so that it is known after a restart of control too; the space it
// takes does when it has changed by a sixteenth.
func (c *Control) hearOfUse(ctx context.Context, node string, r mobyfs.Report) error {
	changed := map[mobyfs.VolumeID]bool{}
	c.store.View(func(view store.View) {
		for id, bytes := range r.Used {
			if v, ok := view.Volume(id); ok && v.Node == node && bytes >= 0 {
				c.told.setUsed(id, bytes)
				changed[id] = changed[id] || differ(v.UsedBytes, bytes)
			}
		}
		for id, names := range r.Users {
			if v, ok := view.Volume(id); ok && v.Lease != nil && v.Lease.Node == node {
				changed[id] = changed[id] || !slices.Equal(v.Lease.Users, cleanUsers(names))
			}
		}
	})
	for id, changed := range changed {
		if !changed {
			continue
		}
		err := c.note(ctx, id, func(v *mobyfs.Volume) {
			if bytes, ok := r.Used[id]; ok && v.Node == node {
				v.UsedBytes = bytes
			}
			if names, ok := r.Users[id]; ok && v.Lease != nil && v.Lease.Node == node {
				v.Lease.Users = cleanUsers(names)
			}
		})
		if err != nil && mobyfs.CodeOf(err) != mobyfs.CodeNotFound {
			return err
		}
	}
	return nil
}

// cleanUsers makes names of containers fit to be shown to others.
func cleanUsers(names []string) []string {
	var kept []string
	for _, n := range names {
		if n = clean(n, maxUser); n != "" && len(kept) < maxUsers {
			kept = append(kept, n)
		}
	}
	return kept
}

// Nodes implements api.Service.
func (c *Control) Nodes(_ context.Context, who pki.Identity) ([]mobyfs.Node, error) {
	if err := c.allow(who, doList); err != nil {
		return nil, err
	}
	return c.nodes(), nil
}
