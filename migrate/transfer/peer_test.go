package transfer

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/pki"
)

func TestPullIsRefused(t *testing.T) {
	src := smallTree(t)
	f := newFleet(t, src).start(t)
	stranger, err := pki.NewAuthority(t.TempDir(), "shop")
	must(t, err)
	foreign := &fleet{authority: stranger}

	silent, err := net.Listen("tcp", "127.0.0.1:0") // a port that nobody listens on any more
	must(t, err)
	gone := silent.Addr().String()
	must(t, silent.Close())
	web := talkative(t, "HTTP/1.1 400 Bad Request\r\n\r\n")

	blind := *NewClient(foreign.member(t, pki.RoleNode, "h2")) // does not care whom it speaks to
	blind.TLS = func(string) (*tls.Config, error) {
		cfg, err := foreign.member(t, pki.RoleNode, "h2").ClientTLS(pki.RoleNode, "h1")
		if err == nil {
			cfg.VerifyConnection = nil
		}
		return cfg, err
	}

	for _, tc := range []struct {
		what   string
		client *Client
		change func(*mobyfs.From)
		code   mobyfs.Code
		hint   bool
	}{
		{"wrong ticket", f.client, func(m *mobyfs.From) { m.Ticket = "old" }, mobyfs.CodeStaleFence, true},
		{"no ticket", f.client, func(m *mobyfs.From) { m.Ticket = "" }, mobyfs.CodeStaleFence, true},
		{"ticket too long", f.client, func(m *mobyfs.From) { m.Ticket = strings.Repeat("t", maxTicket+20) }, mobyfs.CodeCorrupt, false},
		{"ticket of another node", NewClient(f.member(t, pki.RoleNode, "h3")), nil, mobyfs.CodeDenied, false},
		{"operator of the same name", NewClient(f.member(t, pki.RoleOperator, "h2")), nil, mobyfs.CodeDenied, false},
		{"another node answers", f.client, func(m *mobyfs.From) { m.Node = "h9" }, mobyfs.CodeDenied, true},
		{"server of another cluster", NewClient(foreign.member(t, pki.RoleNode, "h2")), nil, mobyfs.CodeDenied, true},
		{"client of another cluster", &blind, nil, mobyfs.CodeDenied, true},
		{"nobody there", f.client, func(m *mobyfs.From) { m.Address = gone }, mobyfs.CodeUnavailable, false},
		{"no address", f.client, func(m *mobyfs.From) { m.Address = "" }, mobyfs.CodeUnavailable, false},
		{"no TLS there", f.client, func(m *mobyfs.From) { m.Address = web }, mobyfs.CodeUnavailable, false},
	} {
		from := f.from()
		if tc.change != nil {
			tc.change(&from)
		}
		into := t.TempDir()
		_, err := tc.client.Pull(t.Context(), from, into, nil)
		if mobyfs.CodeOf(err) != tc.code || (mobyfs.HintOf(err) != "") != tc.hint {
			t.Errorf("%s: got code %q, hint %q, want code %q, hint %v: %v", tc.what, mobyfs.CodeOf(err), mobyfs.HintOf(err), tc.code, tc.hint, err)
		}
		if err != nil && !strings.HasPrefix(err.Error(), "pull from "+from.Node) {
			t.Errorf("%s: the text %q does not say what was asked", tc.what, err)
		}
		if entries, err := os.ReadDir(into); err != nil || len(entries) != 0 {
			t.Errorf("%s: into holds %v, %v", tc.what, entries, err)
		}
	}
	if n := f.offers(); n != 0 {
		t.Errorf("%d trees were offered", n)
	}
}

// talkative serves a text to whoever connects.
func talkative(t *testing.T, text string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, text)
			_ = c.Close()
		}
	})
	t.Cleanup(func() { _ = l.Close(); wg.Wait() })
	return l.Addr().String()
}

func TestServerSurvivesNonsense(t *testing.T) {
	src := smallTree(t)
	f := newFleet(t, src).start(t)
	cfg, err := f.member(t, pki.RoleNode, "h2").ClientTLS(pki.RoleNode, "h1")
	must(t, err)
	for what, say := range map[string]string{
		"nothing":           "",
		"text":              "GET / HTTP/1.1\r\n\r\n",
		"a huge hello":      "\x01\xff\xff\xff\xff",
		"an empty hello":    "\x01\x00\x00\x00\x00",
		"another frame":     "\x03\x00\x00\x00\x00",
		"another protocol":  new(script).frame(frameHello, hello{2, "good"}.encode()...).String(),
		"done before go":    new(script).frame(frameHello, hello{1, "good"}.encode()...).frame(frameDone).String(),
		"go twice":          new(script).frame(frameHello, hello{1, "good"}.encode()...).frame(frameGo).frame(frameGo).String(),
		"a batch":           new(script).frame(frameHello, hello{1, "good"}.encode()...).frame(frameBatch).String(),
		"an error at once":  new(script).frame(frameHello, hello{1, "good"}.encode()...).frame(frameError, 1, 2, 3).String(),
		"half of a go":      new(script).frame(frameHello, hello{1, "good"}.encode()...).String() + "\x03\x00",
		"hang up after all": new(script).frame(frameHello, hello{1, "good"}.encode()...).frame(frameGo).String(),
	} {
		c, err := tls.Dial("tcp", f.addr, cfg)
		must(t, err)
		_, err = io.WriteString(c, say)
		must(t, err)
		must(t, c.CloseWrite())
		_ = c.SetReadDeadline(time.Now().Add(soon))
		if _, err := io.Copy(io.Discard, c); err != nil && isTimeout(err) {
			t.Errorf("%s: the server does not hang up", what)
		}
		_ = c.Close()
	}
	if _, _, err := f.pullInto(t); err != nil {
		t.Errorf("a pull afterwards: %v", err)
	}
	within(t, soon, "the server released all", f.allReleased)
}

func isTimeout(err error) bool {
	n, ok := err.(net.Error)
	return ok && n.Timeout()
}

func TestProtocolOfAnotherVersionIsRefusedWithAWayOut(t *testing.T) {
	f := newFleet(t, smallTree(t)).start(t)
	cfg, err := f.member(t, pki.RoleNode, "h2").ClientTLS(pki.RoleNode, "h1")
	must(t, err)
	c, err := tls.Dial("tcp", f.addr, cfg)
	must(t, err)
	defer c.Close()
	must(t, (&frameWriter{w: c, flush: func() error { return nil }}).send(frameHello, hello{7, "good"}.encode()))
	buf := &buffer{}
	typ, err := readFrame(c, buf)
	if err != nil || typ != frameError {
		t.Fatalf("got a frame of type %d, %v, want an error", typ, err)
	}
	if err := decodeError(buf.b); mobyfs.CodeOf(err) != mobyfs.CodeInvalid || mobyfs.HintOf(err) == "" {
		t.Errorf("got %v, want CodeInvalid and a hint", err)
	}
}

func TestConnectionCutAnywhereNeverSucceeds(t *testing.T) {
	src := t.TempDir()
	must(t, os.Mkdir(filepath.Join(src, "d"), 0o755))
	for _, name := range []string{"a", "b", "d/c"} {
		must(t, os.WriteFile(filepath.Join(src, name), random(50_000, 1), 0o600))
	}
	must(t, os.WriteFile(filepath.Join(src, "e"), random(2*chunkSize, 1), 0o600))
	f := newFleet(t, src).start(t)
	from := f.from()
	whole := newProxy(t, f.addr, -1, false)
	from.Address = whole.addr
	_, err := f.client.Pull(t.Context(), from, t.TempDir(), nil)
	must(t, err)
	total := whole.passed()
	if total < 2*chunkSize {
		t.Fatalf("%d bytes passed the proxy, want more", total)
	}
	const tail = 8000 // the trailer, and what differs between handshakes, and in how the stream is cut into blocks
	cuts := []int64{0, 1, 100, 500, 1000, 1500, 2000, 3000, total - tail}
	for n := int64(5000); n < total-tail; n += total / 30 {
		cuts = append(cuts, n)
	}
	var wg sync.WaitGroup
	for _, n := range cuts {
		from, into := from, t.TempDir()
		from.Address = newProxy(t, f.addr, n, false).addr
		wg.Go(func() {
			_, err := f.client.Pull(t.Context(), from, into, nil)
			if mobyfs.CodeOf(err) != mobyfs.CodeUnavailable {
				t.Errorf("cut after %d of %d bytes: got %v, want CodeUnavailable", n, total, err)
			}
		})
	}
	wg.Wait()
	within(t, soon, "the server released all", f.allReleased)
	if _, _, err := f.pullInto(t); err != nil {
		t.Errorf("a pull afterwards: %v", err)
	}
}

func TestStalledPeerIsGivenUp(t *testing.T) {
	src := t.TempDir()
	must(t, os.WriteFile(filepath.Join(src, "big"), random(32<<20, 1), 0o600))
	f := newFleet(t, src)
	f.server.idle, f.client.idle = 300*time.Millisecond, 300*time.Millisecond
	f.start(t)
	for _, n := range []int64{0, 1200, 1 << 20} {
		from := f.from()
		from.Address = newProxy(t, f.addr, n, true).addr
		begin := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), soon)
		_, err := f.client.Pull(ctx, from, t.TempDir(), nil)
		if mobyfs.CodeOf(err) != mobyfs.CodeUnavailable || ctx.Err() != nil {
			t.Errorf("stalled after %d bytes: got %v after %v, want CodeUnavailable", n, err, time.Since(begin))
		}
		cancel()
		within(t, soon, "the server released the tree", f.allReleased)
	}
}

func TestServerGivesUpAClientThatTakesNothing(t *testing.T) {
	src := t.TempDir()
	must(t, os.WriteFile(filepath.Join(src, "big"), random(32<<20, 1), 0o600)) // more than the kernel buffers
	f := newFleet(t, src)
	f.server.idle = 300 * time.Millisecond
	f.start(t)
	cfg, err := f.member(t, pki.RoleNode, "h2").ClientTLS(pki.RoleNode, "h1")
	must(t, err)
	c, err := tls.Dial("tcp", f.addr, cfg)
	must(t, err)
	defer c.Close()
	_, err = c.Write(new(script).frame(frameHello, hello{1, "good"}.encode()...).frame(frameGo).Bytes())
	must(t, err)
	within(t, soon, "the server offered the tree", func() bool { return f.offers() == 1 })
	within(t, soon, "the server released the tree", f.allReleased)
}

func TestSlowPeerIsWaitedFor(t *testing.T) {
	src := t.TempDir()
	must(t, os.WriteFile(filepath.Join(src, "big"), random(700_000, 1), 0o600))
	f := newFleet(t, src)
	f.server.idle, f.client.idle = 200*time.Millisecond, 200*time.Millisecond
	f.start(t)
	f.client.Dial = func(ctx context.Context, address string) (net.Conn, error) {
		c, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
		return slowConn{c}, err
	}
	begin := time.Now()
	if _, _, err := f.pullInto(t); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begin); took < 2*f.client.idle {
		t.Errorf("it took %v only; the test tests nothing", took)
	}
}

// slowConn reads 16 KiB in 20 ms.
type slowConn struct{ net.Conn }

func (c slowConn) Read(b []byte) (int, error) {
	time.Sleep(20 * time.Millisecond)
	return c.Conn.Read(b[:min(len(b), 16<<10)])
}

func TestCancelledPullReturnsAtOnce(t *testing.T) {
	src := t.TempDir()
	must(t, os.WriteFile(filepath.Join(src, "big"), random(32<<20, 1), 0o600))
	f := newFleet(t, src).start(t)
	for _, n := range []int64{0, 1200, 1 << 20} { // in the handshake, in the greeting, in the middle
		from := f.from()
		proxy := newProxy(t, f.addr, n, true)
		from.Address = proxy.addr
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		into := t.TempDir()
		go func() {
			_, err := f.client.Pull(ctx, from, into, nil)
			done <- err
		}()
		within(t, soon, "the proxy let the bytes pass", func() bool { return proxy.passed() == n })
		cancel()
		select {
		case err := <-done:
			if mobyfs.CodeOf(err) != mobyfs.CodeUnavailable || !strings.Contains(err.Error(), context.Canceled.Error()) {
				t.Errorf("got %v, want CodeUnavailable that tells of the cancellation", err)
			}
		case <-time.After(5 * time.Second):
			t.Fatalf("after %d bytes: the pull goes on after it was cancelled", n)
		}
		within(t, soon, "the server released the tree", f.allReleased)
	}
}

func TestStoppedServerEndsItsPulls(t *testing.T) {
	src := t.TempDir()
	must(t, os.WriteFile(filepath.Join(src, "big"), random(32<<20, 1), 0o600))
	f := newFleet(t, src)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	f.addr = l.Addr().String()
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- f.server.Serve(ctx, l) }()
	proxy := newProxy(t, f.addr, 1<<20, true)
	from := f.from()
	from.Address = proxy.addr
	pulled := make(chan error, 1)
	into := t.TempDir()
	pullCtx, stopPull := context.WithCancel(t.Context())
	go func() {
		_, err := f.client.Pull(pullCtx, from, into, nil)
		pulled <- err
	}()
	within(t, soon, "the pull has begun", func() bool { return proxy.passed() == 1<<20 })
	cancel()
	select {
	case err := <-served:
		if err != nil {
			t.Errorf("Serve: %v", err)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("Serve does not return")
	}
	if !f.allReleased() {
		t.Error("Serve has returned, and a tree is not released")
	}
	stopPull()
	if err := <-pulled; err == nil {
		t.Error("half a volume was pulled with success")
	}
}

func TestVolumeThatDoesNotFitIsRefusedBeforeTheFirstByte(t *testing.T) {
	src := t.TempDir()
	must(t, os.WriteFile(filepath.Join(src, "big"), random(3<<20, 1), 0o600))
	for i := range 30 {
		must(t, os.WriteFile(filepath.Join(src, strings.Repeat("f", i+1)), nil, 0o600))
	}
	f := newFleet(t, src).start(t)
	for options, want := range map[string]string{"size=1m": "3.0 MiB on disk, here 1.0 MiB are free", "size=9m,nr_inodes=20": "32 files and directories, here is room for 19"} {
		into := memory(t, options)
		_, err := f.client.Pull(t.Context(), f.from(), into, nil)
		if mobyfs.CodeOf(err) != mobyfs.CodeNoSpace || mobyfs.HintOf(err) == "" || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want CodeNoSpace, a hint and %q", options, err, want)
		}
		if entries, err := os.ReadDir(into); err != nil || len(entries) != 0 {
			t.Errorf("%s: into holds %v, %v", options, entries, err)
		}
	}
}

func TestErrorsOfTheSourceReachTheDestination(t *testing.T) {
	f := newFleet(t, filepath.Join(t.TempDir(), "nothing")).start(t)
	if _, _, err := f.pullInto(t); err == nil || !strings.Contains(err.Error(), "open the volume") {
		t.Errorf("got %v, want the source's error", err)
	}

	src := t.TempDir()
	must(t, os.WriteFile(filepath.Join(src, "a"), random(40<<20, 1), 0o600))
	g := newFleet(t, src).start(t)
	g.client.Dial = func(ctx context.Context, address string) (net.Conn, error) {
		c, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
		return &onRead{Conn: c, after: 4 << 20, do: func() { must(t, os.Truncate(filepath.Join(src, "a"), 1)) }}, err
	}
	_, _, err := g.pullInto(t)
	if mobyfs.CodeOf(err) != mobyfs.CodeInUse || mobyfs.HintOf(err) == "" || !strings.Contains(err.Error(), `"a" changed`) {
		t.Errorf("got %v, want CodeInUse, a hint and the name", err)
	}
}

// onRead does something once after a number of bytes were read.
type onRead struct {
	net.Conn
	after int
	do    func()
}

func (c *onRead) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.after > 0 && c.after <= n {
		c.do()
	}
	c.after -= n
	return n, err
}

func TestTwoPullsAtOnce(t *testing.T) {
	src := t.TempDir()
	buildZoo(t, src)
	f := newFleet(t, src).start(t)
	var wg sync.WaitGroup
	for range 2 {
		into := t.TempDir()
		wg.Go(func() {
			if _, err := f.client.Pull(t.Context(), f.from(), into, nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func TestReadOnlyDestinationSaysWhy(t *testing.T) {
	f := newFleet(t, smallTree(t)).start(t)
	into := memory(t, "size=1m")
	must(t, unix.Mount("none", into, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	_, err := f.client.Pull(t.Context(), f.from(), into, nil)
	if err == nil || !strings.Contains(err.Error(), "read-only file system") {
		t.Errorf("got %v, want that the file system is read-only", err)
	}
}
