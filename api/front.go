package api

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/mobyfs/mobyfs/internal/link"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// front is where all connections come in. It does their handshakes, and passes each on to who speaks its protocol: links
// to the server of links, all others to http.Server, for which it is a listener.
type front struct {
	net.Listener
	server *Server
	tls    *tls.Config
	ready  chan net.Conn // for http.Server
	closed chan struct{}
	err    error // why nothing is accepted any more; set before closed is

	mu      sync.Mutex
	shaking map[net.Conn]bool // whose handshake is under way; nil after Close
}

func newFront(s *Server, l net.Listener, config *tls.Config) *front {
	return &front{Listener: l, server: s, tls: config, ready: make(chan net.Conn), closed: make(chan struct{}), shaking: map[net.Conn]bool{}}
}

// Most pauses when connections can't be accepted, such as for want of file descriptors.
const mostAcceptPause = time.Second

// run accepts connections until Close.
func (f *front) run() {
	pause := time.Duration(0)
	for {
		conn, err := f.Listener.Accept()
		var passing interface{ Temporary() bool }
		switch {
		case err == nil:
			pause = 0
			go f.greet(conn)
		case errors.As(err, &passing) && passing.Temporary():
			pause = min(max(2*pause, 5*time.Millisecond), mostAcceptPause)
			f.server.http.ErrorLog.Printf("http: Accept error: %v; retrying in %v", err, pause)
			time.Sleep(pause)
		default:
			f.err = err
			close(f.closed)
			return
		}
	}
}

// greet does a handshake.
func (f *front) greet(plain net.Conn) {
	if !f.shakes(plain, true) {
		return
	}
	below := plain
	if c, ok := link.NewConn(plain); ok {
		below = c
	}
	conn := tls.Server(below, f.tls)
	ctx, cancel := context.WithTimeout(context.Background(), headerTimeout)
	err := conn.HandshakeContext(ctx)
	cancel()
	if !f.shakes(plain, false) {
		return
	}
	if err != nil {
		f.refuse(plain, err)
		return
	}
	if conn.ConnectionState().NegotiatedProtocol == pki.LinkProtocol {
		f.server.takeLink(conn)
		return
	}
	select {
	case f.ready <- conn:
	case <-f.closed:
		_ = plain.Close() // nobody serves any more
	}
}

// refuse ends a connection whose handshake failed, and tells why.
func (f *front) refuse(plain net.Conn, err error) {
	var record tls.RecordHeaderError
	if errors.As(err, &record) && record.Conn != nil && record.RecordHeader[0] >= 'A' && record.RecordHeader[0] <= 'Z' {
		_, _ = plain.Write([]byte("HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n")) // who does not hear it sees the connection end
	}
	f.server.http.ErrorLog.Printf("http: TLS handshake error from %s: %v", plain.RemoteAddr(), err)
	_ = plain.Close() // it came to nothing
}

// shakes notes that a handshake is under way, or not any more. It reports false if all is over; then the connection is
// closed.
func (f *front) shakes(conn net.Conn, underWay bool) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.shaking == nil {
		_ = conn.Close() // it was not begun
		return false
	}
	delete(f.shaking, conn)
	if underWay {
		f.shaking[conn] = true
	}
	return true
}

// Accept implements net.Listener.
func (f *front) Accept() (net.Conn, error) {
	select {
	case conn := <-f.ready:
		return conn, nil
	case <-f.closed:
		return nil, f.err
	}
}

// Close implements net.Listener. Handshakes that are under way come to nothing.
func (f *front) Close() error {
	f.mu.Lock()
	for conn := range f.shaking {
		_ = conn.Close() // nothing was said
	}
	f.shaking = nil
	f.mu.Unlock()
	return f.Listener.Close()
}

// takeLink serves a link. Only nodes have one: who else asks speaks HTTP.
func (s *Server) takeLink(conn *tls.Conn) {
	state := conn.ConnectionState()
	who, err := pki.PeerIdentity(&state)
	if err != nil || who.Role != pki.RoleNode {
		s.log.Debug("a link is for nodes", "who", who.String(), "from", conn.RemoteAddr().String())
		_ = conn.NetConn().Close() // it has asked for what it may not have
		return
	}
	slim := link.Slim(&state)
	s.guests.come(conn, slim.PeerCertificates[0])
	s.links.Serve(conn, slim, who.String(), func() { s.guests.leave(conn) })
}
