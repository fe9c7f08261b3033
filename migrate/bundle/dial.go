package bundle

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"sync"
	"time"
)

// Dialer opens bundles.
type Dialer struct {
	// Connect opens a TCP connection to the other end.
	Connect func(ctx context.Context) (net.Conn, error)
	// TLS must check who the other end is.
	TLS *tls.Config
	// Connections is how many are wanted; 0 is as many as there are cores, 4 at most.
	Connections int
	// Plain asks for protocol 1.
	Plain bool
	// Refusal makes an error of the payload of an ERROR frame, by which the other end refuses.
	Refusal func(payload []byte) error
	// Idle is how long the other end may move no byte; 0 is a minute.
	Idle time.Duration
}

// Dial connects. With ctx all connections that it makes break, but not the bundle once it is returned.
func (d Dialer) Dial(ctx context.Context) (*Conn, error) {
	if d.Idle == 0 {
		d.Idle = idleTimeout
	}
	d.TLS = sameCertificate(bulk(d.TLS))
	first, err := d.connect(ctx)
	if err != nil {
		return nil, err
	}
	if d.Plain {
		return newPlain(first), nil
	}
	o := opening{session: newSession(), count: d.Connections}
	if o.count == 0 {
		o.count = connections()
	}
	if o.count, err = d.open(ctx, first, o); err != nil {
		_ = first.raw.Close()
		return nil, err
	}
	lanes, err := d.join(ctx, first, o)
	if err != nil {
		return nil, err
	}
	return start(lanes, d.Idle, nil), nil
}

// connect opens one connection.
func (d Dialer) connect(ctx context.Context) (*lane, error) {
	c, err := d.Connect(ctx)
	if err != nil {
		return nil, err
	}
	l := &lane{raw: c, wire: newWire(c, d.Idle)}
	l.tls = tls.Client(l.wire, d.TLS)
	l.conn = l.tls
	if err := handshake(ctx, l.wire, l.tls); err != nil {
		_ = c.Close()
		return nil, err
	}
	return l, nil
}

// open says what a connection is to be. The other end answers with how many connections it takes.
func (d Dialer) open(ctx context.Context, l *lane, o opening) (count int, err error) {
	stop := context.AfterFunc(ctx, func() { _ = l.raw.Close() })
	defer stop()
	_, sent := l.tls.Write(o.encode())
	if sent == nil {
		sent = l.wire.Flush()
	}
	all, err := readTyped(l.tls, func(t byte) int {
		switch t {
		case typeError:
			return maxRefusal
		case typeOpened:
			return 1
		default:
			return 0
		}
	})
	switch {
	case ctx.Err() != nil:
		return 0, context.Cause(ctx)
	case err == io.EOF && sent != nil:
		return 0, sent
	case err != nil:
		return 0, err
	case all[0] == typeError && d.Refusal != nil:
		return 0, d.Refusal(all[typedHead:])
	case all[0] != typeOpened || len(all) != typedHead+1 || all[typedHead] < 1 || int(all[typedHead]) > o.count:
		return 0, corrupt("the answer to an opening is a frame of type %d and %d bytes", all[0], len(all)-typedHead)
	}
	return int(all[typedHead]), nil
}

// join opens the other connections of a session, all at once.
func (d Dialer) join(ctx context.Context, first *lane, o opening) ([]*lane, error) {
	lanes, errs := make([]*lane, o.count), make([]error, o.count)
	lanes[0] = first
	var wg sync.WaitGroup
	for i := 1; i < o.count; i++ {
		wg.Go(func() {
			l, err := d.connect(ctx)
			if err == nil {
				mine := o
				mine.index = i
				_, err = d.open(ctx, l, mine)
			}
			lanes[i], errs[i] = l, err
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err == nil {
			continue
		}
		for _, l := range lanes {
			if l != nil {
				_ = l.raw.Close()
			}
		}
		return nil, err
	}
	return lanes, nil
}

// sameCertificate keeps to the certificate that the first connection shows, for the others must show it too.
func sameCertificate(cfg *tls.Config) *tls.Config {
	if of := cfg.GetClientCertificate; of != nil {
		var mu sync.Mutex
		var first *tls.Certificate
		cfg.GetClientCertificate = func(r *tls.CertificateRequestInfo) (*tls.Certificate, error) {
			mu.Lock()
			defer mu.Unlock()
			if first != nil {
				return first, nil
			}
			c, err := of(r)
			if err == nil {
				first = c
			}
			return c, err
		}
	}
	return cfg
}
