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
	rival    error // another agent speaks for this node; nil while this one is heard
}

// answered takes over that control answered a heartbeat that was sent at a time.
func (s *session) answered(sent time.Duration, told mobyfs.Session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.deadline = max(s.deadline, sent+told.TTL()*4/5)
	s.told, s.rival = told, nil
}

// replaced takes over that control refused a heartbeat for good, as long as the other agent has its session. It reports
// whether that is news.
func (s *session) replaced(why error) (news bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	news = s.rival == nil
	s.rival = why
	return news
}

// mayAct is an error while another agent speaks for this node. What this one would ask of control, it would be answered
// in place of the other: to release a lease would take it from containers there, to claim one would share it with them.
// So nothing is begun, what runs goes on, and volumes that may be taken over are fenced.
func (a *Agent) mayAct() error {
	a.session.mu.Lock()
	defer a.session.mu.Unlock()
	if a.session.rival == nil {
		return nil
	}
	return mobyfs.Errorf(mobyfs.CodeStaleFence, "%s does nothing: %w", a.Node, a.session.rival).WithHint("%s", mobyfs.HintOf(a.session.rival))
}

// stepBack ends writing to all volumes that are guarded: they are the other agent's now.
func (a *Agent) stepBack(why error) {
	if !a.session.replaced(why) {
		return
	}
	a.Log.Error("another agent speaks for this node; this one begins nothing", "err", why, "hint", mobyfs.HintOf(why))
	a.guard.mu.Lock()
	for id := range a.guard.wanted {
		a.guard.lost[id] = true
	}
	for _, id := range a.guard.guarded {
		a.guard.lost[id] = true
	}
	a.guard.mu.Unlock()
	a.goDo(func() { a.beat(a.work) })
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

// next is how long after a heartbeat that was answered the next one is sent.
func (s *session) next() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.told.Next()
}

// sessionOver reports whether another node may soon be given what this one has.
func (a *Agent) sessionOver() bool { return a.Clock() >= a.session.until() }
