package store

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// Memory keeps records in memory, with the promises that etcd gives: transactions that compare revisions, watches in
// order and complete, leases that end. It is for simulations and fast tests; several stores opened on one Memory are
// what several control processes are on one etcd. Nothing outlives it.
type Memory struct {
	mu      sync.Mutex
	rev     int64
	records map[string]entry
	leases  map[Lease]*memoryLease
	leased  map[string]Lease
	history []change
	last    map[string][]change // of each key
	grown   chan struct{}       // closed and replaced when history grows
	lease   Lease               // that was granted last
}

type memoryLease struct {
	ttl   time.Duration
	timer *time.Timer
}

// NewMemory makes one that is empty.
func NewMemory() *Memory {
	return &Memory{
		records: map[string]entry{}, leases: map[Lease]*memoryLease{}, leased: map[string]Lease{}, last: map[string][]change{}, grown: make(chan struct{}),
	}
}

func (m *Memory) get(ctx context.Context, key string) (entry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.records[key], ctx.Err()
}

// behind is of how many of a key's last changes a member may not have heard that tells of it.
const behind = 3

func (m *Memory) peek(key string) (entry, bool) { return m.tell(key, m.revision()), true }

// tell tells of a key as a member of the store does that is behind: now and then it does not know the last changes of
// others, but all up to the revision that it has heard of. How many those are goes by the time, so that a simulation can be
// repeated.
func (m *Memory) tell(key string, heard int64) entry {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := m.last[key]
	for missed := time.Now().UnixNano() % behind; missed > 0 && len(all) > 0 && all[len(all)-1].rev > heard; missed-- {
		all = all[:len(all)-1]
	}
	if len(all) == 0 || all[len(all)-1].raw == nil {
		return entry{}
	}
	return entry{all[len(all)-1].raw, all[len(all)-1].rev}
}

// revision is that of the last change.
func (m *Memory) revision() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.rev
}

func (m *Memory) read(ctx context.Context, prefix string, since int64, each func(key string, e entry)) (int64, error) {
	m.mu.Lock()
	all, rev := maps.Clone(m.records), m.rev
	m.mu.Unlock()
	for _, key := range slices.Sorted(maps.Keys(all)) {
		if strings.HasPrefix(key, prefix) && all[key].rev >= since {
			each(key, all[key])
		}
	}
	return rev, ctx.Err()
}

func (m *Memory) commit(ctx context.Context, reads map[string]int64, writes map[string]write) (int64, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return 0, false, err
	}
	for key, rev := range reads {
		if m.records[key].rev != rev {
			return m.rev, false, nil
		}
	}
	for _, w := range writes {
		if w.lease != 0 && m.leases[w.lease] == nil {
			return 0, false, ErrNoLease
		}
	}
	m.write(writes)
	return m.rev, true, nil
}

// write makes the changes of one transaction, in the order of their keys. m.mu is held.
func (m *Memory) write(writes map[string]write) {
	if len(writes) == 0 {
		return
	}
	m.rev++
	for _, key := range slices.Sorted(maps.Keys(writes)) {
		w := writes[key]
		delete(m.leased, key)
		switch {
		case w.raw == nil && m.records[key].rev == 0:
			continue
		case w.raw == nil:
			delete(m.records, key)
		default:
			m.records[key] = entry{w.raw, m.rev}
			if w.lease != 0 {
				m.leased[key] = w.lease
			}
		}
		m.history = append(m.history, change{key, w.raw, m.rev})
		m.last[key] = append(m.last[key][max(0, len(m.last[key])-behind+1):], change{key, w.raw, m.rev})
	}
	close(m.grown)
	m.grown = make(chan struct{})
}

func (m *Memory) watch(ctx context.Context, prefix string, from int64, each func(changes []change)) error {
	for {
		m.mu.Lock()
		at, _ := slices.BinarySearchFunc(m.history, from, func(c change, rev int64) int { return cmp.Compare(c.rev, rev) })
		var changes []change
		for _, c := range m.history[at:] {
			if strings.HasPrefix(c.key, prefix) {
				changes = append(changes, c)
			}
		}
		from = m.rev + 1
		grown := m.grown
		m.mu.Unlock()
		if len(changes) > 0 {
			each(changes)
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (m *Memory) grant(ctx context.Context, ttl time.Duration) (Lease, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lease++
	id := m.lease
	m.leases[id] = &memoryLease{ttl: ttl, timer: time.AfterFunc(ttl, func() { m.end(id) })}
	return id, ctx.Err()
}

func (m *Memory) renew(ctx context.Context, l Lease) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	lease := m.leases[l]
	if lease == nil {
		return ErrNoLease
	}
	lease.timer.Reset(lease.ttl)
	return ctx.Err()
}

func (m *Memory) revoke(ctx context.Context, l Lease) error {
	m.end(l)
	return ctx.Err()
}

// end takes away a lease and all that was written with it.
func (m *Memory) end(l Lease) {
	m.mu.Lock()
	defer m.mu.Unlock()
	lease := m.leases[l]
	if lease == nil {
		return
	}
	lease.timer.Stop()
	delete(m.leases, l)
	gone := map[string]write{}
	for key, of := range m.leased {
		if of == l {
			gone[key] = write{}
		}
	}
	m.write(gone)
}
