//go:build bench

package scale

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/control/store"
)

func nodeName(i int) string { return fmt.Sprintf("n%05d", i) }

// fill makes the records of nodes and volumes while control does not run. One volume in ten is in use.
func (c *cluster) fill(nodes, volumes int) {
	c.t.Helper()
	ctx := context.Background()
	s, err := store.Open(ctx, store.Config{Root: c.root, Cluster: "bench", Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		c.t.Fatal(err)
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
	if err := s.Close(); err != nil {
		c.t.Fatal(err)
	}
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Logf("%d volumes on %d nodes written in %v", volumes, nodes, time.Since(begun).Round(time.Second))
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

// benchVolumes: a control plane with a million volumes starts, and answers.
func benchVolumes(t *testing.T) []row {
	c := newCluster(t)
	c.fill(*nodes, *volumes)
	took := c.start()
	u := c.usage()
	rows := []row{
		show(t, row{what: fmt.Sprintf("Restart of control with %d volumes on %d nodes, until it answers", *volumes, *nodes),
			figure: fmt.Sprintf("**%.1f s**", took.Seconds()), goal: "≤ 30 s", met: took <= 30*time.Second}),
		show(t, row{what: "Memory of that process (resident), etcd included",
			figure: fmt.Sprintf("**%s**, %s of them not files", mib(u.rss), mib(u.own)), goal: "≤ 2 GiB", met: u.rss <= 2<<30}),
	}
	return rows
}
