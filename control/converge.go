package control

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/control/store"
	"github.com/mobyfs/mobyfs/internal/failpoint"
)

// convergeEvery is how often it is looked whether nodes have told what they hold, if nothing else says so.
const convergeEvery = 2 * time.Second

func (c *Control) kickConverge() {
	select {
	case c.told.inventories <- struct{}{}:
	default:
	}
}

// convergeUntil makes the records agree with what nodes tell after a restore, until ctx ends.
func (c *Control) convergeUntil(ctx context.Context) {
	if c.store.History() == "" {
		return
	}
	tick := time.NewTicker(convergeEvery)
	defer tick.Stop()
	for said := ""; ; {
		err := c.converge(ctx)
		if err != nil && ctx.Err() == nil && err.Error() != said {
			said = err.Error()
			c.log.Error("compare the records with what the nodes hold; it is tried again", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-c.told.inventories:
		}
	}
}

// converge compares the records with what nodes have told, once all have told it that are waited for, and afterwards with
// what the late ones tell. Killed after any step, or done by two controls at once, it goes on with what is left: each
// volume is compared in one transaction, in which it gets its new fence, and what was told is forgotten last.
func (c *Control) converge(ctx context.Context) error {
	c.told.converging.Lock()
	defer c.told.converging.Unlock()
	if c.store.History() == "" {
		return nil
	}
	r := c.store.Restored()
	if r != nil && len(c.awaited(r)) > 0 {
		return nil
	}
	if r == nil && !c.hasFresh() {
		return nil
	}
	t, err := c.tale(ctx)
	if err != nil {
		return err
	}
	if err := c.raiseEpoch(ctx, t); err != nil {
		return err
	}
	known, unknown := t.order(r != nil, c.volumeIDs())
	if err := c.compareAll(ctx, known, t); err != nil {
		return err
	}
	for _, id := range unknown {
		if err := c.compare(ctx, id, t); err != nil {
			return err
		}
	}
	failpoint.Reach("control.converge.before")
	if err := c.endConverge(ctx, r); err != nil {
		return err
	}
	failpoint.Reach("control.converge.after")
	return c.forgetTale(ctx, t)
}

// hasFresh reports whether a node has told what it holds and the records do not agree with it yet.
func (c *Control) hasFresh() (fresh bool) {
	c.store.View(func(v store.View) {
		for _, i := range store.Inventories.All(v) {
			fresh = fresh || i.History == c.store.History() && !i.Compared
		}
	})
	return fresh
}

// compareAtOnce is how many volumes are compared at the same time.
const compareAtOnce = 16

func (c *Control) compareAll(ctx context.Context, ids []mobyfs.VolumeID, t tale) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(compareAtOnce)
	for _, id := range ids {
		g.Go(func() error { return c.compare(ctx, id, t) })
	}
	return g.Wait()
}

// tale is what nodes have told.
type tale struct {
	told  map[string]bool // nodes that have told all, in this history, and are not evicted
	fresh map[string]bool // those of them that the records do not agree with yet
	held  map[mobyfs.VolumeID][]holder
	epoch uint32 // the highest of which a fence is known
}

// holder is what one node holds of a volume.
type holder struct {
	node string
	mobyfs.Holding
}

// tale reads what nodes have told: from the store itself, for this process may have heard of the last part of an
// inventory before the others. Who has told all, is read first.
func (c *Control) tale(ctx context.Context) (tale, error) {
	t := tale{told: map[string]bool{}, fresh: map[string]bool{}, held: map[mobyfs.VolumeID][]holder{}}
	inventories, err := store.Inventories.Read(ctx, c.store)
	if err != nil {
		return t, err
	}
	holdings, err := store.Holdings.Read(ctx, c.store)
	if err != nil {
		return t, err
	}
	out := c.evictedNodes()
	for node, i := range inventories {
		if i.History == c.store.History() {
			if t.told[node] = !out[node]; t.told[node] {
				t.epoch = max(t.epoch, i.Epoch)
			}
			if !i.Compared {
				t.fresh[node] = true
			}
		}
	}
	for id, h := range holdings {
		node, _, _ := strings.Cut(id, "/")
		if t.fresh[node] && !out[node] {
			t.held[h.ID] = append(t.held[h.ID], holder{node, h})
			t.epoch = max(t.epoch, highest(h).Epoch())
		}
	}
	return t, nil
}

// evictedNodes are those whose word does not count.
func (c *Control) evictedNodes() map[string]bool {
	out := map[string]bool{}
	c.store.View(func(v store.View) {
		for n := range v.Nodes {
			out[n.Name] = n.Use() == mobyfs.NodeEvicted
		}
	})
	return out
}

// highest is the highest fence of which a holding tells.
func highest(h mobyfs.Holding) mobyfs.Fence {
	f := max(h.Fence, h.Lease)
	if h.Known != nil {
		f = max(f, h.Known.Fence)
	}
	return f
}

func (c *Control) volumeIDs() []mobyfs.VolumeID {
	var all []mobyfs.VolumeID
	c.store.View(func(v store.View) {
		for x := range v.Volumes {
			all = append(all, x.ID)
		}
	})
	return all
}

// order tells which volumes to compare, of those on record and of others. Those on record come first, so that it is known
// whose names are free.
func (t tale) order(all bool, known []mobyfs.VolumeID) (recorded, unknown []mobyfs.VolumeID) {
	isKnown := map[mobyfs.VolumeID]bool{}
	for _, id := range known {
		isKnown[id] = true
		if _, held := t.held[id]; held || all {
			recorded = append(recorded, id)
		}
	}
	for id := range t.held {
		if !isKnown[id] {
			unknown = append(unknown, id)
		}
	}
	slices.Sort(unknown)
	slices.Reverse(unknown) // of two with one name the newer one was made when the older one was gone
	return recorded, unknown
}

// raiseEpoch makes the epoch higher than all of which nodes know: the same backup may have been restored before.
func (c *Control) raiseEpoch(ctx context.Context, t tale) error {
	if t.epoch < c.store.Epoch() || c.store.Restored() == nil && t.epoch == c.store.Epoch() {
		return nil // after the waiting, fences of this epoch are its own
	}
	return c.store.Update(ctx, func(tx *store.Tx) error { return tx.RaiseEpoch(t.epoch) })
}

// compare makes the record of one volume agree with what nodes hold of it.
func (c *Control) compare(ctx context.Context, id mobyfs.VolumeID, t tale) error {
	failpoint.Reach("control.converge.volume")
	for again := true; again; {
		var v mobyfs.Volume
		var said []string
		err := c.store.Update(ctx, func(tx *store.Tx) (err error) {
			said, again = nil, false
			tx.Comparing()
			v, err = tx.Volume(id)
			switch mobyfs.CodeOf(err) {
			case "":
				said = c.agree(&v, t.held[id], t.told)
			case mobyfs.CodeNotFound:
				said, again, err = c.recordAgain(tx, id, &v, t)
				if err != nil {
					return err
				}
			case mobyfs.CodeCorrupt:
				return nil // it is told of as unreadable, and stays
			default:
				return err
			}
			if len(said) == 0 {
				return nil
			}
			return put(tx, strings.Join(said, "; "), &v)
		})
		if err != nil {
			return fmt.Errorf("compare volume %s: %w", id, err)
		}
		if len(said) > 0 {
			c.say("volume compared with what nodes hold", v)
		}
	}
	return nil
}

// agree changes a record so that it is true of what the holders have, and says what it changed. told names the nodes that
// have told all they hold. Done again it changes nothing.
//
// The home is where the newest bytes are: those beside which lies the highest fence, if that is higher than the record's,
// for every change of the home raises it; otherwise those of the home on record. Bytes on other nodes are kept there. No
// bytes are ever ordered away by this.
func (c *Control) agree(v *mobyfs.Volume, holders []holder, told map[string]bool) (said []string) {
	settled := v.Aside == nil && v.Fence.Epoch() > c.store.EpochBefore()
	known := v.Fence
	if v.Aside != nil {
		known = v.Aside.Fence
	}
	winner, found := newestOf(*v, known, holders, told[v.Node])
	if settled && found && winner.node != v.Node {
		found = false // decided since: late bytes do not change it
	}
	was := *v
	switch {
	case found:
		said = append(said, c.follow(v, winner)...)
	case settled, v.State != mobyfs.VolumeReady, !told[v.Node]:
	case mobyfs.SharesBytes(v.Spec.Backend):
		relies := slices.ContainsFunc(holders, func(h holder) bool { return h.node == v.Node && h.Lease != 0 }) // and is about to attach it
		if v.Lease != nil && !relies {
			v.Lease = nil
			said = append(said, "restore: "+v.Node+" does not use the volume any more")
		}
	case v.Aside == nil:
		v.Aside = &mobyfs.Aside{Reason: v.Node + " does not have its bytes, nor newer ones any other node", Since: c.now().UTC(), Fence: v.Fence}
		v.Lease = nil
		said = append(said, "restore: volume set aside: "+v.Aside.Reason)
	}
	said = append(said, keepOthers(v, holders)...)
	if settled && len(said) == 0 && sameLease(was.Lease, v.Lease) {
		return nil
	}
	if v.Migration != nil && !settled {
		c.end(v, mobyfs.MigrationAborted, "control was restored from a backup", c.now())
		said = append(said, "restore: migration aborted")
	}
	for _, h := range holders {
		v.Fence = max(v.Fence, highest(h.Holding))
	}
	c.raise(v)
	if len(said) == 0 {
		said = []string{"restore: volume is as the backup knew it"}
	}
	return said
}

func sameLease(a, b *mobyfs.Lease) bool {
	return a == nil && b == nil || a != nil && b != nil && a.Node == b.Node && a.Fence == b.Fence
}

// follow makes the holder of the newest bytes the home.
func (c *Control) follow(v *mobyfs.Volume, h holder) (said []string) {
	if v.Aside != nil {
		v.Aside = nil
		said = append(said, "restore: the bytes of the volume are there: "+h.node+" has them")
	}
	if v.Node != h.node {
		said = append(said, "restore: home of the volume is "+h.node+", which has newer bytes than "+v.Node)
		v.Node, v.Arrived = h.node, ""
	}
	if !h.Bytes {
		v.Arrived = h.Sealed
	}
	if v.State == mobyfs.VolumeCreating {
		v.State = mobyfs.VolumeReady
	}
	if h.Known != nil && h.Known.State == mobyfs.VolumeRemoving && h.Known.Node == h.node && v.State != mobyfs.VolumeRemoving {
		v.State = mobyfs.VolumeRemoving
		said = append(said, "restore: volume is being removed, as was decided before")
	}
	v.Lease = leaseAt(v.Lease, h, c.now())
	return said
}

// leaseAt is the lease that a home relies on: what it holds, it keeps.
func leaseAt(was *mobyfs.Lease, h holder, now time.Time) *mobyfs.Lease {
	if h.Lease == 0 {
		return nil
	}
	if was != nil && was.Node == h.node && was.Fence == h.Lease {
		return was
	}
	l := &mobyfs.Lease{Node: h.node, Fence: h.Lease, Since: now.UTC()}
	if k := h.Known; k != nil && k.Lease != nil && k.Lease.Node == h.node {
		l.Since, l.Users = k.Lease.Since, cleanUsers(k.Lease.Users)
	}
	return l
}

// keepOthers notes the nodes that have other bytes of a volume, which are nobody's to remove.
func keepOthers(v *mobyfs.Volume, holders []holder) (said []string) {
	if mobyfs.SharesBytes(v.Spec.Backend) {
		return nil // they are the same ones
	}
	for _, h := range holders {
		if h.Bytes && (h.node != v.Node || v.Aside != nil) && !v.KeepsAt(h.node) {
			v.Kept = append(slices.Clone(v.Kept), h.node)
			said = append(said, "restore: "+h.node+" keeps other bytes of the volume")
		}
	}
	slices.Sort(v.Kept)
	return said
}

// newestOf finds who has the newest bytes, given the fence of the volume on record and whether its home has told all. A
// volume without a home on record may be anywhere.
func newestOf(v mobyfs.Volume, known mobyfs.Fence, holders []holder, told bool) (best holder, found bool) {
	given := told && nobodyElse(v.Node, known, holders) // to the node to which a migration brought them
	for _, h := range holders {
		moving := h.Sealed != "" && v.Migration != nil && v.Migration.ID == h.Sealed
		switch {
		case !h.Bytes && !committed(h) && !(h.Sealed != "" && given):
			continue
		case v.Node != "" && h.node != v.Node && rank(h) <= known && !(moving && given):
			continue // left behind by a move that the record knows of
		}
		if !found || newer(v.Node, h, best) {
			best, found = h, true
		}
	}
	return best, found
}

// committed reports whether a node knows that a migration whose bytes it has made it the home.
func committed(h holder) bool {
	return h.Sealed != "" && h.Known != nil && h.Known.Node == h.node && h.Known.Arrived == h.Sealed
}

// nobodyElse reports whether no node has bytes that can be the volume's: then they were given up for those that a
// migration brought elsewhere, and so that was committed.
func nobodyElse(home string, known mobyfs.Fence, holders []holder) bool {
	return !slices.ContainsFunc(holders, func(h holder) bool { return h.Bytes && (h.node == home || h.Fence > known) })
}

// rank is the fence of the bytes: of those that are to be adopted that of the decision.
func rank(h holder) mobyfs.Fence {
	if !h.Bytes && h.Known != nil {
		return max(h.Fence, h.Known.Fence)
	}
	return h.Fence
}

// newer reports whether what a has is newer than what b has. Bytes that all nodes see lie beside one fence: then who
// relies on a lease, or knows itself to be the home, has been given them last.
func newer(home string, a, b holder) bool {
	own := func(h holder) mobyfs.Fence {
		if h.Known != nil && h.Known.Node == h.node {
			return h.Known.Fence
		}
		return 0
	}
	isHome := func(h holder) int {
		if h.node == home {
			return 1
		}
		return 0
	}
	return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a.Lease, b.Lease), cmp.Compare(own(a), own(b)),
		cmp.Compare(isHome(a), isHome(b)), strings.Compare(b.node, a.node)) > 0
}

// recordAgain makes the record of a volume that the backup did not know, and says what it did. Nothing if nobody has its
// bytes. If its name has to be freed first, it does only that, and asks to be called again.
func (c *Control) recordAgain(tx *store.Tx, id mobyfs.VolumeID, v *mobyfs.Volume, t tale) (said []string, again bool, err error) {
	h, found := newestOf(mobyfs.Volume{}, 0, t.held[id], true)
	if !found {
		return nil, false, nil
	}
	*v = asKnown(id, h, t.held[id], c.now())
	other, err := tx.VolumeNamed(v.Name)
	switch {
	case mobyfs.CodeOf(err) == mobyfs.CodeNotFound, v.State == mobyfs.VolumeRemoving:
	case err != nil:
		return nil, false, err
	case other.Aside == nil && other.ID > id: // the other one has the name since this one was removed
		v.Name, err = c.freeName(tx, v.Name, id)
	default:
		return nil, true, c.rename(tx, other)
	}
	if err != nil && mobyfs.CodeOf(err) != mobyfs.CodeNotFound {
		return nil, false, err
	}
	said = []string{"restore: volume recorded again, as " + h.node + " holds it"}
	return append(said, c.agree(v, t.held[id], t.told)...), false, nil
}

// asKnown is the record of a volume as its holders know it: before all others the one who is to be its home, and rather
// one who has a record of it than one who found nothing but the bytes.
func asKnown(id mobyfs.VolumeID, h holder, holders []holder, now time.Time) mobyfs.Volume {
	all := append([]holder{h}, holders...)
	i := slices.IndexFunc(all, func(h holder) bool { return h.Known != nil && h.Known.Node != "" })
	if i < 0 {
		i = slices.IndexFunc(all, func(h holder) bool { return h.Known != nil })
	}
	v := *mobyfs.Nameless(id, mobyfs.VolumeSpec{})
	if i >= 0 {
		k := all[i].Known
		v.Name, v.Spec, v.CreatedAt = k.Name, k.Spec.WithDefaults(), k.CreatedAt
	}
	if v.CreatedAt.IsZero() {
		v.CreatedAt = now.UTC()
	}
	if k := h.Known; k != nil && k.State == mobyfs.VolumeRemoving && k.Node == h.node {
		v.State = k.State
	}
	v.Node, v.Fence = h.node, 1
	return v
}

// rename gives a volume another name, for a newer one has its own.
func (c *Control) rename(tx *store.Tx, v mobyfs.Volume) error {
	was := v.Name
	name, err := c.freeName(tx, was, v.ID)
	if err != nil {
		return err
	}
	if err := tx.Rename(&v, name); err != nil {
		return err
	}
	return record(tx, "restore: volume renamed, for a newer one has the name "+was, v)
}

// freeName is a name for a volume whose own belongs to another one.
func (c *Control) freeName(tx *store.Tx, name string, id mobyfs.VolumeID) (string, error) {
	other := otherName(name, id)
	_, err := tx.VolumeNamed(other)
	switch {
	case mobyfs.CodeOf(err) == mobyfs.CodeNotFound:
		return other, nil
	case err != nil:
		return "", err
	}
	return "", mobyfs.Errorf(mobyfs.CodeExists, "the name %q is taken too", other).WithHint("remove or rename one of the two")
}

// otherName is a name for a volume whose own belongs to another one.
func otherName(name string, id mobyfs.VolumeID) string {
	ending := "." + string(id[len(id)-8:])
	return name[:min(len(name), 128-len(ending))] + ending
}

// endConverge ends the time after a restore, unless somebody is waited for again.
func (c *Control) endConverge(ctx context.Context, r *store.Restored) error {
	if r == nil {
		return nil
	}
	var ended bool
	err := c.store.Update(ctx, func(tx *store.Tx) error {
		now, err := tx.Restored()
		ended = false
		if err != nil || now == nil || len(c.awaited(now)) > 0 {
			return err
		}
		ended = true
		if err := tx.Converged(); err != nil {
			return err
		}
		return tx.Record(mobyfs.Event{Text: "restore: the records agree with what the nodes hold"})
	})
	if ended && err == nil {
		c.log.Info("control decides again", "backup", r.Backup)
	}
	return err
}

// forgetTale notes that the records agree with what nodes told, and deletes that.
func (c *Control) forgetTale(ctx context.Context, t tale) error {
	for node := range t.fresh {
		if err := c.forgetHoldings(ctx, node); err != nil {
			return err
		}
		err := c.store.Update(ctx, func(tx *store.Tx) error {
			i, err := store.Inventories.Get(tx, node)
			if err != nil || i.Compared || i.History != c.store.History() {
				return ignoreGone(err)
			}
			i.Compared = true
			return store.Inventories.Put(tx, node, i)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *Control) forgetHoldings(ctx context.Context, node string) error {
	var ids []string
	c.store.View(func(v store.View) {
		for id := range store.Holdings.All(v) {
			if of, _, _ := strings.Cut(id, "/"); of == node {
				ids = append(ids, id)
			}
		}
	})
	for part := range slices.Chunk(ids, mobyfs.MaxHoldings) {
		err := c.store.Update(ctx, func(tx *store.Tx) error {
			for _, id := range part {
				if err := store.Holdings.Delete(tx, id); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
