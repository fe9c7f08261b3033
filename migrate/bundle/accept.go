package bundle

import (
	"context"
	"crypto/tls"
	"net"
	"sync"
	"time"

	"github.com/mobyfs/mobyfs"
)

// Acceptor makes bundles of the connections that come in.
type Acceptor struct {
	// TLS must demand and verify certificates.
	TLS *tls.Config
	// Admit says whether who has connected may open anything. Its error is Accept's.
	Admit func(tls.ConnectionState) error
	// Connections is how many a bundle may have; 0 is 4.
	Connections int
	// Idle is how long the other end may move no byte; 0 is a minute.
	Idle time.Duration

	once     sync.Once
	cfg      *tls.Config
	mu       sync.Mutex
	sessions map[session]*pending
}

// pending is a session from its opening until its end.
type pending struct {
	certificate []byte
	lanes       []*lane
	missing     int
	complete    chan struct{} // closed when none is missing
	ended       chan struct{} // closed with the session
}

// Accept answers one connection, and takes it over. What it returns:
//   - a bundle, once all of its connections are there;
//   - a connection of another protocol, of which nothing has been read yet;
//   - an error and a connection on which it can be told, in protocol 1;
//   - an error alone if the handshake failed;
//   - nothing at all after a connection that joined a bundle, when that has ended.
//
// The caller closes what it gets. When ctx ends the connection breaks.
func (a *Acceptor) Accept(ctx context.Context, c net.Conn) (*Conn, error) {
	a.once.Do(func() {
		a.cfg, a.sessions = bulk(a.TLS), map[session]*pending{}
		if a.Idle == 0 {
			a.Idle = idleTimeout
		}
	})
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	l := &lane{raw: c, wire: newWire(c, a.Idle)}
	l.tls = tls.Server(l.wire, a.cfg)
	l.conn = l.tls
	if err := handshake(ctx, l.wire, l.tls); err != nil {
		linger(c)
		_ = c.Close()
		return nil, err
	}
	alone := newPlain(l)
	if err := a.Admit(l.tls.ConnectionState()); err != nil {
		return alone, err
	}
	o, err := alone.plain.opening(min(handshakeTimeout, a.Idle))
	if err != nil || o == nil {
		return alone, err
	}
	if o.index > 0 {
		if err := a.join(ctx, l, o); err != nil {
			return alone, err
		}
		return nil, nil
	}
	bundle, err := a.open(ctx, l, o)
	if err != nil {
		return alone, err
	}
	return bundle, nil
}

// opening looks at what comes first. It is nil, and nothing is read, if that is something else.
func (p *plain) opening(within time.Duration) (*opening, error) {
	p.wire.awaitReads(within)
	all, err := readTyped(p.conn, func(t byte) int {
		if t == typeHello {
			return maxHello
		}
		return 0
	})
	if err != nil || all[0] != typeHello {
		p.unread = all // whoever speaks protocol 1 says what is wrong with it, or finds the same end
		return nil, nil
	}
	o, err := decodeOpening(all[typedHead:])
	if o == nil {
		p.unread = all
	}
	return o, err
}

func deadline(d time.Duration) time.Time { return time.Now().Add(d) }

// opened tells the client that its connection was taken.
func opened(l *lane, count int) error {
	if _, err := l.tls.Write(append(typed(typeOpened, 1), byte(count))); err != nil {
		return err
	}
	return l.wire.Flush()
}

// open begins a session and waits for its other connections.
func (a *Acceptor) open(ctx context.Context, l *lane, o *opening) (*Conn, error) {
	count := min(o.count, MaxConnections)
	if a.Connections > 0 {
		count = min(count, a.Connections)
	}
	s := &pending{certificate: leaf(l), lanes: make([]*lane, count), missing: count - 1,
		complete: make(chan struct{}), ended: make(chan struct{})}
	s.lanes[0] = l
	if err := a.enter(o.session, s); err != nil {
		return nil, err
	}
	forget := func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		delete(a.sessions, o.session)
		close(s.ended)
	}
	if err := opened(l, count); err != nil {
		forget()
		return nil, err
	}
	if count > 1 {
		t := time.NewTimer(min(joinTimeout, a.Idle))
		defer t.Stop()
		select {
		case <-s.complete:
		case <-t.C:
			forget()
			return nil, mobyfs.Errorf(mobyfs.CodeUnavailable, "not all of the %d connections of a pull came", count)
		case <-ctx.Done():
			forget()
			return nil, context.Cause(ctx)
		}
	}
	return start(s.lanes, a.Idle, forget), nil
}

func (a *Acceptor) enter(id session, s *pending) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.sessions[id] != nil {
		return denied("there is such a session already")
	}
	a.sessions[id] = s
	if s.missing == 0 {
		close(s.complete)
	}
	return nil
}

func denied(why string) error {
	return mobyfs.Errorf(mobyfs.CodeDenied, "open a connection of a pull: %s", why)
}

// join adds a connection to a session, and returns when that has ended; or with an error at once.
func (a *Acceptor) join(ctx context.Context, l *lane, o *opening) error {
	s, err := a.reserve(l, o)
	if err != nil {
		return err
	}
	err = opened(l, len(s.lanes)) // before anything else may be said on it
	if err == nil {
		a.arrived(s)
	}
	select {
	case <-s.ended:
	case <-ctx.Done():
	}
	_ = l.raw.Close()
	return err
}

// reserve gives a connection its place in a session, once.
func (a *Acceptor) reserve(l *lane, o *opening) (*pending, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.sessions[o.session]
	switch {
	case s == nil || string(s.certificate) != string(leaf(l)): // a stranger does not learn which
		return nil, denied("there is no such session of this node")
	case o.index >= len(s.lanes) || s.lanes[o.index] != nil:
		return nil, denied("it has all connections that it may have")
	}
	s.lanes[o.index] = l
	return s, nil
}

func (a *Acceptor) arrived(s *pending) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if s.missing--; s.missing == 0 {
		close(s.complete)
	}
}

// leaf is the certificate that the other end has shown.
func leaf(l *lane) []byte {
	state := l.tls.ConnectionState()
	if len(state.PeerCertificates) == 0 {
		return nil
	}
	return state.PeerCertificates[0].Raw
}
