package link

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// pair is a server of links, and how one comes to it.
type pair struct {
	t       *testing.T
	server  *Server
	address string
	cert    tls.Certificate
	ended   atomic.Int64 // links
}

func newPair(t *testing.T, h http.HandlerFunc) *pair {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"h1.node.mobyfs"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	p := &pair{t: t, cert: tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, server: &Server{
		Handler: h, MaxBody: 1 << 20, MaxCalls: 200, MaxLinks: 8, CallTime: 10 * time.Second, Patience: 10 * time.Second, Silence: time.Minute,
	}}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p.address = l.Addr().String()
	t.Cleanup(func() {
		l.Close()
		p.server.Close()
	})
	go func() {
		for {
			plain, err := l.Accept()
			if err != nil {
				return
			}
			below, ok := NewConn(plain)
			if !ok {
				t.Error("a TCP connection can't be a link")
				return
			}
			conn := tls.Server(below, &tls.Config{Certificates: []tls.Certificate{p.cert}, ClientAuth: tls.RequireAnyClientCert})
			if err := conn.Handshake(); err != nil {
				plain.Close()
				continue
			}
			state := conn.ConnectionState()
			p.server.Serve(conn, Slim(&state), "h1", func() { p.ended.Add(1) })
		}
	}()
	return p
}

func (p *pair) dial() *tls.Conn {
	p.t.Helper()
	conn, err := tls.Dial("tcp", p.address, &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{p.cert}})
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { conn.Close() })
	return conn
}

func (p *pair) client() *Client {
	c := NewClient(p.dial(), 5*time.Second, time.Minute)
	p.t.Cleanup(func() { c.fail(ErrClosed) })
	return c
}

func do(ctx context.Context, t *testing.T, c *Client, method, path, body string) (*http.Response, error) {
	t.Helper()
	var content io.Reader
	if body != "" {
		content = strings.NewReader(body)
	}
	r, err := http.NewRequestWithContext(ctx, method, "https://control"+path, content)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	return c.RoundTrip(r)
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for until := time.Now().Add(time.Minute); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(until) {
			t.Fatalf("after a minute it is not so: %s", what)
		}
	}
}

func TestCallsAreAnsweredWithWhatTheHandlerWrote(t *testing.T) {
	p := newPair(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if r.TLS == nil || r.TLS.PeerCertificates[0].DNSNames[0] != "h1.node.mobyfs" || r.RemoteAddr == "" {
			t.Errorf("the request has TLS %+v from %q", r.TLS, r.RemoteAddr)
		}
		w.Header().Set("Etag", `"7"`)
		w.WriteHeader(http.StatusConflict)
		fmt.Fprintf(w, "%s %s %s %s", r.Method, r.URL.RequestURI(), r.Header.Get("Content-Type"), body)
	})
	c := p.client()
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			for _, size := range []int{0, 1, 5000, 40000} {
				body := strings.Repeat("x", size)
				path := fmt.Sprintf("/v1/volumes/a%d?label=a%%3Db", i)
				resp, err := do(t.Context(), t, c, "POST", path, body)
				if err != nil {
					t.Error(err)
					return
				}
				got, err := io.ReadAll(resp.Body)
				if want := "POST " + path + " application/json " + body; err != nil || string(got) != want || resp.StatusCode != 409 || resp.Header.Get("ETag") != `"7"` {
					t.Errorf("got %d %.80q %v, want %.80q", resp.StatusCode, got, err, want)
				}
			}
		})
	}
	wg.Wait()
}

// An answer larger than a window comes whole, and others are not held up by who does not read it.
func TestLongAnswerComesAsItIsRead(t *testing.T) {
	long := bytes.Repeat([]byte("0123456789abcdef"), 1<<16) // 1 MiB
	p := newPair(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/long" {
			_, _ = w.Write(long)
		}
	})
	c := p.client()
	resp, err := do(t.Context(), t, c, "GET", "/long", "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := do(t.Context(), t, c, "GET", "/short", ""); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(resp.Body)
	if err != nil || !bytes.Equal(got, long) {
		t.Errorf("%d bytes came of %d: %v", len(got), len(long), err)
	}
}

func TestWhoDoesNotReadIsCutOff(t *testing.T) {
	p := newPair(t, func(w http.ResponseWriter, r *http.Request) {
		for {
			if _, err := w.Write(make([]byte, 1<<20)); err != nil {
				return
			}
		}
	})
	p.server.Patience = 100 * time.Millisecond
	c := p.client()
	if _, err := do(t.Context(), t, c, "GET", "/", ""); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the link has ended", func() bool { return p.ended.Load() == 1 && p.server.Links() == 0 })
}

func TestHandlerHearsThatNobodyWaits(t *testing.T) {
	gone := make(chan struct{})
	p := newPair(t, func(_ http.ResponseWriter, r *http.Request) {
		<-r.Context().Done()
		close(gone)
	})
	c := p.client()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := do(ctx, t, c, "GET", "/", ""); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	<-gone
	eventually(t, "the call's number is free", func() bool { return len(c.slots) == 0 })
}

// streaming answers with a stream of what is in lines.
type source struct {
	mu    sync.Mutex
	lines []string
	ended bool
	over  error
	wake  func()
}

func (s *source) add(line string) {
	s.mu.Lock()
	s.lines = append(s.lines, line)
	wake := s.wake
	s.mu.Unlock()
	wake()
}

func (s *source) next() ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over != nil || len(s.lines) == 0 {
		return nil, s.over
	}
	line := s.lines[0]
	s.lines = s.lines[1:]
	return []byte(line), nil
}

func (s *source) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		panic("it ends twice")
	}
	s.ended = true
}

func (s *source) isEnded() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended
}

func streaming(s *source) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		on := w.(Streamer).Stream()
		s.mu.Lock()
		s.wake = on.Wake
		s.mu.Unlock()
		on.Start([]byte("first\n"), s.next, s.end)
	}
}

func TestStreamTellsWhatItsSourceHasAndEndsWithIt(t *testing.T) {
	s := &source{}
	p := newPair(t, streaming(s))
	c := p.client()
	resp, err := do(t.Context(), t, c, "GET", "/", "")
	if err != nil {
		t.Fatal(err)
	}
	want, got := "first\n", make(chan string, 1)
	go func() {
		all, err := io.ReadAll(resp.Body)
		got <- fmt.Sprint(string(all), err)
	}()
	for i := range 2000 {
		line := fmt.Sprintf("line %d %s\n", i, strings.Repeat("x", i))
		want += line
		s.add(line)
	}
	eventually(t, "all is told", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return len(s.lines) == 0 })
	s.mu.Lock()
	s.over = errors.New("over")
	s.mu.Unlock()
	s.wake()
	if all := <-got; all != want+"<nil>" {
		t.Errorf("%d bytes came of %d", len(all), len(want))
	}
	eventually(t, "the source was told", s.isEnded)
}

func TestSourceIsToldOnceHoweverAStreamEnds(t *testing.T) {
	for name, end := range map[string]func(*pair, *Client, *http.Response){
		"the body is closed":    func(_ *pair, _ *Client, r *http.Response) { r.Body.Close() },
		"the connection breaks": func(_ *pair, c *Client, _ *http.Response) { c.conn.Close() },
		"the server is closed":  func(p *pair, _ *Client, _ *http.Response) { p.server.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			s := &source{}
			p := newPair(t, streaming(s))
			c := p.client()
			resp, err := do(t.Context(), t, c, "GET", "/", "")
			if err != nil {
				t.Fatal(err)
			}
			end(p, c, resp)
			eventually(t, "the source was told", s.isEnded)
			s.wake() // it does nothing any more
		})
	}
}

// A stream that nobody reads holds one line, and its source keeps the rest.
func TestStreamWaitsForRoom(t *testing.T) {
	s := &source{}
	p := newPair(t, streaming(s))
	c := p.client()
	resp, err := do(t.Context(), t, c, "GET", "/", "")
	if err != nil {
		t.Fatal(err)
	}
	line := strings.Repeat("x", 100<<10)
	for range 10 {
		s.add(line)
	}
	left := func() int { s.mu.Lock(); defer s.mu.Unlock(); return len(s.lines) }
	eventually(t, "two lines are sent, and a part of the third", func() bool { return left() <= 7 })
	time.Sleep(20 * time.Millisecond)
	if left() != 7 {
		t.Errorf("the source has %d lines still, want 7", left())
	}
	got := make([]byte, 6+10*len(line))
	if n, err := io.ReadFull(resp.Body, got); err != nil {
		t.Errorf("%d bytes came: %v", n, err)
	}
}

func TestShutdownAnswersWhatIsUnderWayAndTakesNothingMore(t *testing.T) {
	asked, finish := make(chan struct{}), make(chan struct{})
	p := newPair(t, func(w http.ResponseWriter, _ *http.Request) {
		close(asked)
		<-finish
		fmt.Fprint(w, "done")
	})
	c := p.client()
	got := make(chan string, 1)
	go func() {
		resp, err := do(t.Context(), t, c, "GET", "/", "")
		if err != nil {
			got <- err.Error()
			return
		}
		body, _ := io.ReadAll(resp.Body)
		got <- string(body)
	}()
	<-asked
	p.server.Shutdown()
	eventually(t, "the client has heard it", func() bool { return !c.Usable() })
	if _, err := do(t.Context(), t, c, "GET", "/", ""); !errors.Is(err, ErrClosed) {
		t.Errorf("another call: %v", err)
	}
	close(finish)
	if body := <-got; body != "done" {
		t.Errorf("got %q", body)
	}
}

func TestLinkEndsWithItsCertificateAndWithSilence(t *testing.T) {
	for name, change := range map[string]func(*link){
		"expired": func(l *link) { l.tls.PeerCertificates[0].NotAfter = time.Now().Add(-time.Second) },
		"silent":  func(l *link) { l.heard.Store(time.Now().Add(-2 * time.Minute).UnixNano()) },
	} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t, func(http.ResponseWriter, *http.Request) {})
			c := p.client()
			if _, err := do(t.Context(), t, c, "GET", "/", ""); err != nil {
				t.Fatal(err)
			}
			for _, l := range p.server.all() {
				change(l)
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			go p.server.Run(ctx, time.Millisecond)
			eventually(t, "it has ended on both sides", func() bool { return p.server.Links() == 0 && !c.Usable() })
		})
	}
}

func TestBrokenOffAnswerIsNoAnswer(t *testing.T) {
	p := newPair(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/late" {
			fmt.Fprint(w, "some")
			_ = http.NewResponseController(w).Flush() // it does
		}
		panic(http.ErrAbortHandler)
	})
	c := p.client()
	if _, err := do(t.Context(), t, c, "GET", "/", ""); err == nil {
		t.Error("there is an answer")
	}
	resp, err := do(t.Context(), t, c, "GET", "/late", "")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(resp.Body); err == nil || string(got) != "some" {
		t.Errorf("got %q, %v", got, err)
	}
}
