package transfer

import (
	"context"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// fleet is a cluster of two nodes on this machine: h1 serves dir, h2 pulls from it.
type fleet struct {
	authority *pki.Authority
	server    *Server
	client    *Client
	addr      string

	mu       sync.Mutex
	offered  int
	released int
}

// newFleet starts h1, which offers dir for the ticket "good" to h2 alone.
func newFleet(t testing.TB, dir string) *fleet {
	t.Helper()
	a, err := pki.NewAuthority(t.TempDir(), "shop")
	must(t, err)
	f := &fleet{authority: a}
	tlsServer, err := f.member(t, pki.RoleNode, "h1").ServerTLS()
	must(t, err)
	f.client = NewClient(f.member(t, pki.RoleNode, "h2"))
	f.server = &Server{
		TLS: tlsServer,
		Log: slog.New(slog.NewTextHandler(testLog{t}, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Offer: func(_ context.Context, peer pki.Identity, ticket string) (Offered, error) {
			if ticket != "good" {
				return Offered{}, mobyfs.Errorf(mobyfs.CodeStaleFence, "the ticket %q is of no use", ticket).WithHint("ask control")
			}
			if peer.Name != "h2" {
				return Offered{}, mobyfs.Errorf(mobyfs.CodeDenied, "the ticket is not for %s", peer)
			}
			f.count(1, 0)
			return Offered{Dir: dir, Release: func() { f.count(0, 1) }}, nil
		},
	}
	return f
}

func (f *fleet) count(offered, released int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.offered += offered
	f.released += released
}

func (f *fleet) offers() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.offered
}

// allReleased reports whether every offer was released, just once.
func (f *fleet) allReleased() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.offered == f.released
}

// start serves until the test ends, and checks then that all that was offered was released.
func (f *fleet) start(t testing.TB) *fleet {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	f.addr = l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.server.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
		if !f.allReleased() {
			t.Errorf("%d offers, %d releases", f.offered, f.released)
		}
	})
	return f
}

func (f *fleet) member(t testing.TB, role, name string) pki.Files {
	t.Helper()
	files := pki.FilesIn(t.TempDir(), name)
	csr, err := files.NewRequest()
	must(t, err)
	cert, err := f.authority.Sign(csr, pki.Identity{Cluster: f.authority.Cluster, Role: role, Name: name})
	must(t, err)
	must(t, files.Install(cert, f.authority.CertPEM))
	return files
}

// from is the good order to pull.
func (f *fleet) from() mobyfs.From {
	return mobyfs.From{Migration: "m1", Node: "h1", Address: f.addr, Ticket: "good"}
}

// pullInto pulls into a new directory.
func (f *fleet) pullInto(t testing.TB) (string, mobyfs.Receipt, error) {
	t.Helper()
	into := t.TempDir()
	r, err := f.client.Pull(t.Context(), f.from(), into, nil)
	return into, r, err
}

// testLog writes a server's log into the test's.
type testLog struct{ t testing.TB }

func (l testLog) Write(b []byte) (int, error) {
	l.t.Logf("%s", b)
	return len(b), nil
}

// proxy stands between client and server and may cut what the server says after a number of bytes.
type proxy struct {
	addr string
	mu   sync.Mutex
	sent int64 // bytes from server to client, of all connections together
}

// newProxy forwards to the address. It lets limit bytes from server to client pass, all if negative, through all of the
// connections together; then it closes both ends, or, if stall, says no more and leaves them open.
func newProxy(t testing.TB, to string, limit int64, stall bool) *proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	p := &proxy{addr: l.Addr().String()}
	var wg sync.WaitGroup
	stop := make(chan struct{})
	t.Cleanup(func() {
		close(stop)
		_ = l.Close()
		wg.Wait()
	})
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { p.forward(c, to, limit, stall, stop) })
		}
	})
	return p
}

func (p *proxy) forward(c net.Conn, to string, limit int64, stall bool, stop chan struct{}) {
	s, err := net.Dial("tcp", to)
	if err != nil {
		_ = c.Close()
		return
	}
	ended := make(chan struct{}, 2)
	go func() { pipe(s, c, func(n int) int { return n }); ended <- struct{}{} }()
	go func() {
		cut := pipe(c, s, func(n int) int { return p.let(n, limit) })
		if cut && stall {
			<-stop
		}
		ended <- struct{}{}
	}()
	select {
	case <-ended:
	case <-stop:
	}
	_ = c.Close()
	_ = s.Close()
}

// let is how many of n more bytes may pass.
func (p *proxy) let(n int, limit int64) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if limit >= 0 {
		n = int(min(int64(n), limit-p.sent))
	}
	p.sent += int64(n)
	return n
}

// pipe copies until not all that came may pass, which it reports.
func pipe(to, from net.Conn, let func(int) int) (cut bool) {
	buf := make([]byte, 16<<10)
	for {
		n, err := from.Read(buf)
		pass := let(n)
		cut = pass < n || n == 0 && err == nil
		if _, e := to.Write(buf[:pass]); e != nil || err != nil || cut {
			return cut
		}
	}
}

func (p *proxy) passed() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.sent
}

// soon is a time after which a test that waits gives up.
const soon = time.Minute
