package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// ask makes control ask for something in its answers to heartbeats.
func (c *cluster) ask(tell, keep string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.askTell, c.askKeep = tell, keep
}

// heldBy is what a node told last that it holds, and for which restore.
func (c *cluster) heldBy() (held map[string]mobyfs.Holding, last mobyfs.Inventory) {
	c.mu.Lock()
	defer c.mu.Unlock()
	held = map[string]mobyfs.Holding{}
	for _, part := range c.inventories {
		for _, h := range part.Holdings {
			held[h.Known.Name] = h
		}
		last = part
	}
	return held, last
}

func TestAskedForItTheNodeTellsWhatItHoldsWithLeasesAndRecords(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, "h1", "h2")
		h1 := r.nodes["h1"]
		h1.create("used", nil)
		h1.create("idle", nil)
		h1.mount("used", "a")
		h1.mount("idle", "b")
		h1.unmount("idle", "b")
		pass(time.Minute)
		if held, _ := r.cluster.heldBy(); len(held) > 0 {
			t.Errorf("nobody asked, and it told of %v", held)
		}
		r.cluster.ask("restore-1", "")
		pass(time.Minute)
		r.cluster.ask("", "")
		held, last := r.cluster.heldBy()
		if len(held) != 2 || last.History != "restore-1" || !last.Last {
			t.Fatalf("it told of %v, at last %+v", held, last)
		}
		used, idle := held["used"], held["idle"]
		if !used.Bytes || used.Lease == 0 || used.Fence != used.Lease || used.Known.Node != "h1" {
			t.Errorf("of the one in use it told %+v", used)
		}
		if !idle.Bytes || idle.Lease != 0 || idle.Fence == 0 {
			t.Errorf("of the other one it told %+v", idle)
		}
	})
}

func TestAnInventoryIsToldInPartsAndAgainAfterAFailure(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, "h1")
		for i := range mobyfs.MaxHoldings + 1 {
			r.nodes["h1"].create(fmt.Sprintf("v%d", i), nil)
		}
		pass(time.Minute)
		failed := false
		r.cluster.hook(func(_, call string) error {
			if call == "Inventory" && !failed {
				failed = true
				return mobyfs.Errorf(mobyfs.CodeUnavailable, "the connection was lost")
			}
			return nil
		}, nil)
		r.cluster.ask("restore-1", "")
		pass(2 * mobyfs.Heartbeat)
		r.cluster.ask("", "")
		if held, last := r.cluster.heldBy(); len(held) != mobyfs.MaxHoldings+1 || !last.Last || !failed {
			t.Errorf("it told of %d, failed %v, last %v", len(held), failed, last.Last)
		}
	})
}

func TestWhoWasEvictedIsToldInPartsBeforeTheLast(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, "h1")
		for i := range mobyfs.MaxHoldings + 1 {
			r.evicted = append(r.evicted, mobyfs.Eviction{Role: pki.RoleNode, Name: fmt.Sprintf("old-%d", i), Proof: []byte("signed")})
		}
		r.cluster.ask("restore-1", "")
		pass(time.Minute)
		r.cluster.mu.Lock()
		defer r.cluster.mu.Unlock()
		told := map[string]bool{}
		for i, part := range r.cluster.inventories {
			if len(part.Evicted) > mobyfs.MaxHoldings || len(part.Evicted) > 0 && part.Last {
				t.Errorf("part %d tells of %d, and is the last: %v", i, len(part.Evicted), part.Last)
			}
			for _, e := range part.Evicted {
				told[e.Who()] = string(e.Proof) == "signed"
			}
		}
		if len(told) != len(r.evicted) || !told["node/old-0"] || !told[fmt.Sprintf("node/old-%d", mobyfs.MaxHoldings)] {
			t.Errorf("it told of %d of %d", len(told), len(r.evicted))
		}
	})
}

func TestACopyOfABackupIsFetchedOnceAndToldOf(t *testing.T) {
	const id = "01jexa3tq2000000000000000a"
	bubble(t, func(t *testing.T) {
		r := newRig(t, "h1")
		r.cluster.mu.Lock()
		r.cluster.backups = map[string][]byte{id: []byte(`{"mobyfs_backup":1,"id":"` + id + `","cluster":"shop"}` + "\nsealed")}
		r.cluster.mu.Unlock()
		r.cluster.ask("", id)
		pass(time.Minute)
		path := filepath.Join(r.nodes["h1"].root, "backups", id+".mbk")
		text, err := os.ReadFile(path)
		if err != nil || !strings.HasSuffix(string(text), "sealed") {
			t.Fatalf("the copy is %q, %v", text, err)
		}
		r.cluster.mu.Lock()
		told := r.cluster.reports["h1"].Backups
		r.cluster.mu.Unlock()
		if told != nil && len(*told) != 1 {
			t.Errorf("it tells of %v", *told)
		}
		r.cluster.ask("", "")
		if err := os.Remove(path); err != nil { // somebody cleans up
			t.Fatal(err)
		}
		pass(time.Minute)
		if ids, err := r.nodes["h1"].agent.copies.IDs(); err != nil || len(ids) != 0 {
			t.Errorf("there are %v, %v", ids, err)
		}
	})
}

// TestOtherBytesAreKeptWhereTheRecordSaysSo: after a restore a node may have bytes that another one's took the place of.
func TestOtherBytesAreKeptWhereTheRecordSaysSo(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, "h1", "h2")
		h1 := r.nodes["h1"]
		h1.create("pgdata", nil)
		write(t, h1.mount("pgdata", "a"), "rows", "old")
		h1.unmount("pgdata", "a")
		pass(time.Minute)
		v := r.cluster.volume("pgdata")
		r.cluster.edit("pgdata", func(v *mobyfs.Volume) { v.Node, v.Kept, v.Fence = "h2", []string{"h1"}, v.Fence+1 })
		pass(time.Hour)
		path := h1.agent.backends[mobyfs.DefaultBackend].Path(v.ID)
		if got := read(t, path, "rows"); got != "old" {
			t.Errorf("the kept bytes are %q", got)
		}
		r.cluster.edit("pgdata", func(v *mobyfs.Volume) { v.Kept = nil })
		pass(time.Minute)
		if _, err := os.Stat(path); err == nil {
			t.Error("they stay though nobody wants them kept any more")
		}
	})
}
