package agent

import "sync"

// saver writes a state to disk. Callers that come while a write is under way share the next one.
type saver struct {
	state func() (data any, version uint64) // a copy, and a number that grows with each change
	write func(data any) error

	mu      sync.Mutex // held while writing
	written uint64
}

// upTo returns once the state is on disk at the version or a later one.
func (s *saver) upTo(version uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.written >= version {
		return nil
	}
	data, version := s.state()
	if err := s.write(data); err != nil {
		return err
	}
	s.written = version
	return nil
}
