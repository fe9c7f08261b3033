package agent

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/durable"
)

// catalogue is what this node knows of all volumes of the cluster. It is kept on disk, so that Docker can be told of
// its volumes when control can't be reached, also after a restart. A record is only ever replaced by a newer one.
type catalogue struct {
	mu      sync.Mutex
	volumes map[mobyfs.VolumeID]mobyfs.Volume
	names   map[string]mobyfs.VolumeID       // of volumes that are not being removed
	told    map[mobyfs.VolumeID]bool         // records that control told in this life of the agent
	gone    map[mobyfs.VolumeID]mobyfs.Fence // records deleted since the last full state, in case an old answer is late
	onDisk  map[mobyfs.VolumeID]bool         // volumes whose records survive a crash, if not their newest
	fresh   bool                             // the watch is up: what is not here does not exist, give or take a moment, unless it is unknown
	partial bool                             // control tells what concerns this node: what is not here is unknown, unless it is in gone
	since   time.Time                        // when fresh became false
	version uint64
	saver   saver
	changed chan struct{} // closed and replaced at each change
}

// catalogueName is the file that the catalogue is kept in.
const catalogueName = "catalogue.json"

// catalogueFile is what stands in it.
type catalogueFile struct {
	Volumes []mobyfs.Volume `json:"volumes"`
}

func openCatalogue(path string, log *slog.Logger) *catalogue {
	c := &catalogue{changed: make(chan struct{}), onDisk: map[mobyfs.VolumeID]bool{}, since: time.Now()}
	c.clear()
	c.saver.state = c.copy
	c.saver.write = func(data any) error {
		err := durable.WriteJSON("agent.catalogue", path, data, 0o600)
		if err == nil {
			c.wrote(data.(catalogueFile))
		}
		return err
	}
	var f catalogueFile
	if err := durable.ReadJSON(path, &f); err != nil && !errors.Is(err, fs.ErrNotExist) {
		log.Warn("the catalogue can't be read; control will tell it again", "err", err)
		f = catalogueFile{}
	}
	for _, v := range f.Volumes {
		c.put(v)
	}
	c.wrote(f)
	return c
}

func (c *catalogue) wrote(f catalogueFile) {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.onDisk)
	for _, v := range f.Volumes {
		c.onDisk[v.ID] = true
	}
}

func (c *catalogue) clear() {
	c.volumes = map[mobyfs.VolumeID]mobyfs.Volume{}
	c.names = map[string]mobyfs.VolumeID{}
	c.told = map[mobyfs.VolumeID]bool{}
	c.gone = map[mobyfs.VolumeID]mobyfs.Fence{}
}

func (c *catalogue) put(v mobyfs.Volume) {
	c.volumes[v.ID] = v
	if v.State != mobyfs.VolumeRemoving {
		c.names[v.Name] = v.ID
	} else if c.names[v.Name] == v.ID {
		delete(c.names, v.Name)
	}
}

func (c *catalogue) drop(id mobyfs.VolumeID) {
	last := c.volumes[id].Fence
	if name := c.volumes[id].Name; c.names[name] == id {
		delete(c.names, name)
	}
	delete(c.volumes, id)
	delete(c.told, id)
	c.gone[id] = max(c.gone[id], last)
}

// mayCome refuses records from before a volume was removed. One that was brought back since says so.
func (c *catalogue) mayCome(v mobyfs.Volume) bool {
	last, gone := c.gone[v.ID]
	return !gone || v.Undeletion != nil && v.Fence > last
}

// touched notes a change, under mu.
func (c *catalogue) touched() {
	c.version++
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *catalogue) copy() (any, uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f := catalogueFile{Volumes: make([]mobyfs.Volume, 0, len(c.volumes))}
	for _, v := range c.volumes {
		f.Volumes = append(f.Volumes, v)
	}
	slices.SortFunc(f.Volumes, func(a, b mobyfs.Volume) int { return strings.Compare(string(a.ID), string(b.ID)) })
	return f, c.version
}

// learn takes over one record that control told, unless a newer one is known. It reports whether that was news.
func (c *catalogue) learn(v mobyfs.Volume) (news bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	known, here := c.volumes[v.ID]
	if !c.mayCome(v) || here && v.Revision < known.Revision {
		return false
	}
	news = !here || v.Revision > known.Revision || !c.told[v.ID]
	c.told[v.ID] = true
	c.put(v)
	c.touched()
	return news
}

// replace takes over the state of the cluster at a revision and lists what is gone by it. Records that were learnt from
// answers given later stay. If the state is partial nothing is gone, and of the records that it does not contain those
// stay that keep names.
func (c *catalogue) replace(s *mobyfs.Snapshot, revision int64, keep func(mobyfs.VolumeID) bool) (gone []mobyfs.VolumeID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	before, told := c.volumes, c.told
	c.clear()
	for _, v := range s.Volumes {
		if old, here := before[v.ID]; here && told[v.ID] && old.Revision > v.Revision {
			v = old
		}
		c.put(v)
		c.told[v.ID] = true
	}
	for id, old := range before {
		if _, still := c.volumes[id]; still {
			continue
		}
		switch {
		case told[id] && old.Revision > revision:
			c.put(old)
			c.told[id] = true
		case !s.Partial:
			gone = append(gone, id)
		case keep(id):
			c.put(old)
		}
	}
	c.fresh, c.partial = true, s.Partial
	c.touched()
	return gone
}

func (c *catalogue) isPartial() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.partial
}

// isUnknown reports whether a volume may exist although there is no record of it here.
func (c *catalogue) isUnknown(id mobyfs.VolumeID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, here := c.volumes[id]
	_, gone := c.gone[id]
	return c.partial && !here && !gone
}

// remove forgets a volume whose record is deleted.
func (c *catalogue) remove(id mobyfs.VolumeID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drop(id)
	c.touched()
}

// leaving notes that control has agreed to remove a volume, before its new record arrives. Nothing is removed before that is
// there: under its fence the volume is found in the trash again.
func (c *catalogue) leaving(id mobyfs.VolumeID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if v, here := c.volumes[id]; here {
		v.State = mobyfs.VolumeRemoving
		c.put(v)
		c.told[id] = false
		c.touched()
	}
}

// stale notes that the watch is down.
func (c *catalogue) stale() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fresh {
		c.fresh, c.since = false, time.Now()
	}
}

// age tells whether the watch is up, and else for how long it has not been.
func (c *catalogue) age(now time.Time) (fresh bool, age time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fresh {
		return true, 0
	}
	return false, now.Sub(c.since)
}

func (c *catalogue) isFresh() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.fresh
}

// named finds the volume that has a name.
func (c *catalogue) named(name string) (mobyfs.Volume, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	v, ok := c.volumes[c.names[name]]
	return v, ok
}

// record returns what is known of a volume, and whether control told it in this life of the agent.
func (c *catalogue) record(id mobyfs.VolumeID) (v *mobyfs.Volume, told bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	found, ok := c.volumes[id]
	if !ok {
		return nil, false
	}
	return &found, c.told[id]
}

func (c *catalogue) all() []mobyfs.Volume {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Collect(maps.Values(c.volumes))
}

// wait returns once ok is true of the record of a volume (nil: there is none), or ctx ends.
func (c *catalogue) wait(ctx context.Context, id mobyfs.VolumeID, ok func(*mobyfs.Volume) bool) error {
	for {
		c.mu.Lock()
		changed := c.changed
		c.mu.Unlock()
		if v, _ := c.record(id); ok(v) {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// save returns once all that is known is on disk.
func (c *catalogue) save() error {
	c.mu.Lock()
	version := c.version
	c.mu.Unlock()
	return c.saver.upTo(version)
}

// ensure returns once a volume will be known after a crash. What Docker was told once it has to be told again, also
// when control is away: Docker forgets what we don't know.
func (c *catalogue) ensure(id mobyfs.VolumeID) error {
	c.mu.Lock()
	safe := c.onDisk[id]
	c.mu.Unlock()
	if safe {
		return nil
	}
	return c.save()
}

// keep saves what the watch tells until ctx ends, at most once a second and with a twentieth of the time. A
// catalogue on disk that is a moment old is no worse than a watch that is.
func (c *catalogue) keep(ctx context.Context, log *slog.Logger) {
	pause, broken := time.Second, false
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		start := time.Now()
		err := c.save()
		if err != nil && !broken {
			log.Warn("save the catalogue", "err", err)
		}
		broken = err != nil
		pause = max(time.Second, 20*time.Since(start))
	}
}
