package store

import (
	"sync"
	"time"

	"github.com/mobyfs/mobyfs"
)

// cache is what this process knows of all records. It learns from two sides: from the engine's watch, in order and
// complete, and from its own commits, which may come earlier than the watch or later.
type cache struct {
	mu         sync.RWMutex
	records    map[Kind]map[string]any // by ID; each a pointer that is never written to
	unreadable map[string]string       // key to cause
	suspect    chan struct{}           // holds one value when unreadable may have changed
	seen       map[string]int64        // the revision of what is known of a key; of deleted keys until the watch has told
	watched    int64                   // the watch has told everything up to this revision
	newest     int64                   // the highest revision heard of
}

func newCache() *cache {
	c := &cache{records: map[Kind]map[string]any{}, unreadable: map[string]string{}, seen: map[string]int64{}, suspect: make(chan struct{}, 1)}
	for _, t := range tables {
		c.records[t.kind()] = map[string]any{}
	}
	return c
}

// put notes the value of a key at a revision, nil if it is deleted. It tells which record that is, and whether it was
// news of one that subscribers are told of.
func (c *cache) put(key string, raw []byte, rev int64) (Ref, bool) {
	c.newest = max(c.newest, rev)
	t, id, ok := tableOf(key)
	if !ok || !t.kept() || rev <= c.seen[key] {
		return Ref{}, false
	}
	c.seen[key] = rev
	delete(c.records[t.kind()], id)
	if _, bad := c.unreadable[key]; bad {
		delete(c.unreadable, key)
		c.suspects()
	}
	ref := Ref{t.kind(), id}
	if raw == nil {
		return ref, true
	}
	v, err := t.decodeAny(id, raw, rev)
	if err != nil {
		c.unreadable[key] = err.Error()
		c.suspects()
	} else {
		c.records[t.kind()][id] = v
	}
	return ref, true
}

// suspects asks for a look at what can't be read.
func (c *cache) suspects() {
	select {
	case c.suspect <- struct{}{}:
	default:
	}
}

// forget drops the memory of a key that was deleted at the revision, once the watch has told it: nothing older can
// come any more. A newer record stays.
func (c *cache) forget(key string, rev int64) {
	if c.seen[key] <= rev {
		delete(c.seen, key)
	}
}

// learn notes what this process has committed, all at once. What the watch has passed already it knows better.
func (s *Store) learn(writes map[string]write, rev int64) {
	var changed []Ref
	s.cache.mu.Lock()
	if rev > s.cache.watched {
		for key, w := range writes {
			if ref, news := s.cache.put(key, w.raw, rev); news {
				changed = append(changed, ref)
			}
		}
	}
	s.cache.mu.Unlock()
	for _, ref := range changed {
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
func (v View) Volume(id mobyfs.VolumeID) (mobyfs.Volume, bool) { return Volumes.In(v, string(id)) }

// Volumes yields all volumes in no order.
func (v View) Volumes(yield func(mobyfs.Volume) bool) {
	Volumes.All(v)(func(_ string, x mobyfs.Volume) bool { return yield(x) })
}

// Node tells of one node.
func (v View) Node(name string) (mobyfs.Node, bool) { return Nodes.In(v, name) }

// Nodes yields all nodes in no order.
func (v View) Nodes(yield func(mobyfs.Node) bool) {
	Nodes.All(v)(func(_ string, x mobyfs.Node) bool { return yield(x) })
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
	Key      string
	Cause    string
	Revision int64     // at which it was written
	Since    time.Time // when it was first found so; zero until that is noted
}

// Unreadable tells the records that can't be read, in no order.
func (s *Store) Unreadable() []Unreadable {
	s.cache.mu.RLock()
	defer s.cache.mu.RUnlock()
	all := make([]Unreadable, 0, len(s.cache.unreadable))
	for key, cause := range s.cache.unreadable {
		u := Unreadable{Key: key, Cause: cause, Revision: s.cache.seen[key]}
		if q, ok := s.cache.records[KindUnreadable][noteID(key)].(*Quarantined); ok {
			u.Since = q.Since
		}
		all = append(all, u)
	}
	return all
}
