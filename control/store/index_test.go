package store

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/control/placement"
)

// partsOfAll is an index as it should be after a look at all volumes.
func partsOfAll(all map[string]mobyfs.Volume) (names map[By][]string, owed map[string]placement.Load) {
	names, owed = map[By][]string{}, map[string]placement.Load{}
	for _, v := range all {
		partsOf(&v, func(by By) { names[by] = append(names[by], v.Name) })
		placement.Owes(v, func(node string, l placement.Load) {
			sum := owed[node]
			owed[node] = placement.Load{
				PromisedBytes: sum.PromisedBytes + l.PromisedBytes, ArrivingBytes: sum.ArrivingBytes + l.ArrivingBytes,
				Volumes: sum.Volumes + l.Volumes, Moves: sum.Moves + l.Moves,
			}
		})
	}
	for _, list := range names {
		slices.Sort(list)
	}
	return names, owed
}

func TestIndexHoldsWhatALookAtAllWouldFind(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	c, all := newCache(), map[string]mobyfs.Volume{}
	for rev := range int64(3000) {
		v := volume(r.IntN(40))
		v.Node = fmt.Sprintf("h%d", r.IntN(4))
		v.Spec.SizeBytes, v.UsedBytes = int64(r.IntN(100)), int64(r.IntN(100))
		if r.IntN(2) == 0 {
			v.Spec.Labels = map[string]string{"app": fmt.Sprint(r.IntN(3)), "tier": "data"}
		}
		switch r.IntN(4) {
		case 0:
			v.Migration = &mobyfs.Migration{From: v.Node, To: fmt.Sprintf("h%d", r.IntN(4))}
		case 1:
			v.Lease = &mobyfs.Lease{Node: v.Node, Fence: 1}
		case 2:
			v.State = mobyfs.VolumeRemoving
		}
		raw, err := encode(nil, v)
		if err != nil {
			t.Fatal(err)
		}
		if all[string(v.ID)] = v; r.IntN(5) == 0 {
			raw = nil
			delete(all, string(v.ID))
		}
		if c.put(volumeKey(v.ID), raw, rev+1); rev == 500 {
			c.ordered() // what came before was loaded, what comes now is learnt
		}
	}
	want, owed := partsOfAll(all)
	for node, load := range owed {
		if got := c.index.field.Owed(node); got != load {
			t.Errorf("%s owes %+v, want %+v", node, got, load)
		}
	}
	if len(c.index.parts) != len(want) || len(owed) == 0 {
		t.Errorf("%d parts, want %d; %d nodes owe anything", len(c.index.parts), len(want), len(owed))
	}
	for by, names := range want {
		var got []string
		for v := range (View{c}).Ordered(by, Place{}) {
			got = append(got, v.Name)
		}
		if !slices.Equal(got, names) || (View{c}).Count(by) != len(names) {
			t.Errorf("%v: got %v, want %v", by, got, names)
		}
	}
	sets := map[string]bool{}
	for _, v := range all {
		if len(v.Spec.Labels) > 0 {
			sets[string(appendSetName(nil, v.Spec.Labels))] = true
		}
	}
	if len(c.index.labels) != len(sets) {
		t.Errorf("%d sets of labels are kept, there are %d", len(c.index.labels), len(sets))
	}
}

func TestVolumesAreSortedHoweverManyThereAre(t *testing.T) {
	for size := range 40 {
		var all, want []*mobyfs.Volume
		for _, i := range rand.Perm(size) {
			v := volume(i / 2) // two have each name
			v.ID += mobyfs.VolumeID(strconv.Itoa(i % 2))
			all = append(all, &v)
		}
		want = slices.SortedFunc(slices.Values(all), inOrderOfNames)
		if sortByName(all); !slices.Equal(all, want) {
			t.Errorf("%d volumes come in another order", size)
		}
	}
}

func TestOrderedGoesOnBehindAPlaceAlsoOneThatIsGone(t *testing.T) {
	c := newCache()
	for n := range 10 {
		raw, err := encode(nil, volume(n))
		if err != nil {
			t.Fatal(err)
		}
		c.put(volumeKey(volume(n).ID), raw, int64(n+1))
	}
	c.ordered()
	c.put(volumeKey(volume(4).ID), nil, 20)
	var got []string
	for v := range (View{c}).Ordered(By{}, Place{"vol-4", volume(4).ID}) {
		if got = append(got, v.Name); len(got) == 2 {
			break
		}
	}
	if s := strings.Join(got, " "); s != "vol-5 vol-6" {
		t.Errorf("got %s", s)
	}
}

func TestANodesMailboxHearsOfVolumesThatConcernItAndOfNoOther(t *testing.T) {
	s := open(t, shortDir(t))
	h1, h2 := s.SubscribeTo(NodeRef("h1")), s.SubscribeTo(NodeRef("h2"))
	defer h1.Close()
	defer h2.Close()
	v := put(t, s, volume(1))
	v.Node = "h2"
	put(t, s, v) // h1 hears that it is not its own any more
	other := volume(2)
	other.Node = "h3"
	put(t, s, other)
	last := volume(3)
	last.Node, last.Migration = "h1", &mobyfs.Migration{From: "h1", To: "h2"}
	put(t, s, last)
	for name, box := range map[string]*Mailbox{"h1": h1, "h2": h2} {
		var got []string
		for !slices.Contains(got, string(last.ID)) {
			refs, err := box.Next(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, ref := range refs {
				got = append(got, ref.ID)
			}
		}
		slices.Sort(got)
		if got = slices.Compact(got); !slices.Equal(got, []string{string(v.ID), string(last.ID)}) {
			t.Errorf("%s heard of %v", name, got)
		}
	}
	if n := s.Stats().Watchers; n != 2 {
		t.Errorf("%d watchers, there are 2", n)
	}
}

func BenchmarkLoad(b *testing.B) {
	raws := map[string][]byte{}
	for n := range 100_000 {
		v := volume(n)
		v.Node, v.Spec.Labels = fmt.Sprintf("h%d", n%1000), map[string]string{"app": fmt.Sprint(n % 500), "tier": "data"}
		v.CreatedAt = time.Now()
		raw, err := encode(nil, v)
		if err != nil {
			b.Fatal(err)
		}
		raws[volumeKey(v.ID)] = raw
	}
	for b.Loop() {
		c := newCache()
		for key, raw := range raws {
			c.put(key, raw, 1)
		}
		c.ordered()
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*len(raws)), "µs/record")
}
