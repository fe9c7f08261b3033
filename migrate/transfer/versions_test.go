package transfer

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/dirfd"
	"github.com/mobyfs/mobyfs/internal/pki"
	"github.com/mobyfs/mobyfs/migrate/bundle"
)

// TestPullFromANodeOfProtocol1 pulls from a server that knows nothing else, as one of the version before is: it refuses
// the opening of a bundle, and serves the single connection that comes then.
func TestPullFromANodeOfProtocol1(t *testing.T) {
	src := smallTree(t)
	f := newFleet(t, src)
	cfg, err := f.member(t, pki.RoleNode, "h1").ServerTLS()
	must(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	f.addr = l.Addr().String()
	served := make(chan error, 1)
	go func() {
		var err error
		for range 2 {
			var c net.Conn
			if c, err = l.Accept(); err == nil {
				err = serveProtocol1(tls.Server(c, cfg), src)
			}
		}
		served <- err
	}()
	into := t.TempDir()
	got, err := f.client.Pull(t.Context(), f.from(), into, nil)
	must(t, err)
	must(t, <-served)
	want, _, err := Digest(t.Context(), src, "")
	if err != nil || got.Digest != want {
		t.Errorf("got %s, want %s, %v", got.Digest, want, err)
	}
}

// serveProtocol1 answers one connection as nodes did that knew protocol 1 only.
func serveProtocol1(c *tls.Conn, src string) error {
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(soon))
	w := &frameWriter{w: c, flush: func() error { return nil }}
	buf := &buffer{}
	if _, err := readFrame(c, buf); err != nil {
		return err
	}
	h, err := decodeHello(buf.b)
	if err != nil {
		return err
	}
	if h.protocol != 1 {
		err := w.send(frameError, encodeError(mobyfs.Errorf(mobyfs.CodeInvalid, "pull protocol %d is not spoken here, only 1 is", h.protocol)))
		_ = c.CloseWrite()
		_, _ = io.Copy(io.Discard, c)
		return err
	}
	root, err := dirfd.OpenRoot(src)
	if err != nil {
		return err
	}
	defer dirfd.Close(root)
	pl, err := survey(context.Background(), root, func() error { return nil })
	if err == nil {
		err = w.send(framePlan, pl.encode())
	}
	if err == nil {
		_, err = readFrame(c, buf) // go
	}
	if err == nil {
		_, err = send(context.Background(), root, w)
	}
	for t := frameType(0); err == nil && t != frameDone; {
		t, err = readFrame(c, buf)
	}
	return err
}

// TestPullByANodeOfProtocol1 pulls by a single connection, as a node of the version before does.
func TestPullByANodeOfProtocol1(t *testing.T) {
	src := smallTree(t)
	f := newFleet(t, src).start(t)
	into := t.TempDir()
	p := &pull{c: f.client, from: f.from(), frames: make(chan incoming, 4)}
	root, err := openEmpty(into)
	must(t, err)
	defer dirfd.Close(root)
	cfg, err := f.client.TLS("h1")
	must(t, err)
	conn, err := bundle.Dialer{TLS: cfg, Plain: true, Connect: func(ctx context.Context) (net.Conn, error) {
		return f.client.Dial(ctx, f.addr)
	}}.Dial(t.Context())
	must(t, err)
	p.bundle, p.conn, p.w = conn, conn, &frameWriter{w: conn, flush: conn.Flush}
	done := make(chan struct{})
	go func() { defer close(done); p.read(t.Context()) }()
	got, err := p.talk(t.Context(), root)
	must(t, err)
	conn.Close()
	<-done
	want, _, err := Digest(t.Context(), src, "")
	if err != nil || got.Digest != want {
		t.Errorf("got %s, want %s, %v", got.Digest, want, err)
	}
}

func TestPullByAnyNumberOfConnections(t *testing.T) {
	src := t.TempDir()
	buildZoo(t, src)
	must(t, os.WriteFile(filepath.Join(src, "big"), random(5<<20, 1), 0o600))
	f := newFleet(t, src).start(t)
	want, _, err := Digest(t.Context(), src, "")
	must(t, err)
	for n := 1; n <= bundle.MaxConnections; n++ {
		f.client.Connections = n
		if _, got, err := f.pullInto(t); err != nil || got.Digest != want {
			t.Errorf("%d connections: got %s, want %s, %v", n, got.Digest, want, err)
		}
	}
}
