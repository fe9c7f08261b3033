package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mobyfs/mobyfs"
)

// engines runs a test on each engine: they keep the same promises.
func engines(t *testing.T, test func(t *testing.T, s *Store)) {
	t.Run("etcd", func(t *testing.T) { test(t, open(t, shortDir(t))) })
	t.Run("memory", func(t *testing.T) { test(t, openMemory(t, NewMemory())) })
}

func openMemory(t *testing.T, m *Memory) *Store {
	t.Helper()
	s, err := OpenMemory(t.Context(), Config{Cluster: "shop", Log: slog.New(slog.NewTextHandler(io.Discard, nil))}, m.Line())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeStore(t, s) })
	return s
}

func TestEngineCommitsOnlyWhatNothingHasOvertaken(t *testing.T) {
	engines(t, func(t *testing.T, s *Store) {
		e, ctx := s.engine, t.Context()
		first, done, err := e.commit(ctx, map[string]int64{"/m/x/a": 0}, map[string]write{"/m/x/a": {raw: []byte("1")}})
		if err != nil || !done {
			t.Fatalf("the first write: %v, %v", done, err)
		}
		if _, done, err := e.commit(ctx, map[string]int64{"/m/x/a": 0}, map[string]write{"/m/x/a": {raw: []byte("2")}}); done || err != nil {
			t.Errorf("a write on what has changed: %v, %v; want false", done, err)
		}
		if got, err := e.get(ctx, "/m/x/a"); err != nil || string(got.raw) != "1" || got.rev != first {
			t.Errorf("it holds %q at %d, %v; want 1 at %d", got.raw, got.rev, err, first)
		}
		second, done, err := e.commit(ctx, map[string]int64{"/m/x/a": first}, map[string]write{"/m/x/a": {}, "/m/x/b": {raw: []byte("3")}})
		if err != nil || !done || second <= first {
			t.Fatalf("delete and write at once: revision %d, %v, %v", second, done, err)
		}
		var keys []string
		if _, err := e.read(ctx, "/m/x/", 0, func(key string, e entry) { keys = append(keys, fmt.Sprintf("%s@%d", key, e.rev)) }); err != nil {
			t.Fatal(err)
		}
		if want := []string{fmt.Sprintf("/m/x/b@%d", second)}; !cmp.Equal(keys, want) {
			t.Errorf("it holds %v, want %v", keys, want)
		}
	})
}

// TestRecordsAreReadAsTheyAreAtOneMoment: more than are read in one go, while others write.
func TestRecordsAreReadAsTheyAreAtOneMoment(t *testing.T) {
	e, ctx := open(t, shortDir(t)).engine, t.Context()
	key := func(i int) string { return fmt.Sprintf("/m/x/%06d", i) }
	written := int64(0)
	commit := func(writes map[string]write) {
		t.Helper()
		rev, done, err := e.commit(ctx, nil, writes)
		if err != nil || !done {
			t.Fatalf("a write: %v, %v", done, err)
		}
		written = rev
	}
	there := 0
	for _, size := range []int{0, 1, pageOfRecords - 1, pageOfRecords, pageOfRecords + 1, 2*pageOfRecords + 7} {
		for there < size {
			some := map[string]write{}
			for len(some) < 500 && there < size {
				some[key(there)] = write{raw: []byte("old")}
				there++
			}
			commit(some)
		}
		before, n := written, 0
		rev, err := e.read(ctx, "/m/x/", 0, func(k string, got entry) {
			if n == 0 {
				commit(map[string]write{key(size - 1): {}, key(size): {raw: []byte("new")}})
			}
			if k != key(n) || string(got.raw) != "old" {
				t.Errorf("record %d of %d is %s: %q", n, size, k, got.raw)
			}
			n++
		})
		if err != nil || n != size || size > 0 && rev != before {
			t.Errorf("%d records at %d, %v; want %d at %d", n, rev, err, size, before)
		}
		if size > 0 {
			commit(map[string]write{key(size): {}, key(size - 1): {raw: []byte("old")}})
		}
	}
}

func TestEngineTellsEveryChangeInOrder(t *testing.T) {
	engines(t, func(t *testing.T, s *Store) {
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		start, err := s.engine.read(ctx, "/m/x/", 0, func(string, entry) {})
		if err != nil {
			t.Fatal(err)
		}
		var want []string
		for i := range 50 {
			key, w := fmt.Sprintf("/m/x/%d", i%3), write{raw: fmt.Append(nil, i)}
			if i%7 == 6 {
				w = write{}
			}
			if _, _, err := s.engine.commit(ctx, nil, map[string]write{key: w}); err != nil {
				t.Fatal(err)
			}
			want = append(want, key+"="+string(w.raw))
		}
		var got []string
		var mu sync.Mutex
		var watching sync.WaitGroup
		watching.Go(func() {
			_ = s.engine.watch(ctx, "/m/x/", start+1, func(changes []change) {
				mu.Lock()
				defer mu.Unlock()
				for _, c := range changes {
					got = append(got, c.key+"="+string(c.raw))
				}
			})
		})
		eventually(t, "all changes are told", func() bool { mu.Lock(); defer mu.Unlock(); return len(got) >= len(want) })
		stop()
		watching.Wait()
		if !cmp.Equal(got, want) {
			t.Error(cmp.Diff(want, got))
		}
	})
}

func TestEngineDeletesWhatWasLeasedWhenTheLeaseEnds(t *testing.T) {
	engines(t, func(t *testing.T, s *Store) {
		lease, err := s.Grant(t.Context(), time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		n := mobyfs.Node{Name: "h1"}
		err = s.Update(t.Context(), func(tx *Tx) error { return Nodes.PutLeased(tx, n.Name, n, lease) })
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Renew(t.Context(), lease); err != nil {
			t.Error(err)
		}
		if err := s.Revoke(t.Context(), lease); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the record is gone", func() bool {
			there := true
			s.View(func(v View) { _, there = v.Node(n.Name) })
			return !there
		})
		if err := s.Renew(t.Context(), lease); !errors.Is(err, ErrNoLease) {
			t.Errorf("renewing it then: got %v, want %v", err, ErrNoLease)
		}
		err = s.Update(t.Context(), func(tx *Tx) error { return Nodes.PutLeased(tx, n.Name, n, lease) })
		if !errors.Is(err, ErrNoLease) {
			t.Errorf("writing with it then: got %v, want %v", err, ErrNoLease)
		}
		if err := s.Revoke(t.Context(), lease); err != nil {
			t.Errorf("ending it again: %v", err)
		}
	})
}

func TestEventIsThereIfAndOnlyIfItsChangeIs(t *testing.T) {
	engines(t, func(t *testing.T, s *Store) {
		who := mobyfs.Actor{Who: "spiffe://shop/operator/ana", From: "127.0.0.1:9", Request: "r1"}
		v := volume(1)
		change := func(fail error) error {
			return s.Update(mobyfs.WithActor(t.Context(), who), func(tx *Tx) error {
				if err := tx.PutVolume(&v); err != nil {
					return err
				}
				if err := tx.Record(mobyfs.Event{Text: "volume placed", Volume: v.ID}); err != nil {
					return err
				}
				return fail
			})
		}
		no := errors.New("no")
		if err := change(no); !errors.Is(err, no) {
			t.Fatal(err)
		}
		if err := change(nil); err != nil {
			t.Fatal(err)
		}
		events, upTo, err := s.EventsSince(t.Context(), 0)
		if err != nil || len(events) != 1 || upTo < v.Revision {
			t.Fatalf("there are %d events up to %d, %v; want one", len(events), upTo, err)
		}
		if e := events[0]; e.Volume != v.ID || e.Revision != v.Revision || e.Actor != who || e.ID == "" || e.At.IsZero() {
			t.Errorf("the event is %+v, its volume at revision %d", e, v.Revision)
		}
		if events, _, err := s.EventsSince(t.Context(), v.Revision+1); err != nil || len(events) != 0 {
			t.Errorf("after it there are %v, %v", events, err)
		}
	})
}

func TestStoresOnOneMemoryAreSeveralProcesses(t *testing.T) {
	m := NewMemory()
	one, two := openMemory(t, m), openMemory(t, m)
	v := put(t, one, volume(1))
	eventually(t, "the other process knows it", func() bool { _, ok := cached(two, v.ID); return ok })
}
