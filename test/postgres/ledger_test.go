package postgres

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// patience is how long the client waits for an answer before it connects anew. It is the least that a pause can look like
// to a client whose connection went down with the old container without a word.
const patience = 250 * time.Millisecond

// ledger writes one numbered row after the other and keeps, outside of the database, which of them were acknowledged.
type ledger struct {
	url string // of all hosts on which the database may be

	mu      sync.Mutex
	acked   []int64
	unknown []int64 // asked for, and neither acknowledged nor refused
	last    time.Time
	longest time.Duration // between two that were acknowledged, since it was last taken
	why     error         // the last connection ended
}

// write goes on until ctx ends.
func (l *ledger) write(ctx context.Context) {
	for next := int64(1); ctx.Err() == nil; {
		next = l.session(ctx, next)
		select {
		case <-ctx.Done():
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// session writes over one connection until it fails, and returns the next number.
func (l *ledger) session(ctx context.Context, next int64) int64 {
	dial, cancel := context.WithTimeout(ctx, 4*patience) // a server that has just begun is slow
	defer cancel()
	c, err := pgx.Connect(dial, l.url)
	if err != nil {
		return next
	}
	defer func() { _ = c.Close(context.WithoutCancel(dial)) }()
	for ; ctx.Err() == nil; next++ {
		if err := l.row(ctx, c, next); err != nil {
			l.mu.Lock()
			l.unknown, l.why = append(l.unknown, next), err
			l.mu.Unlock()
			return next + 1
		}
		l.mu.Lock()
		now := time.Now()
		if !l.last.IsZero() {
			l.longest = max(l.longest, now.Sub(l.last))
		}
		l.acked, l.last = append(l.acked, next), now
		l.mu.Unlock()
	}
	return next
}

func (l *ledger) row(ctx context.Context, c *pgx.Conn, n int64) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	_, err := c.Exec(ctx, "INSERT INTO ledger (n, at) VALUES ($1, now())", n)
	return err
}

// count is how many were acknowledged.
func (l *ledger) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.acked)
}

// gap returns the longest time without an acknowledgement since it was last asked for.
func (l *ledger) gap() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	longest := l.longest
	l.longest = 0
	return longest
}

// compare tells which acknowledged rows the database lacks, and which it has that nobody asked for.
func (l *ledger) compare(has []int64) (lost, foreign []int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	there := map[int64]bool{}
	for _, n := range has {
		there[n] = true
	}
	for _, n := range l.acked {
		if !there[n] {
			lost = append(lost, n)
		}
		delete(there, n)
	}
	for _, n := range l.unknown {
		delete(there, n)
	}
	for n := range there {
		foreign = append(foreign, n)
	}
	slices.Sort(foreign)
	return lost, foreign
}
