package transfer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/dirfd"
	"github.com/mobyfs/mobyfs/internal/pki"
	"github.com/mobyfs/mobyfs/migrate/bundle"
)

// Server offers trees to other nodes.
type Server struct {
	// TLS must demand and verify certificates of the cluster, as pki.Files.ServerTLS does.
	TLS *tls.Config
	// Offer checks whether the peer may have what the ticket says, and opens it. The peer is a node. The code, text and
	// hint of an error reach it.
	Offer func(ctx context.Context, peer pki.Identity, ticket string) (Offered, error)
	// Log is told of each tree that was sent or was not. It may be nil.
	Log *slog.Logger

	idle time.Duration // 0 is idleTimeout; tests set it
}

// Serve answers connections until ctx ends or the listener fails, and closes the listener. It returns once all
// connections are closed; nil if ctx ended.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	defer l.Close()
	bundles := &bundle.Acceptor{TLS: s.TLS, Admit: admit, Idle: s.idleTime()}
	log := s.log()
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		c, err := l.Accept()
		if ctx.Err() != nil {
			if err == nil {
				_ = c.Close()
			}
			return nil
		}
		if isTemporary(err) { // out of handles, or the client was gone before it was accepted
			log.Warn("accept a node's connection", "err", err)
			sleep(ctx, 100*time.Millisecond)
			continue
		}
		if err != nil {
			return fmt.Errorf("accept connections on %s: %w", l.Addr(), err)
		}
		wg.Go(func() { s.serve(ctx, c, bundles) })
	}
}

func isTemporary(err error) bool {
	return errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ECONNABORTED) ||
		errors.Is(err, unix.ENOMEM)
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// admit lets nodes in.
func admit(state tls.ConnectionState) error {
	peer, err := pki.PeerIdentity(&state)
	if err != nil {
		return mobyfs.Errorf(mobyfs.CodeDenied, "serve a pull: %w", err)
	}
	if peer.Role != pki.RoleNode {
		return mobyfs.Errorf(mobyfs.CodeDenied, "%s may not pull a volume: only nodes may", peer)
	}
	return nil
}

// serve answers one connection and closes it, with those that join it.
func (s *Server) serve(ctx context.Context, c net.Conn, bundles *bundle.Acceptor) {
	log := s.log()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	conn, refused := bundles.Accept(ctx, c)
	if conn == nil {
		if refused != nil {
			log.Debug("greet a client", "address", c.RemoteAddr().String(), "err", refused)
		}
		return
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, conn.Break)
	defer stop()
	p := &pullee{s: s, conn: conn, w: &frameWriter{w: conn, flush: conn.Flush}, cancel: cancel}
	receipt, err := p.run(ctx, refused)
	if err != nil {
		conn.Linger()
	}
	switch {
	case err == nil:
		log.Info("sent a volume", "node", p.peer.Name, "files", receipt.Progress.Files,
			"bytes", receipt.Progress.Bytes, "digest", receipt.Digest)
	case ctx.Err() != nil && context.Cause(ctx) == context.Canceled:
		log.Debug("stopped sending a volume", "node", p.peer.Name)
	default:
		log.Warn("send a volume", "node", p.peer.Name, "err", err)
	}
}

func (s *Server) log() *slog.Logger {
	if s.Log != nil {
		return s.Log
	}
	return slog.New(slog.DiscardHandler)
}

func (s *Server) idleTime() time.Duration {
	if s.idle > 0 {
		return s.idle
	}
	return idleTimeout
}

// pullee is the server's end of one pull.
type pullee struct {
	s      *Server
	conn   *bundle.Conn
	w      *frameWriter
	peer   pki.Identity
	cancel context.CancelCauseFunc
}

// run does what the client asks for. Its error has been told to the client if it can be.
// refused is why it may not do anything.
func (p *pullee) run(ctx context.Context, refused error) (mobyfs.Receipt, error) {
	ticket, live, err := p.greet(refused)
	if err != nil {
		return mobyfs.Receipt{}, p.refuse(err)
	}
	o, err := p.s.Offer(ctx, p.peer, ticket)
	if err != nil {
		return mobyfs.Receipt{}, p.refuse(err)
	}
	defer o.Release()
	if o.Live && !live {
		return mobyfs.Receipt{}, p.refuse(mobyfs.Errorf(mobyfs.CodeInUse, "the volume is in use: it can only be followed").
			WithHint("run the same version of mobyfs on both nodes"))
	}
	root, err := dirfd.OpenRoot(o.Dir)
	if err != nil {
		return mobyfs.Receipt{}, p.refuse(fault("open the volume", err))
	}
	defer dirfd.Close(root)
	var receipt mobyfs.Receipt
	if live {
		receipt, err = p.lead(ctx, root, &o)
	} else {
		receipt, err = p.send(ctx, root)
	}
	if err != nil {
		return receipt, p.refuse(err)
	}
	return receipt, nil
}

// refuse tells the client of an error, as far as it still listens, and returns it.
func (p *pullee) refuse(err error) error {
	_ = p.w.send(frameError, encodeError(err))
	return err
}

// greet learns who the client is and what it wants.
func (p *pullee) greet(refused error) (ticket string, live bool, err error) {
	state := p.conn.State()
	if p.peer, err = pki.PeerIdentity(&state); err == nil {
		err = refused
	}
	if err != nil {
		return "", false, err
	}
	p.conn.AwaitReads(min(handshakeTimeout, p.s.idleTime()))
	buf := &buffer{}
	t, err := readFrame(p.conn, buf)
	if err != nil {
		return "", false, err
	}
	if t != frameHello && (t != frameFollow || p.conn.Version() < bundle.Protocol2) {
		return "", false, corrupt("a frame of type %d came first", t)
	}
	h, err := decodeHello(buf.b)
	want, spoken := uint64(p.conn.Version()), "pull protocol %d is not spoken here, only 1 and 2 are"
	if t == frameFollow {
		want, spoken = liveProtocol, "protocol %d of live sessions is not spoken here, only 3 is"
	}
	if err == nil && h.protocol != want {
		err = mobyfs.Errorf(mobyfs.CodeInvalid, spoken, h.protocol).WithHint("run the same version of mobyfs on both nodes")
	}
	return h.ticket, t == frameFollow, err
}

// send tells the plan, waits for the word to go, sends the tree and waits until the client has it.
func (p *pullee) send(ctx context.Context, root int) (mobyfs.Receipt, error) {
	heard := make(chan error, 1)
	goAhead := make(chan struct{})
	var wg sync.WaitGroup
	ending := make(chan struct{})
	defer func() {
		close(ending)
		p.conn.AwaitReads(time.Nanosecond) // ends listen
		wg.Wait()
	}()
	p.conn.AwaitReads(0)
	wg.Go(func() {
		err := p.listen(goAhead)
		heard <- err
		select {
		case <-ending:
		default:
			if err != nil {
				p.cancel(err)
			}
		}
	})
	pl, err := survey(ctx, root, func() error { return p.w.send(frameAlive, nil) })
	if err != nil {
		return mobyfs.Receipt{}, err
	}
	if err := p.w.send(framePlan, pl.encode()); err != nil {
		return mobyfs.Receipt{}, broken(ctx, "write", err)
	}
	p.conn.AwaitReads(p.s.idleTime())
	select {
	case <-goAhead:
	case err := <-heard:
		return mobyfs.Receipt{}, err
	}
	p.conn.AwaitReads(0)
	receipt, err := send(ctx, root, p.w)
	if err != nil {
		return receipt, err
	}
	p.conn.AwaitReads(p.s.idleTime())
	return receipt, <-heard
}

// listen reads what the client says: go, signs of life, and the end, which is nil if all is well there.
func (p *pullee) listen(goAhead chan struct{}) error {
	buf := &buffer{}
	for {
		t, err := readFrame(p.conn, buf)
		switch {
		case err == io.EOF:
			return mobyfs.Errorf(mobyfs.CodeUnavailable, "%s hung up", p.peer.Name)
		case err != nil:
			return mobyfs.Errorf(mobyfs.CodeUnavailable, "hear from %s: %w", p.peer.Name, err)
		case t == frameGo && goAhead != nil:
			close(goAhead)
			goAhead = nil
		case t == frameDone && goAhead == nil:
			return nil
		case t == frameAlive:
		case t == frameError:
			return decodeError(buf.b)
		default:
			return corrupt("a frame of type %d from %s", t, p.peer.Name)
		}
	}
}
