package link

import "sync/atomic"

// Streamer is an http.ResponseWriter whose answer can go on after its handler has returned, without a goroutine that waits.
type Streamer interface {
	// Stream makes the answer one that goes on, once Start was called. Before, it may be answered as any other.
	Stream() *Stream
}

// Stream is an answer that goes on for as long as there is something to tell.
type Stream struct {
	x     *exchange
	state atomic.Int32
	next  func() ([]byte, error)
	end   func()
	part  []byte // that has not been sent yet
	over  bool
	pumps func()
}

// What a stream is doing.
const (
	streamRests int32 = iota
	streamRuns
	streamRunsAgain // something has changed since it looked
)

// Stream implements Streamer.
func (x *exchange) Stream() *Stream {
	s := &Stream{x: x}
	s.pumps = s.pump
	s.state.Store(streamRuns) // until Start
	return s
}

// Wake has the source asked again. It never waits, and may be called from the moment on in which the stream was made, by
// whoever wants and holds whatever lock.
func (s *Stream) Wake() {
	for {
		switch s.state.Load() {
		case streamRests:
			if s.state.CompareAndSwap(streamRests, streamRuns) {
				s.x.link.server.workers.do(s.pumps)
				return
			}
		case streamRuns:
			if s.state.CompareAndSwap(streamRuns, streamRunsAgain) {
				return
			}
		default:
			return
		}
	}
}

// Start sends the head of the answer and first, then what next returns, until that is nothing, and again after each Wake.
// An error of next ends the answer. end is called once, when nothing is asked of next any more: the client has gone, or
// next has failed. One call of next is made at a time. The handler must return after it.
func (s *Stream) Start(first []byte, next func() ([]byte, error), end func()) {
	s.next, s.end, s.part = next, end, first
	s.x.link.mu.Lock()
	s.x.stream = s
	s.x.link.mu.Unlock()
	s.x.WriteHeader(200)
	if s.x.begin() != nil {
		s.x.link.close()
	}
	s.x.body, s.x.header = nil, nil
	s.x.link.server.workers.do(s.pumps)
}

// pump sends what there is to send.
func (s *Stream) pump() {
	for {
		s.push()
		if s.state.CompareAndSwap(streamRuns, streamRests) {
			return
		}
		s.state.Store(streamRuns)
	}
}

func (s *Stream) push() {
	for !s.over {
		if len(s.part) == 0 {
			if _, gone := s.x.takeRoom(0); gone {
				s.finish()
				return
			}
			line, err := s.next()
			if err != nil {
				s.finish()
				return
			}
			if len(line) == 0 {
				s.part = nil
				return
			}
			s.part = line
		}
		n, gone := s.x.takeRoom(len(s.part))
		if gone {
			s.finish()
			return
		}
		if n == 0 {
			return // until the window is widened
		}
		if s.x.link.write(frame{kindData, s.x.call, s.part[:n]}.append(nil)) != nil {
			s.x.link.close()
			continue
		}
		s.part = s.part[n:]
	}
}

func (s *Stream) finish() {
	s.over, s.part = true, nil
	s.x.finish("")
	s.end()
	s.next, s.end = nil, nil
}
