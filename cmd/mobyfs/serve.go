package main

import (
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/mobyfs/mobyfs/driver"
)

// finishTime is how long calls of Docker that are being answered may take after SIGTERM. Those that come later wait in
// systemd's socket for the next start.
const finishTime = 20 * time.Second

// served is the driver at its doors.
type served struct {
	server *http.Server
	doors  []door
	loops  sync.WaitGroup // that take connections in
	conns  sync.WaitGroup // that were taken in and have not ended
	failed chan error     // why a door is closed that should be open
}

// serveDocker answers Docker at all doors, until close or finish.
func serveDocker(doors []door, h http.Handler, log *slog.Logger) *served {
	s := &served{server: driver.Server(h), doors: doors, failed: make(chan error, len(doors))}
	s.server.ErrorLog = slog.NewLogLogger(log.Handler(), slog.LevelWarn) // handshakes that were refused
	s.server.ConnState = func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			s.conns.Add(1)
		case http.StateClosed:
			s.conns.Done()
		}
	}
	for i, d := range doors {
		d.Listener = guarded(d.Listener, log)
		s.doors[i] = d
		s.loops.Go(func() {
			if err := s.server.Serve(d); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
				s.failed <- err
			}
		})
	}
	return s
}

// close cuts everything off.
func (s *served) close() {
	_ = s.server.Close()
	s.loops.Wait()
}

// finish answers the calls that were taken in, and takes in no others. A call that was taken in and not answered would
// be repeated by Docker without its body; so first the doors close, then the loops end that take connections in, and
// then each connection ends, as it does with its answer. Server.Shutdown does less: it drops a connection whose
// request it has not read yet.
func (s *served) finish(log *slog.Logger) {
	for _, d := range s.doors {
		_ = d.Close()
	}
	s.loops.Wait()
	answered := make(chan struct{})
	go func() {
		s.conns.Wait()
		close(answered)
	}()
	select {
	case <-answered:
	case <-time.After(finishTime):
		log.Warn("calls of Docker were cut off", "after", finishTime)
	}
	_ = s.server.Close()
}
