package control

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/api"
	"github.com/mobyfs/mobyfs/control/store"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// until waits until an operation is as ok says, and returns it.
func until(t *testing.T, c caller, id mobyfs.OperationID, ok func(mobyfs.Operation) bool) mobyfs.Operation {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		o, err := c.Operation(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		if ok(o) {
			return o
		}
		if time.Now().After(deadline) {
			t.Fatalf("the operation stays %+v", o)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func inPhase(p mobyfs.OperationPhase) func(mobyfs.Operation) bool {
	return func(o mobyfs.Operation) bool { return o.Phase == p }
}

// moving are the volumes that are on their way, by name.
func (f *fleet) moving() map[string]mobyfs.Migration {
	all := map[string]mobyfs.Migration{}
	f.control.store.View(func(view store.View) {
		for v := range view.Ordered(store.Moving, store.Place{}) {
			all[v.Name] = *v.Migration
		}
	})
	return all
}

// untilMoving waits until so many volumes are on their way, and makes sure that no more are.
func (f *fleet) untilMoving(n int) map[string]mobyfs.Migration {
	f.t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(2 * time.Millisecond) {
		all := f.moving()
		if len(all) == n {
			return all
		}
		if time.Now().After(deadline) {
			f.t.Fatalf("%d are moving, want %d: %+v", len(all), n, all)
		}
	}
}

// arrive ends a migration as its destination would.
func (f *fleet) arrive(name string) {
	f.t.Helper()
	v := f.record(name)
	if _, err := f.caller(pki.RoleNode, v.Migration.To).Commit(f.t.Context(), v.ID, v.Migration.ID, someReceipt); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fleet) fail(name, why string) {
	f.t.Helper()
	v := f.record(name)
	if err := f.caller(pki.RoleNode, v.Migration.To).Abort(f.t.Context(), v.ID, v.Migration.ID, why); err != nil {
		f.t.Fatal(err)
	}
}

func TestMoveIsAnOperationThatTellsHowItGoesOn(t *testing.T) {
	both(t, func(t *testing.T, f *fleet) {
		ctx, op := t.Context(), f.operator()
		f.node("h1")
		h2 := f.node("h2")
		f.ready("pgdata", "h1")
		m := must[mobyfs.Volume](t)(op.MoveVolume(ctx, "pgdata", "h2")).Migration
		o := must[mobyfs.Operation](t)(op.Operation(ctx, m.Operation))
		if o.Kind != mobyfs.OperationMove || o.Phase != mobyfs.OperationRunning || o.Migration != m.ID || o.From != "h1" || o.To != "h2" ||
			o.Name != "pgdata" || o.Generation != 1 || o.Progress != (mobyfs.Work{Total: 1}) {
			t.Errorf("the operation is %+v", o)
		}
		f.clock.advance(10 * time.Second)
		f.report(h2, mobyfs.Report{Address: "h2:8080", Progress: map[mobyfs.MigrationID]mobyfs.Progress{m.ID: {Bytes: 100, TotalBytes: 400}}})
		o = must[mobyfs.Operation](t)(op.Operation(ctx, o.ID))
		if left := o.ETA.Sub(f.clock.Now()); o.Progress.Bytes != 100 || o.Progress.TotalBytes != 400 || left < 28*time.Second || left > 31*time.Second {
			t.Errorf("after a quarter in 10 s: %+v, ends in %v, want 30 s", o.Progress, left)
		}
		f.arrive("pgdata")
		o = until(t, op, o.ID, inPhase(mobyfs.OperationDone))
		if o.EndedAt.IsZero() || o.Progress.Done != 1 || o.Progress.Bytes != someReceipt.Progress.Bytes || !o.ETA.IsZero() {
			t.Errorf("done: %+v", o)
		}
		_, err := op.CancelOperation(ctx, o.ID)
		wantCode(t, err, mobyfs.CodeInvalid)
		_, err = op.RetryOperation(ctx, o.ID)
		wantCode(t, err, mobyfs.CodeInvalid)
		_, err = op.Operation(ctx, "01jnosuchoperation0000000x")
		wantCode(t, err, mobyfs.CodeNotFound)
		_, err = op.Operation(ctx, "../nodes")
		wantCode(t, err, mobyfs.CodeInvalid)
	})
}

func TestMoveThatFailedIsTriedAgainWhenAnOperatorSaysSo(t *testing.T) {
	f := newFleet(t, false)
	ctx, op := t.Context(), f.operator()
	f.node("h1")
	f.node("h2")
	f.ready("pgdata", "h1")
	m := must[mobyfs.Volume](t)(op.MoveVolume(ctx, "pgdata", "h2")).Migration
	f.fail("pgdata", "the disk is full")
	o := until(t, op, m.Operation, inPhase(mobyfs.OperationFailed))
	if o.Cause != "the disk is full" || o.Attempt != 1 {
		t.Errorf("failed: %+v", o)
	}
	must[mobyfs.Operation](t)(op.RetryOperation(ctx, o.ID))
	o = until(t, op, m.Operation, inPhase(mobyfs.OperationRunning))
	if now := f.record("pgdata").Migration; now == nil || now.ID == m.ID || now.ID != o.Migration || now.Operation != o.ID || now.To != "h2" || !o.EndedAt.IsZero() || o.Cause != "" {
		t.Errorf("tried again: %+v with %+v", now, o)
	}
	o = must[mobyfs.Operation](t)(op.CancelOperation(ctx, o.ID))
	if v := f.record("pgdata"); v.Migration != nil || v.Node != "h1" || v.LastMove.State != mobyfs.MigrationAborted || o.Phase != mobyfs.OperationCancelled {
		t.Errorf("cancelled: %+v, the volume is %+v", o, v)
	}
	if again := must[mobyfs.Operation](t)(op.CancelOperation(ctx, o.ID)); again.Generation != o.Generation {
		t.Error("cancelled again it changed")
	}
	m = must[mobyfs.Volume](t)(op.MoveVolume(ctx, "pgdata", "h2")).Migration
	must[mobyfs.Volume](t)(op.CancelMove(ctx, "pgdata"))
	until(t, op, m.Operation, inPhase(mobyfs.OperationCancelled))
}

func TestDrainMovesWhatNobodyUsesUnderTheBudgetAndWaitsForTheRest(t *testing.T) {
	both(t, func(t *testing.T, f *fleet) {
		ctx, op, h1 := t.Context(), f.operator(), f.node("h1")
		f.node("h2")
		var used mobyfs.Volume
		for i := range 6 {
			used = f.ready(fmt.Sprintf("data-%d", i), "h1")
		}
		held := must[mobyfs.Grant](t)(h1.Claim(ctx, used.ID))
		o := must[mobyfs.Operation](t)(op.DrainNode(ctx, "h1", "new disks"))
		if again := must[mobyfs.Operation](t)(op.DrainNode(ctx, "h1", "")); again.ID != o.ID {
			t.Errorf("asked again it began another: %+v", again)
		}
		_, err := op.CreateVolume(ctx, "more", mobyfs.VolumeSpec{}, "h1")
		if err == nil || !strings.Contains(err.Error(), "drain") {
			t.Errorf("a volume may be made on a node that is drained: %v", err)
		}
		for left := 5; left > 0; left-- {
			now := f.untilMoving(min(left, movesOfNode))
			for name, m := range now {
				if m.From != "h1" || m.To != "h2" || m.Operation != partID(o.ID, f.record(name).ID) {
					t.Fatalf("%s moves by %+v", name, m)
				}
			}
			for name := range now {
				f.arrive(name)
				break
			}
		}
		o = until(t, op, o.ID, func(o mobyfs.Operation) bool { return o.Progress.Done == 5 && o.Phase == mobyfs.OperationWaiting })
		if !strings.Contains(o.Cause, used.Name) || !strings.Contains(o.Cause, "in use") || o.Progress != (mobyfs.Work{Done: 5, Total: 6, Waiting: 1}) {
			t.Errorf("it waits: %+v", o)
		}
		if l := f.record(used.Name).Lease; l == nil || l.Wanted == "" || l.Fence != held.Fence {
			t.Errorf("the holder is not asked for %+v", l)
		}
		if err := h1.Release(ctx, used.ID, held.Fence); err != nil {
			t.Fatal(err)
		}
		f.untilMoving(1)
		f.arrive(used.Name)
		o = until(t, op, o.ID, inPhase(mobyfs.OperationDone))
		if n := f.nodeRecord("h1"); n.Availability != mobyfs.NodeDrained || n.Operation != "" {
			t.Errorf("the node is %+v", n)
		}
		if o.Progress != (mobyfs.Work{Done: 6, Total: 6}) || o.Reason != "new disks" {
			t.Errorf("done: %+v", o)
		}
		page := must[api.OperationPage](t)(op.Operations(ctx, api.OperationQuery{Parent: string(o.ID), Limit: 4}))
		rest := must[api.OperationPage](t)(op.Operations(ctx, api.OperationQuery{Parent: string(o.ID), Limit: 4, Cursor: page.Next}))
		if len(page.Operations) != 4 || len(rest.Operations) != 2 || rest.Next != "" {
			t.Errorf("its parts come as %d and %d", len(page.Operations), len(rest.Operations))
		}
		if b := f.budgets(); len(b) != 0 {
			t.Errorf("places are taken still: %v", b)
		}
	})
}

func (f *fleet) nodeRecord(name string) (n mobyfs.Node) {
	f.control.store.View(func(view store.View) { n, _ = view.Node(name) })
	return n
}

// budgets are the places that are taken.
func (f *fleet) budgets() map[string][]mobyfs.OperationID {
	all := map[string][]mobyfs.OperationID{}
	f.control.store.View(func(view store.View) {
		for name, b := range store.Budgets.All(view) {
			all[name] = b.Running
		}
	})
	return all
}

func TestPartThatFailsIsTriedAgainLaterAndLaterAndThenTold(t *testing.T) {
	f := newFleet(t, false)
	ctx, op := t.Context(), f.operator()
	f.node("h1")
	f.node("h2")
	v := f.ready("pgdata", "h1")
	whole := must[mobyfs.Operation](t)(op.DrainNode(ctx, "h1", ""))
	part := partID(whole.ID, v.ID)
	for try := 1; try < maxTries; try++ {
		f.untilMoving(1)
		f.fail("pgdata", "the cable is out")
		o := until(t, op, part, inPhase(mobyfs.OperationWaiting))
		if wait := o.NextTry.Sub(f.clock.Now()); o.Attempt != try || o.Cause != "the cable is out" || wait != backOff(try).Truncate(0) {
			t.Fatalf("after %d tries it waits %v: %+v", try, wait, o)
		}
		if len(f.budgets()) != 0 {
			t.Fatal("who waits takes no place")
		}
		f.clock.advance(backOff(try))
		for _, h := range []string{"h1", "h2"} {
			f.report(f.caller(pki.RoleNode, h), mobyfs.Report{Address: h + ":8080"})
		}
	}
	f.untilMoving(1)
	f.fail("pgdata", "the cable is out")
	until(t, op, part, inPhase(mobyfs.OperationFailed))
	o := until(t, op, whole.ID, inPhase(mobyfs.OperationWaiting))
	if !strings.Contains(o.Cause, "pgdata: the cable is out") {
		t.Errorf("the drain says %q", o.Cause)
	}
	must[mobyfs.Operation](t)(op.RetryOperation(ctx, part))
	f.untilMoving(1)
	f.arrive("pgdata")
	until(t, op, whole.ID, inPhase(mobyfs.OperationDone))
}

func TestDrainThatIsCancelledLeavesWhatIsOnItsWayWhereItWas(t *testing.T) {
	f := newFleet(t, false)
	ctx, op := t.Context(), f.operator()
	f.node("h1")
	f.node("h2")
	for i := range 4 {
		f.ready(fmt.Sprintf("data-%d", i), "h1")
	}
	o := must[mobyfs.Operation](t)(op.DrainNode(ctx, "h1", ""))
	f.untilMoving(movesOfNode)
	o = must[mobyfs.Operation](t)(op.CancelOperation(ctx, o.ID))
	if n := f.nodeRecord("h1"); o.Phase != mobyfs.OperationCancelled || n.Use() != mobyfs.NodeCordoned {
		t.Errorf("%+v, and the node is %s", o, n.Use())
	}
	f.untilMoving(0)
	if b := f.budgets(); len(b) != 0 {
		t.Errorf("places are taken still: %v", b)
	}
	for i := range 4 {
		if v := f.record(fmt.Sprintf("data-%d", i)); v.Node != "h1" {
			t.Errorf("%s went to %s", v.Name, v.Node)
		}
	}
}

func TestDrainThatIsPausedBeginsNothingMore(t *testing.T) {
	f := newFleet(t, false)
	ctx, op := t.Context(), f.operator()
	f.node("h1")
	f.node("h2")
	for i := range 4 {
		f.ready(fmt.Sprintf("data-%d", i), "h1")
	}
	o := must[mobyfs.Operation](t)(op.DrainNode(ctx, "h1", ""))
	for name := range f.untilMoving(movesOfNode) {
		must[mobyfs.Operation](t)(op.PauseOperation(ctx, o.ID, true))
		f.arrive(name)
	}
	until(t, op, o.ID, func(o mobyfs.Operation) bool { return o.Progress.Done == 2 })
	f.untilMoving(0)
	must[mobyfs.Operation](t)(op.PauseOperation(ctx, o.ID, false))
	f.untilMoving(2)
}

func TestEvictedNodeLosesWhatOthersCanHaveAndKeepsTheRest(t *testing.T) {
	f := newFleet(t, false)
	ctx, op := t.Context(), f.operator()
	f.node("h1")
	h2 := f.node("h2")
	f.ready("local", "h1")
	had := f.shared("shared", mobyfs.TakeoverManual, "h1")
	f.shared("stays", mobyfs.TakeoverNever, "h1")
	o := must[mobyfs.Operation](t)(op.EvictNode(ctx, "h1", "it was stolen"))
	delete(f.heard, "h1")
	until(t, op, o.ID, func(o mobyfs.Operation) bool {
		return f.control.silence("h1") > 0 && o.Phase == mobyfs.OperationRunning
	})
	if v := f.record("shared"); v.Node != "h1" {
		t.Errorf("it was given away before h1 had time to stop: %+v", v)
	}
	f.clock.advance(mobyfs.SessionTTL)
	f.report(h2, mobyfs.Report{Address: "h2:8080"})
	o = until(t, op, o.ID, inPhase(mobyfs.OperationDone))
	if v := f.record("shared"); v.Node != "h2" || v.Lease != nil || v.Fence <= had.Fence {
		t.Errorf("the volume that can be taken is %+v", v)
	}
	if !strings.Contains(o.Cause, "2 volumes") || !strings.Contains(o.Cause, "local; stays") || o.Progress != (mobyfs.Work{Done: 1, Total: 3, Waiting: 2}) {
		t.Errorf("the operation says %+v", o)
	}
	wantCode(t, op.ForgetNode(ctx, "h2", false), mobyfs.CodeInvalid)
	wantCode(t, op.ForgetNode(ctx, "h1", false), mobyfs.CodeInUse)
	promised := func() (rev int64) {
		t.Helper()
		err := f.control.store.Update(ctx, func(tx *store.Tx) (err error) {
			rev, err = store.Promises.Revision(tx, "h1")
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return rev
	}
	err := f.control.store.Update(ctx, func(tx *store.Tx) error { return store.Promises.Put(tx, "h1", store.Promise{Node: "h1"}) })
	if err != nil || promised() == 0 {
		t.Fatalf("there is no record of what h1 promised: %v", err)
	}
	if err := op.ForgetNode(ctx, "h1", true); err != nil {
		t.Fatal(err)
	}
	if err := op.ForgetNode(ctx, "h1", true); err != nil {
		t.Errorf("forgotten twice: %v", err)
	}
	if promised() != 0 {
		t.Error("what h1 promised is not forgotten with it")
	}
	_, err = op.Volume(ctx, "local")
	wantCode(t, err, mobyfs.CodeNotFound)
	f.ready("local", "h2") // the name is free
	if n := f.nodeRecord("h1"); n.Name != "" {
		t.Errorf("the node is still %+v", n)
	}
}

func TestOperationThatIsNotKnownIsParkedAndInNobodysWay(t *testing.T) {
	f := newFleet(t, false)
	ctx, op := t.Context(), f.operator()
	f.node("h1")
	id := mobyfs.OperationID(f.control.newID())
	strange := mobyfs.Operation{ID: id, Kind: "teleport", Schema: 7, Phase: "beaming", CreatedAt: f.clock.Now().UTC()}
	if err := f.control.store.Update(ctx, func(tx *store.Tx) error { return store.Operations.Put(tx, string(id), strange) }); err != nil {
		t.Fatal(err)
	}
	o := must[mobyfs.Operation](t)(op.Operation(ctx, id))
	if o.Phase != mobyfs.OperationParked || !strings.Contains(o.Cause, "teleport") {
		t.Errorf("it is shown as %+v", o)
	}
	if page := must[api.OperationPage](t)(op.Operations(ctx, api.OperationQuery{Phase: "parked"})); len(page.Operations) != 1 {
		t.Errorf("the list of those that are parked has %+v", page.Operations)
	}
	_, err := op.CancelOperation(ctx, id)
	wantCode(t, err, mobyfs.CodeInvalid)
	o = must[mobyfs.Operation](t)(op.DrainNode(ctx, "h1", ""))
	until(t, op, o.ID, inPhase(mobyfs.OperationDone))
	if n := f.control.operationsUnderWay(); len(n) != 1 || n[operationsLike{"unknown", mobyfs.OperationParked}] != 1 {
		t.Errorf("counted are %v", n)
	}
}

func TestCreationIsAnOperationAsLongAsItLasts(t *testing.T) {
	f := newFleet(t, false)
	ctx, op, h1 := t.Context(), f.operator(), f.node("h1")
	v := must[mobyfs.Volume](t)(op.CreateVolume(ctx, "pgdata", mobyfs.VolumeSpec{}, "h1"))
	id := mobyfs.OperationID(v.ID)
	o := must[mobyfs.Operation](t)(op.Operation(ctx, id))
	if o.Kind != mobyfs.OperationCreate || o.Phase != mobyfs.OperationRunning || o.To != "h1" || o.Name != "pgdata" {
		t.Errorf("it is %+v", o)
	}
	done := make(chan mobyfs.Operation)
	go func() {
		o, err := op.WaitOperation(ctx, id, o.Generation, 10*time.Second)
		if err != nil {
			t.Error(err)
		}
		done <- o
	}()
	must[mobyfs.Volume](t)(h1.Created(ctx, v.ID))
	if o := <-done; o.Phase != mobyfs.OperationDone {
		t.Errorf("after the wait: %+v", o)
	}
	if page := must[api.OperationPage](t)(op.Operations(ctx, api.OperationQuery{})); len(page.Operations) != 0 {
		t.Errorf("it is listed still: %+v", page.Operations)
	}
}

// TestManyControlsCarryOneDrain lets three control processes carry on what one of them began, and one of them end in the
// middle. The budgets hold whoever counts, and each volume moves once.
func TestManyControlsCarryOneDrain(t *testing.T) {
	memory := store.NewMemory()
	f := newFleet(t, false)
	cfg := f.cfg
	cfg.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	cfg.OpenStore = func(ctx context.Context, cfg store.Config) (*store.Store, error) {
		return store.OpenMemory(ctx, cfg, memory.Line())
	}
	var controls []*Control
	for i := range 3 {
		cfg := cfg
		cfg.Root = t.TempDir()
		cfg.Identity = f.files(f.authority, pki.RoleControl, fmt.Sprintf("control%d", i))
		c, err := Open(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		controls = append(controls, c)
	}
	on := func(i int) *fleet { g := *f; g.control = controls[i]; return &g }
	for _, h := range []string{"h1", "h2", "h3"} {
		on(0).node(h)
	}
	const volumes = 30
	for i := range volumes {
		on(0).ready(fmt.Sprintf("data-%d", i), "h1")
	}
	o := must[mobyfs.Operation](t)(on(1).operator().DrainNode(t.Context(), "h1", ""))
	var most atomic.Int64
	closed := false
	for deadline := time.Now().Add(60 * time.Second); ; {
		now := on(2).moving()
		most.Store(max(most.Load(), int64(len(now))))
		for name := range now {
			on(2).arrive(name)
		}
		got := must[mobyfs.Operation](t)(on(2).operator().Operation(t.Context(), o.ID))
		if got.Progress.Done > volumes/3 && !closed {
			closed = true
			if err := controls[1].Close(); err != nil {
				t.Fatal(err)
			}
		}
		if got.Phase == mobyfs.OperationDone {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("it stays %+v", got)
		}
	}
	if most.Load() > movesOfNode {
		t.Errorf("%d moved away from h1 at once, %d may", most.Load(), movesOfNode)
	}
	for i := range volumes {
		if v := on(2).record(fmt.Sprintf("data-%d", i)); v.Node == "h1" || v.Migration != nil || v.Fence.Counter() != 3 {
			t.Errorf("%s is on %s with fence %s", v.Name, v.Node, v.Fence)
		}
	}
	for _, i := range []int{0, 2} {
		if err := controls[i].Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestDrainGoesOnAfterARestart(t *testing.T) {
	f := newFleet(t, false)
	ctx, op := t.Context(), f.operator()
	f.node("h1")
	f.node("h2")
	for i := range 3 {
		f.ready(fmt.Sprintf("data-%d", i), "h1")
	}
	o := must[mobyfs.Operation](t)(op.DrainNode(ctx, "h1", ""))
	f.untilMoving(movesOfNode)
	f.restart()
	op = f.operator()
	for left := 3; left > 0; left-- {
		for name := range f.untilMoving(min(left, movesOfNode)) {
			f.arrive(name)
			break
		}
	}
	until(t, op, o.ID, inPhase(mobyfs.OperationDone))
}

func TestResizeWaitsForRoom(t *testing.T) {
	f := newFleet(t, false)
	ctx, op, h1 := t.Context(), f.operator(), f.node("h1")
	f.ready("pgdata", "h1")
	o := must[mobyfs.Operation](t)(op.ResizeVolume(ctx, "pgdata", 50*gib))
	if v := f.record("pgdata"); o.Phase != mobyfs.OperationDone || v.Spec.SizeBytes != 50*gib {
		t.Fatalf("with room: %+v, the volume has %d", o, v.Spec.SizeBytes)
	}
	_, err := op.ResizeVolume(ctx, "pgdata", -1)
	wantCode(t, err, mobyfs.CodeInvalid)
	o = must[mobyfs.Operation](t)(op.ResizeVolume(ctx, "pgdata", 150*gib))
	if v := f.record("pgdata"); o.Phase != mobyfs.OperationWaiting || o.Cause == "" || v.Spec.SizeBytes != 50*gib {
		t.Fatalf("without room: %+v, the volume has %d", o, v.Spec.SizeBytes)
	}
	f.report(h1, mobyfs.Report{Address: "h1:8080", Capacity: mobyfs.Capacity{TotalBytes: 400 * gib, FreeBytes: 300 * gib}})
	must[mobyfs.Operation](t)(op.RetryOperation(ctx, o.ID))
	until(t, op, o.ID, inPhase(mobyfs.OperationDone))
	if v := f.record("pgdata"); v.Spec.SizeBytes != 150*gib {
		t.Errorf("with room again the volume has %d", v.Spec.SizeBytes)
	}
}

func TestUpgradeGoesOnOnlyWhenTheNodeBeforeIsBack(t *testing.T) {
	f := newFleet(t, false)
	ctx, op := t.Context(), f.operator()
	says := func(node, version string) {
		f.report(f.caller(pki.RoleNode, node), mobyfs.Report{Address: node + ":8080", Version: version})
	}
	for _, h := range []string{"h1", "h2", "h3"} {
		says(h, "v1")
	}
	o := must[mobyfs.Operation](t)(op.UpgradeNodes(ctx, "v2"))
	turnOf := func(node string) func(mobyfs.Operation) bool {
		return func(o mobyfs.Operation) bool { return o.Node == node && o.Phase == mobyfs.OperationRunning }
	}
	until(t, op, o.ID, turnOf("h1"))
	if again := must[mobyfs.Operation](t)(op.UpgradeNodes(ctx, "v2")); again.ID != o.ID {
		t.Error("asked again it began another")
	}
	_, err := op.UpgradeNodes(ctx, "v3")
	wantCode(t, err, mobyfs.CodeExists)
	says("h1", "v2")
	until(t, op, o.ID, func(o mobyfs.Operation) bool { return o.Progress.Done == 1 && o.Node == "h1" })
	f.lose("h1") // it came up and ended again
	o = until(t, op, o.ID, inPhase(mobyfs.OperationWaiting))
	if !strings.Contains(o.Cause, "h1 is silent") || o.Node != "h1" {
		t.Errorf("it says %+v", o)
	}
	says("h1", "v2")
	until(t, op, o.ID, func(o mobyfs.Operation) bool { return o.Progress.Done == 1 && !o.NextTry.IsZero() })
	f.clock.advance(upgradeRest)
	until(t, op, o.ID, turnOf("h2"))
	says("h2", "v2")
	until(t, op, o.ID, func(o mobyfs.Operation) bool { return o.Progress.Done == 2 })
	f.clock.advance(upgradeRest)
	until(t, op, o.ID, turnOf("h3"))
	says("h3", "v2")
	until(t, op, o.ID, inPhase(mobyfs.OperationDone))
}

func TestRebalanceMovesUntilNothingIsWorthIt(t *testing.T) {
	both(t, func(t *testing.T, f *fleet) {
		ctx, op, h1 := t.Context(), f.operator(), f.node("h1")
		f.node("h2")
		used := map[mobyfs.VolumeID]int64{}
		for i := range 6 {
			used[f.ready(fmt.Sprintf("data-%d", i), "h1").ID] = 20 * gib
		}
		f.report(h1, mobyfs.Report{Address: "h1:8080", Used: used, Capacity: mobyfs.Capacity{TotalBytes: 200 * gib, FreeBytes: 60 * gib}})
		plan := must[[]mobyfs.PlannedMove](t)(op.PlanRebalance(ctx, 0))
		if len(plan) == 0 || plan[0].From != "h1" || plan[0].To != "h2" || plan[0].Bytes != 20*gib || len(f.moving()) != 0 {
			t.Fatalf("the plan is %+v, and %d are moving", plan, len(f.moving()))
		}
		o := must[mobyfs.Operation](t)(op.Rebalance(ctx, 0))
		_, err := op.Rebalance(ctx, 0)
		wantCode(t, err, mobyfs.CodeExists)
		_, err = op.PlanRebalance(ctx, 1)
		wantCode(t, err, mobyfs.CodeInvalid)
		moved := 0
		for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
			for name := range f.moving() {
				f.arrive(name)
				moved++
				f.report(h1, mobyfs.Report{Address: "h1:8080", Capacity: mobyfs.Capacity{TotalBytes: 200 * gib, FreeBytes: int64(60+20*moved) * gib}})
				f.report(f.caller(pki.RoleNode, "h2"), mobyfs.Report{Address: "h2:8080", Capacity: mobyfs.Capacity{TotalBytes: 200 * gib, FreeBytes: int64(100-20*moved) * gib}})
			}
			if got := must[mobyfs.Operation](t)(op.Operation(ctx, o.ID)); got.Phase.Ended() {
				break
			}
		}
		until(t, op, o.ID, inPhase(mobyfs.OperationDone))
		if moved != len(plan) {
			t.Errorf("%d were moved, the plan had %d", moved, len(plan))
		}
		if again := must[[]mobyfs.PlannedMove](t)(op.PlanRebalance(ctx, 0)); len(again) != 0 {
			t.Errorf("there is more to do: %+v", again)
		}
	})
}

func TestDrainOfBeforeARestoreBeginsNothingUntilAllHaveTold(t *testing.T) {
	f := newInMemory(t)
	ctx, op := t.Context(), f.operator()
	f.node("h1")
	v := f.ready("pgdata", "h1")
	f.node("h2")
	must[mobyfs.Node](t)(op.CordonNode(ctx, "h2", true))
	o := must[mobyfs.Operation](t)(op.DrainNode(ctx, "h1", ""))
	until(t, op, o.ID, inPhase(mobyfs.OperationWaiting)) // the other node takes nothing
	f.advance(3 * mobyfs.SessionTTL)                     // and is silent when it would, and when the backup is made
	must[mobyfs.Node](t)(op.CordonNode(ctx, "h2", false))
	f.restore(f.backup())
	op = f.operator()
	f.tells("h2")
	if more := f.control.carry(ctx); !more || len(f.moving()) != 0 {
		t.Errorf("it is carried on: %v, and %v", more, f.moving())
	}
	_, err := op.ResizeVolume(ctx, "pgdata", gib)
	wantCode(t, err, mobyfs.CodeUnavailable)
	wantCode(t, op.ForgetNode(ctx, "h1", true), mobyfs.CodeUnavailable)
	f.tells("h1", mobyfs.Holding{ID: v.ID, Fence: v.Fence})
	f.untilMoving(1)
	f.arrive("pgdata")
	until(t, op, o.ID, inPhase(mobyfs.OperationDone))
}

func TestDrainOfManySharedVolumesTakesNoPlaces(t *testing.T) {
	f := newFleet(t, false)
	ctx, op, h1 := t.Context(), f.operator(), f.node("h1")
	f.node("h2")
	for i := range 3 * movesOfCluster {
		g := f.shared(fmt.Sprintf("data-%d", i), mobyfs.TakeoverNever, "h1")
		if err := h1.Release(ctx, g.Volume.ID, g.Fence); err != nil {
			t.Fatal(err)
		}
	}
	o := must[mobyfs.Operation](t)(op.DrainNode(ctx, "h1", ""))
	until(t, op, o.ID, inPhase(mobyfs.OperationDone))
	if b := f.budgets(); len(b) != 0 {
		t.Errorf("places are taken still: %v", b)
	}
}
