package control

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/api"
	"github.com/mobyfs/mobyfs/control/store"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// A control that was restored from a backup observes first. What was decided since the backup was made it does not know,
// so it decides nothing about volumes, and tells agents nothing about them: to an agent it is away, save that it takes
// heartbeats and asks for an inventory. Containers go on. Once all nodes have told what they hold, the records are made to
// agree with that (converge.go), and control decides again.

// observing is nil unless control waits for nodes to tell what they hold.
func (c *Control) observing() error {
	r := c.store.Restored()
	if r == nil {
		return nil
	}
	awaited := c.awaited(r)
	for i, n := range awaited {
		if i == maxAwaitedShown {
			awaited = append(awaited[:i:i], "others")
			break
		}
		awaited[i] = n
	}
	waits := "compares what the nodes hold"
	if len(awaited) > 0 {
		waits = "waits for " + strings.Join(awaited, ", ")
	}
	return mobyfs.Errorf(mobyfs.CodeUnavailable, "control was restored from a backup of %s and %s", r.MadeAt.UTC().Format(time.RFC3339), waits).
		WithHint("start mobyfs.service there; of a node that is lost: mobyctl control converge --without NODE")
}

const maxAwaitedShown = 5

// agreed is nil unless a node is to tell at first what it holds: until the records agree with that it can ask for nothing
// about volumes, and is told nothing about them.
func (c *Control) agreed(who pki.Identity, do action) error {
	if who.Role != pki.RoleNode || do == doReport || do == doTell || do == doFetch {
		return nil
	}
	if err := c.observing(); err != nil {
		return err
	}
	if history := c.store.History(); history != "" {
		if i := c.inventoryOf(who.Name); i.History != history || !i.Compared {
			return mobyfs.Errorf(mobyfs.CodeUnavailable, "control was restored and does not know yet what %s holds", who.Name).
				WithHint("its mobyfs tells it with its next heartbeat")
		}
	}
	return nil
}

func (c *Control) inventoryOf(node string) (i store.Inventory) {
	c.store.View(func(v store.View) { i, _ = store.Inventories.In(v, node) })
	return i
}

// awaited are the nodes without whose inventory nothing is decided, sorted.
func (c *Control) awaited(r *store.Restored) []string {
	var names []string
	history := c.store.History()
	c.store.View(func(v store.View) {
		for n := range v.Nodes {
			i, _ := store.Inventories.In(v, n.Name)
			if i.History != history && n.Use() != mobyfs.NodeEvicted && !slices.Contains(r.Without, n.Name) {
				names = append(names, n.Name)
			}
		}
	})
	slices.Sort(names)
	return names
}

// wantsInventory is the history for which a node is asked for its inventory, "" if it is not.
func (c *Control) wantsInventory(node string) string {
	history := c.store.History()
	if history == "" || c.inventoryOf(node).History == history {
		return ""
	}
	return history
}

// Inventory implements api.Service.
func (c *Control) Inventory(ctx context.Context, who pki.Identity, part mobyfs.Inventory) error {
	if err := c.allow(who, doTell); err != nil {
		return err
	}
	if n := max(len(part.Holdings), len(part.Evicted)); n > mobyfs.MaxHoldings || part.Epoch > mobyfs.MaxEpoch {
		return mobyfs.Errorf(mobyfs.CodeInvalid, "%s tells of %d volumes or evictions and epoch %d at once: %d and %d are the most", who.Name, n, part.Epoch, mobyfs.MaxHoldings, mobyfs.MaxEpoch).
			WithHint("tell it in parts")
	}
	if part.History != c.store.History() {
		return mobyfs.Errorf(mobyfs.CodeChanged, "%s tells what it holds for another restore than the last one", who.Name).
			WithHint("the next heartbeat's answer says for which")
	}
	if c.wantsInventory(who.Name) == "" {
		return nil // all was told before
	}
	var out []mobyfs.Eviction
	err := c.store.Update(ctx, func(tx *store.Tx) (err error) {
		if out, err = c.hearOfEvictions(tx, who.Name, part.Evicted); err != nil {
			return err
		}
		for _, h := range part.Holdings {
			if err := checkHolding(&h); err != nil {
				return err
			}
			if err := store.Holdings.Put(tx, store.HoldingID(who.Name, h.ID), h); err != nil {
				return err
			}
		}
		if !part.Last {
			return nil
		}
		return store.Inventories.Put(tx, who.Name, store.Inventory{History: part.History, Epoch: part.Epoch, At: c.now().UTC()})
	})
	if err == nil && len(out) > 0 {
		c.log.Info("evicted, as was decided after the backup", "who", namesOf(out), "node", who.Name)
		for _, e := range out {
			if e.Role == pki.RoleNode {
				c.endSession(ctx, e.Name)
			}
		}
		c.kickConverge() // they are not waited for any more
	}
	if err == nil && part.Last {
		c.log.Info("a node has told what it holds", "node", who.Name)
		c.kickConverge()
	}
	return err
}

// checkHolding refuses what can't be, and leaves out of the record that the node knows what it may not say.
func checkHolding(h *mobyfs.Holding) error {
	if !isVolumeID(h.ID) || h.Fence.Epoch() > mobyfs.MaxEpoch || h.Lease.Epoch() > mobyfs.MaxEpoch || len(h.Sealed) > maxInstance {
		return mobyfs.Errorf(mobyfs.CodeInvalid, "%.40q is no volume that can be held", h.ID).WithHint("install a mobyfs of the cluster's version")
	}
	if k := h.Known; k != nil && (k.ID != h.ID || mobyfs.CheckVolumeName(k.Name) != nil || k.Fence.Epoch() > mobyfs.MaxEpoch || checkSpec(k.Name, k.Spec.WithDefaults()) != nil) {
		h.Known = nil
	}
	return nil
}

// isVolumeID reports whether a text can be an ID of a volume: it becomes a part of keys.
func isVolumeID(id mobyfs.VolumeID) bool {
	return len(id) == 26 && !strings.ContainsFunc(string(id), func(r rune) bool { return (r < '0' || r > '9') && (r < 'a' || r > 'z') })
}

// RestoreStatus implements api.Service.
func (c *Control) RestoreStatus(_ context.Context, who pki.Identity) (api.Restore, error) {
	if err := c.allow(who, doList); err != nil {
		return api.Restore{}, err
	}
	return c.restoreStatus(), nil
}

func (c *Control) restoreStatus() api.Restore {
	r := c.store.Restored()
	if r == nil {
		return api.Restore{}
	}
	s := api.Restore{Backup: r.Backup, MadeAt: r.MadeAt, At: r.At, Without: r.Without, Awaited: c.awaited(r)}
	history := c.store.History()
	c.store.View(func(v store.View) {
		for node, i := range store.Inventories.All(v) {
			if i.History == history {
				s.Told = append(s.Told, node)
			}
		}
	})
	slices.Sort(s.Told)
	return s
}

// Converge implements api.Service.
func (c *Control) Converge(ctx context.Context, who pki.Identity, without []string) (api.Restore, error) {
	if err := c.allow(who, doBackup); err != nil {
		return api.Restore{}, err
	}
	err := c.store.Update(ctx, func(tx *store.Tx) error {
		for _, n := range without {
			if _, err := tx.Node(n); err != nil {
				return mobyfs.Errorf(mobyfs.CodeNotFound, "there is no node %.63q", n).WithHint("mobyctl control status lists those that are awaited")
			}
		}
		r, err := tx.Restored()
		if err != nil || r == nil || len(without) == 0 {
			return err
		}
		if err := tx.GoWithout(without); err != nil {
			return err
		}
		return tx.Record(mobyfs.Event{Text: "restore: not waiting for " + strings.Join(without, ", ")})
	})
	if err != nil {
		return api.Restore{}, err
	}
	c.kickConverge()
	return c.restoreStatus(), nil
}
