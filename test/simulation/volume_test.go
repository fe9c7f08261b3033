package simulation

import (
	"context"
	"fmt"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// volume is a volume with its bytes: a number that counts the writes.
type volume struct {
	w       *world
	id      mobyfs.VolumeID
	name    string
	shared  bool
	content map[string]int // by node; of a shared volume at ""
	last    int            // the write that was acknowledged last
	seen    mobyfs.Fence   // the highest fence that came to the bytes, and lies beside them
	owner   owner          // as control has decided last, whether or not the node knows
	granted []mobyfs.Fence // what nodes were told
}

type owner struct {
	node  *node
	fence mobyfs.Fence
}

// create makes a volume as an operator and its node do.
func (w *world) create(i int) *volume {
	n := w.nodes[i%hosts]
	v := &volume{w: w, name: fmt.Sprintf("v%d", i), shared: i < sharing, content: map[string]int{}}
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
	if err := v.admit(fence); err != nil {
		return err
	}
	if got := v.content[v.at(n)]; got != v.last && v.w.protocol.fence {
		v.w.count.Lost++
		v.w.t.Errorf("%s finds %d in %s, last acknowledged was %d", n.name, got, v.name, v.last)
	}
	return nil
}

// write is a write of a container.
func (v *volume) write(n *node, fence mobyfs.Fence) error {
	if fence < v.seen && !v.w.protocol.fence {
		v.w.count.Stale++
	}
	if err := v.admit(fence); err != nil {
		return err
	}
	v.content[v.at(n)]++
	v.last = v.content[v.at(n)]
	v.w.count.Writes++
	return nil
}

// admit keeps the highest fence and refuses lower ones, unless the world has no fences.
func (v *volume) admit(fence mobyfs.Fence) error {
	if fence < v.seen && v.w.protocol.fence {
		v.w.count.Refused++
		return mobyfs.Errorf(mobyfs.CodeStaleFence, "%s has seen fence %d", v.name, v.seen)
	}
	v.seen = max(v.seen, fence)
	return nil
}
