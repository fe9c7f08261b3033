package link

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"net/http"
	"slices"
	"sync"
	"time"
)

// Server answers what comes over links.
type Server struct {
	// Handler answers each request, as http.Server's does. A request has the TLS state of its link, slimmed.
	Handler http.Handler
	// MaxBody is how many bytes the body of a request may have; MaxCalls how many of one link are answered at once, those
	// that its client has given up included.
	MaxBody, MaxCalls int
	// MaxLinks is how many links one client may have: one more ends the oldest, for that may be of a client that is not
	// there any more.
	MaxLinks int
	// CallTime is how long a request may take to come. Patience is how long the other side may take to read what is sent.
	// Silence is after how long without a sign a link is ended.
	CallTime, Patience, Silence time.Duration

	once    sync.Once
	limits  limits
	workers *workers
	bufs    sync.Pool

	mu      sync.Mutex
	links   map[*link]bool
	clients map[string][]*link // of each, the oldest first
	bye     bool               // Shutdown has begun
	closed  bool
}

const readSize = 16 << 10 // bytes: a record of TLS

func (s *Server) init() {
	s.once.Do(func() {
		s.limits, s.workers = limitsOfClients(s.MaxBody), newWorkers()
		s.bufs.New = func() any { b := make([]byte, readSize); return &b }
		s.links, s.clients = map[*link]bool{}, map[string][]*link{}
	})
}

// Serve serves a connection from now on, whose handshake is done and below which lies a Conn, and returns. state is what
// its requests say of TLS, with at least one certificate; client names whose it is. ended is called once, when the
// connection is closed.
func (s *Server) Serve(conn *tls.Conn, state *tls.ConnectionState, client string, ended func()) {
	s.init()
	raw, ok := conn.NetConn().(*Conn)
	if !ok {
		_ = conn.NetConn().Close()
		ended()
		return
	}
	raw.take(s.Patience)
	l := &link{server: s, client: client, conn: conn, raw: raw, tls: state, from: conn.RemoteAddr().String(), ended: ended}
	l.turns = l.turn
	l.heard.Store(time.Now().UnixNano())
	oldest, bye := s.add(l)
	if oldest != nil {
		oldest.close()
	}
	if bye {
		l.sayBye()
	}
	raw.empty = false
	s.workers.do(l.turns) // something may have come with the handshake
}

// add counts a link. It returns the one that must end for it, and whether all is about to end.
func (s *Server) add(l *link) (oldest *link, bye bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.links[l] = true
	all := append(s.clients[l.client], l)
	s.clients[l.client] = all
	switch {
	case s.closed:
		oldest = l
	case len(all) > s.MaxLinks:
		oldest = all[0]
	}
	return oldest, s.bye
}

func (s *Server) forget(l *link) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.links, l)
	all := slices.DeleteFunc(s.clients[l.client], func(other *link) bool { return other == l })
	if s.clients[l.client] = all; len(all) == 0 {
		delete(s.clients, l.client)
	}
}

// Links is how many there are.
func (s *Server) Links() int {
	s.init()
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.links)
}

func (s *Server) all() []*link {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]*link, 0, len(s.links))
	for l := range s.links {
		all = append(all, l)
	}
	return all
}

// Run ends links that are silent or whose certificate has expired, until ctx ends.
func (s *Server) Run(ctx context.Context, every time.Duration) {
	s.init()
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			for _, l := range s.all() {
				if now.Sub(time.Unix(0, l.heard.Load())) > s.Silence || now.After(l.tls.PeerCertificates[0].NotAfter) {
					l.close()
				}
			}
		}
	}
}

// Shutdown asks all clients to go elsewhere with what they want from now on, and wakes all streams, for their sources to
// say that they have ended. What is under way is answered still, until Close.
func (s *Server) Shutdown() {
	s.init()
	s.mu.Lock()
	s.bye = true
	s.mu.Unlock()
	for _, l := range s.all() {
		s.workers.do(l.sayBye)
		l.wakeStreams()
	}
}

// Wait returns when nothing is under way on any link, or ctx has ended.
func (s *Server) Wait(ctx context.Context) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for slices.ContainsFunc(s.all(), (*link).isBusy) {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Close ends all links. It may be called twice.
func (s *Server) Close() {
	s.init()
	s.mu.Lock()
	s.bye, s.closed = true, true
	s.mu.Unlock()
	for _, l := range s.all() {
		l.close()
	}
	s.workers.close()
}

// Slim is what must be known of who is at the other end of a connection: its certificate's names and times. The rest of
// the chain that it showed is emptied where it stands, for crypto/tls holds it for as long as the connection lasts, a
// few kilobytes for each.
func Slim(state *tls.ConnectionState) *tls.ConnectionState {
	slim := &tls.ConnectionState{Version: state.Version, HandshakeComplete: true, ServerName: state.ServerName, NegotiatedProtocol: state.NegotiatedProtocol}
	if len(state.PeerCertificates) == 0 {
		return slim
	}
	c := state.PeerCertificates[0]
	leaf := &x509.Certificate{
		SerialNumber: c.SerialNumber, NotBefore: c.NotBefore, NotAfter: c.NotAfter, URIs: c.URIs, DNSNames: c.DNSNames,
		Subject: pkix.Name{CommonName: c.Subject.CommonName, SerialNumber: c.Subject.SerialNumber},
	}
	slim.PeerCertificates = []*x509.Certificate{leaf}
	if len(state.VerifiedChains) > 0 {
		slim.VerifiedChains = [][]*x509.Certificate{slim.PeerCertificates}
	}
	for _, shown := range state.PeerCertificates {
		*shown = x509.Certificate{}
	}
	return slim
}
