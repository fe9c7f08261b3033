package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/backend"
)

// Most tests run in a bubble, where time passes only while everybody waits: an hour costs nothing, and settle()
// returns once nothing is left to do.

// settled waits until all agents have nothing to do but to wait for time to pass.
func settled() { synctest.Wait() }

func pass(d time.Duration) { time.Sleep(d); settled() }

func (n *node) create(name string, opts map[string]string) {
	n.rig.t.Helper()
	if err := n.agent.Create(context.Background(), name, opts); err != nil {
		n.rig.t.Fatalf("create %s on %s: %v", name, n.name, err)
	}
}

func (n *node) mount(name, id string) string {
	n.rig.t.Helper()
	path, err := n.agent.Mount(context.Background(), name, id)
	if err != nil {
		n.rig.t.Fatalf("mount %s on %s: %v", name, n.name, err)
	}
	return path
}

func (n *node) unmount(name, id string) {
	n.rig.t.Helper()
	if err := n.agent.Unmount(context.Background(), name, id); err != nil {
		n.rig.t.Fatalf("unmount %s on %s: %v", name, n.name, err)
	}
}

func (n *node) uses(name string) map[string]int {
	l := n.agent.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	uses := map[string]int{}
	for _, e := range l.entries {
		if e.Name == name {
			for id, count := range e.Uses {
				uses[id] = count
			}
		}
	}
	return uses
}

func write(t testing.TB, dir, name, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func read(t testing.TB, dir, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func wantCode(t testing.TB, err error, code mobyfs.Code, words ...string) {
	t.Helper()
	if mobyfs.CodeOf(err) != code {
		t.Fatalf("got %v (code %q), want code %q", err, mobyfs.CodeOf(err), code)
	}
	text := err.Error() + " – " + mobyfs.HintOf(err)
	for _, w := range words {
		if !strings.Contains(text, w) {
			t.Errorf("%q does not say %q", text, w)
		}
	}
}

func bubble(t *testing.T, f func(t *testing.T)) { t.Helper(); synctest.Test(t, f) }

func TestC27CreatedVolumeIsFoundListedAndReady(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, "h1", "h2")
		h1, h2 := r.nodes["h1"], r.nodes["h2"]
		h1.create("pgdata", map[string]string{"size": "1G"})
		if v := r.cluster.volume("pgdata"); v.State != mobyfs.VolumeReady || v.Node != "h1" || v.Spec.SizeBytes != 1<<30 {
			t.Errorf("got %+v, want it ready on h1 with 1 GiB", v)
		}
		settled()
		for _, n := range []*node{h1, h2} {
			got, err := n.agent.Get(t.Context(), "pgdata")
			if err != nil {
				t.Fatal(err)
			}
			want := map[string]any{"node": "h1", "state": "ready", "fence": uint64(1), "backend": "dir", "size": "1.0 GiB"}
			if d := cmp.Diff(want, got.Status); d != "" {
				t.Error(d)
			}
			if got.CreatedAt.IsZero() || got.CreatedAt.After(time.Now()) {
				t.Errorf("created at %v", got.CreatedAt)
			}
			if list := n.agent.List(); len(list) != 1 || list[0].Name != "pgdata" || list[0].Mountpoint != got.Mountpoint {
				t.Errorf("List: %v", list)
			}
		}
	})
}

func TestC28CreateAgainAgreesOrNamesTheDifference(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, "h1", "h2")
		r.nodes["h1"].create("pgdata", map[string]string{"size": "1G"})
		settled()
		r.nodes["h1"].create("pgdata", map[string]string{"size": "1024MiB"})
		r.nodes["h2"].create("pgdata", map[string]string{"size": "1G", "backend": "dir"})
		err := r.nodes["h2"].agent.Create(t.Context(), "pgdata", map[string]string{"size": "9G"})
		wantCode(t, err, mobyfs.CodeExists, `"pgdata"`, "size=1G", "size=9G")
		wantCode(t, r.nodes["h2"].agent.Create(t.Context(), "PGDATA", nil), mobyfs.CodeExists)

		var wg sync.WaitGroup
		for _, n := range r.nodes {
			wg.Go(func() {
				if err := n.agent.Create(t.Context(), "both", nil); err != nil {
					t.Errorf("%s: %v", n.name, err)
				}
			})
		}
		wg.Wait()
		settled()
		if list := r.nodes["h1"].agent.List(); len(list) != 2 {
			t.Errorf("got %v, want two volumes", list)
		}
	})
}

func TestC28WhatAClassFilledInIsNoDifference(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, "h1")
		h1 := r.nodes["h1"]
		h1.create("pgdata", map[string]string{"class": "fast"})
		settled()
		r.cluster.edit("pgdata", func(v *mobyfs.Volume) { v.Spec.SizeBytes = 1 << 30 }) // as control fills it from the class
		settled()
		h1.create("pgdata", map[string]string{"class": "fast"})
		h1.create("pgdata", nil)
		err := h1.agent.Create(t.Context(), "pgdata", map[string]string{"class": "slow", "size": "2G"})
		wantCode(t, err, mobyfs.CodeExists, "class=fast", "class=slow", "size=1G", "size=2G")
		v, err := h1.agent.Get(t.Context(), "pgdata")
		if err != nil || v.Status["class"] != "fast" || v.Status["size"] != "1.0 GiB" {
			t.Errorf("Status is %v, %v", v.Status, err)
		}
	})
}

func TestC29CreateWithABadOptionLeavesNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, "h1")
		h1 := r.nodes["h1"]
		r.cluster.took()
		for _, opts := range []map[string]string{{"siez": "1G"}, {"size": "big"}, {"size": "-1"}, {"size": "0"}, {"backend": "drr"}, {"password": "x"}, {"size": ""}, {"class": ""}} {
			wantCode(t, h1.agent.Create(t.Context(), "pgdata", opts), mobyfs.CodeInvalid)
		}
		wantCode(t, h1.agent.Create(t.Context(), "pgdata", map[string]string{"siez": "1G"}), mobyfs.CodeInvalid, `"siez"`, "did you mean size?")
		if calls := r.cluster.took(); calls != nil {
			t.Errorf("control was asked %v", calls)
		}
	})
}

func TestCreateGoesElsewhereWhereThisNodeHasNoRoom(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, "h1", "h2")
		settled()
		r.cluster.full["h1"] = true
		r.nodes["h1"].create("pgdata", nil)
		if v := r.cluster.volume("pgdata"); v.Node != "h2" || v.State != mobyfs.VolumeReady {
			t.Errorf("got %s on %s, want it ready on h2", v.State, v.Node)
		}
		r.cluster.full["h2"] = true
		wantCode(t, r.nodes["h1"].agent.Create(t.Context(), "more", nil), mobyfs.CodeNoSpace, `"more"`)
	})
}

func TestMountOfAnAttachedVolumeAsksNobody(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, "h1")
		h1 := r.nodes["h1"]
		h1.create("pgdata", nil)
		settled()
		r.cluster.took()
		path := h1.mount("pgdata", "a")
		if d := cmp.Diff([]string{"h1 Claim"}, r.cluster.took()); d != "" {
			t.Errorf("first Mount: %s", d)
		}
		if again := h1.mount("pgdata", "b"); again != path {
			t.Errorf("got %s, then %s", path, again)
		}
		if v, err := h1.agent.Get(t.Context(), "pgdata"); err != nil || v.Mountpoint != path {
			t.Errorf("Get tells %q (%v), Mount told %q", v.Mountpoint, err, path)
		}
		if calls := r.cluster.took(); calls != nil {
			t.Errorf("second Mount: control was asked %v", calls)
		}
		h1.unmount("pgdata", "a")
		h1.unmount("pgdata", "b")
		if d := cmp.Diff([]string{"h1 Release"}, r.cluster.took()); d != "" {
			t.Errorf("last Unmount: %s", d)
		}
		if v := r.cluster.volume("pgdata"); v.Lease != nil {
			t.Errorf("the lease is still %+v", v.Lease)
		}
	})
}

func TestMountElsewhereBringsTheBytesInTwoCalls(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, "h1", "h2")
		h1, h2 := r.nodes["h1"], r.nodes["h2"]
		h1.create("pgdata", nil)
		old := h1.mount("pgdata", "a")
		write(t, old, "rows", "1,2,3")
		h1.unmount("pgdata", "a")
		settled()
		r.cluster.took()
		path := h2.mount("pgdata", "b")
		if got := read(t, path, "rows"); got != "1,2,3" {
			t.Errorf("got %q", got)
		}
		if d := cmp.Diff([]string{"h2 Claim", "h2 Commit"}, r.cluster.took()); d != "" {
			t.Error(d)
		}
		v := r.cluster.volume("pgdata")
		if v.Node != "h2" || v.Lease == nil || v.Lease.Node != "h2" {
			t.Errorf("got %+v", v)
		}
		settled()
		if _, err := os.Stat(old); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the old bytes are still at %s", old)
		}
		if trash, _ := os.ReadDir(filepath.Join(h1.root, "trash")); len(trash) != 1 {
			t.Errorf("the trash holds %v, want the old bytes", trash)
		}
		pass(2 * time.Hour)
		if trash, _ := os.ReadDir(filepath.Join(h1.root, "trash")); len(trash) != 0 {
			t.Errorf("after two hours the trash holds %v", trash)
		}
		h2.unmount("pgdata", "b")
		if got := read(t, h1.mount("pgdata", "c"), "rows"); got != "1,2,3" {
			t.Errorf("back on h1: got %q", got)
		}
	})
}

func TestMountOfAVolumeInUseElsewhereNamesNodeAndContainer(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, "h1", "h2")
		h1, h2 := r.nodes["h1"], r.nodes["h2"]
		h1.create("pgdata", nil)
		h1.docker.set("pgdata") // it is only starting
		h1.mount("pgdata", "a")
		time.Sleep(500 * time.Millisecond)
		h1.docker.set("pgdata", "web-1")
		pass(3 * time.Second)
		_, err := h2.agent.Mount(t.Context(), "pgdata", "b")
		wantCode(t, err, mobyfs.CodeInUse, `"pgdata"`, "h1", "web-1", "stop it there")
		if n := len(h2.uses("pgdata")); n != 0 {
			t.Errorf("%d uses are counted", n)
		}
		h1.mount("pgdata", "c")
		h1.docker.set("pgdata", "db", "web-1")
		pass(time.Second)
		_, err = h2.agent.Mount(t.Context(), "pgdata", "b")
		wantCode(t, err, mobyfs.CodeInUse, "containers db, web-1")
		h1.docker.set("pgdata", "db")
		h1.unmount("pgdata", "a")
		pass(time.Second)
		_, err = h2.agent.Mount(t.Context(), "pgdata", "b")
		wantCode(t, err, mobyfs.CodeInUse, "container db")
		asks := h1.docker.asks
		h1.unmount("pgdata", "c")
		pass(time.Minute)
		if h1.docker.asks > asks+1 {
			t.Errorf("dockerd was asked %d times after the last use ended", h1.docker.asks-asks)
		}
	})
}

func TestC82ParallelMountsAreOneClaim(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, "h1")
		h1 := r.nodes["h1"]
		h1.create("pgdata", nil)
		settled()
		r.cluster.took()
		r.cluster.hook(func(_, call string) error { time.Sleep(20 * time.Millisecond); return nil }, nil)
		var wg sync.WaitGroup
		for i := range 50 {
			wg.Go(func() { h1.mount("pgdata", fmt.Sprint("id-", i)) })
		}
		wg.Wait()
		if d := cmp.Diff([]string{"h1 Claim"}, r.cluster.took()); d != "" {
			t.Error(d)
		}
		h1.restart() // what was answered is on disk
		if n := len(h1.uses("pgdata")); n != 50 {
			t.Errorf("%d uses are counted, want 50", n)
		}
	})
}

func TestC84VolumesDontWaitForEachOther(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, "h1", "h2")
		h1, h2 := r.nodes["h1"], r.nodes["h2"]
		h1.create("slow", nil)
		h2.create("quick", nil)
		r.pull = func(ctx context.Context, _ string, _ mobyfs.From, _ func(mobyfs.Progress)) error {
			time.Sleep(time.Minute)
			return nil
		}
		go h2.mount("slow", "a")
		settled()
		start := time.Now()
		h2.mount("quick", "a")
		h2.unmount("quick", "a")
		h2.create("third", nil)
		if err := h2.agent.Remove(t.Context(), "third"); err != nil {
			t.Error(err)
		}
		if _, err := h2.agent.Get(t.Context(), "slow"); err != nil {
			t.Error(err)
		}
		h2.agent.List()
		if took := time.Since(start); took > time.Second {
			t.Errorf("they took %v", took)
		}
		pass(time.Minute)
	})
}

func TestC85MountThatTakesLongSaysHowFarItIs(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, "h1", "h2")
		h1, h2 := r.nodes["h1"], r.nodes["h2"]
		h1.create("pgdata", nil)
		settled()
		r.pull = func(ctx context.Context, _ string, _ mobyfs.From, progress func(mobyfs.Progress)) error {
			for i := range 200 {
				time.Sleep(time.Second)
				progress(mobyfs.Progress{Bytes: int64(i) * 1_300_000, TotalBytes: 300_000_000})
			}
			return ctx.Err()
		}
		start := time.Now()
		_, err := h2.agent.Mount(t.Context(), "pgdata", "a")
		wantCode(t, err, mobyfs.CodeMoving, `still moving "pgdata" from h1 (42 % of 300 MB, about 2 minutes left) – run it again`)
		if took := time.Since(start); took > 105*time.Second || took < 95*time.Second {
			t.Errorf("the answer took %v", took)
		}
		r.cluster.mu.Lock()
		progress := r.cluster.reports["h2"].Progress
		r.cluster.mu.Unlock()
		if p := progress["m2"]; p.TotalBytes != 300_000_000 {
			t.Errorf("control was told of %v", progress)
		}

		podman, cancel := context.WithTimeout(t.Context(), 4500*time.Millisecond)
		defer cancel()
		_, err = h2.agent.Mount(podman, "pgdata", "b")
		wantCode(t, err, mobyfs.CodeMoving, "still moving")
		pass(2 * time.Minute) // the pull went on and has ended
		if v := r.cluster.volume("pgdata"); v.Node != "h2" || v.Lease != nil {
			t.Errorf("got %+v, want it on h2 without a lease: nobody waited any more", v)
		}
		r.cluster.took()
		h2.mount("pgdata", "c")
		if d := cmp.Diff([]string{"h2 Claim"}, r.cluster.took()); d != "" {
			t.Error(d)
		}
	})
}

func TestC86CancelledMountIsNotCounted(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, "h1")
		h1 := r.nodes["h1"]
		h1.create("pgdata", nil)
		r.cluster.hook(func(_, call string) error { time.Sleep(time.Second); return nil }, nil)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(500*time.Millisecond, cancel)
		if _, err := h1.agent.Mount(ctx, "pgdata", "a"); !errors.Is(err, context.Canceled) {
			t.Fatalf("got %v", err)
		}
		pass(10 * time.Second)
		if n := len(h1.uses("pgdata")); n != 0 {
			t.Errorf("%d uses are counted", n)
		}
		if v := r.cluster.volume("pgdata"); v.Lease != nil {
			t.Errorf("the lease stayed: %+v", v.Lease)
		}
	})
}

func TestC69CountsArePerID(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, "h1")
		h1 := r.nodes["h1"]
		h1.create("pgdata", nil)
		h1.mount("pgdata", "a")
		h1.mount("pgdata", "a") // docker cp on a running container
		h1.unmount("pgdata", "a")
		if d := cmp.Diff(map[string]int{"a": 1}, h1.uses("pgdata")); d != "" {
			t.Error(d)
		}
		h1.unmount("pgdata", "nobody") // C70
		h1.unmount("unknown", "a")
		if d := cmp.Diff(map[string]int{"a": 1}, h1.uses("pgdata")); d != "" {
			t.Error(d)
		}
		h1.mount("pgdata", "") // C71
		h1.unmount("pgdata", "a")
		if v := r.cluster.volume("pgdata"); v.Lease == nil {
			t.Error("the lease went with a use left")
		}
		h1.unmount("pgdata", "")
		h1.unmount("pgdata", "")
		if v := r.cluster.volume("pgdata"); v.Lease != nil || len(h1.uses("pgdata")) != 0 {
			t.Errorf("the lease is %v, uses %v", v.Lease, h1.uses("pgdata"))
		}
	})
}

func TestC72NewLifeOfDockerdCollapsesCounts(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, "h1")
		h1 := r.nodes["h1"]
		h1.create("pgdata", nil)
		path := h1.mount("pgdata", "a")
		h1.mount("pgdata", "a")
		h1.kernel.set(path, 1, 0)
		h1.agent.Activated()
		if d := cmp.Diff(map[string]int{"a": 1}, h1.uses("pgdata")); d != "" {
			t.Error(d)
		}
		h1.mount("pgdata", "a") // docker start after the crash: the same ID
		if d := cmp.Diff(map[string]int{"a": 1}, h1.uses("pgdata")); d != "" {
			t.Error(d)
		}
		pass(time.Hour)
		h1.unmount("pgdata", "a")
		h1.kernel.set(path, 0, 0)
		pass(time.Minute)
		if v := r.cluster.volume("pgdata"); v.Lease != nil {
			t.Error("the lease stayed")
		}
	})
}

func TestC73UsesThatTheKernelDoesNotConfirmGoAfterANewLife(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, "h1")
		h1 := r.nodes["h1"]
		for _, name := range []string{"dead", "alive"} {
			h1.create(name, nil)
		}
		h1.mount("dead", "a")
		h1.kernel.set(h1.mount("alive", "b"), 1, 0)
		h1.agent.Activated()
		pass(5 * time.Second)
		if v := r.cluster.volume("dead"); v.Lease == nil {
			t.Error("the lease went before containers had time to show")
		}
		pass(40 * time.Second)
		if v := r.cluster.volume("dead"); v.Lease != nil || len(h1.uses("dead")) != 0 {
			t.Errorf("got lease %v and uses %v of a volume that nobody uses", v.Lease, h1.uses("dead"))
		}
		if v := r.cluster.volume("alive"); v.Lease == nil || len(h1.uses("alive")) != 1 {
			t.Errorf("got lease %v and uses %v of a volume in use", v.Lease, h1.uses("alive"))
		}
	})
}

// The container may wait for its other volumes, one after the other; that its use is forgotten later is
// TestUseThatNobodyShowsGoesInTime.
func TestUsesCountedInThisLifeAreBelievedWhileTheirContainerMayBeStarting(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, "h1")
		h1 := r.nodes["h1"]
		h1.create("pgdata", nil)
		h1.agent.Activated()
		h1.mount("pgdata", "a")
		pass(unseenAfter - time.Second)
		if v := r.cluster.volume("pgdata"); v.Lease == nil || len(h1.uses("pgdata")) != 1 {
			t.Errorf("after ten minutes: lease %v, uses %v", v.Lease, h1.uses("pgdata"))
		}
	})
}

func TestRestartOfTheAgentTouchesNoContainer(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, "h1")
		h1 := r.nodes["h1"]
		h1.create("pgdata", nil)
		path := h1.mount("pgdata", "a")
		h1.mount("pgdata", "b")
		h1.kernel.set(path, 2, 1)
		before := r.cluster.volume("pgdata")
		h1.restart()
		pass(time.Hour)
		if d := cmp.Diff(before.Lease, r.cluster.volume("pgdata").Lease); d != "" {
			t.Errorf("the lease changed: %s", d)
		}
		if d := cmp.Diff(map[string]int{"a": 1, "b": 1}, h1.uses("pgdata")); d != "" {
			t.Error(d)
		}
		h1.unmount("pgdata", "a")
		h1.unmount("pgdata", "b")
		h1.kernel.set(path, 0, 0)
		pass(time.Minute)
		if v := r.cluster.volume("pgdata"); v.Lease != nil {
			t.Error("the lease stayed")
		}
	})
}

func TestRestartWithControlAwayStillMountsWhatIsHeldHere(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, "h1")
		h1 := r.nodes["h1"]
		h1.create("pgdata", nil)
		h1.mount("pgdata", "a")
		r.cluster.setDown(true)
		h1.restart()
		h1.mount("pgdata", "b")
		h1.unmount("pgdata", "b")
		if d := cmp.Diff(map[string]int{"a": 1}, h1.uses("pgdata")); d != "" {
			t.Error(d)
		}
	})
}

func TestC17MountAfterADeathBeforeTheAnswerCountsOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, "h1")
		h1 := r.nodes["h1"]
		h1.create("pgdata", nil)
		h1.mount("pgdata", "a")
		h1.restart() // Docker never saw the answer
		h1.mount("pgdata", "a")
		if d := cmp.Diff(map[string]int{"a": 1}, h1.uses("pgdata")); d != "" {
			t.Error(d)
		}
	})
}

func TestUseWhoseContainerNeverCameGoesAfterARestart(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, "h1")
		h1 := r.nodes["h1"]
		h1.create("pgdata", nil)
		h1.mount("pgdata", "a")
		h1.restart()
		pass(10 * time.Minute)
		if v := r.cluster.volume("pgdata"); v.Lease != nil || len(h1.uses("pgdata")) != 0 {
			t.Errorf("lease %v, uses %v", v.Lease, h1.uses("pgdata"))
		}
	})
}

func TestC87UnmountDoesNotWaitForControl(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, "h1")
		h1 := r.nodes["h1"]
		h1.create("pgdata", nil)
		h1.mount("pgdata", "a")
		r.cluster.setDown(true)
		start := time.Now()
		h1.unmount("pgdata", "a")
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("took %v", took)
		}
		h1.restart() // the debt is remembered
		pass(time.Minute)
		r.cluster.setDown(false)
		pass(time.Minute)
		if v := r.cluster.volume("pgdata"); v.Lease != nil {
			t.Errorf("the lease is still %+v a minute after control came back", v.Lease)
		}

		r.cluster.hook(func(_, call string) error {
			if call == "Release" {
				time.Sleep(9 * time.Second)
			}
			return nil
		}, nil)
		h1.mount("pgdata", "b")
		start = time.Now()
		h1.unmount("pgdata", "b")
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("with a slow control it took %v", took)
		}
	})
}

func TestMountWithControlAwayAndTheBytesElsewhereSaysSoInSeconds(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, "h1", "h2")
		h2 := r.nodes["h2"]
		r.nodes["h1"].create("pgdata", nil)
		settled()
		r.cluster.setDown(true)
		start := time.Now()
		_, err := h2.agent.Mount(t.Context(), "pgdata", "a")
		wantCode(t, err, mobyfs.CodeUnavailable, `"pgdata"`, "control", "try again")
		if took := time.Since(start); took < 4*time.Second || took > 15*time.Second {
			t.Errorf("took %v", took)
		}
		time.AfterFunc(3*time.Second, func() { r.cluster.setDown(false) })
		h2.mount("pgdata", "a") // a short absence goes unnoticed
	})
}

func TestMountOfAnImpatientClientSaysThatControlHangs(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, "h1", "h2")
		r.nodes["h1"].create("pgdata", nil)
		settled()
		r.cluster.hook(func(_, call string) error {
			if call == "Claim" {
				time.Sleep(time.Minute)
			}
			return nil
		}, nil)
		ctx, cancel := context.WithTimeout(t.Context(), 4500*time.Millisecond)
		defer cancel()
		_, err := r.nodes["h2"].agent.Mount(ctx, "pgdata", "a")
		wantCode(t, err, mobyfs.CodeUnavailable, `"pgdata"`, "control has not answered", "run it again")
	})
}

func TestC79LeaseStaysWhileTheKernelShowsAUser(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, "h1", "h2")
		h1 := r.nodes["h1"]
		h1.create("pgdata", nil)
		path := h1.mount("pgdata", "a")
		h1.kernel.set(path, 1, 0)
		start := time.Now()
		h1.unmount("pgdata", "a")
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("took %v", took)
		}
		pass(time.Hour)
		_, err := r.nodes["h2"].agent.Mount(t.Context(), "pgdata", "b")
		wantCode(t, err, mobyfs.CodeInUse, "h1")
		h1.kernel.set(path, 0, 0)
		pass(time.Minute)
		if v := r.cluster.volume("pgdata"); v.Lease != nil {
			t.Error("the lease stayed after the user had gone")
		}
	})
}

func TestC38RemoveIsForAllAndMayBeRepeated(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, "h1", "h2")
		h1, h2 := r.nodes["h1"], r.nodes["h2"]
		h1.create("pgdata", nil)
		path := h1.mount("pgdata", "a")
		h1.unmount("pgdata", "a")
		settled()
		if err := h2.agent.Remove(t.Context(), "pgdata"); err != nil {
			t.Fatal(err)
		}
		settled()
		for _, n := range r.nodes {
			if err := n.agent.Remove(t.Context(), "pgdata"); err != nil {
				t.Errorf("again on %s: %v", n.name, err)
			}
			_, err := n.agent.Get(t.Context(), "pgdata")
			wantCode(t, err, mobyfs.CodeNotFound)
			if list := n.agent.List(); len(list) != 0 {
				t.Errorf("%s lists %v", n.name, list)
			}
		}
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Error("the bytes are still there")
		}
		if len(r.cluster.volumes) != 0 {
			t.Errorf("the record is still there: %v", r.cluster.volumes)
		}
		h2.create("pgdata", nil) // the name is free
		if n := len(h1.agent.all()) + len(h2.agent.all()); n != 1 {
			t.Errorf("there are %d workers for one volume", n)
		}
	})
}

func TestC39RemoveOfAVolumeThatTheKernelShowsInUseIsRefused(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, "h1")
		h1 := r.nodes["h1"]
		h1.create("pgdata", nil)
		h1.docker.set("pgdata", "web-1")
		path := h1.mount("pgdata", "a")
		write(t, path, "rows", "1")
		wantCode(t, h1.agent.Remove(t.Context(), "pgdata"), mobyfs.CodeInUse) // it may be starting
		h1.kernel.set(path, 1, 0)
		pass(time.Hour)
		wantCode(t, h1.agent.Remove(t.Context(), "pgdata"), mobyfs.CodeInUse, "h1", "container web-1")
		h1.unmount("pgdata", "a") // Docker lost count: the container runs on
		pass(time.Minute)
		wantCode(t, h1.agent.Remove(t.Context(), "pgdata"), mobyfs.CodeInUse, "h1")
		if read(t, path, "rows") != "1" {
			t.Error("the data changed")
		}
		h1.kernel.set(path, 0, 1) // C80: only a file is open
		wantCode(t, h1.agent.Remove(t.Context(), "pgdata"), mobyfs.CodeInUse, "process 4711 (postgres)")
		h1.kernel.set(path, 0, 0)
		if err := h1.agent.Remove(t.Context(), "pgdata"); err != nil {
			t.Error(err)
		}
	})
}

func TestC40StaleCountsDontBlockRemove(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, "h1", "h2")
		h1, h2 := r.nodes["h1"], r.nodes["h2"]
		h1.create("pgdata", nil)
		path := h1.mount("pgdata", "a")
		h1.kernel.set(path, 1, 0)
		pass(time.Minute)
		wantCode(t, h2.agent.Remove(t.Context(), "pgdata"), mobyfs.CodeInUse, "h1")
		h1.kernel.set(path, 0, 0) // the container died and nobody said Unmount
		if err := h1.agent.Remove(t.Context(), "pgdata"); err != nil {
			t.Fatal(err)
		}
		settled()
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Error("the bytes are still there")
		}
		if len(h1.agent.ledger.volumes()) != 0 {
			t.Error("something is still counted")
		}
	})
}

func TestC32KnownVolumesAreToldWhileControlIsAway(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, "h1", "h2")
		h1, h2 := r.nodes["h1"], r.nodes["h2"]
		h1.create("pgdata", nil)
		pass(5 * time.Second)
		r.cluster.setDown(true)
		h2.restart()
		settled()
		start := time.Now()
		v, err := h2.agent.Get(t.Context(), "pgdata")
		if err != nil || v.Status["stale"] != true || v.Status["node"] != "h1" {
			t.Errorf("got %+v, %v", v, err)
		}
		if list := h2.agent.List(); len(list) != 1 || list[0].Mountpoint != v.Mountpoint {
			t.Errorf("List: %v", list)
		}
		if took := time.Since(start); took != 0 {
			t.Errorf("took %v", took)
		}
		_, err = h2.agent.Get(t.Context(), "nobody-knows") // C33
		wantCode(t, err, mobyfs.CodeUnavailable)
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("took %v", took)
		}
		r.cluster.setDown(false)
		pass(10 * time.Second)
		if v, _ = h2.agent.Get(t.Context(), "pgdata"); v.Status["stale"] != nil {
			t.Errorf("after control came back: %v", v.Status)
		}
		_, err = h2.agent.Get(t.Context(), "nobody-knows") // C31
		wantCode(t, err, mobyfs.CodeNotFound)
	})
}

func TestC33GetWaitsTwoSecondsAtMostForASilentControl(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t)
		r.add(&node{name: "h1", root: t.TempDir(), control: &silent{r.cluster.as("h1")}})
		settled()
		start := time.Now()
		_, err := r.nodes["h1"].agent.Get(t.Context(), "pgdata")
		wantCode(t, err, mobyfs.CodeUnavailable)
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("took %v", took)
		}
	})
}

// silent is a control plane behind a network that swallows everything.
type silent struct{ mobyfs.Control }

func (s *silent) Volume(ctx context.Context, _ string) (mobyfs.Volume, error) {
	<-ctx.Done()
	return mobyfs.Volume{}, mobyfs.Errorf(mobyfs.CodeUnavailable, "ask control: %w", ctx.Err())
}

func TestVolumeJustMadeElsewhereIsFound(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, "h1", "h2")
		r.nodes["h1"].create("pgdata", nil)
		if _, err := r.nodes["h2"].agent.Get(t.Context(), "pgdata"); err != nil { // its watch may lag
			t.Error(err)
		}
	})
}

func TestHomeThatLostTheBytesSaysSoAndMakesNoEmptyVolume(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, "h1")
		h1 := r.nodes["h1"]
		h1.create("pgdata", nil)
		path := h1.mount("pgdata", "a")
		h1.unmount("pgdata", "a")
		settled()
		h1.stop()
		if err := os.RemoveAll(filepath.Dir(path)); err != nil {
			t.Fatal(err)
		}
		h1.start()
		pass(time.Minute)
		_, err := h1.agent.Mount(t.Context(), "pgdata", "b")
		wantCode(t, err, mobyfs.CodeCorrupt, `"pgdata"`, "h1", path)
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Error("an empty volume was made")
		}
		v, err := h1.agent.Get(t.Context(), "pgdata")
		if err != nil || !strings.Contains(fmt.Sprint(v.Status["problem"]), "not there") {
			t.Errorf("got %v, %v", v.Status, err)
		}
	})
}

func TestBytesThatGoWhileTheAgentRunsAreNoticed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, "h1")
		h1 := r.nodes["h1"]
		h1.create("pgdata", nil)
		settled()
		if err := os.RemoveAll(filepath.Join(h1.root, "volumes", "v1")); err != nil {
			t.Fatal(err)
		}
		_, err := h1.agent.Mount(t.Context(), "pgdata", "b")
		wantCode(t, err, mobyfs.CodeCorrupt, `"pgdata"`)
		pass(time.Minute)
		if v := r.cluster.volume("pgdata"); v.Lease != nil {
			t.Errorf("the lease stayed: %v", v.Lease)
		}
	})
}

// The agent's own release can arrive late. It must not take away the lease of a mount that came after it.
func TestLateReleaseTakesNoNewerLease(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, "h1")
		h1 := r.nodes["h1"]
		h1.create("pgdata", nil)
		h1.mount("pgdata", "a")
		late := make(chan func(), 1)
		r.cluster.hook(func(_, call string) error {
			if call != "Release" {
				return nil
			}
			r.cluster.hook(nil, nil)
			fence := r.cluster.volume("pgdata").Lease.Fence
			late <- func() { _ = r.cluster.as("h1").Release(context.Background(), "v1", fence) }
			return mobyfs.Errorf(mobyfs.CodeUnavailable, "ask control: the connection was lost")
		}, nil)
		h1.unmount("pgdata", "a")
		h1.mount("pgdata", "b")
		(<-late)()
		settled()
		if v := r.cluster.volume("pgdata"); v.Lease == nil {
			t.Error("the late release took the lease of the second mount")
		}
		h1.unmount("pgdata", "b")
		settled()
	})
}

func TestLeaseThatControlForgotIsAskedForAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, "h1")
		h1 := r.nodes["h1"]
		h1.create("pgdata", nil)
		path := h1.mount("pgdata", "a")
		h1.kernel.set(path, 1, 0)
		r.cluster.edit("pgdata", func(v *mobyfs.Volume) { v.Lease = nil })
		settled()
		v := r.cluster.volume("pgdata")
		if v.Lease == nil || v.Lease.Node != "h1" {
			t.Fatalf("the lease is %v", v.Lease)
		}
		h1.mount("pgdata", "b")
		h1.kernel.set(path, 0, 0)
		h1.unmount("pgdata", "a")
		h1.unmount("pgdata", "b")
		settled()
		if v := r.cluster.volume("pgdata"); v.Lease != nil {
			t.Errorf("the lease stayed: %v", v.Lease)
		}
	})
}

func TestLeaseThatControlGaveAwayLetsNobodyNewIn(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, "h1", "h2")
		h1 := r.nodes["h1"]
		h1.create("pgdata", nil)
		path := h1.mount("pgdata", "a")
		h1.kernel.set(path, 1, 0)
		r.nodes["h2"].stop() // it would say that it does not use the volume
		r.cluster.edit("pgdata", func(v *mobyfs.Volume) {
			v.Node, v.Lease = "h2", &mobyfs.Lease{Node: "h2", Fence: v.Fence + 1}
		})
		settled()
		_, err := h1.agent.Mount(t.Context(), "pgdata", "b")
		wantCode(t, err, mobyfs.CodeInUse)
		pass(time.Hour)
		if _, err := os.Stat(path); err != nil {
			t.Errorf("the bytes that a container uses went: %v", err)
		}
		if v, _ := h1.agent.Get(t.Context(), "pgdata"); v.Status["problem"] == nil {
			t.Errorf("nothing tells of it: %v", v.Status)
		}
	})
}

func TestUnreadableFilesOfTheAgentStopNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, "h1")
		h1 := r.nodes["h1"]
		h1.create("pgdata", nil)
		path := h1.mount("pgdata", "a")
		h1.kernel.set(path, 1, 0)
		h1.stop()
		for _, name := range []string{"mounts.json", "catalogue.json"} {
			write(t, filepath.Join(h1.root, "state"), name, `{"truncat`)
		}
		h1.start()
		pass(time.Minute)
		if v := r.cluster.volume("pgdata"); v.Lease == nil {
			t.Error("the lease of a volume in use was given back")
		}
		if _, err := h1.agent.Get(t.Context(), "pgdata"); err != nil {
			t.Error(err)
		}
		h1.kernel.set(path, 0, 0)
		pass(time.Minute)
		if v := r.cluster.volume("pgdata"); v.Lease != nil {
			t.Error("the lease stayed after the container had gone")
		}
	})
}

var _ backend.Backend = (*faulty)(nil)

// faulty is a backend some of whose calls fail, or are held up, as a test wants.
type faulty struct {
	backend.Backend
	fail func(call string) error
}

func (f *faulty) Create(ctx context.Context, id mobyfs.VolumeID, spec mobyfs.VolumeSpec) error {
	if err := f.fail("Create"); err != nil {
		return err
	}
	return f.Backend.Create(ctx, id, spec)
}

func (f *faulty) Adopt(ctx context.Context, id mobyfs.VolumeID, m mobyfs.MigrationID, fence mobyfs.Fence) error {
	if err := f.fail("Adopt"); err != nil {
		return err
	}
	return f.Backend.Adopt(ctx, id, m, fence)
}

func (f *faulty) Stage(ctx context.Context, id mobyfs.VolumeID, m mobyfs.MigrationID, spec mobyfs.VolumeSpec) (string, error) {
	if err := f.fail("Stage"); err != nil {
		return "", err
	}
	return f.Backend.Stage(ctx, id, m, spec)
}

func TestCreateThatCantMakeTheBytesSaysWhy(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t)
		var broken atomic.Bool
		broken.Store(true)
		n := r.joinWith("h1", func(b backend.Backend) backend.Backend {
			return &faulty{b, func(call string) error {
				if broken.Load() && call == "Create" {
					return mobyfs.Errorf(mobyfs.CodeNoSpace, "make the directory: no space left on device").WithHint("make room")
				}
				return nil
			}}
		})
		err := n.agent.Create(t.Context(), "pgdata", nil)
		wantCode(t, err, mobyfs.CodeNoSpace, "make room")
		broken.Store(false)
		pass(time.Minute)
		if v := r.cluster.volume("pgdata"); v.State != mobyfs.VolumeReady {
			t.Errorf("after there was room it is %s", v.State)
		}
	})
}
