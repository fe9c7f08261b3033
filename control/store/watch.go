package store

import (
	"context"
	"errors"
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
	s.cache.watched = max(s.cache.watched, complete)
	s.cache.newest = max(s.cache.newest, complete)
	s.cache.mu.Unlock()
	s.tail.reset(complete)
	return complete, nil
}

// loadTable reads one table and returns the revision at which it is what was read.
func (s *Store) loadTable(ctx context.Context, t table) (int64, error) {
	all := map[string]entry{}
	rev, err := s.engine.read(ctx, t.root(), 0, func(key string, e entry) { all[key] = e })
	if err != nil {
		return 0, err
	}
	var changed []Ref
	s.cache.mu.Lock()
	for key, e := range all {
		if ref, news := s.cache.put(key, e.raw, e.rev); news {
			changed = append(changed, ref)
		}
	}
	for key := range s.cache.seen {
		if _, ours := t.idOf(key); !ours || all[key].rev > 0 {
			continue
		}
		if ref, news := s.cache.put(key, nil, rev); news { // deleted while nobody watched
			changed = append(changed, ref)
		}
		s.cache.forget(key, rev)
	}
	s.cache.mu.Unlock()
	for _, ref := range changed {
		s.boxes.touch(ref)
	}
	return rev, nil
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
	var changed []Ref
	var unreadable []Unreadable
	s.cache.mu.Lock()
	for _, c := range changes {
		if ref, news := s.cache.put(c.key, c.raw, c.rev); news {
			changed = append(changed, ref)
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
	for _, ref := range changed {
		s.boxes.touch(ref)
	}
	return last
}

// complain logs records that can't be read.
func (s *Store) complain(all []Unreadable) {
	for _, u := range all {
		s.log.Error("a record can't be read", "key", u.Key, "err", u.Cause)
	}
}
