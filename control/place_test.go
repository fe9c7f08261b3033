package control

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/api"
	"github.com/mobyfs/mobyfs/control/placement"
	"github.com/mobyfs/mobyfs/control/store"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// at is a caller at one of several control processes.
func at(c *Control, role, name string) caller {
	return local{c, pki.Identity{Cluster: "shop", Role: role, Name: name}}
}

// awaitNodes waits until all control processes know so many nodes that are there.
func awaitNodes(t *testing.T, all map[string]*Control, n int) {
	t.Helper()
	for _, c := range all {
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
			ready := 0
			c.store.View(func(view store.View) {
				for candidate := range view.Field().All() {
					if candidate.Node.Ready {
						ready++
					}
				}
			})
			if ready == n {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("a control knows %d nodes of %d", ready, n)
			}
		}
	}
}

// Several control processes place volumes, and move them, at once. What nodes owe by the records must never be more than
// they have, and no two volumes of a group may meet.
func TestControlsThatPlaceAtOnceNeverPromiseTooMuch(t *testing.T) {
	const nodes, groups = 4, 3
	f, all := controls(t, "c0", "c1", "c2")
	for i := range nodes {
		name := fmt.Sprintf("h%d", i)
		f.report(f.caller(pki.RoleNode, name), mobyfs.Report{Address: name + ":1", Capacity: mobyfs.Capacity{TotalBytes: 200 * gib, FreeBytes: 30 * gib}})
	}
	awaitNodes(t, all, nodes)
	var working sync.WaitGroup
	var placed, refusedAll, moved sync.Map
	for i := range 24 {
		c := all[fmt.Sprintf("c%d", i%len(all))]
		working.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(i), 1))
			for j := range 12 {
				name := fmt.Sprintf("v%02d-%d", i, j)
				spec := mobyfs.VolumeSpec{SizeBytes: int64(1+rng.IntN(4)) * gib}
				if j%4 == 0 {
					spec.SizeBytes, spec.Apart = 0, fmt.Sprintf("g%d", rng.IntN(groups))
				}
				v, err := at(c, pki.RoleOperator, "ana").CreateVolume(t.Context(), name, spec, "")
				if mobyfs.CodeOf(err) == mobyfs.CodeNoSpace {
					refusedAll.Store(name, true)
					continue
				}
				if err != nil {
					t.Errorf("%s: %v", name, err)
					continue
				}
				placed.Store(name, true)
				if _, err := at(c, pki.RoleNode, v.Node).Created(t.Context(), v.ID); err != nil {
					t.Errorf("%s: %v", name, err)
				}
				_, err = at(c, pki.RoleOperator, "ana").MoveVolume(t.Context(), name, fmt.Sprintf("h%d", rng.IntN(nodes)))
				if err == nil {
					moved.Store(name, true)
				} else if mobyfs.CodeOf(err) != mobyfs.CodeNoSpace {
					t.Errorf("move %s: %v", name, err)
				}
			}
		})
	}
	working.Wait()
	for what, m := range map[string]*sync.Map{"placed": &placed, "refused": &refusedAll, "moved": &moved} {
		n := 0
		m.Range(func(_, _ any) bool { n++; return true })
		if t.Logf("%d %s", n, what); n == 0 {
			t.Errorf("nothing was %s: the race has not happened", what)
		}
	}
	owed, groupsOn := map[string]int64{}, map[string]int{}
	all["c0"].store.View(func(view store.View) {
		for v := range view.Volumes {
			placement.Owes(v, func(node string, l placement.Load) {
				owed[node] += l.PromisedBytes
				if v.Spec.Apart != "" {
					groupsOn[v.Spec.Apart+" on "+node]++
				}
			})
		}
	})
	for node, bytes := range owed {
		if bytes > 20*gib {
			t.Errorf("%s owes %d GiB of the 20 that are free beside the headroom", node, bytes/gib)
		}
	}
	for what, n := range groupsOn {
		if n > 1 {
			t.Errorf("%d volumes of the group %s", n, what)
		}
	}
}

// A control process that does not know yet that a node was cordoned places nothing there all the same.
func TestNothingComesToANodeThatAnotherControlHasJustCordoned(t *testing.T) {
	f, all := controls(t, "c0", "c1")
	for _, name := range []string{"h1", "h2"} {
		f.node(name)
	}
	awaitNodes(t, all, 2)
	for i := range 200 {
		closed := []string{"h1", "h2"}[i%2]
		err := all["c0"].store.Update(t.Context(), func(tx *store.Tx) error {
			for _, name := range []string{"h1", "h2"} {
				n, err := tx.Node(name)
				if err != nil {
					return err
				}
				n.Availability = mobyfs.NodeActive
				if name == closed {
					n.Availability = mobyfs.NodeCordoned
				}
				if err := tx.PutNode(n); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		v, err := at(all["c1"], pki.RoleOperator, "ana").CreateVolume(t.Context(), fmt.Sprintf("vol-%d", i), mobyfs.VolumeSpec{}, "")
		if err != nil || v.Node == closed {
			t.Fatalf("volume %d went to %q, %v; %s was cordoned before", i, v.Node, err, closed)
		}
		_, err = at(all["c1"], pki.RoleOperator, "ana").CreateVolume(t.Context(), fmt.Sprintf("asked-%d", i), mobyfs.VolumeSpec{}, closed)
		wantCode(t, err, mobyfs.CodeNoSpace)
	}
}

func TestAVolumeThatMustLeaveGoesToTheBestNode(t *testing.T) {
	f := newFleet(t, false)
	f.node("h1")
	f.report(f.caller(pki.RoleNode, "h2"), mobyfs.Report{Address: "h2:1", Capacity: mobyfs.Capacity{TotalBytes: 200 * gib, FreeBytes: 20 * gib}})
	f.report(f.caller(pki.RoleNode, "h3"), mobyfs.Report{Address: "h3:1", Capacity: mobyfs.Capacity{TotalBytes: 200 * gib, FreeBytes: 10 * gib}})
	v := f.ready("pgdata", "h1")
	choose := func() (node string, verdicts []mobyfs.Verdict, err error) {
		err = f.control.store.Update(t.Context(), func(tx *store.Tx) (err error) {
			node, verdicts, err = f.control.chooseFor(tx, v)
			return err
		})
		return node, verdicts, err
	}
	if node, verdicts, err := choose(); node != "h2" || err != nil || verdicts != nil {
		t.Errorf("got %q, %v, %v", node, verdicts, err)
	}
	v.UsedBytes = 50 * gib
	node, verdicts, err := choose()
	wantCode(t, err, mobyfs.CodeNoSpace)
	if node != "" || len(verdicts) != 3 {
		t.Errorf("got %q, %+v", node, verdicts)
	}
}

func TestAVolumeGrowsOnlyAsFarAsItsHomeHasRoom(t *testing.T) {
	f := newFleet(t, false)
	f.node("h1") // 100 GiB free
	ctx, op := t.Context(), f.operator()
	if _, err := op.CreateVolume(ctx, "other", mobyfs.VolumeSpec{SizeBytes: 60 * gib}, "h1"); err != nil {
		t.Fatal(err)
	}
	v := must[mobyfs.Volume](t)(op.CreateVolume(ctx, "pgdata", mobyfs.VolumeSpec{SizeBytes: 10 * gib}, "h1"))
	for _, to := range []int64{5 * gib, 10 * gib, 40 * gib} {
		if _, err := op.PatchVolume(ctx, v.Name, api.VolumePatch{SizeBytes: &to}); err != nil {
			t.Errorf("to %d GiB: %v", to/gib, err)
		}
	}
	over := int64(40*gib + 1)
	_, err := op.PatchVolume(ctx, v.Name, api.VolumePatch{SizeBytes: &over})
	wantCode(t, err, mobyfs.CodeNoSpace)
}

func TestMovesArePlannedFromTheFullestToTheEmptiest(t *testing.T) {
	f := newFleet(t, false)
	f.node("h1")
	f.node("h2")
	used := map[mobyfs.VolumeID]int64{}
	for i := range 8 {
		v := f.ready(fmt.Sprintf("vol-%d", i), "h1")
		used[v.ID] = 10 * gib
	}
	f.report(f.caller(pki.RoleNode, "h1"), mobyfs.Report{Address: "h1:8080", Used: used, Capacity: mobyfs.Capacity{TotalBytes: 200 * gib, FreeBytes: 20 * gib}})
	moves := f.control.planMoves(0.05)
	if len(moves) == 0 || slices.ContainsFunc(moves, func(m placement.Move) bool { return m.From != "h1" || m.To != "h2" }) {
		t.Errorf("got %+v", moves)
	}
	if after := f.control.planMoves(0.9); len(after) > 0 {
		t.Errorf("for a gain that can't be: %+v", after)
	}
}

// What is chosen for others at the moment is forgotten when they are done, or nobody would go there any more.
func TestWhatWasChosenIsForgottenWhenItIsDone(t *testing.T) {
	f := newFleet(t, false)
	f.node("h1")
	errStop := errors.New("stop")
	err := f.control.store.Update(t.Context(), func(tx *store.Tx) error {
		if _, _, err := f.control.chooseFor(tx, mobyfs.Volume{Node: "h9"}); err != nil {
			return err
		}
		return errStop
	})
	if !errors.Is(err, errStop) {
		t.Fatal(err)
	}
	for i := range 3 {
		if _, err := f.operator().CreateVolume(t.Context(), fmt.Sprintf("vol-%d", i), mobyfs.VolumeSpec{}, ""); err != nil {
			t.Fatal(err)
		}
	}
	if left := maps.Clone(f.control.placing.nodes); len(left) > 0 {
		t.Errorf("still being chosen: %v", left)
	}
}
