package control

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// disks is what lies on the nodes' disks in a random history, as the agents there would bring it about.
type disks struct {
	f     *inMemory
	rand  *rand.Rand
	nodes []string
	away  map[string]bool                               // nodes that act on nothing for a while
	held  map[string]map[mobyfs.VolumeID]mobyfs.Holding // by node
	seen  map[mobyfs.VolumeID]seen                      // bytes that all nodes see
	best  map[mobyfs.VolumeID]mobyfs.Fence              // the highest fence ever given
	gone  map[mobyfs.VolumeID]bool                      // removed by a user
	names int
}

// seen are the bytes of a volume that all nodes see. Their holdings say what a node knows of the volume.
type seen struct {
	fence mobyfs.Fence
	last  string // the node that used them last, "" if none did
}

// give notes a decision of control, and what the node knows by it.
func (d *disks) give(v mobyfs.Volume) { d.best[v.ID] = max(d.best[v.ID], v.Fence) }

// has puts bytes on a node's disk, at a fence.
func (d *disks) has(node string, v mobyfs.Volume, fence mobyfs.Fence) {
	h := mobyfs.Holding{ID: v.ID, Bytes: true, Fence: fence, Known: &v}
	if v.Lease != nil && v.Lease.Node == node {
		h.Lease = v.Lease.Fence
	}
	d.held[node][v.ID] = h
}

func (d *disks) volumes() (all []mobyfs.Volume) {
	for _, id := range d.f.control.volumeIDs() {
		if v, ok := d.f.volume(id); ok && v.State == mobyfs.VolumeReady && v.Aside == nil {
			all = append(all, v)
		}
	}
	slices.SortFunc(all, func(a, b mobyfs.Volume) int { return a.CreatedAt.Compare(b.CreatedAt) })
	return all
}

// step does one thing that users and agents do.
func (d *disks) step() {
	t, ctx := d.f.t, d.f.t.Context()
	node := d.nodes[d.rand.IntN(len(d.nodes))]
	volumes := d.volumes()
	d.f.clock.advance(time.Second)
	if len(volumes) == 0 || d.rand.IntN(5) == 0 {
		d.names++
		spec := mobyfs.VolumeSpec{}
		if d.rand.IntN(3) == 0 {
			spec.Backend = mobyfs.SharedBackend
		}
		v := d.f.readyWith(fmt.Sprintf("v%d", d.names), node, spec)
		d.give(v)
		d.has(node, v, 0)
		if mobyfs.SharesBytes(spec.Backend) {
			d.seen[v.ID] = seen{}
		}
		return
	}
	v := volumes[d.rand.IntN(len(volumes))]
	if mobyfs.SharesBytes(v.Spec.Backend) {
		d.stepShared(v, node)
		return
	}
	home := d.f.caller(pki.RoleNode, v.Node)
	switch d.rand.IntN(6) {
	case 0, 1:
		if g, err := home.Claim(ctx, v.ID); err == nil && g.From == nil {
			d.give(g.Volume)
			d.has(v.Node, g.Volume, g.Fence)
		}
	case 2:
		if v.Lease != nil && home.Release(ctx, v.ID, v.Lease.Fence) == nil {
			now, _ := d.f.volume(v.ID)
			d.give(now)
			d.has(v.Node, now, d.held[v.Node][v.ID].Fence)
		}
	case 3, 4:
		if v.Lease != nil || v.Migration != nil || v.Node == node || v.KeepsAt(node) {
			return
		}
		moving, err := d.f.operator().MoveVolume(ctx, v.Name, node)
		if err != nil {
			t.Fatal(err)
		}
		from := d.held[v.Node][v.ID]
		from.Fence, from.Known = moving.Migration.Fence, &moving // exported
		d.held[v.Node][v.ID] = from
		d.give(moving)
		if d.rand.IntN(4) == 0 {
			if _, err := d.f.operator().CancelMove(ctx, v.Name); err != nil {
				t.Fatal(err)
			}
			now, _ := d.f.volume(v.ID)
			d.give(now)
			return
		}
		g, err := d.f.caller(pki.RoleNode, node).Commit(ctx, v.ID, moving.Migration.ID, mobyfs.Receipt{Digest: "d"})
		if err != nil {
			t.Fatal(err)
		}
		d.give(g.Volume)
		if d.rand.IntN(4) == 0 { // it is killed before it adopts what came
			d.held[node][v.ID] = mobyfs.Holding{ID: v.ID, Sealed: moving.Migration.ID, Known: &g.Volume}
		} else {
			d.has(node, g.Volume, g.Fence)
		}
		if !d.away[v.Node] {
			delete(d.held[v.Node], v.ID) // vacated
		}
	case 5:
		if v.Lease == nil && v.Migration == nil && !d.away[v.Node] && d.f.operator().RemoveVolume(ctx, v.Name) == nil {
			if err := home.Removed(ctx, v.ID); err != nil {
				t.Fatal(err)
			}
			delete(d.held[v.Node], v.ID)
			d.gone[v.ID] = true
		}
	}
}

// stepShared does one thing with a volume whose bytes all nodes see.
func (d *disks) stepShared(v mobyfs.Volume, node string) {
	t, ctx := d.f.t, d.f.t.Context()
	home := d.f.caller(pki.RoleNode, v.Node)
	learn := func(node string) {
		if now, _ := d.f.volume(v.ID); !d.away[node] {
			h := mobyfs.Holding{ID: v.ID, Bytes: true, Known: &now}
			if now.Lease != nil && now.Lease.Node == node {
				h.Lease = now.Lease.Fence
			}
			d.held[node][v.ID] = h
		}
	}
	switch d.rand.IntN(6) {
	case 0, 1:
		if g, err := home.Claim(ctx, v.ID); err == nil && !d.away[v.Node] {
			d.seen[v.ID] = seen{g.Fence, v.Node}
		}
	case 2:
		if v.Lease == nil || d.away[v.Node] || home.Release(ctx, v.ID, v.Lease.Fence) != nil {
			return
		}
	case 3, 4:
		if v.Lease != nil || v.Node == node {
			return
		}
		if _, err := d.f.operator().MoveVolume(ctx, v.Name, node); err != nil {
			t.Fatal(err)
		}
		learn(node)
	case 5:
		if v.Lease != nil || d.away[v.Node] || d.f.operator().RemoveVolume(ctx, v.Name) != nil {
			return
		}
		if err := home.Removed(ctx, v.ID); err != nil {
			t.Fatal(err)
		}
		for _, held := range d.held {
			delete(held, v.ID)
		}
		delete(d.seen, v.ID)
		d.gone[v.ID] = true
		return
	}
	now, _ := d.f.volume(v.ID)
	d.give(now)
	learn(v.Node)
}

// holdings are what a node tells: of bytes that all see, only if it used them last or believes itself their home.
func (d *disks) holdings(node string) (all []mobyfs.Holding) {
	for id, h := range d.held[node] {
		s, shared := d.seen[id]
		if shared && s.last != "" && s.last != node && h.Known.Node != node {
			continue
		}
		if shared {
			h.Fence = s.fence
		}
		all = append(all, h)
	}
	return all
}

// truth is the home of each volume that a user has, before control is lost.
func (d *disks) truth() map[mobyfs.VolumeID]string {
	homes := map[mobyfs.VolumeID]string{}
	for _, v := range d.volumes() {
		homes[v.ID] = v.Node
	}
	return homes
}

// check: no volume with bytes is lost, each has one home that has its newest bytes, all new fences are higher than any
// before, and no node is told to give bytes away that are kept nowhere else.
func (d *disks) check(what string, homes map[mobyfs.VolumeID]string) {
	t := d.f.t
	for id, home := range homes {
		v, ok := d.f.volume(id)
		if _, shared := d.seen[id]; shared && ok {
			home = v.Node // any node that may use them will do, if none relies on a lease
			for _, n := range d.nodes {
				if d.held[n][id].Lease != 0 && d.held[n][id].Lease == d.seen[id].fence {
					home = n
				}
			}
		}
		switch {
		case !ok:
			t.Errorf("%s: %s is lost", what, id)
		case v.Node != home || v.Aside != nil || v.State != mobyfs.VolumeReady:
			t.Errorf("%s: %s is on %s (aside %v, %s), its newest bytes are on %s", what, v.Name, v.Node, v.Aside, v.State, home)
		case v.Fence <= d.best[id] || v.Fence.Epoch() <= d.best[id].Epoch():
			t.Errorf("%s: fence %v comes after %v", what, v.Fence, d.best[id])
		}
		if lease := d.held[home][id].Lease; ok && (lease != 0) != (v.Lease != nil) {
			t.Errorf("%s: %s relies on lease %v of %s, on record is %v", what, home, lease, v.Name, v.Lease)
		}
	}
	for node, held := range d.held {
		for id, h := range held {
			v, ok := d.f.volume(id)
			if _, shared := d.seen[id]; shared {
				continue // nobody is told to remove them
			}
			if h.Bytes && (!ok || v.Node != node && !v.KeepsAt(node) || v.State == mobyfs.VolumeRemoving) {
				t.Errorf("%s: the bytes of %s on %s would go: %+v", what, id, node, v)
			}
		}
	}
	names := map[string]mobyfs.VolumeID{}
	for _, id := range d.f.control.volumeIDs() {
		v, _ := d.f.volume(id)
		if other, twice := names[mobyfs.FoldName(v.Name)]; twice {
			t.Errorf("%s: %s and %s have one name", what, id, other)
		}
		names[mobyfs.FoldName(v.Name)] = id
	}
}

// cutShort begins to compare and is cut short somewhere; control may have to begin anew then.
func (d *disks) cutShort() {
	ctx, cancel := context.WithTimeout(d.f.t.Context(), time.Duration(d.rand.IntN(500))*time.Microsecond)
	defer cancel()
	_ = d.f.control.converge(ctx) // most times an error
	if d.rand.IntN(3) == 0 {
		d.f.close()
		d.f.open(false)
	}
}

// TestNothingIsLostByARestoreHoweverOldTheBackupIs: a random history, a backup at a random moment, more history, and all
// control lost; then the nodes tell what they hold, in any order, and the comparison is cut short at any point.
func TestNothingIsLostByARestoreHoweverOldTheBackupIs(t *testing.T) {
	for seed := range uint64(60) {
		d := &disks{
			f: newInMemory(t), rand: rand.New(rand.NewPCG(seed, 1)), nodes: []string{"h1", "h2", "h3", "h4"}, away: map[string]bool{},
			held: map[string]map[mobyfs.VolumeID]mobyfs.Holding{}, best: map[mobyfs.VolumeID]mobyfs.Fence{}, gone: map[mobyfs.VolumeID]bool{},
			seen: map[mobyfs.VolumeID]seen{},
		}
		for _, n := range d.nodes {
			d.f.node(n)
			d.held[n] = map[mobyfs.VolumeID]mobyfs.Holding{}
		}
		for round := range 2 { // the second one begins with what the first one restored
			for range d.rand.IntN(40) {
				d.step()
			}
			old := d.f.backup()
			d.away[d.nodes[d.rand.IntN(4)]] = true
			for range d.rand.IntN(60) {
				d.step()
			}
			clear(d.away)
			homes := d.truth()
			d.f.restore(old)
			order := slices.Clone(d.nodes)
			d.rand.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
			for _, n := range order {
				d.f.tells(n, d.holdings(n)...)
				d.cutShort()
				d.f.converged()
			}
			what := fmt.Sprintf("seed %d round %d", seed, round)
			d.check(what, homes)
			for _, v := range d.volumes() { // what the agents do next, and learn
				d.give(v)
				if h, ok := d.held[v.Node][v.ID]; ok {
					h.Known, h.Bytes = &v, true
					if h.Sealed != "" {
						h.Sealed, h.Fence = "", v.Fence // adopted
					}
					d.held[v.Node][v.ID] = h
				}
			}
			if t.Failed() {
				return
			}
		}
		d.f.close()
	}
}
