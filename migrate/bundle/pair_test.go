package bundle

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// soon is a time after which a test that waits gives up.
const soon = time.Minute

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func within(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(soon); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", soon, what)
		}
	}
}

// random is data that does not get smaller.
func random(n int, seed byte) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// text is data that gets smaller by half or so: each eight bytes are one of 64 kinds.
func text(n int, seed byte) []byte {
	words, b := random(64*8, seed), random(n, seed+1)
	for i := 0; i+8 <= n; i += 8 {
		word := int(b[i]&63) * 8
		copy(b[i:], words[word:word+8])
	}
	return b
}

// server accepts the connections of nodes on this machine.
type server struct {
	authority *pki.Authority
	acceptor  *Acceptor
	addr      string
	got       chan accepted
}

type accepted struct {
	conn *Conn
	err  error
}

func newServer(t testing.TB, change ...func(*Acceptor)) *server {
	t.Helper()
	a, err := pki.NewAuthority(t.TempDir(), "shop")
	must(t, err)
	s := &server{authority: a, got: make(chan accepted, 16)}
	cfg, err := s.member(t, "h1").ServerTLS()
	must(t, err)
	s.acceptor = &Acceptor{TLS: cfg, Admit: func(tls.ConnectionState) error { return nil }, Idle: soon}
	for _, c := range change {
		c(s.acceptor)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	s.addr = l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				conn, err := s.acceptor.Accept(ctx, c)
				if conn != nil || err != nil {
					s.got <- accepted{conn, err}
				}
			})
		}
	})
	t.Cleanup(func() { cancel(); _ = l.Close(); wg.Wait() })
	return s
}

func (s *server) member(t testing.TB, name string) pki.Files {
	t.Helper()
	files := pki.FilesIn(t.TempDir(), name)
	csr, err := files.NewRequest()
	must(t, err)
	cert, err := s.authority.Sign(csr, pki.Identity{Cluster: "shop", Role: pki.RoleNode, Name: name})
	must(t, err)
	must(t, files.Install(cert, s.authority.CertPEM))
	return files
}

// dialer is that of a node.
func (s *server) dialer(t testing.TB, name string, connections int) Dialer {
	t.Helper()
	cfg, err := s.member(t, name).ClientTLS(pki.RoleNode, "h1")
	must(t, err)
	return Dialer{TLS: cfg, Connections: connections, Idle: soon,
		Connect: func(ctx context.Context) (net.Conn, error) { return new(net.Dialer).DialContext(ctx, "tcp", s.addr) },
		Refusal: func(b []byte) error { return errors.New(string(b)) }}
}

func (s *server) next(t testing.TB) (*Conn, error) {
	t.Helper()
	select {
	case a := <-s.got:
		return a.conn, a.err
	case <-time.After(soon):
		t.Fatal("no connection came")
		return nil, nil
	}
}

// pair returns the two ends of a bundle.
func (s *server) pair(t testing.TB, connections int) (client, served *Conn) {
	t.Helper()
	client, err := s.dialer(t, "h2", connections).Dial(t.Context())
	must(t, err)
	t.Cleanup(client.Break)
	served, err = s.next(t)
	must(t, err)
	t.Cleanup(served.Break)
	return client, served
}

// sum reads until the end.
func sum(r io.Reader) (string, error) {
	h := sha256.New()
	_, err := io.Copy(h, r)
	return hex.EncodeToString(h.Sum(nil)), err
}

func sumOf(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}

// pour writes b in pieces of odd sizes, flushes now and then, and closes.
func pour(c *Conn, b []byte, seed uint64) error {
	r := rand.New(rand.NewPCG(seed, 1))
	for len(b) > 0 {
		n := min(len(b), 1+r.IntN(1<<r.IntN(21)))
		if _, err := c.Write(b[:n]); err != nil {
			return err
		}
		b = b[n:]
		if r.IntN(4) == 0 {
			if err := c.Flush(); err != nil {
				return err
			}
		}
	}
	return c.Flush()
}

func codeOf(err error) mobyfs.Code { return mobyfs.CodeOf(err) }
