package store

import (
	"context"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// watchAgain is how long to wait before an interrupted watch is taken up again.
const watchAgain = 100 * time.Millisecond

// load reads all records as they are at one revision, which it returns, in place of what the cache knew.
func (s *Store) load(ctx context.Context) (int64, error) {
	stream, err := s.client.GetStream(ctx, root, clientv3.WithPrefix())
	if err != nil {
		return 0, err
	}
	all, err := clientv3.GetStreamToGetResponse(stream)
	if err != nil {
		return 0, err
	}
	rev := all.Header.Revision
	s.cache.mu.Lock()
	var changed []Ref
	there := make(map[string]bool, len(all.Kvs))
	note := func(key string, raw []byte, at int64) {
		if ref, ok := refOf(key); s.cache.put(key, raw, at) && ok {
			changed = append(changed, ref)
		}
	}
	for _, kv := range all.Kvs {
		there[string(kv.Key)] = true
		note(string(kv.Key), kv.Value, kv.ModRevision)
	}
	for key := range s.cache.seen {
		if !there[key] {
			note(key, nil, rev) // deleted while nobody watched
			s.cache.forget(key, rev)
		}
	}
	s.cache.watched = max(s.cache.watched, rev)
	s.cache.newest = max(s.cache.newest, rev)
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
		next, compacted := s.watchFrom(ctx, from)
		from = next
		if compacted { // what happened in between is not kept any more
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

// watchFrom learns until the watch breaks. It returns where to go on, and whether etcd has dropped that.
func (s *Store) watchFrom(ctx context.Context, from int64) (next int64, compacted bool) {
	watching, stop := context.WithCancel(ctx)
	defer stop()
	for resp := range s.client.Watch(clientv3.WithRequireLeader(watching), root, clientv3.WithPrefix(), clientv3.WithRev(from)) {
		if resp.CompactRevision > 0 {
			return from, true
		}
		if resp.Err() != nil {
			return from, false
		}
		if len(resp.Events) > 0 {
			from = s.apply(resp.Events) + 1
		}
	}
	return from, false
}

// apply learns changes that etcd tells, in the order of their revisions, and returns the last revision.
func (s *Store) apply(events []*clientv3.Event) int64 {
	last := events[len(events)-1].Kv.ModRevision
	var changed []Ref
	var unreadable []Unreadable
	s.cache.mu.Lock()
	for _, e := range events {
		key, raw := string(e.Kv.Key), e.Kv.Value
		if e.Type == clientv3.EventTypeDelete {
			raw = nil
		}
		if ref, ok := refOf(key); s.cache.put(key, raw, e.Kv.ModRevision) && ok {
			changed = append(changed, ref)
			if cause, bad := s.cache.unreadable[key]; bad {
				unreadable = append(unreadable, Unreadable{key, cause})
			}
		}
		if raw == nil {
			s.cache.forget(key, e.Kv.ModRevision)
		}
	}
	s.cache.watched = max(s.cache.watched, last)
	s.cache.mu.Unlock()
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

// forget drops the memory of a key that was deleted at the revision, once the watch has told it: nothing older can
// come any more. A newer record stays.
func (c *cache) forget(key string, rev int64) {
	if c.seen[key] <= rev {
		delete(c.seen, key)
	}
}
