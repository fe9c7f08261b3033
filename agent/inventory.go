package agent

import (
	"context"
	"io"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/backend"
)

// errands are what control asks for in its answers to heartbeats, one of each kind at a time.
type errands struct {
	telling, fetching atomic.Bool
}

// asked does what control has asked for. What fails is asked for again with the next heartbeat.
func (a *Agent) asked(s mobyfs.Session) {
	if s.Tell != "" && a.errands.telling.CompareAndSwap(false, true) {
		a.goDo(func() {
			defer a.errands.telling.Store(false)
			if err := a.tellInventory(a.work, s.Tell); err != nil {
				a.Log.Warn("tell control what is here", "err", err)
				return
			}
			a.Log.Info("control was restored from a backup; it was told what is here")
		})
	}
	if s.Keep != "" && a.errands.fetching.CompareAndSwap(false, true) {
		a.goDo(func() {
			defer a.errands.fetching.Store(false)
			err := a.copies.Fetch(a.work, s.Keep, func(ctx context.Context, w io.Writer) error { return a.Control.Backup(ctx, s.Keep, w) })
			if err != nil {
				a.Log.Warn("keep a copy of control's backup", "err", err)
				return
			}
			a.Log.Info("a copy of control's backup is here", "backup", s.Keep)
			a.reporter.kick()
		})
	}
}

// tellInventory tells control, in parts, all that this node holds and how it knows it.
func (a *Agent) tellInventory(ctx context.Context, history string) error {
	holdings, err := a.holdings(ctx)
	if err != nil {
		return err
	}
	part := mobyfs.Inventory{History: history, Epoch: a.epoch(holdings)}
	var evicted []mobyfs.Eviction
	if a.Evicted != nil {
		evicted = a.Evicted()
	}
	for some := range slices.Chunk(evicted, mobyfs.MaxHoldings) {
		part.Evicted = some
		if err := a.callInventory(ctx, part); err != nil {
			return err
		}
	}
	part.Evicted = nil
	for len(holdings) > mobyfs.MaxHoldings {
		part.Holdings, holdings = holdings[:mobyfs.MaxHoldings], holdings[mobyfs.MaxHoldings:]
		if err := a.callInventory(ctx, part); err != nil {
			return err
		}
	}
	part.Holdings, part.Last = holdings, true
	return a.callInventory(ctx, part)
}

func (a *Agent) callInventory(ctx context.Context, part mobyfs.Inventory) error {
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return a.Control.Inventory(call, part)
}

// holdings are the volumes of which bytes, or all that a migration brought, lie on this node's disk, and those that
// nobody but this node may know of (survey).
func (a *Agent) holdings(ctx context.Context) ([]mobyfs.Holding, error) {
	held := map[mobyfs.VolumeID]*mobyfs.Holding{}
	of := func(id mobyfs.VolumeID) *mobyfs.Holding {
		if held[id] == nil {
			held[id] = &mobyfs.Holding{ID: id}
		}
		return held[id]
	}
	for _, b := range a.Backends {
		volumes, staged, err := b.List(ctx)
		if err != nil {
			return nil, err
		}
		for _, v := range volumes {
			h := of(v.ID)
			h.Bytes, h.Fence = true, max(h.Fence, v.Fence)
		}
		for _, s := range staged {
			if s.Receipt != nil && s.Volume != "" && of(s.Volume).Sealed < s.Migration {
				of(s.Volume).Sealed = s.Migration // the newest: IDs sort by time
			}
		}
		if s, ok := b.(backend.Shared); ok {
			if err := a.survey(ctx, s, of); err != nil {
				return nil, err
			}
		}
	}
	all := make([]mobyfs.Holding, 0, len(held))
	for id, h := range held {
		h.Lease = a.ledger.standing(id).lease
		if k, _ := a.catalogue.record(id); k != nil {
			h.Known = k
		}
		if k := h.Known; k != nil && k.Arrived != "" && a.hasSealed(id, k.Arrived) {
			h.Sealed = k.Arrived
		}
		all = append(all, *h)
	}
	slices.SortFunc(all, func(a, b mobyfs.Holding) int { return strings.Compare(string(a.ID), string(b.ID)) })
	return all, nil
}

// survey adds the volumes that all nodes see and that this node was the last to use, or is the home of, also if it has
// nothing of them: one that was given away and that its new home has never used is had by nobody.
func (a *Agent) survey(ctx context.Context, b backend.Shared, of func(mobyfs.VolumeID) *mobyfs.Holding) error {
	seen, err := b.Survey(ctx)
	if err != nil {
		return err
	}
	for _, v := range seen {
		known, _ := a.catalogue.record(v.ID)
		if !v.Last && (known == nil || known.Node != a.Node) {
			continue
		}
		h := of(v.ID)
		h.Bytes, h.Fence = true, max(h.Fence, v.Fence)
		if known == nil {
			h.Known = mobyfs.Nameless(v.ID, mobyfs.VolumeSpec{Backend: b.Name(), SizeBytes: v.SizeBytes})
		}
	}
	return nil
}

// hasSealed reports whether all that a migration brought lies here still.
func (a *Agent) hasSealed(id mobyfs.VolumeID, migration mobyfs.MigrationID) bool {
	w := a.known(id)
	if w == nil {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.staged {
		if s.Migration == migration && s.Receipt != nil {
			return true
		}
	}
	return false
}

// epoch is the highest of all fences that this node knows, also of volumes of others.
func (a *Agent) epoch(holdings []mobyfs.Holding) (most uint32) {
	for _, h := range holdings {
		most = max(most, h.Fence.Epoch(), h.Lease.Epoch())
	}
	for _, v := range a.catalogue.all() {
		most = max(most, v.Fence.Epoch())
	}
	return most
}
