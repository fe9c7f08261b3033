package store

import (
	"context"
	"maps"
	"slices"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/control/placement"
)

// placed is what a volume took of nodes before a transaction, and what it takes after.
type placed struct{ before, after placement.Loads }

// place notes that a volume is written, or deleted if now is nil. A record that can't be read counted for nothing.
func (tx *Tx) place(id mobyfs.VolumeID, old entry, now *mobyfs.Volume) {
	var p placed
	if old.rev != 0 {
		if before, err := Volumes.decode(string(id), old.raw, old.rev); err == nil {
			p.before = placement.LoadsOf(before)
		}
	}
	if now != nil {
		p.after = placement.LoadsOf(*now)
	}
	if tx.placed == nil {
		tx.placed = map[mobyfs.VolumeID]placed{}
	}
	tx.placed[id] = p
}

// keepLoads writes the loads of the nodes of which the written volumes take more or less than before. Most decisions
// change none.
func (tx *Tx) keepLoads() error {
	change := placement.Loads{}
	for _, p := range tx.placed {
		change.Add(p.after, 1)
		change.Add(p.before, -1)
	}
	for _, node := range slices.Sorted(maps.Keys(change)) {
		if change[node].None() {
			continue
		}
		load, err := Loads.Get(tx, node)
		if err != nil && mobyfs.CodeOf(err) != mobyfs.CodeNotFound {
			return err
		}
		sum := placement.Loads{node: load}
		sum.Add(placement.Loads{node: change[node]}, 1)
		if err := tx.putLoad(node, sum[node]); err != nil {
			return err
		}
	}
	return nil
}

func (tx *Tx) putLoad(node string, load placement.Load) error {
	if load.Revision = 0; load.None() {
		return Loads.Delete(tx, node)
	}
	return Loads.Put(tx, node, load)
}

// MendLoads writes the loads anew that are not the sum of the volumes, as those of a store from before there were loads.
// It returns the nodes whose loads it wrote. A load that somebody else changes meanwhile it leaves for the next time.
func (s *Store) MendLoads(ctx context.Context) ([]string, error) {
	right, known := placement.Loads{}, placement.Loads{}
	s.View(func(v View) {
		for _, x := range Volumes.All(v) {
			right.Add(placement.LoadsOf(x), 1)
		}
		known = maps.Collect(Loads.All(v))
	})
	nodes := slices.AppendSeq(slices.Collect(maps.Keys(right)), maps.Keys(known))
	slices.Sort(nodes)
	var mended []string
	for _, node := range slices.Compact(nodes) {
		if right[node].Equal(known[node]) {
			continue
		}
		err := s.Update(ctx, func(tx *Tx) error {
			rev, err := Loads.Revision(tx, node)
			if err != nil || rev != known[node].Revision {
				return err
			}
			return tx.putLoad(node, right[node])
		})
		if err != nil {
			return mended, err
		}
		mended = append(mended, node)
	}
	return mended, nil
}
