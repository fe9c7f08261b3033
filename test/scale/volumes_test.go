//go:build bench

package scale

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/api"
	"github.com/mobyfs/mobyfs/control/placement"
	"github.com/mobyfs/mobyfs/control/store"
	"github.com/mobyfs/mobyfs/internal/pki"
)

func nodeName(i int) string { return fmt.Sprintf("n%05d", i) }

// emptyStore, set to the root of a control plane, makes this program fill its store and end.
const emptyStore = "MOBYFS_BENCH_FILL"

// fill makes the records of nodes and volumes while control does not run. One volume in ten is in use. A process of its own
// does it: what etcd keeps of a million volumes, and the collector that looks through it, would be in the way of callers.
func (c *cluster) fill(nodes, volumes int) {
	c.t.Helper()
	begun := time.Now()
	if out, err := itself(emptyStore, c.root, "-nodes", strconv.Itoa(nodes), "-volumes", strconv.Itoa(volumes)).CombinedOutput(); err != nil {
		c.t.Fatalf("fill the store: %v\n%s", err, out)
	}
	syscall.Sync() // a gigabyte on its way to the disk is not what is measured
	c.t.Logf("%d volumes on %d nodes written in %v", volumes, nodes, time.Since(begun).Round(time.Second))
}

func fillStore(root string, nodes, volumes int) error {
	ctx := context.Background()
	s, err := store.Open(ctx, store.Config{Root: root, Cluster: "bench", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	begun := time.Now()
	err = s.Fill(ctx, func(yield func(mobyfs.Node) bool) {
		for i := range nodes {
			if !yield(mobyfs.Node{Name: nodeName(i), Address: nodeName(i) + ":8080", Version: "v1", JoinedAt: begun, LastSeenAt: begun,
				Capacity: mobyfs.Capacity{TotalBytes: 1 << 40, FreeBytes: 1 << 39}}) {
				return
			}
		}
	}, func(yield func(mobyfs.Volume) bool) {
		for i := range volumes {
			if !yield(someVolume(i, nodes, begun)) {
				return
			}
		}
	})
	if err == nil {
		err = age(ctx, s)
	}
	return errors.Join(err, s.Close())
}

func someVolume(i, nodes int, now time.Time) mobyfs.Volume {
	v := mobyfs.Volume{
		ID: mobyfs.VolumeID(fmt.Sprintf("01k%023d", i)), Name: fmt.Sprintf("vol-%07d", i), State: mobyfs.VolumeReady,
		CreatedAt: now.UTC(), Node: nodeName(i % nodes), Fence: 3, UsedBytes: int64(i) << 10,
		Spec: mobyfs.VolumeSpec{Backend: mobyfs.DefaultBackend, SizeBytes: 1 << 30,
			Labels: map[string]string{"app": fmt.Sprintf("app-%d", i%5000), "tier": "data"}},
	}
	if i%10 == 0 {
		v.Lease = &mobyfs.Lease{Node: v.Node, Fence: 3, Since: now.UTC(), Users: []string{fmt.Sprintf("web-%d", i)}}
	}
	return v
}

// age writes as many small changes as make etcd take a snapshot and forget the log of how the store was filled, which is
// in pieces of half a megabyte. A store that grew up volume by volume has no such log.
func age(ctx context.Context, s *store.Store) error {
	const changes, writers = 12_000, 64
	var writing errgroup.Group
	for range writers {
		writing.Go(func() error {
			for range changes / writers {
				if err := s.Update(ctx, func(tx *store.Tx) error { return tx.Record(mobyfs.Event{Text: "a day goes by"}) }); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return writing.Wait()
}

// benchVolumes: a control plane with a million volumes starts, and answers.
func benchVolumes(t *testing.T) []row {
	c := newCluster(t)
	c.fill(*nodes, *volumes)
	took := c.start()
	u := c.usage()
	rows := []row{
		show(t, row{what: fmt.Sprintf("Restart of control with %d volumes on %d nodes, until it answers", *volumes, *nodes),
			figure: fmt.Sprintf("**%.1f s**, %.1f s of CPU", took.Seconds(), u.cpu.Seconds()), goal: "≤ 30 s", met: took <= 30*time.Second,
			why: "of its CPU a third is the collector, which has as much room as keeps all within 2 GiB, and the rest etcd that reads its file and its index, and the decoding of all records; all go as fast as the cores that are free"}),
		show(t, row{what: "Memory of that process (resident), etcd included",
			figure: fmt.Sprintf("**%s**, %s of them not files", mib(u.rss), mib(u.own)), goal: "≤ 2 GiB", met: u.rss <= 2<<30,
			why: "etcd's file is mapped as a whole, its index has half a gigabyte, and so do the records that control keeps decoded"}),
	}
	return append(rows, benchPages(t, c), benchPlacement(t))
}

// benchPages: one client asks for pages one after the other, of all volumes and of some.
func benchPages(t *testing.T, c *cluster) row {
	operator := c.client(pki.RoleOperator, "ana")
	defer operator.Close()
	var took []time.Duration
	volumesSeen := 0
	for i := range 25 {
		for _, q := range []api.VolumeQuery{
			{}, {State: "in use"}, {Node: nodeName(rand.IntN(*nodes))}, {Labels: []string{fmt.Sprintf("app=app-%d", i)}}, {Labels: []string{"tier=data"}, State: "ready"},
		} {
			for range 8 {
				begun := time.Now()
				page, err := operator.VolumePage(t.Context(), q)
				took = append(took, time.Since(begun))
				if err != nil {
					t.Fatal(err)
				}
				volumesSeen += len(page.Volumes)
				if q.Cursor = page.Next; q.Cursor == "" {
					break
				}
			}
		}
	}
	p99 := quantile(took, .99)
	return show(t, row{what: "A page of the list of volumes (500 at most), of all, of a node, a label or a condition, over the whole way",
		figure: fmt.Sprintf("p50 %v, **p99 %v**; %d pages with %d volumes", round(quantile(took, .5)), round(p99), len(took), volumesSeen),
		goal:   "p99 ≤ 50 ms", met: p99 <= 50*time.Millisecond})
}

// benchPlacement: the choice of a home as control makes it for each volume, here without its way to control.
func benchPlacement(t *testing.T) row {
	field := placement.Crowd(*nodes)
	var took []time.Duration
	for i := range 3000 {
		spec := mobyfs.VolumeSpec{SizeBytes: int64(i) << 20}
		if i%2 == 0 {
			spec.Zone, spec.Apart = fmt.Sprintf("z%d", i%5), fmt.Sprintf("g%d", i%1000)
			spec.NodeLabels, spec.Tolerations = map[string]string{"disk": "ssd"}, []string{"gpu"}
		}
		begun := time.Now()
		if placement.Choose(field, placement.ForNew(spec, placement.DefaultPolicy())) == "" {
			t.Fatal("nothing fits")
		}
		took = append(took, time.Since(begun))
	}
	p99 := quantile(took, .99)
	return show(t, row{what: fmt.Sprintf("The choice of a node among %d, half of them with zone, labels and a group", *nodes),
		figure: fmt.Sprintf("p50 %v, **p99 %v**", round(quantile(took, .5)), round(p99)), goal: "p99 ≤ 1 ms", met: p99 <= time.Millisecond})
}
