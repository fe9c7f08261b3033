package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/mobyfs/mobyfs"
)

// shortDir is a temporary directory whose path leaves room for the name of a socket.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "mobyfs")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func open(t *testing.T, root string) *Store {
	t.Helper()
	s, err := Open(t.Context(), Config{Root: root, Cluster: "shop", Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeStore(t, s) })
	return s
}

// etcdOf is the client of the store's etcd, for what other processes do to it.
func etcdOf(s *Store) *clientv3.Client { return s.client }

func closeStore(t *testing.T, s *Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func volume(n int) mobyfs.Volume {
	return mobyfs.Volume{
		ID: mobyfs.VolumeID(fmt.Sprintf("01j000000000000000000%05d", n)), Name: fmt.Sprintf("vol-%d", n),
		State: mobyfs.VolumeReady, Node: "h1", Fence: 1, Spec: mobyfs.VolumeSpec{Backend: "dir"},
	}
}

func put(t *testing.T, s *Store, v mobyfs.Volume) mobyfs.Volume {
	t.Helper()
	if err := s.Update(t.Context(), func(tx *Tx) error { return tx.PutVolume(&v) }); err != nil {
		t.Fatal(err)
	}
	return v
}

// eventually polls until ok says yes. How long that may take is only bounded for who waits: other tests use the same disk.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("%s: not within a minute", what)
}

func cached(s *Store, id mobyfs.VolumeID) (v mobyfs.Volume, ok bool) {
	s.View(func(view View) { v, ok = view.Volume(id) })
	return v, ok
}

func TestReopenedStoreHoldsEverything(t *testing.T) {
	root := shortDir(t)
	s := open(t, root)
	want := []mobyfs.Volume{put(t, s, volume(1)), put(t, s, volume(2))}
	if err := s.Update(t.Context(), func(tx *Tx) error { return tx.PutNode(mobyfs.Node{Name: "h1", Address: "h1:8080"}) }); err != nil {
		t.Fatal(err)
	}
	closeStore(t, s)
	closeStore(t, s) // may be called twice
	if s.Err() != nil {
		t.Errorf("a store that was closed says %v", s.Err())
	}

	start := time.Now()
	s = open(t, root)
	if took := time.Since(start); took > time.Second {
		t.Errorf("opening took %v, at most 1 s is wanted", took)
	}
	for _, w := range want {
		if got, _ := cached(s, w.ID); !cmp.Equal(got, w) {
			t.Errorf("after reopening: %s", cmp.Diff(w, got))
		}
	}
	s.View(func(v View) {
		if n, ok := v.Node("h1"); !ok || n.Address != "h1:8080" {
			t.Errorf("after reopening the node is %+v, %v", n, ok)
		}
	})
	err := s.Update(t.Context(), func(tx *Tx) error {
		v, err := tx.VolumeNamed("VOL-2")
		if v.ID != want[1].ID {
			t.Errorf("the name leads to %q, want %q", v.ID, want[1].ID)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestCommittedChangeIsSeenAtOnceByViewAndMailbox(t *testing.T) {
	s := open(t, shortDir(t))
	box := s.Subscribe()
	defer box.Close()
	for i := range 100 {
		v := put(t, s, volume(i))
		if got, ok := cached(s, v.ID); !ok || got.Revision != v.Revision || v.Revision == 0 {
			t.Fatalf("after the commit at revision %d View has %d, %v", v.Revision, got.Revision, ok)
		}
		refs, err := box.Next(t.Context())
		if err != nil || len(refs) != 1 || refs[0] != VolumeRef(v.ID) {
			t.Fatalf("the mailbox holds %v, %v; want %s", refs, err, v.ID)
		}
	}
}

func TestDeletedVolumeDoesNotComeBack(t *testing.T) {
	s := open(t, shortDir(t))
	for i := range 200 {
		v := put(t, s, volume(i))
		v.State = mobyfs.VolumeRemoving
		put(t, s, v)
		if err := s.Update(t.Context(), func(tx *Tx) error { return tx.DeleteVolume(v.ID) }); err != nil {
			t.Fatal(err)
		}
		if _, ok := cached(s, v.ID); ok {
			t.Fatalf("volume %d is known after its deletion", i)
		}
	}
	eventually(t, "the watch passes the last deletion", func() bool {
		s.cache.mu.RLock()
		defer s.cache.mu.RUnlock()
		return s.cache.watched == s.cache.newest
	})
	s.View(func(v View) {
		for x := range v.Volumes {
			t.Errorf("%s is back", x.Name)
		}
	})
	if n := len(s.cache.seen); n != 0 {
		t.Errorf("%d keys are remembered after everything was deleted, want none", n)
	}
}

func TestUpdatesOfOneRecordNeverLoseOne(t *testing.T) {
	s := open(t, shortDir(t))
	v := put(t, s, volume(1))
	const workers, each = 8, 25
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for range each {
				err := s.Update(t.Context(), func(tx *Tx) error {
					now, err := tx.Volume(v.ID)
					if err != nil {
						return err
					}
					now.Fence++
					return tx.PutVolume(&now)
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if got, _ := cached(s, v.ID); got.Fence != 1+workers*each {
		t.Errorf("after %d increments the fence is %d", workers*each, got.Fence)
	}
}

func TestNameBelongsToOneVolumeUntilItIsRemoved(t *testing.T) {
	s := open(t, shortDir(t))
	first, twin := volume(1), volume(2)
	first.Name, twin.Name = "PgData", "pgdata"
	first = put(t, s, first)
	err := s.Update(t.Context(), func(tx *Tx) error { return tx.PutVolume(&twin) })
	if mobyfs.CodeOf(err) != mobyfs.CodeExists {
		t.Fatalf("a case twin: got %v, want exists", err)
	}
	if _, ok := cached(s, twin.ID); ok {
		t.Error("the twin was written all the same")
	}
	first.State = mobyfs.VolumeRemoving
	first = put(t, s, first)
	twin = put(t, s, twin)
	if err := s.Update(t.Context(), func(tx *Tx) error { return tx.DeleteVolume(first.ID) }); err != nil {
		t.Fatal(err)
	}
	err = s.Update(t.Context(), func(tx *Tx) error {
		v, err := tx.VolumeNamed("pgdata")
		if v.ID != twin.ID {
			t.Errorf("the name leads to %q, want %q", v.ID, twin.ID)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestErrorInUpdateWritesNothing(t *testing.T) {
	s := open(t, shortDir(t))
	v, no := volume(1), errors.New("no")
	err := s.Update(t.Context(), func(tx *Tx) error {
		if err := tx.PutVolume(&v); err != nil {
			return err
		}
		return no
	})
	if !errors.Is(err, no) {
		t.Errorf("got %v, want %v", err, no)
	}
	resp, err := etcdOf(s).Get(t.Context(), root, clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil || len(resp.Kvs) != 1 {
		t.Errorf("the store holds %v, %v; want the cluster's record alone", resp.Kvs, err)
	}
}

func TestUnknownMembersSurviveARewrite(t *testing.T) {
	s := open(t, shortDir(t))
	v := put(t, s, volume(1))
	newer := `{"id":"` + string(v.ID) + `","name":"vol-1","spec":{"backend":"dir","class":"gold"},"state":"ready",
		"created_at":"2026-11-22T00:00:00Z","node":"h1","fence":7,"used_bytes":0,"revision":0,"replicas":["h2","h3"],
		"lease":{"node":"h1","fence":7,"since":"2026-11-22T00:00:00Z","epoch":3},
		"last_move":{"id":"m1","from":"h2","to":"h1","fence":5,"mount":false,"state":"committed","trace":"t1",
		"started_at":"2026-11-22T00:00:00Z","progress":{"files":1,"bytes":2,"total_bytes":3}}}`
	if _, err := etcdOf(s).Put(t.Context(), volumeKey(v.ID), newer); err != nil {
		t.Fatal(err)
	}
	err := s.Update(t.Context(), func(tx *Tx) error {
		now, err := tx.Volume(v.ID)
		if err != nil {
			return err
		}
		now.Lease = &mobyfs.Lease{Node: "h1", Fence: 8}
		now.Spec.SizeBytes = 10
		now.Fence++
		return tx.PutVolume(&now)
	})
	if err != nil {
		t.Fatal(err)
	}
	resp, err := etcdOf(s).Get(t.Context(), volumeKey(v.ID))
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Fence    int             `json:"fence"`
		Replicas []string        `json:"replicas"`
		Spec     map[string]any  `json:"spec"`
		Lease    map[string]any  `json:"lease"`
		LastMove json.RawMessage `json:"last_move"`
	}
	if err := json.Unmarshal(resp.Kvs[0].Value, &got); err != nil {
		t.Fatal(err)
	}
	if got.Fence != 8 || !cmp.Equal(got.Replicas, []string{"h2", "h3"}) || got.Spec["class"] != "gold" || got.Spec["size_bytes"] != 10.0 {
		t.Errorf("after the rewrite: %s", resp.Kvs[0].Value)
	}
	if _, kept := got.Lease["epoch"]; kept {
		t.Error("a member of the old lease went over to the new one")
	}
	if !strings.Contains(string(got.LastMove), `"trace":"t1"`) {
		t.Errorf("last_move did not change but lost a member: %s", got.LastMove)
	}
}

func TestUnreadableRecordIsToldAndTheRestStarts(t *testing.T) {
	root := shortDir(t)
	s := open(t, root)
	good, bad := put(t, s, volume(1)), put(t, s, volume(2))
	box := s.Subscribe()
	if _, err := etcdOf(s).Put(t.Context(), volumeKey(bad.ID), `{"id":`); err != nil {
		t.Fatal(err)
	}
	if _, err := box.Next(t.Context()); err != nil {
		t.Fatal(err)
	}
	check := func(s *Store) {
		t.Helper()
		if u := s.Unreadable(); len(u) != 1 || u[0].Key != volumeKey(bad.ID) {
			t.Errorf("unreadable: got %v, want %s", u, volumeKey(bad.ID))
		}
		if _, ok := cached(s, good.ID); !ok {
			t.Error("the good record is not there")
		}
		s.View(func(v View) {
			if v.Readable(bad.ID) || !v.Readable(good.ID) {
				t.Error("View mixes up which record is readable")
			}
		})
		err := s.Update(t.Context(), func(tx *Tx) error { _, err := tx.VolumeNamed(bad.Name); return err })
		if mobyfs.CodeOf(err) != mobyfs.CodeCorrupt {
			t.Errorf("reading it: got %v, want corrupt", err)
		}
	}
	check(s)
	closeStore(t, s)
	check(open(t, root))
}

func TestSlowSubscriberFindsEachRecordOnce(t *testing.T) {
	s := open(t, shortDir(t))
	box := s.Subscribe()
	a, b := put(t, s, volume(1)), put(t, s, volume(2))
	for range 50 {
		a.Fence++
		a = put(t, s, a)
		s.Touch(VolumeRef(b.ID))
	}
	eventually(t, "the watch catches up", func() bool {
		s.cache.mu.RLock()
		defer s.cache.mu.RUnlock()
		return s.cache.watched == a.Revision
	})
	refs, err := box.Next(t.Context())
	if want := []Ref{VolumeRef(a.ID), VolumeRef(b.ID)}; err != nil || !cmp.Equal(refs, want) {
		t.Errorf("got %v, %v; want %v", refs, err, want)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if refs, err := box.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("an empty mailbox gave %v, %v", refs, err)
	}
	closeStore(t, s)
	if _, err := box.Next(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("after the end of the store the mailbox says %v", err)
	}
}

func TestWatchGoesOnAfterItsHistoryIsDropped(t *testing.T) {
	s := open(t, shortDir(t))
	v, gone, same := put(t, s, volume(1)), put(t, s, volume(2)), put(t, s, volume(3))
	reader := newStore(s.engine, Config{}, nil) // another process, cut off for a while
	rev, err := reader.load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	box := reader.Subscribe()
	v.Fence = 99
	v = put(t, s, v)
	if err := s.Update(t.Context(), func(tx *Tx) error { return tx.DeleteVolume(gone.ID) }); err != nil {
		t.Fatal(err)
	}
	last := put(t, s, volume(4))
	if _, err := etcdOf(s).Compact(t.Context(), last.Revision); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var following sync.WaitGroup
	following.Go(func() { reader.follow(ctx, rev+1) })
	eventually(t, "the last change is known", func() bool { _, ok := cached(reader, last.ID); return ok })
	if got, _ := cached(reader, v.ID); got.Fence != 99 {
		t.Errorf("the fence is %d, want 99", got.Fence)
	}
	eventually(t, "a volume that was deleted meanwhile is gone", func() bool { _, ok := cached(reader, gone.ID); return !ok })
	told := map[Ref]bool{}
	for len(told) < 3 { // what is new is told before what is gone
		refs, err := box.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range refs {
			told[r] = true
		}
	}
	if len(told) != 3 || told[VolumeRef(same.ID)] {
		t.Errorf("the mailbox told of %v; want the three that changed", told)
	}
	stop()
	following.Wait()
}

func TestStoreOfAnotherClusterIsRefused(t *testing.T) {
	root := shortDir(t)
	closeStore(t, open(t, root))
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	if _, err := Open(t.Context(), Config{Root: root, Cluster: "bank", Log: log}); mobyfs.CodeOf(err) != mobyfs.CodeInvalid ||
		!strings.Contains(err.Error(), "shop") {
		t.Errorf("got %v, want a refusal that names shop", err)
	}
	open(t, root)
}

func TestSecondProcessIsRefusedAtOnce(t *testing.T) {
	root := shortDir(t)
	s := open(t, root)
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	if _, err := Open(t.Context(), Config{Root: root, Cluster: "shop", Log: log}); err == nil || !strings.Contains(err.Error(), "another mobyfs-control") {
		t.Errorf("got %v, want a refusal", err)
	}
	put(t, s, volume(1)) // the first one is not disturbed
}

func TestTooLongPathIsRefusedWithItsName(t *testing.T) {
	root := filepath.Join(shortDir(t), strings.Repeat("x", 100))
	if err := os.Mkdir(root, 0o700); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	if _, err := Open(t.Context(), Config{Root: root, Cluster: "shop", Log: log}); err == nil || !strings.Contains(err.Error(), root) {
		t.Errorf("got %v, want a refusal that names the path", err)
	}
}

func TestStoreOpensNoPortAndItsDirectoryIsPrivate(t *testing.T) {
	before := ports(t)
	root := shortDir(t)
	s, other := open(t, root), open(t, shortDir(t)) // two at once do not collide
	put(t, s, volume(1))
	put(t, other, volume(1))
	info, err := os.Stat(filepath.Join(root, "etcd"))
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o700 {
		t.Errorf("the directory has mode %v, want 0700", info.Mode().Perm())
	}
	for p := range ports(t) {
		if !before[p] {
			t.Errorf("the store listens on TCP %s", p)
		}
	}
}

// ports lists the TCP sockets on which this process listens, found by its file descriptors.
func ports(t *testing.T) map[string]bool {
	t.Helper()
	mine := map[string]bool{}
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if to, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil {
			mine[to] = true
		}
	}
	listening := map[string]bool{}
	for _, file := range []string{"/proc/self/net/tcp", "/proc/self/net/tcp6"} {
		data, err := os.ReadFile(file)
		if err != nil {
			continue // no IPv6 on this machine
		}
		for line := range strings.Lines(string(data)) {
			f := strings.Fields(line)
			if len(f) > 9 && f[3] == "0A" && mine["socket:["+f[9]+"]"] {
				listening[f[1]] = true
			}
		}
	}
	return listening
}

func TestPortsSeesAListener(t *testing.T) {
	before := len(ports(t))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if after := len(ports(t)); after != before+1 {
		t.Errorf("with one more listener there are %d, before %d", after, before)
	}
}

func TestStoreThatStopsByItselfSaysSo(t *testing.T) {
	s := open(t, shortDir(t))
	box := s.Subscribe()
	s.etcd.Server.HardStop()
	select {
	case <-s.Done():
	case <-time.After(time.Minute):
		t.Fatal("Done is not closed within a minute")
	}
	if s.Err() == nil {
		t.Error("Err tells nothing")
	}
	for {
		if _, err := box.Next(t.Context()); err != nil {
			if !errors.Is(err, ErrClosed) {
				t.Errorf("the mailbox says %v", err)
			}
			return
		}
	}
}
