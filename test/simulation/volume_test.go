package simulation

import (
	"context"
	"fmt"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// volume is a volume with its bytes: a number for the last write that is in them.
type volume struct {
	w       *world
	id      mobyfs.VolumeID
	name    string
	shared  bool
	content map[string]int          // which write is in the bytes, by node; of a shared volume at ""
	writes  int                     // counts them
	last    int                     // the write that was acknowledged last
	seen    map[string]mobyfs.Fence // the highest fence that came to the bytes, and lies beside them
	newest  mobyfs.Fence            // the highest of these
	came    mobyfs.MigrationID      // what brought the bytes where they are used now
	owner   owner                   // as control has decided last, whether or not the node knows
	granted []mobyfs.Fence          // what nodes were told
}

type owner struct {
	node  *node
	fence mobyfs.Fence
}

// create makes a volume as an operator and its node do.
func (w *world) create(i int) *volume {
	n := w.nodes[i%hosts]
	v := &volume{w: w, name: fmt.Sprintf("v%d", i), shared: i < sharing, content: map[string]int{}, seen: map[string]mobyfs.Fence{}}
	spec := mobyfs.VolumeSpec{}
	if v.shared {
		spec = mobyfs.VolumeSpec{Backend: mobyfs.SharedBackend, Takeover: mobyfs.TakeoverAuto}
	}
	ana := pki.Identity{Cluster: "shop", Role: pki.RoleOperator, Name: "ana"}
	made, err := w.controls[0].CreateVolume(context.Background(), ana, v.name, spec, n.name)
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.controls[0].Created(context.Background(), n.who(), made.ID); err != nil {
		w.t.Fatal(err)
	}
	v.id = made.ID
	return v
}

// note takes down what control has decided.
func (v *volume) note(n *node, g mobyfs.Grant) {
	if g.Volume.Lease == nil || g.Volume.Lease.Node != n.name || g.Fence <= v.owner.fence {
		return
	}
	v.w.count.Grants++
	if v.shared && v.owner.node != nil && v.owner.node != n {
		v.w.count.Takeovers++
	}
	v.owner = owner{n, g.Fence}
}

// at is where the bytes are that a node sees.
func (v *volume) at(n *node) string {
	if v.shared {
		return ""
	}
	return n.name
}

// attach is what a backend does with a grant: it puts the fence beside the bytes, or refuses a lower one.
func (v *volume) attach(n *node, fence mobyfs.Fence) error {
	if err := v.admit(n, fence); err != nil {
		return err
	}
	v.compare(n)
	return nil
}

// compare looks whether all that was acknowledged is in the bytes that a node uses.
func (v *volume) compare(n *node) {
	got := v.content[v.at(n)]
	if got == v.last {
		return
	}
	v.w.count.Lost++
	if v.w.protocol == guarded {
		v.w.t.Errorf("%s finds write %d in %s, last acknowledged was %d", n.name, got, v.name, v.last)
	}
}

// arrived puts the bytes that a committed migration brought in their place, once.
func (v *volume) arrived(n *node, id mobyfs.MigrationID, content int) {
	if v.came != id {
		v.came, v.content[n.name] = id, content
	}
}

// write is a write of a container.
func (v *volume) write(n *node, fence mobyfs.Fence) error {
	newest := v.newest
	if err := v.admit(n, fence); err != nil {
		return err
	}
	if fence < newest {
		v.w.count.Stale++
	}
	v.compare(n)
	v.writes++
	v.content[v.at(n)], v.last = v.writes, v.writes
	v.w.count.Writes++
	return nil
}

// admit keeps the highest fence beside the bytes and refuses lower ones, unless the world has no fences.
func (v *volume) admit(n *node, fence mobyfs.Fence) error {
	seen := v.seen[v.at(n)]
	if fence < seen && v.w.protocol.fence {
		v.w.count.Refused++
		return mobyfs.Errorf(mobyfs.CodeStaleFence, "%s has seen fence %d", v.name, seen)
	}
	v.seen[v.at(n)], v.newest = max(seen, fence), max(v.newest, fence)
	return nil
}
