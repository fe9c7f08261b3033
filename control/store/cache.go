package store

import (
	"slices"
	"sync"
	"time"

	"github.com/mobyfs/mobyfs"
)

// cache is what this process knows of all records. It learns from two sides: from the engine's watch, in order and
// complete, and from its own commits, which may come earlier than the watch or later.
type cache struct {
	mu         sync.RWMutex
	records    map[Kind]map[string]known // by ID
	index      *index                    // of the volumes among them; nil until all are loaded for the first time
	loading    labelSets                 // what they have in common until then; it is the index's from then on
	unreadable map[string]string         // key to cause
	suspect    chan struct{}             // holds one value when unreadable may have changed
	seen       map[string]int64          // of keys without a record that can be read: the revision; of deleted ones until the watch has told
	watched    int64                     // the watch has told everything up to this revision
	newest     int64                     // the highest revision heard of
}

// known is a record as it was written last.
type known struct {
	record any // a pointer to what is never written to
	rev    int64
	whole  bool // it is all that was written: there are no members that this program does not know
}

func newCache() *cache {
	c := &cache{records: map[Kind]map[string]known{}, loading: labelSets{}, unreadable: map[string]string{}, seen: map[string]int64{}, suspect: make(chan struct{}, 1)}
	for _, t := range tables {
		c.records[t.kind()] = map[string]known{}
	}
	return c
}

// news is of a record that subscribers are told of.
type news struct {
	ref     Ref
	was, is *mobyfs.Volume // if it is one
}

// fact is what is at a key at a revision.
type fact struct {
	key    string
	table  table
	id     string
	rev    int64
	record any   // nil if it is deleted
	whole  bool  // see known
	err    error // why the record can't be read
}

// factOf reads what an engine tells of a key, nil if it is deleted.
func factOf(t table, id, key string, raw []byte, rev int64) fact {
	f := fact{key: key, table: t, id: id, rev: rev}
	if raw != nil {
		f.record, f.err = t.decodeAny(id, raw, rev)
	}
	return f
}

// put notes the value of a key at a revision, nil if it is deleted. It reports whether that was news.
func (c *cache) put(key string, raw []byte, rev int64) (news, bool) {
	c.newest = max(c.newest, rev)
	t, id, ok := tableOf(key)
	if !ok || !t.kept() || !c.isNew(t, id, key, rev) {
		return news{}, false
	}
	return c.place(factOf(t, id, key, raw, rev)), true
}

// learn is put of what this process has written itself, which it need not read again.
func (c *cache) learn(key string, w write, rev int64) (news, bool) {
	v := w.volume
	if v == nil {
		return c.put(key, w.raw, rev)
	}
	id := string(v.ID)
	c.newest = max(c.newest, rev)
	if !c.isNew(Volumes, id, key, rev) {
		return news{}, false
	}
	f := fact{key: key, table: Volumes, id: id, rev: rev, record: v, whole: w.whole}
	f.err = checkVolume(id, v, rev)
	return c.place(f), true
}

// volumeAt is the record of a volume as it was written at a revision, nil if another one is known. It is not to be
// written to.
func (s *Store) volumeAt(id mobyfs.VolumeID, rev int64) (v *mobyfs.Volume, whole bool) {
	s.cache.mu.RLock()
	defer s.cache.mu.RUnlock()
	k := s.cache.records[KindVolume][string(id)]
	if k.record == nil || k.rev != rev {
		return nil, false
	}
	return k.record.(*mobyfs.Volume), k.whole
}

// isNew reports whether nothing as new is known of a key.
func (c *cache) isNew(t table, id, key string, rev int64) bool {
	if k, ok := c.records[t.kind()][id]; ok {
		return rev > k.rev
	}
	return rev > c.seen[key]
}

// place puts a fact that isNew in place of what was known.
func (c *cache) place(f fact) news {
	kind := f.table.kind()
	n := news{ref: Ref{kind, f.id}}
	if old, ok := c.records[kind][f.id].record.(*mobyfs.Volume); ok {
		if c.index != nil {
			c.index.remove(old)
		} else {
			c.loading.drop(old.Spec.Labels)
		}
		n.was = old
	}
	if _, bad := c.unreadable[f.key]; bad {
		delete(c.unreadable, f.key)
		c.suspects()
	}
	if f.record == nil || f.err != nil {
		delete(c.records[kind], f.id)
		c.located(kind, f.id)
		c.seen[f.key] = f.rev
		if f.err != nil {
			c.unreadable[f.key] = f.err.Error()
			c.suspects()
		}
		return n
	}
	delete(c.seen, f.key)
	c.records[kind][f.id] = known{f.record, f.rev, f.whole}
	if v, ok := f.record.(*mobyfs.Volume); ok {
		if c.index != nil {
			c.index.add(v)
		} else {
			v.Spec.Labels = c.loading.share(v.Spec.Labels) // a million maps would be in the way until there is an index
		}
		n.is = v
	}
	c.located(kind, f.id)
	return n
}

// located tells the index of a node of which the record or the session has changed.
func (c *cache) located(kind Kind, node string) {
	if c.index == nil || kind != KindNode && kind != KindSession {
		return
	}
	_, session := c.records[KindSession][node]
	if n, ok := c.records[KindNode][node].record.(*mobyfs.Node); ok {
		c.index.setNode(*n, session)
	} else {
		c.index.field.Remove(node)
	}
}

// ordered makes the index of what is there, unless there is one.
func (c *cache) ordered() {
	if c.index != nil {
		return
	}
	all := make([]*mobyfs.Volume, 0, len(c.records[KindVolume]))
	for _, k := range c.records[KindVolume] {
		all = append(all, k.record.(*mobyfs.Volume))
	}
	c.index = indexOf(all, c.loading)
	c.loading = nil
	for name := range c.records[KindNode] {
		c.located(KindNode, name)
	}
}

// nodes yields the nodes that the record concerns or concerned, each once.
func (n news) nodes(yield func(string) bool) {
	var told [4]string
	known := told[:0]
	for _, v := range []*mobyfs.Volume{n.was, n.is} {
		if v == nil {
			continue
		}
		concerned := [2]string{v.Node, v.Node}
		if v.Migration != nil {
			concerned[1] = v.Migration.To
		}
		for _, node := range concerned {
			if slices.Contains(known, node) {
				continue
			}
			if known = append(known, node); !yield(node) {
				return
			}
		}
	}
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
	var changed []news
	s.cache.mu.Lock()
	if rev > s.cache.watched {
		for key, w := range writes {
			s.noteCluster(key, w.raw, rev)
			if n, isNews := s.cache.learn(key, w, rev); isNews {
				changed = append(changed, n)
			}
		}
	}
	s.cache.mu.Unlock()
	s.boxes.touch(changed...)
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
		if q, ok := s.cache.records[KindUnreadable][noteID(key)].record.(*Quarantined); ok {
			u.Since = q.Since
		}
		all = append(all, u)
	}
	return all
}
