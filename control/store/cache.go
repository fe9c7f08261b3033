package store

import (
	"sync"

	"github.com/mobyfs/mobyfs"
)

// cache is what this process knows of all records. It learns from two sides: from etcd's watch, in order and
// complete, and from its own commits, which may come earlier than the watch or later.
type cache struct {
	mu         sync.RWMutex
	volumes    map[mobyfs.VolumeID]mobyfs.Volume
	nodes      map[string]mobyfs.Node
	unreadable map[string]string // key to cause
	seen       map[string]int64  // the revision of what is known of a key; of deleted keys until the watch has told
	watched    int64             // the watch has told everything up to this revision
	newest     int64             // the highest revision heard of
}

func newCache() *cache {
	return &cache{
		volumes: map[mobyfs.VolumeID]mobyfs.Volume{}, nodes: map[string]mobyfs.Node{},
		unreadable: map[string]string{}, seen: map[string]int64{},
	}
}

// put notes the value of a key at a revision, nil if it is deleted, and reports whether that was news.
func (c *cache) put(key string, raw []byte, rev int64) bool {
	if rev <= c.seen[key] {
		return false
	}
	c.seen[key] = rev
	c.newest = max(c.newest, rev)
	ref, ok := refOf(key)
	if !ok {
		return false
	}
	delete(c.volumes, ref.Volume)
	delete(c.nodes, ref.Node)
	delete(c.unreadable, key)
	if raw == nil {
		return true
	}
	var err error
	if ref.Node != "" {
		var n mobyfs.Node
		if n, err = decodeNode(ref.Node, raw); err == nil {
			c.nodes[ref.Node] = n
		}
	} else {
		var v mobyfs.Volume
		if v, err = decodeVolume(ref.Volume, raw, rev); err == nil {
			c.volumes[ref.Volume] = v
		}
	}
	if err != nil {
		c.unreadable[key] = err.Error()
	}
	return true
}

// learn notes what this process has committed. What the watch has passed already it knows better.
func (s *Store) learn(key string, raw []byte, rev int64) {
	s.cache.mu.Lock()
	news := rev > s.cache.watched && s.cache.put(key, raw, rev)
	s.cache.mu.Unlock()
	if ref, ok := refOf(key); ok && news {
		s.boxes.touch(ref)
	}
}

// View is what this process knows of all records at one moment. It is valid inside Store.View only; the records it
// gives out must not be changed.
type View struct{ c *cache }

// View calls fn with what is known now. fn must be quick and must not call the store.
func (s *Store) View(fn func(v View)) {
	s.cache.mu.RLock()
	defer s.cache.mu.RUnlock()
	fn(View{s.cache})
}

// Volume tells of one volume.
func (v View) Volume(id mobyfs.VolumeID) (mobyfs.Volume, bool) {
	x, ok := v.c.volumes[id]
	return x, ok
}

// Volumes yields all volumes in no order.
func (v View) Volumes(yield func(mobyfs.Volume) bool) {
	for _, x := range v.c.volumes {
		if !yield(x) {
			return
		}
	}
}

// Node tells of one node.
func (v View) Node(name string) (mobyfs.Node, bool) {
	x, ok := v.c.nodes[name]
	return x, ok
}

// Nodes yields all nodes in no order.
func (v View) Nodes(yield func(mobyfs.Node) bool) {
	for _, x := range v.c.nodes {
		if !yield(x) {
			return
		}
	}
}

// Revision is that of the newest change that is known.
func (v View) Revision() int64 { return v.c.newest }

// Readable reports whether the record of a volume, if there is one, can be read. A volume whose record can't be
// read exists all the same: nobody may take it for removed.
func (v View) Readable(id mobyfs.VolumeID) bool {
	_, bad := v.c.unreadable[volumeKey(id)]
	return !bad
}

// Unreadable is a record that can't be read.
type Unreadable struct {
	Key   string
	Cause string
}

// Unreadable tells the records that can't be read, in no order.
func (s *Store) Unreadable() []Unreadable {
	s.cache.mu.RLock()
	defer s.cache.mu.RUnlock()
	all := make([]Unreadable, 0, len(s.cache.unreadable))
	for key, cause := range s.cache.unreadable {
		all = append(all, Unreadable{key, cause})
	}
	return all
}
