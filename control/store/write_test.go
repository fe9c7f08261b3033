package store

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/mobyfs/mobyfs"
)

// TestWritesAreMadeOnceWhileLeadersChange: each member counts in a volume of its own, while who leads changes again and
// again. No write fails, and each is there once.
func TestWritesAreMadeOnceWhileLeadersChange(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	seats := map[string]*seat{"h1": newSeat(t, a, "h1"), "h2": newSeat(t, a, "h2"), "h3": newSeat(t, a, "h3")}
	seats["h1"].start()
	seats["h1"].join(seats["h2"], seats["h3"])
	seats["h1"].list("h1 voter", "h2 voter", "h3 voter")
	counting, stop := context.WithCancel(t.Context())
	var counters sync.WaitGroup
	counted := map[mobyfs.VolumeID]*mobyfs.Fence{}
	for name, s := range seats {
		v := put(t, s.store, volume(1+len(counted)))
		count := v.Fence
		counted[v.ID] = &count
		counters.Go(func() {
			longest := time.Duration(0)
			for counting.Err() == nil {
				begun := time.Now()
				err := s.store.Update(t.Context(), func(tx *Tx) (err error) {
					if v, err = tx.Volume(v.ID); err != nil {
						return err
					}
					v.Fence++
					return errors.Join(tx.PutVolume(&v), tx.Record(mobyfs.Event{Text: "counted", Volume: v.ID}))
				})
				longest = max(longest, time.Since(begun))
				if err != nil {
					t.Errorf("%s: a write failed after %v: %v", name, time.Since(begun).Round(time.Millisecond), err)
					return
				}
				count++
			}
			t.Logf("%s: %d writes, the longest took %v", name, count, longest.Round(time.Millisecond))
		})
	}
	for range 15 {
		led := seats[leader(t, seats)].store.etcd.Server
		for _, m := range led.Cluster().Members() {
			if m.ID == led.MemberID() {
				continue
			}
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			if err := led.MoveLeader(ctx, uint64(led.MemberID()), uint64(m.ID)); err != nil {
				t.Logf("leadership stays: %v", err)
			}
			cancel()
			break
		}
		time.Sleep(200 * time.Millisecond) // some writes in between
	}
	stop()
	counters.Wait()
	for id, count := range counted {
		var v mobyfs.Volume // what h1 had at hand may be read first, and is no answer
		err := seats["h1"].store.Update(t.Context(), func(tx *Tx) (err error) { v, err = tx.Volume(id); return err })
		if err != nil || v.Fence != *count {
			t.Errorf("volume %s was counted to %v, and %v were acknowledged: %v", id, v.Fence, *count, err)
		}
	}
}

// TestWrittenTellsWhatIsThere: after a try whose end nobody knows.
func TestWrittenTellsWhatIsThere(t *testing.T) {
	s := open(t, shortDir(t))
	own := s.engine.(etcdEngine).own
	put, other, event := clientv3.OpPut("/m/x/a", "1"), clientv3.OpPut("/m/x/a", "2"), clientv3.OpPut(Events.key("e1"), "{}")
	gone := clientv3.OpDelete("/m/x/b")
	rev, done, err := own.write(t.Context(), nil, []clientv3.Op{put, event})
	if err != nil || !done {
		t.Fatalf("got %v, %v", done, err)
	}
	for name, c := range map[string]struct {
		ops  []clientv3.Op
		done bool
	}{
		"the same":                             {[]clientv3.Op{put, event}, true},
		"with its event, though changed since": {[]clientv3.Op{other, event}, true},
		"another value":                        {[]clientv3.Op{other}, false},
		"what is there is to be gone":          {[]clientv3.Op{clientv3.OpDelete("/m/x/a")}, false},
		"what is gone":                         {[]clientv3.Op{gone}, true},
		"an event that is not there":           {[]clientv3.Op{put, clientv3.OpPut(Events.key("e2"), "{}")}, false},
	} {
		got, is, err := own.written(t.Context(), c.ops)
		if err != nil || is != c.done || is && got != rev {
			t.Errorf("%s: got %v at %d, %v, want %v at %d", name, is, got, err, c.done, rev)
		}
	}
}
