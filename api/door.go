package api

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"strings"
	"sync"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/failpoint"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// visitor tells who makes a request, or why it is refused. At the door, where nobody shows a certificate, everybody is
// nobody: the calls there look at what the request holds.
func (s *Server) visitor(r *http.Request) (pki.Identity, *problem) {
	if r.TLS != nil && len(r.TLS.VerifiedChains) == 0 && atTheDoor(r) {
		return pki.Identity{}, nil
	}
	who, err := pki.PeerIdentity(r.TLS)
	if err != nil {
		return who, newProblem(http.StatusUnauthorized, mobyfs.CodeDenied, err.Error(), "connect with a certificate of the cluster's authority")
	}
	if until := r.TLS.VerifiedChains[0][0].NotAfter; !until.IsZero() && failpoint.Now().After(until) { // it was good when the connection began
		return who, newProblem(http.StatusUnauthorized, mobyfs.CodeUnavailable, "the certificate of "+who.String()+" has expired", "connect anew, with one that was renewed")
	}
	if err := s.service.Admit(r.TLS.VerifiedChains[0][0]); err != nil {
		return who, problemOf(err)
	}
	return who, nil
}

// secret reports whether the answer to a request must not be kept to be given again: it may hold a token. All calls about
// who belongs to the cluster can be repeated as they are.
func secret(r *http.Request) bool { return strings.HasPrefix(r.URL.Path, "/v1/pki/") }

// actorOf is who asks, for the events; nobody is who comes to the door.
func actorOf(who pki.Identity) string {
	if who == (pki.Identity{}) {
		return ""
	}
	return who.URI().String()
}

// guests are the connections that are open, by whose certificate they showed.
type guests struct {
	mu    sync.Mutex
	conns map[*tls.Conn]*x509.Certificate
}

// note implements http.Server.ConnState. A connection counts from its first request on: before, its handshake is under
// way, which looks by itself who comes, and must not be waited for.
func (g *guests) note(c net.Conn, state http.ConnState) {
	conn, ok := c.(*tls.Conn)
	if !ok || state == http.StateNew {
		return
	}
	if state == http.StateClosed || state == http.StateHijacked {
		g.leave(conn)
		return
	}
	if g.has(conn) {
		return
	}
	if certs := conn.ConnectionState().PeerCertificates; len(certs) > 0 {
		g.come(conn, certs[0])
	}
}

func (g *guests) has(conn *tls.Conn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.conns[conn] != nil
}

// come counts a connection among those that are open, from before anything is asked in it.
func (g *guests) come(conn *tls.Conn, cert *x509.Certificate) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.conns == nil {
		g.conns = map[*tls.Conn]*x509.Certificate{}
	}
	g.conns[conn] = cert
}

func (g *guests) leave(conn *tls.Conn) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.conns, conn)
}

// throwOut cuts the connections of those who are not admitted any more, with all that goes on in them.
func (g *guests) throwOut(admit func(*x509.Certificate) error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for conn, cert := range g.conns {
		if admit(cert) != nil {
			_ = conn.NetConn().Close() // not conn: that waits for a writer that is stuck
		}
	}
}
