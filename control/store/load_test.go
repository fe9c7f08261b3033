package store

import (
	"log/slog"
	"maps"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/control/placement"
)

// loads are those that the store has, and the sum of its volumes.
func loads(s *Store) (kept, sum placement.Loads) {
	kept, sum = placement.Loads{}, placement.Loads{}
	s.View(func(v View) {
		for node, l := range Loads.All(v) {
			l.Revision = 0
			kept[node] = l
		}
		for x := range v.Volumes {
			sum.Add(placement.LoadsOf(x), 1)
		}
	})
	return kept, sum
}

// TestLoadsAreTheSumOfTheVolumes: whatever is written, several volumes in one transaction too, what nodes owe is what
// the volumes say.
func TestLoadsAreTheSumOfTheVolumes(t *testing.T) {
	s, err := OpenMemory(t.Context(), Config{Cluster: "shop", Log: slog.New(slog.DiscardHandler)}, NewMemory().Line())
	if err != nil {
		t.Fatal(err)
	}
	defer closeStore(t, s)
	r := rand.New(rand.NewPCG(1, 2))
	nodes := []string{"h1", "h2", "h3"}
	random := func(id mobyfs.VolumeID) mobyfs.Volume {
		v := mobyfs.Volume{ID: id, Name: string(id), Node: nodes[r.IntN(3)], Fence: 1, State: mobyfs.VolumeReady, UsedBytes: r.Int64N(100)}
		v.Spec = mobyfs.VolumeSpec{SizeBytes: r.Int64N(100), Apart: []string{"", "a", "b"}[r.IntN(3)]}
		if r.IntN(2) == 0 {
			v.Migration = &mobyfs.Migration{From: v.Node, To: nodes[r.IntN(3)]}
		}
		return v
	}
	for step := range 300 {
		err := s.Update(t.Context(), func(tx *Tx) error {
			for range 3 {
				id := mobyfs.VolumeID(rune('a' + r.IntN(8)))
				if r.IntN(4) == 0 {
					if err := tx.DeleteVolume(id); err != nil {
						return err
					}
					continue
				}
				v := random(id)
				if err := tx.PutVolume(&v); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if kept, sum := loads(s); !cmp.Equal(kept, trim(sum)) {
			t.Fatalf("step %d: the loads are not the sum:\n%s", step, cmp.Diff(trim(sum), kept))
		}
	}
}

// trim leaves out what is nothing.
func trim(l placement.Loads) placement.Loads {
	for node, x := range l {
		if x.None() {
			delete(l, node)
			continue
		}
		if len(x.Apart) == 0 {
			x.Apart = nil
			l[node] = x
		}
	}
	return maps.Clone(l)
}

func TestMendLoadsOfAStoreFromBefore(t *testing.T) {
	s, err := OpenMemory(t.Context(), Config{Cluster: "shop", Log: slog.New(slog.DiscardHandler)}, NewMemory().Line())
	if err != nil {
		t.Fatal(err)
	}
	defer closeStore(t, s)
	v := mobyfs.Volume{ID: "a", Name: "aa", Node: "h1", Fence: 1, State: mobyfs.VolumeReady, Spec: mobyfs.VolumeSpec{SizeBytes: 5}}
	err = s.Update(t.Context(), func(tx *Tx) error { return tx.PutVolume(&v) })
	if err != nil {
		t.Fatal(err)
	}
	err = s.Update(t.Context(), func(tx *Tx) error {
		if err := Loads.Delete(tx, "h1"); err != nil {
			return err
		}
		return Loads.Put(tx, "h9", placement.Load{PromisedBytes: 7})
	})
	if err != nil {
		t.Fatal(err)
	}
	mended, err := s.MendLoads(t.Context())
	if want := []string{"h1", "h9"}; err != nil || !cmp.Equal(mended, want) {
		t.Fatalf("got %v, %v; want %v", mended, err, want)
	}
	if kept, sum := loads(s); !cmp.Equal(kept, trim(sum)) {
		t.Errorf("the loads are not the sum:\n%s", cmp.Diff(sum, kept))
	}
	if mended, err = s.MendLoads(t.Context()); err != nil || len(mended) != 0 {
		t.Errorf("mended again %v, %v", mended, err)
	}
}
