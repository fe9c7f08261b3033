package api

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/mobyfs/mobyfs/internal/link"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// noLinkTime is for how long an endpoint that has no links is asked by HTTP alone: it may be upgraded.
const noLinkTime = 5 * time.Minute

// carrier carries an agent's requests: over one link to each endpoint that speaks so, by HTTP/2 to others.
type carrier struct {
	*http.Transport // for those that do not
	config          *tls.Config

	mu   sync.Mutex
	ends map[string]*farEnd // by host:port
}

// farEnd is an endpoint.
type farEnd struct {
	dialing chan struct{} // holds a value while one dials
	link    *link.Client  // nil if there is none; of who dials
	noLink  time.Time     // until when there can be none; of who dials
}

func newCarrier(transport *http.Transport) *carrier {
	c := &carrier{Transport: transport, config: transport.TLSClientConfig.Clone(), ends: map[string]*farEnd{}}
	c.config.NextProtos = []string{pki.LinkProtocol, "h2", "http/1.1"}
	return c
}

// RoundTrip implements http.RoundTripper.
func (c *carrier) RoundTrip(r *http.Request) (*http.Response, error) {
	l, err := c.linkTo(r.Context(), r.URL.Host)
	switch {
	case err != nil:
		return nil, err
	case l == nil:
		return c.Transport.RoundTrip(r)
	}
	return l.RoundTrip(r)
}

func (c *carrier) endOf(endpoint string) *farEnd {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.ends[endpoint]
	if e == nil {
		e = &farEnd{dialing: make(chan struct{}, 1)}
		c.ends[endpoint] = e
	}
	return e
}

// linkTo is the link to an endpoint, which is made if need be; nil if it has none.
func (c *carrier) linkTo(ctx context.Context, endpoint string) (*link.Client, error) {
	e := c.endOf(endpoint)
	select {
	case e.dialing <- struct{}{}:
		defer func() { <-e.dialing }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if e.link != nil && e.link.Usable() {
		return e.link, nil
	}
	e.link = nil
	if time.Now().Before(e.noLink) {
		return nil, nil
	}
	conn, err := c.dial(ctx, endpoint)
	if err != nil {
		return nil, err
	}
	if conn.ConnectionState().NegotiatedProtocol != pki.LinkProtocol {
		e.noLink = time.Now().Add(noLinkTime)
		return nil, conn.Close()
	}
	e.link = link.NewClient(conn, headTimeout, idleTimeout-10*time.Second)
	return e.link, nil
}

func (c *carrier) dial(ctx context.Context, endpoint string) (*tls.Conn, error) {
	plain, err := c.DialContext(ctx, "tcp", endpoint)
	if err != nil {
		return nil, err
	}
	config := c.config
	if config.ServerName == "" {
		host, _, err := net.SplitHostPort(endpoint)
		if err != nil {
			return nil, errors.Join(err, plain.Close())
		}
		config = config.Clone()
		config.ServerName = host
	}
	conn := tls.Client(plain, config)
	shaking, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	if err := conn.HandshakeContext(shaking); err != nil {
		_ = plain.Close() // it came to nothing
		return nil, err
	}
	return conn, nil
}

// CloseIdleConnections lets what is under way end, and each link after it.
func (c *carrier) CloseIdleConnections() {
	c.Transport.CloseIdleConnections()
	c.mu.Lock()
	ends := c.ends
	c.ends = map[string]*farEnd{}
	c.mu.Unlock()
	for _, e := range ends {
		e.dialing <- struct{}{}
		if e.link != nil {
			e.link.Retire()
		}
		<-e.dialing
	}
}
