package control

import (
	"maps"
	"sync"
	"time"

	"github.com/mobyfs/mobyfs"
)

// told is what nodes have reported to this process and no record holds, or not as exactly. It is in memory only;
// records that are given out carry it.
type told struct {
	mu       sync.Mutex
	nodes    map[string]heard
	gone     map[string]time.Duration // when this process saw the sessions of silent nodes end, by its own clock
	used     map[mobyfs.VolumeID]int64
	progress map[mobyfs.MigrationID]mobyfs.Progress

	converging  sync.Mutex    // one comparison at a time
	inventories chan struct{} // holds one value when a node has told what it holds
}

// heard is the newest heartbeat of a node.
type heard struct {
	at       time.Time
	capacity mobyfs.Capacity
	volumes  int
}

func newTold() *told {
	return &told{
		nodes: map[string]heard{}, gone: map[string]time.Duration{},
		used: map[mobyfs.VolumeID]int64{}, progress: map[mobyfs.MigrationID]mobyfs.Progress{},
		inventories: make(chan struct{}, 1),
	}
}

// volume is the record with what is told of it. The record itself is not changed.
func (t *told) volume(v mobyfs.Volume) mobyfs.Volume {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.complete(&v)
	return v
}

// latest is volume for one of many: it is the record itself if that tells all.
func (t *told) latest(v *mobyfs.Volume) *mobyfs.Volume {
	t.mu.Lock()
	defer t.mu.Unlock()
	if used, ok := t.used[v.ID]; (!ok || used == v.UsedBytes) && v.Migration == nil {
		return v
	}
	of := *v
	t.complete(&of)
	return &of
}

// complete writes what is told of a volume into a copy of its record.
func (t *told) complete(v *mobyfs.Volume) {
	if used, ok := t.used[v.ID]; ok {
		v.UsedBytes = used
	}
	if v.Migration != nil {
		if p, ok := t.progress[v.Migration.ID]; ok {
			m := *v.Migration
			m.Progress = p
			v.Migration = &m
		}
	}
}

// node is the record with what is told of it.
func (t *told) node(n mobyfs.Node) mobyfs.Node {
	t.mu.Lock()
	defer t.mu.Unlock()
	h, ok := t.nodes[n.Name]
	if ok {
		n.LastSeenAt, n.Capacity, n.Volumes = h.at.UTC(), h.capacity, h.volumes
	}
	_, silent := t.gone[n.Name]
	n.Ready = !silent && n.Epoch > 0
	return n
}

// setThere notes whether a node has a session, and reports whether that is news. at is this process's own clock.
func (t *told) setThere(node string, there bool, at time.Duration) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, silent := t.gone[node]
	if there {
		delete(t.gone, node)
		return silent
	}
	if !silent {
		t.gone[node] = at
	}
	return !silent
}

// lost tells when this process saw the session of a node end, and whether it has none.
func (t *told) lost(node string) (at time.Duration, silent bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	at, silent = t.gone[node]
	return at, silent
}

// hear notes a heartbeat and reports whether watchers should look at the node again.
func (t *told) hear(node string, r mobyfs.Report, now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	was := t.nodes[node]
	t.nodes[node] = heard{at: now, capacity: r.Capacity, volumes: r.Volumes}
	return was.at.IsZero() || was.volumes != r.Volumes || differ(was.capacity.FreeBytes, r.Capacity.FreeBytes) ||
		was.capacity.TotalBytes != r.Capacity.TotalBytes
}

// setUsed notes the space that a volume takes.
func (t *told) setUsed(id mobyfs.VolumeID, bytes int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.used[id] = bytes
}

// progressOf is how far a pull or a copy is, as far as this process was told.
func (t *told) progressOf(id mobyfs.MigrationID) mobyfs.Progress {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.progress[id]
}

// setProgress notes how far a pull or a copy is, and reports whether that is news.
func (t *told) setProgress(id mobyfs.MigrationID, p mobyfs.Progress) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	was := t.progress[id]
	t.progress[id] = p
	return was != p
}

// forget drops what was told of migrations and copies that are not under way any more, and of volumes, of which there are n: that only
// once more are remembered, for there may be a million of them.
func (t *told) forget(there func(mobyfs.VolumeID) bool, n int, arriving map[mobyfs.MigrationID]bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.used) > n {
		maps.DeleteFunc(t.used, func(id mobyfs.VolumeID, _ int64) bool { return !there(id) })
	}
	maps.DeleteFunc(t.progress, func(id mobyfs.MigrationID, _ mobyfs.Progress) bool { return !arriving[id] })
}

// differ reports whether two sizes differ enough, by a sixteenth, to be worth telling everybody.
func differ(a, b int64) bool { return max(a-b, b-a) > max(a, b)/16 }
