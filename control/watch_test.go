package control

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/api"
)

// etcd is a client of the store under the control plane, to look at it and to break it.
func (f *fleet) etcd() *clientv3.Client {
	f.t.Helper()
	socket := filepath.Join(f.dir, "etcd", "client.sock")
	if _, err := os.Stat(socket); err != nil {
		f.t.Fatal(err)
	}
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{"unix://" + socket}, Logger: zap.NewNop()})
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() {
		if err := c.Close(); err != nil && !errors.Is(err, context.Canceled) {
			f.t.Error(err)
		}
	})
	return c
}

// watching watches as c until the test ends and hands each change over.
func watching(t *testing.T, c caller) <-chan mobyfs.Change {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	changes, done := make(chan mobyfs.Change), make(chan error, 1)
	go func() {
		done <- c.Watch(ctx, func(ch mobyfs.Change) {
			select {
			case changes <- ch:
			case <-ctx.Done():
			}
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("the watch ended with %v", err)
		}
	})
	return changes
}

// next waits for the first change that ok agrees with.
func next(t *testing.T, changes <-chan mobyfs.Change, ok func(mobyfs.Change) bool) mobyfs.Change {
	t.Helper()
	timeout := time.After(time.Minute)
	for {
		select {
		case c := <-changes:
			if ok(c) {
				return c
			}
		case <-timeout:
			t.Fatal("nothing of the kind came for 10 s")
		}
	}
}

func anyChange(mobyfs.Change) bool { return true }

func TestWatchBeginsWithEverythingAndTellsEachChange(t *testing.T) {
	both(t, func(t *testing.T, f *fleet) {
		ctx, op, h1 := t.Context(), f.operator(), f.node("h1")
		v := f.ready("pgdata", "h1")
		f.ready("backup", "h1")
		changes := watching(t, f.caller("node", "h1"))
		first := next(t, changes, anyChange)
		if first.Full == nil || first.Full.Cluster != "shop" || len(first.Full.Nodes) != 1 || !first.Full.Nodes[0].Ready || first.Revision < v.Revision {
			t.Fatalf("the first change is %+v", first)
		}
		if vs := first.Full.Volumes; len(vs) != 2 || vs[0].Name != "backup" || !cmp.Equal(vs[1], v) {
			t.Errorf("the volumes are %+v", vs)
		}
		isVolume := func(c mobyfs.Change) bool { return c.Volume != nil }
		g := must[mobyfs.Grant](t)(h1.Claim(ctx, v.ID))
		if c := next(t, changes, isVolume); !cmp.Equal(*c.Volume, g.Volume) || c.Revision != g.Volume.Revision {
			t.Errorf("the claim is told as %+v", c)
		}
		f.report(h1, mobyfs.Report{Address: "h1:8080", Users: map[mobyfs.VolumeID][]string{v.ID: {"web-1"}}})
		if c := next(t, changes, isVolume); c.Volume.Lease == nil || !cmp.Equal(c.Volume.Lease.Users, []string{"web-1"}) {
			t.Errorf("the container is told as %+v", c.Volume)
		}
		if err := h1.Release(ctx, v.ID, g.Fence); err != nil {
			t.Fatal(err)
		}
		if c := next(t, changes, isVolume); c.Volume.Lease != nil {
			t.Errorf("the release is told as %+v", c.Volume)
		}
		if err := op.RemoveVolume(ctx, "pgdata"); err != nil {
			t.Fatal(err)
		}
		if c := next(t, changes, isVolume); c.Volume.State != mobyfs.VolumeRemoving {
			t.Errorf("the removal is told as %+v", c.Volume)
		}
		if err := h1.Removed(ctx, v.ID); err != nil {
			t.Fatal(err)
		}
		if c := next(t, changes, func(c mobyfs.Change) bool { return c.Gone != "" || c.Volume != nil }); c.Gone != v.ID {
			t.Errorf("the end is told as %+v", c)
		}
		h2 := f.node("h2")
		if c := next(t, changes, func(c mobyfs.Change) bool { return c.Node != nil }); c.Node.Name != "h2" || !c.Node.Ready {
			t.Errorf("the new node is told as %+v", c.Node)
		}
		isH2 := func(ready bool) func(c mobyfs.Change) bool {
			return func(c mobyfs.Change) bool { return c.Node != nil && c.Node.Name == "h2" && c.Node.Ready == ready }
		}
		f.advance(mobyfs.NodeSilence + time.Second)
		f.report(h1, mobyfs.Report{Address: "h1:8080"})
		f.control.reconcile(ctx)
		next(t, changes, isH2(false))
		f.report(h2, mobyfs.Report{Address: "h2:8080"})
		next(t, changes, isH2(true))
	})
}

func TestProgressOfAMoveIsWatched(t *testing.T) {
	f := newFleet(t, false)
	h2 := f.node("h2")
	f.node("h1")
	f.ready("pgdata", "h1")
	m := must[mobyfs.Volume](t)(f.operator().MoveVolume(t.Context(), "pgdata", "h2")).Migration.ID
	changes := watching(t, f.operator())
	next(t, changes, func(c mobyfs.Change) bool { return c.Full != nil })
	for i := range int64(3) {
		f.report(h2, mobyfs.Report{Address: "h2:8080", Progress: map[mobyfs.MigrationID]mobyfs.Progress{m: {Bytes: i + 1, TotalBytes: 3}}})
		if c := next(t, changes, func(c mobyfs.Change) bool { return c.Volume != nil }); c.Volume.Migration.Progress.Bytes != i+1 {
			t.Errorf("report %d is told as %+v", i, c.Volume.Migration)
		}
	}
}

func TestSlowWatcherSeesEachObjectInOrderAndTheLastStateOnce(t *testing.T) {
	f := newFleet(t, false)
	ctx, h1 := t.Context(), f.node("h1")
	busy, calm := f.ready("busy", "h1"), f.ready("calm", "h1")
	changes := watching(t, f.operator()) // it blocks in each until the test takes the change
	next(t, changes, func(c mobyfs.Change) bool { return c.Full != nil })
	must[mobyfs.Grant](t)(h1.Claim(ctx, calm.ID)) // taken by the watcher, which is now stuck with it
	var last mobyfs.Fence
	for range 100 {
		g := must[mobyfs.Grant](t)(h1.Claim(ctx, busy.ID))
		if err := h1.Release(ctx, busy.ID, g.Fence); err != nil {
			t.Fatal(err)
		}
		last = g.Fence + 1
	}
	var seen []mobyfs.Volume
	next(t, changes, func(c mobyfs.Change) bool {
		if c.Volume != nil && c.Volume.ID == busy.ID {
			seen = append(seen, *c.Volume)
			return c.Volume.Fence == last
		}
		return false
	})
	for i := 1; i < len(seen); i++ {
		if seen[i].Revision <= seen[i-1].Revision {
			t.Errorf("revision %d came after %d", seen[i].Revision, seen[i-1].Revision)
		}
	}
	if len(seen) > 5 {
		t.Errorf("the slow watcher had to read %d states of 200", len(seen))
	}
}

func TestUnreadableRecordIsNotToldAsGone(t *testing.T) {
	f := newFleet(t, false)
	ctx, op := t.Context(), f.operator()
	f.node("h1")
	v := f.ready("pgdata", "h1")
	changes := watching(t, f.caller("node", "h1"))
	next(t, changes, anyChange)
	etcd := f.etcd()
	found := must[*clientv3.GetResponse](t)(etcd.Get(ctx, "/m/vol/", clientv3.WithPrefix()))
	must[*clientv3.PutResponse](t)(etcd.Put(ctx, string(found.Kvs[0].Key), "not json"))
	f.ready("later", "h1")
	next(t, changes, func(c mobyfs.Change) bool {
		if c.Gone != "" {
			t.Errorf("%s is told as gone", c.Gone)
		}
		return c.Volume != nil && c.Volume.Name == "later"
	})
	_, err := op.Volume(ctx, "pgdata")
	wantCode(t, err, mobyfs.CodeCorrupt)
	_, err = op.CreateVolume(ctx, "pgdata", mobyfs.VolumeSpec{}, "")
	wantCode(t, err, mobyfs.CodeCorrupt)
	s := must[api.Cluster](t)(op.Cluster(ctx))
	for deadline := time.Now().Add(time.Minute); len(s.Unreadable) == 0 && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		s = must[api.Cluster](t)(op.Cluster(ctx)) // others' writes are known once the watch has told them
	}
	if len(s.Unreadable) != 1 || s.Unreadable[0].Key != string(found.Kvs[0].Key) || s.Unreadable[0].Cause == "" {
		t.Errorf("the status tells %+v", s.Unreadable)
	}
	must[*clientv3.PutResponse](t)(etcd.Put(ctx, string(found.Kvs[0].Key), string(found.Kvs[0].Value)))
	c := next(t, changes, func(c mobyfs.Change) bool { return c.Volume != nil && c.Volume.ID == v.ID })
	if c.Volume.Name != "pgdata" {
		t.Errorf("mended it is told as %+v", c.Volume)
	}
}

func TestClosingControlEndsWatchesAndSaysSo(t *testing.T) {
	f := newFleet(t, false)
	began, ended := make(chan bool, 1), make(chan error, 1)
	go func() {
		ended <- f.operator().Watch(context.Background(), func(mobyfs.Change) { began <- true })
	}()
	<-began
	f.restart()
	wantCode(t, <-ended, mobyfs.CodeUnavailable)
}

func TestClusterCounts(t *testing.T) {
	both(t, func(t *testing.T, f *fleet) {
		ctx, op, h1 := t.Context(), f.operator(), f.node("h1")
		f.node("h2")
		a := f.ready("a1", "h1")
		f.ready("b1", "h1")
		f.ready("c1", "h2")
		must[mobyfs.Grant](t)(h1.Claim(ctx, a.ID))
		must[mobyfs.Volume](t)(op.MoveVolume(ctx, "b1", "h2"))
		f.advance(mobyfs.NodeSilence + time.Second)
		f.report(h1, mobyfs.Report{Address: "h1:8080"})
		got := must[api.Cluster](t)(op.Cluster(ctx))
		if got.Revision == 0 {
			t.Error("it tells no revision")
		}
		got.Revision, got.Rooms = 0, nil // the store may not have looked at its room yet
		if want := (api.Cluster{Cluster: "shop", Version: "v1.2.3", Nodes: 2, ReadyNodes: 1, Volumes: 3, InUse: 1, Moving: 1}); !cmp.Equal(got, want) {
			t.Error(cmp.Diff(want, got))
		}
		if err := op.Healthy(ctx); err != nil {
			t.Error(err)
		}
	})
}

func TestRestartKeepsEverything(t *testing.T) {
	both(t, func(t *testing.T, f *fleet) {
		ctx, op, h1, h2 := t.Context(), f.operator(), f.node("h1"), f.node("h2")
		f.ready("idle", "h1")
		used, moved := f.ready("used", "h1"), f.ready("moved", "h1")
		f.ready("moving", "h1")
		must[mobyfs.Volume](t)(op.CreateVolume(ctx, "young", mobyfs.VolumeSpec{Labels: map[string]string{"a": "b"}}, "h2"))
		f.ready("going", "h1")
		must[mobyfs.Grant](t)(h1.Claim(ctx, used.ID))
		g := must[mobyfs.Grant](t)(h2.Claim(ctx, moved.ID))
		must[mobyfs.Grant](t)(h2.Commit(ctx, moved.ID, g.From.Migration, someReceipt))
		must[mobyfs.Volume](t)(op.MoveVolume(ctx, "moving", "h2"))
		if err := op.RemoveVolume(ctx, "going"); err != nil {
			t.Fatal(err)
		}
		want := must[[]mobyfs.Volume](t)(op.Volumes(ctx))
		f.restart()
		op = f.operator()
		if got := must[[]mobyfs.Volume](t)(op.Volumes(ctx)); !cmp.Equal(got, want) {
			t.Error(cmp.Diff(want, got))
		}
		if nodes := must[[]mobyfs.Node](t)(op.Nodes(ctx)); len(nodes) != 2 || nodes[0].Address != "h1:8080" {
			t.Errorf("the nodes are %+v", nodes)
		}
	})
}

func TestOpenRefusesAnothersIdentity(t *testing.T) {
	f := newFleet(t, false)
	f.close()
	for _, name := range []string{"operator", "node"} {
		cfg := f.cfg
		cfg.Identity = f.files(f.authority, name, "control")
		_, err := Open(t.Context(), cfg)
		wantCode(t, err, mobyfs.CodeInvalid)
	}
	cfg := f.cfg
	cfg.Cluster = "bank"
	_, err := Open(t.Context(), cfg)
	wantCode(t, err, mobyfs.CodeInvalid)
	f.open(false)
}

// small makes a cluster in process whose agents know everything only while it has two volumes at most.
func small(t *testing.T) *fleet {
	f := newFleet(t, false)
	f.close()
	f.cfg.WholeVolumes = 2
	f.open(false)
	return f
}

func TestAgentsOfALargeClusterWatchWhatConcernsTheirNode(t *testing.T) {
	f := small(t)
	h1, h2 := f.node("h1"), f.node("h2")
	changes := watching(t, h2)
	if first := next(t, changes, anyChange); first.Full == nil || first.Full.Partial {
		t.Fatalf("the first change is %+v", first)
	}
	a, b := f.ready("one", "h1"), f.ready("two", "h2")
	f.ready("three", "h1") // now it is large
	full := next(t, changes, func(c mobyfs.Change) bool { return c.Full != nil })
	if vs := full.Full.Volumes; !full.Full.Partial || len(vs) != 1 || vs[0].ID != b.ID {
		t.Fatalf("what concerns h2 is told as %+v", full.Full)
	}
	told := func(c mobyfs.Change) mobyfs.Volume {
		if c.Volume == nil {
			t.Fatalf("told is %+v", c)
		}
		return *c.Volume
	}
	must[mobyfs.Grant](t)(h1.Claim(t.Context(), f.record("three").ID)) // does not concern h2
	must[mobyfs.Volume](t)(f.operator().MoveVolume(t.Context(), "one", "h2"))
	if v := told(next(t, changes, anyChange)); v.ID != a.ID || v.Migration == nil {
		t.Errorf("what comes to h2 is told as %+v", v)
	}
	must[mobyfs.Volume](t)(f.operator().CancelMove(t.Context(), "one"))
	if v := told(next(t, changes, anyChange)); v.ID != a.ID || v.Migration != nil {
		t.Errorf("what does not concern h2 any more is told as %+v", v)
	}
	records := must[mobyfs.Records](t)(h2.Records(t.Context(), []mobyfs.VolumeID{a.ID, "nosuch"}))
	if len(records.Volumes) != 1 || records.Volumes[0].Node != "h1" || !cmp.Equal(records.Gone, []mobyfs.VolumeID{"nosuch"}) {
		t.Errorf("the records are %+v", records)
	}
	_, err := h2.Records(t.Context(), make([]mobyfs.VolumeID, mobyfs.MaxRecords+1))
	wantCode(t, err, mobyfs.CodeInvalid)
}

func TestOperatorsWatchEverythingOfALargeClusterToo(t *testing.T) {
	f := small(t)
	f.node("h1")
	for _, name := range []string{"one", "two", "three"} {
		f.ready(name, "h1")
	}
	if first := next(t, watching(t, f.operator()), anyChange); first.Full == nil || first.Full.Partial || len(first.Full.Volumes) != 3 {
		t.Errorf("the first change is %+v", first)
	}
}
