package mobyfs

import (
	"testing"
	"time"
)

func TestNextHeartbeat(t *testing.T) {
	for _, c := range []struct {
		ttl, next, want time.Duration
	}{
		{30 * time.Second, 0, 10 * time.Second}, // a control that says nothing
		{30 * time.Second, 300 * time.Millisecond, 300 * time.Millisecond},
		{30 * time.Second, 10050 * time.Millisecond, 10050 * time.Millisecond},
		{30 * time.Second, time.Hour, 10 * time.Second},
		{30 * time.Second, -time.Second, 10 * time.Second},
		{6 * time.Second, 5 * time.Second, 2 * time.Second}, // two more would not be in time
		{time.Hour, 9 * time.Second, 9 * time.Second},
	} {
		s := Session{TTLMillis: c.ttl.Milliseconds(), NextMillis: c.next.Milliseconds()}
		if got := s.Next(); got != c.want {
			t.Errorf("a session of %v, next in %v: the agent waits %v, want %v", c.ttl, c.next, got, c.want)
		}
	}
}
