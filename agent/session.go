package agent

import (
	"sync"
	"time"

	"github.com/mobyfs/mobyfs"
)

// session is how long this node may count on what control gave it. It is counted on a clock that nobody can set, from
// before the heartbeat was sent that control answered, and a fifth is spared for clocks that run at different speeds.
type session struct {
	mu       sync.Mutex
	deadline time.Duration // on Config.Clock; 0 before the first answer
	told     mobyfs.Session
}

// answered takes over that control answered a heartbeat that was sent at a time.
func (s *session) answered(sent time.Duration, told mobyfs.Session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deadline = max(s.deadline, sent+told.TTL()*4/5)
	s.told = told
}

// until is the deadline.
func (s *session) until() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.deadline
}

// heartbeat is how often control wants to hear from this node.
func (s *session) heartbeat() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.told.Heartbeat()
}

// sessionOver reports whether another node may soon be given what this one has.
func (a *Agent) sessionOver() bool { return a.Clock() >= a.session.until() }
