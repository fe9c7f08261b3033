package store

import (
	"context"
	"errors"
	"sync"
	"time"
)

// watchAgain is how long to wait before an interrupted watch is taken up again.
const watchAgain = 100 * time.Millisecond

// load reads all records that are kept in memory in place of what the cache knew. It returns a revision up to which
// nothing is missing: what changes while it reads is told by a watch from the next one on.
func (s *Store) load(ctx context.Context) (int64, error) {
	complete := int64(-1)
	for _, t := range tables {
		if !t.kept() {
			continue
		}
		rev, err := s.loadTable(ctx, t)
		if err != nil {
			return 0, err
		}
		if complete < 0 || rev < complete {
			complete = rev
		}
	}
	s.cache.mu.Lock()
	s.cache.ordered()
	s.cache.watched = max(s.cache.watched, complete)
	s.cache.newest = max(s.cache.newest, complete)
	s.cache.mu.Unlock()
	s.tail.reset(complete)
	return complete, nil
}

// loadTable reads one table and returns the revision at which it is what was read.
func (s *Store) loadTable(ctx context.Context, t table) (int64, error) {
	known := s.cache.keys(t)
	place, placed := s.placer(t)
	rev, err := s.engine.read(ctx, t.root(), 0, func(key string, e entry) {
		delete(known, key)
		place(key, e)
	})
	placed()
	if err != nil {
		return 0, err
	}
	var changed []news
	s.cache.mu.Lock()
	for key := range known {
		if n, isNews := s.cache.put(key, nil, rev); isNews { // deleted while nobody watched
			changed = append(changed, n)
		}
		s.cache.forget(key, rev)
	}
	s.cache.mu.Unlock()
	s.boxes.touch(changed...)
	return rev, nil
}

// How records are placed while a table is loaded.
const (
	placers    = 4    // that decode at the same time
	placeBatch = 1000 // records that are placed at once
)

// placer gives a function that takes the records of a table into the cache while the next ones are read, and one that
// waits until all are there.
func (s *Store) placer(t table) (place func(key string, e entry), wait func()) {
	var running sync.WaitGroup
	batches, free := make(chan []change), make(chan []change, placers+1)
	for range placers {
		running.Go(func() {
			var p placing
			for batch := range batches {
				p.place(s, t, batch)
				clear(batch)
				free <- batch[:0]
			}
		})
		free <- make([]change, 0, placeBatch)
	}
	batch := make([]change, 0, placeBatch)
	place = func(key string, e entry) {
		if batch = append(batch, change{key, e.raw, e.rev}); len(batch) == placeBatch {
			batches <- batch
			batch = <-free
		}
	}
	return place, func() {
		batches <- batch
		close(batches)
		running.Wait()
	}
}

// placing is what one placer has need of again and again.
type placing struct {
	facts   []fact
	changed []news
}

func (p *placing) place(s *Store, t table, batch []change) {
	for _, c := range batch {
		if id, ok := t.idOf(c.key); ok {
			p.facts = append(p.facts, factOf(t, id, c.key, c.raw, c.rev))
		}
	}
	s.cache.mu.Lock()
	for _, f := range p.facts {
		if s.cache.isNew(t, f.id, f.key, f.rev) {
			s.cache.newest = max(s.cache.newest, f.rev)
			p.changed = append(p.changed, s.cache.place(f))
		}
	}
	s.cache.mu.Unlock()
	s.boxes.touch(p.changed...)
	clear(p.facts)
	clear(p.changed)
	p.facts, p.changed = p.facts[:0], p.changed[:0]
}

// keys are those of a table of which anything is known.
func (c *cache) keys(t table) map[string]bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	all := map[string]bool{}
	for id := range c.records[t.kind()] {
		all[t.key(id)] = true
	}
	for key := range c.seen {
		if _, ours := t.idOf(key); ours {
			all[key] = true
		}
	}
	return all
}

// follow learns of every change from the revision on, until ctx ends. It is the one watch that this process has,
// however many watchers it serves.
func (s *Store) follow(ctx context.Context, from int64) {
	for ctx.Err() == nil {
		err := s.engine.watch(ctx, root, from, func(changes []change) { from = s.apply(changes) + 1 })
		if errors.Is(err, errCompacted) { // what happened in between is not kept any more
			if rev, err := s.load(ctx); err == nil {
				from = rev + 1
				continue
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(watchAgain):
		}
	}
}

// apply learns changes that the engine tells, in the order of their revisions, and returns the last revision.
func (s *Store) apply(changes []change) int64 {
	last := changes[len(changes)-1].rev
	var changed []news
	var unreadable []Unreadable
	s.cache.mu.Lock()
	for _, c := range changes {
		s.noteCluster(c.key, c.raw, c.rev)
		if n, isNews := s.cache.put(c.key, c.raw, c.rev); isNews {
			changed = append(changed, n)
			if cause, bad := s.cache.unreadable[c.key]; bad {
				unreadable = append(unreadable, Unreadable{Key: c.key, Cause: cause})
			}
		}
		if c.raw == nil {
			s.cache.forget(c.key, c.rev)
		}
	}
	s.cache.watched = max(s.cache.watched, last)
	s.cache.mu.Unlock()
	s.tail.learn(changes, last)
	s.complain(unreadable)
	s.boxes.touch(changed...)
	return last
}

// complain logs records that can't be read.
func (s *Store) complain(all []Unreadable) {
	for _, u := range all {
		s.log.Error("a record can't be read", "key", u.Key, "err", u.Cause)
	}
}
