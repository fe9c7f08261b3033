package store

import "time"

// Stats is how a store is, in numbers.
type Stats struct {
	Lag        int64 // revisions that the watch is behind the newest change that this process heard of
	Unreadable int   // records that can't be read
	Watchers   int   // mailboxes
	Coalesced  int64 // changes that mailboxes did not deliver, for a newer one of the same record came first

	Compactions  int64         // of the history, by this member beside the hourly ones
	Compressions int64         // of this member's file
	CompressTime time.Duration // that they took in all
	AlarmsEnded  int64         // of etcd, for want of space
}

// Stats counts. It is cheap.
func (s *Store) Stats() Stats {
	s.cache.mu.RLock()
	stats := Stats{Lag: s.cache.newest - s.cache.watched, Unreadable: len(s.cache.unreadable)}
	s.cache.mu.RUnlock()
	stats.Watchers = s.boxes.count()
	stats.Coalesced = s.boxes.coalesced.Load()
	stats.Compactions, stats.Compressions = s.counts.compactions.Load(), s.counts.compressions.Load()
	stats.CompressTime, stats.AlarmsEnded = time.Duration(s.counts.compressed.Load()), s.counts.alarms.Load()
	return stats
}
