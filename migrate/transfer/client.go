package transfer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/dirfd"
	"github.com/mobyfs/mobyfs/internal/pki"
	"github.com/mobyfs/mobyfs/migrate/bundle"
)

// Client pulls trees from Servers.
type Client struct {
	// TLS gives the configuration for a connection to a node. It must check that the server is that node.
	TLS func(node string) (*tls.Config, error)
	// Dial opens a TCP connection. It may be called at once.
	Dial func(ctx context.Context, address string) (net.Conn, error)
	// Connections is how many a pull opens; 0 is as many as there are cores, 4 at most.
	Connections int

	idle time.Duration // 0 is idleTimeout; tests set it
}

var _ mobyfs.Peer = (*Client)(nil)

// NewClient returns a client that shows the identity in files, read anew for each pull.
func NewClient(files pki.Files) *Client {
	dialer := &net.Dialer{Timeout: handshakeTimeout}
	return &Client{
		TLS: func(node string) (*tls.Config, error) { return files.ClientTLS(pki.RoleNode, node) },
		Dial: func(ctx context.Context, address string) (net.Conn, error) {
			return dialer.DialContext(ctx, "tcp", address)
		},
	}
}

// Pull fills the empty directory into with the tree that from offers. See mobyfs.Peer. A tree that changes on the
// source meanwhile is CodeInUse. When ctx ends, Pull returns at once.
func (c *Client) Pull(ctx context.Context, from mobyfs.From, into string, progress func(mobyfs.Progress)) (mobyfs.Receipt, error) {
	p := &pull{c: c, from: from, report: progress}
	receipt, err := p.run(ctx, into)
	if err == nil {
		return receipt, nil
	}
	if ctx.Err() != nil {
		err = broken(ctx, "stopped", err)
	}
	return mobyfs.Receipt{}, mobyfs.Errorf(mobyfs.CodeOf(err), "pull from %s: %w", from.Node, err)
}

// pull is the client's end of one pull.
type pull struct {
	c      *Client
	from   mobyfs.From
	report func(mobyfs.Progress)
	pool   pool
	bundle *bundle.Conn
	conn   io.Reader // the bundle
	w      *frameWriter
	frames chan incoming
}

// incoming is a frame that was read, or the error after the last.
type incoming struct {
	typ frameType
	buf *buffer
	err error
}

func (p *pull) run(ctx context.Context, into string) (mobyfs.Receipt, error) {
	root, err := openEmpty(into)
	if err != nil {
		return mobyfs.Receipt{}, err
	}
	defer dirfd.Close(root)
	hangUp, err := p.dial(ctx)
	if err != nil {
		return mobyfs.Receipt{}, err
	}
	defer hangUp()
	receipt, err := p.talk(ctx, root)
	if err != nil && ctx.Err() == nil {
		_ = p.w.send(frameError, encodeError(err)) // so that the source knows why, if it still listens
	}
	return receipt, err
}

// openEmpty opens the directory that the tree will be. It must be empty.
func openEmpty(into string) (int, error) {
	root, err := dirfd.OpenRoot(into)
	if err != nil {
		return -1, fault("open "+into, err)
	}
	entries, err := dirfd.List(root, make([]byte, 4<<10))
	if err == nil && len(entries) > 0 {
		err = mobyfs.Errorf(mobyfs.CodeInvalid, "it is not empty: it holds %q", entries[0].Name)
	}
	if err == nil {
		err = bare(root)
	}
	if err != nil {
		dirfd.Close(root)
		return -1, fault("prepare "+into, err)
	}
	return root, nil
}

// dial connects and begins to read frames. When ctx ends the connection breaks.
func (p *pull) dial(ctx context.Context) (hangUp func(), err error) {
	conn, err := p.connect(ctx)
	if err != nil {
		return nil, err
	}
	p.bundle, p.conn, p.w = conn, conn, &frameWriter{w: conn, flush: conn.Flush}
	p.frames = make(chan incoming, 4)
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(ctx, conn.Break)
	var reader sync.WaitGroup
	reader.Go(func() { p.read(ctx) })
	return func() {
		if stop() {
			conn.Close()
		}
		cancel()
		conn.Break()
		reader.Wait()
	}, nil
}

// connect opens a bundle, or a single connection if the source is of a version that knows no bundles.
func (p *pull) connect(ctx context.Context) (*bundle.Conn, error) {
	cfg, err := p.c.TLS(p.from.Node)
	if err != nil {
		return nil, fmt.Errorf("load this node's identity: %w", err)
	}
	old := false
	d := bundle.Dialer{TLS: cfg, Idle: p.c.idleTime(), Connections: p.c.Connections}
	d.Connect = func(ctx context.Context) (net.Conn, error) {
		c, err := p.c.Dial(ctx, p.from.Address)
		if err != nil {
			err = broken(ctx, "connect to "+p.from.Address, err)
		}
		return c, err
	}
	d.Refusal = func(payload []byte) error {
		err := decodeError(payload)
		old = mobyfs.CodeOf(err) == mobyfs.CodeInvalid // which is how protocol 1 says that it knows no other
		return err
	}
	conn, err := d.Dial(ctx)
	if old {
		d.Plain = true
		conn, err = d.Dial(ctx)
	}
	if err != nil {
		return nil, p.refused(ctx, "greet "+p.from.Address, err)
	}
	return conn, nil
}

func (c *Client) idleTime() time.Duration {
	if c.idle > 0 {
		return c.idle
	}
	return idleTimeout
}

// refused tells a peer that is not the right one, or that takes this node for none, from a broken connection.
func (p *pull) refused(ctx context.Context, doing string, err error) error {
	var unverified *tls.CertificateVerificationError
	var alert *net.OpError // crypto/tls wraps what the other end says in one with this Op
	switch {
	case ctx.Err() != nil:
	case pki.OutOfTime(err) != "":
		return mobyfs.Errorf(mobyfs.CodeDenied, "%s: %s", doing, pki.OutOfTime(err)).WithHint(pki.ClockHint)
	case errors.As(err, &unverified):
		return mobyfs.Errorf(mobyfs.CodeDenied, "%s: it is not node %s of this cluster: %w", doing, p.from.Node, err).
			WithHint("check the address under which %s joined, and its certificate", p.from.Node)
	case errors.As(err, &alert) && alert.Op == "remote error":
		return mobyfs.Errorf(mobyfs.CodeDenied, "%s: it refuses this node's certificate: %w", doing, err).
			WithHint("run mobyctl bootstrap again to renew certificates, and compare the nodes' clocks")
	}
	return broken(ctx, doing, err)
}
