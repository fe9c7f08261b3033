package bundle

import (
	"sync"
	"sync/atomic"
	"time"
)

// speed measures how many bytes are done in a second of the time that is spent on them.
type speed struct {
	mu    sync.Mutex
	bytes int64
	spent time.Duration
	now   atomic.Int64
}

// A sample is so long or so large.
const (
	sampleTime  = 100 * time.Millisecond
	sampleBytes = 4 << 20
)

func (s *speed) add(n int, spent time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bytes += int64(n)
	s.spent += spent
	if s.spent < sampleTime && s.bytes < sampleBytes {
		return
	}
	sample := int64(float64(s.bytes) / max(s.spent, time.Microsecond).Seconds())
	if old := s.now.Load(); old > 0 {
		sample = (old + sample) / 2
	}
	s.now.Store(sample)
	s.bytes, s.spent = 0, 0
}

// rate is in bytes a second; 0: too little was measured.
func (s *speed) rate() int64 { return s.now.Load() }

// best is the speed of what others may interrupt: a greater one counts at once, lower ones bring it down bit by bit.
type best struct{ now atomic.Int64 }

func (s *best) add(n int, spent time.Duration) {
	sample := int64(float64(n) / max(spent, time.Microsecond).Seconds())
	if old := s.now.Load(); sample < old {
		sample = old - (old-sample)/16
	}
	s.now.Store(sample)
}

func (s *best) rate() int64 { return s.now.Load() }
