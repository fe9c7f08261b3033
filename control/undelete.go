package control

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/control/store"
	"github.com/mobyfs/mobyfs/internal/failpoint"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// bury keeps on record what a volume was whose bytes are in the trash of its node.
func (c *Control) bury(tx *store.Tx, v mobyfs.Volume) error {
	if v.Aside != nil {
		return nil // no node had its bytes
	}
	n, err := tx.Node(v.Node)
	if err != nil && mobyfs.CodeOf(err) != mobyfs.CodeNotFound {
		return err
	}
	keep := time.Duration(n.TrashSeconds) * time.Second
	now := c.now().UTC()
	return store.Tombstones.Put(tx, string(v.ID), mobyfs.Tombstone{Volume: v, RemovedAt: now, Until: now.Add(cmp.Or(keep, mobyfs.DefaultTrash))})
}

// missed gives up a volume that was to come back, for its node's trash does not have it any more.
func (c *Control) missed(tx *store.Tx, v *mobyfs.Volume) error {
	freed := *v
	freed.State = mobyfs.VolumeRemoving
	return errors.Join(tx.PutVolume(&freed), tx.DeleteVolume(v.ID), store.Tombstones.Delete(tx, string(v.ID)),
		record(tx, "volume did not come back: the trash of its node has it no more", *v))
}

// RemovedVolumes lists the volumes that may come back, the last removed first.
func (c *Control) RemovedVolumes(_ context.Context, who pki.Identity) ([]mobyfs.Tombstone, error) {
	if err := c.allow(who, doList); err != nil {
		return nil, err
	}
	return c.removed(), nil
}

func (c *Control) removed() []mobyfs.Tombstone {
	all := []mobyfs.Tombstone{}
	c.store.View(func(view store.View) {
		for _, t := range store.Tombstones.All(view) {
			if t.Until.After(c.now()) {
				all = append(all, t)
			}
		}
	})
	slices.SortFunc(all, func(a, b mobyfs.Tombstone) int {
		return cmp.Or(b.RemovedAt.Compare(a.RemovedAt), strings.Compare(string(a.Volume.ID), string(b.Volume.ID)))
	})
	return all
}

// UndeleteVolume implements api.Service.
func (c *Control) UndeleteVolume(ctx context.Context, who pki.Identity, name, as string) (mobyfs.Volume, error) {
	if err := c.allow(who, doUndelete); err != nil {
		return mobyfs.Volume{}, err
	}
	to := cmp.Or(as, name)
	if err := cmp.Or(mobyfs.CheckVolumeName(name), mobyfs.CheckVolumeName(to), c.observing()); err != nil {
		return mobyfs.Volume{}, err
	}
	was, err := c.lastRemoved(name)
	if err != nil {
		return mobyfs.Volume{}, err
	}
	var v mobyfs.Volume
	failpoint.Reach("control.undelete.before")
	err = c.store.Update(ctx, func(tx *store.Tx) error {
		stone, err := store.Tombstones.Get(tx, string(was.Volume.ID))
		if mobyfs.CodeOf(err) == mobyfs.CodeNotFound {
			return notRemoved(name) // it came back, or was given up, since
		}
		if err != nil {
			return err
		}
		if err := c.mayReturn(tx, stone, name, to); err != nil {
			return err
		}
		v = stone.Volume
		v.Name, v.State, v.Lease, v.Migration, v.Revision = to, mobyfs.VolumeReady, nil, nil, 0
		v.Undeletion = &mobyfs.Undeletion{Removed: stone.Volume.Fence, At: c.now().UTC(), Pending: true}
		c.raise(&v)
		return errors.Join(put(tx, "volume comes back from the trash", &v), store.Tombstones.Delete(tx, string(v.ID)))
	})
	failpoint.Reach("control.undelete.after")
	if err == nil {
		c.say("volume comes back from the trash", v)
	}
	return c.told.volume(v), err
}

// lastRemoved finds what was removed last under a name.
func (c *Control) lastRemoved(name string) (mobyfs.Tombstone, error) {
	all := c.removed()
	i := slices.IndexFunc(all, func(t mobyfs.Tombstone) bool { return t.Volume.Name == name })
	if i < 0 {
		return mobyfs.Tombstone{}, notRemoved(name)
	}
	return all[i], nil
}

func notRemoved(name string) error {
	return mobyfs.Errorf(mobyfs.CodeNotFound, "no volume %q is in the trash of a node", name).
		WithHint("mobyctl volume ls --deleted lists what is; it stays as long as volumes.trash in cluster.yaml says")
}

// mayReturn refuses a volume whose name is taken, or whose node can't bring it back.
func (c *Control) mayReturn(tx *store.Tx, stone mobyfs.Tombstone, name, to string) error {
	v := stone.Volume
	other, err := tx.VolumeNamed(to)
	switch {
	case err == nil:
		return mobyfs.Errorf(mobyfs.CodeExists, "undelete volume %q: the name belongs to another volume now, on %s", to, other.Node).
			WithHint("give it another: mobyctl volume undelete %s --as NAME", name)
	case mobyfs.CodeOf(err) != mobyfs.CodeNotFound:
		return err
	}
	n, err := tx.Node(v.Node)
	switch {
	case mobyfs.CodeOf(err) == mobyfs.CodeNotFound, err == nil && n.Availability == mobyfs.NodeEvicted:
		return mobyfs.Errorf(mobyfs.CodeNotFound, "undelete volume %q: its node %s, which has it in its trash, does not belong to the cluster any more", name, v.Node).
			WithHint("bring the bytes back by hand, from below trash/ on that host, or from a backup")
	case err != nil:
		return err
	}
	if _, err := store.Sessions.Get(tx, v.Node); mobyfs.CodeOf(err) == mobyfs.CodeNotFound {
		return mobyfs.Errorf(mobyfs.CodeUnavailable, "undelete volume %q: its node %s is silent, and the volume is in its trash", name, v.Node).
			WithHint("start %s, then try again; the trash keeps it until %s", v.Node, stone.Until.Format(time.RFC3339))
	} else if err != nil {
		return err
	}
	return nil
}

// forgetTombstones deletes the records of volumes that the trash has no more. They may still come back for a while longer if
// their node is slow to empty it; nobody counts on that.
func (c *Control) forgetTombstones(ctx context.Context) error {
	var old []string
	c.store.View(func(view store.View) {
		for id, t := range store.Tombstones.All(view) {
			if !t.Until.After(c.now()) && len(old) < 100 {
				old = append(old, id)
			}
		}
	})
	if len(old) == 0 {
		return nil
	}
	return c.store.Update(store.MakingRoom(ctx), func(tx *store.Tx) error {
		var errs []error
		for _, id := range old {
			errs = append(errs, store.Tombstones.Delete(tx, id))
		}
		return errors.Join(errs...)
	})
}
