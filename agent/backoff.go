package agent

import (
	"math/rand/v2"
	"time"
)

// backoff says when to try again what failed: after first, then twice as long each time up to most, give or take
// a quarter, so that nodes don't come back all at once.
type backoff struct {
	first, most time.Duration
	tries       int
	next        time.Time // zero: now
}

// fail notes that a try failed and returns how long to wait.
func (b *backoff) fail(now time.Time) time.Duration {
	wait := b.most
	if b.tries < 20 {
		wait = min(b.first<<b.tries, b.most)
	}
	b.tries++
	wait = wait*3/4 + rand.N(wait/2+1)
	b.next = now.Add(wait)
	return wait
}

func (b *backoff) reset() { b.tries, b.next = 0, time.Time{} }
