package api

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/pki"
)

var update = flag.Bool("update", false, "write openapi.json anew")

// The description is part of the API: a change of it must be seen in review.
func TestSpecIsTheOneInTheRepository(t *testing.T) {
	got, err := Spec()
	if err != nil {
		t.Fatal(err)
	}
	const file = "openapi.json"
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("the API has changed. If that is meant: go test ./api -run Spec -update\n%s", cmp.Diff(string(want), string(got)))
	}
	for _, path := range []string{"/v1/volumes/{name}:move", "/v1/agent/watch", "/v1/agent/claim", "/healthz"} {
		if !bytes.Contains(got, []byte(`"`+path+`"`)) {
			t.Errorf("%s is not described", path)
		}
	}
}

// fake is a Service of which a test fills in what it needs.
type fake struct {
	Service
	claim func(ctx context.Context, who pki.Identity) (mobyfs.Grant, error)
	watch func(ctx context.Context, each func(mobyfs.Change) error) error
}

func (f *fake) Claim(ctx context.Context, who pki.Identity, _ mobyfs.VolumeID) (mobyfs.Grant, error) {
	return f.claim(ctx, who)
}

// Follow tells what watch tells, as one that is asked.
func (f *fake) Follow(ctx context.Context, _ pki.Identity, wake func()) (Feed, error) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	t := &told{cancel: cancel, changes: make(chan mobyfs.Change, 1), ended: make(chan error, 1)}
	go func() {
		err := f.watch(ctx, func(c mobyfs.Change) error {
			select {
			case t.changes <- c:
				wake()
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
		if err == nil {
			err = errors.New("the service has ended it")
		}
		t.ended <- err
		wake()
	}()
	return t, nil
}

// told is a Feed of what a fake tells.
type told struct {
	cancel  context.CancelFunc
	changes chan mobyfs.Change
	ended   chan error
	began   bool
}

func (t *told) Next() (mobyfs.Change, bool, error) {
	if !t.began { // the full state is there at once, in truth
		t.began = true
		select {
		case c := <-t.changes:
			return c, true, nil
		case err := <-t.ended:
			return mobyfs.Change{}, false, err
		}
	}
	select {
	case c := <-t.changes:
		return c, true, nil
	default:
	}
	select {
	case err := <-t.ended:
		return mobyfs.Change{}, false, err
	default:
		return mobyfs.Change{}, false, nil
	}
}

func (t *told) Close() { t.cancel() }

func (f *fake) Admit(*x509.Certificate) error { return nil }

func (f *fake) OnEviction(context.Context, func()) {}

func (f *fake) Denied(context.Context, pki.Identity, string, error) {}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// world is a cluster's authority with a server of a service.
type world struct {
	t         *testing.T
	authority *pki.Authority
	control   pki.Files
	links     bool // clients are agents', and control speaks to them by links
}

func newWorld(t *testing.T) *world {
	t.Helper()
	a, err := pki.NewAuthority(t.TempDir(), "shop")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, authority: a}
	w.control = w.files(pki.RoleControl, "control")
	return w
}

func (w *world) files(role, name string) pki.Files {
	w.t.Helper()
	f := pki.FilesIn(w.t.TempDir(), name)
	csr, err := f.NewRequest()
	if err != nil {
		w.t.Fatal(err)
	}
	cert, err := w.authority.Sign(csr, pki.Identity{Cluster: "shop", Role: role, Name: name})
	if err != nil {
		w.t.Fatal(err)
	}
	if err := f.Install(cert, w.authority.CertPEM); err != nil {
		w.t.Fatal(err)
	}
	return f
}

// serve serves at an address, of its own choice if that is empty.
func (w *world) serve(service Service, address string) (*Server, string) {
	w.t.Helper()
	if address == "" {
		address = "127.0.0.1:0"
	}
	serve := w.control.ServerTLS
	if w.links {
		serve = w.control.ControlTLS
	}
	tlsConfig, err := serve()
	if err != nil {
		w.t.Fatal(err)
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		w.t.Fatal(err)
	}
	s := NewServer(service, quiet())
	go func() {
		if err := s.Serve(l, tlsConfig); err != nil {
			w.t.Error(err)
		}
	}()
	w.t.Cleanup(func() { w.shutdown(s) })
	return s, l.Addr().String()
}

func (w *world) shutdown(s *Server) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if err := s.Shutdown(ctx); err != nil {
		w.t.Error(err)
	}
}

func (w *world) client(endpoints ...string) *Client {
	w.t.Helper()
	tlsConfig, err := w.files(pki.RoleNode, "h1").ClientTLS(pki.RoleControl, "control")
	if err != nil {
		w.t.Fatal(err)
	}
	newClient := NewClient
	if w.links {
		newClient = NewAgentClient
	}
	c := newClient(endpoints, tlsConfig)
	w.t.Cleanup(c.Close)
	return c
}

// eachWay tests with HTTP/2, and with links.
func eachWay(t *testing.T, test func(t *testing.T, w *world)) {
	t.Helper()
	for name, links := range map[string]bool{"HTTP/2": false, "link": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.links = links
			test(t, w)
		})
	}
}

// deadAddress is an address on which nobody listens.
func deadAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func granting(g mobyfs.Grant) *fake {
	return &fake{claim: func(context.Context, pki.Identity) (mobyfs.Grant, error) { return g, nil }}
}

func TestErrorsArriveAsTheyWereMeant(t *testing.T) {
	eachWay(t, func(t *testing.T, w *world) {
		var answer error
		_, address := w.serve(&fake{claim: func(_ context.Context, who pki.Identity) (mobyfs.Grant, error) {
			if want := (pki.Identity{Cluster: "shop", Role: "node", Name: "h1"}); who != want {
				t.Errorf("the caller is %v, want %v", who, want)
			}
			return mobyfs.Grant{}, answer
		}}, "")
		c := w.client(address)
		for _, code := range []mobyfs.Code{
			mobyfs.CodeInvalid, mobyfs.CodeNotFound, mobyfs.CodeExists, mobyfs.CodeInUse, mobyfs.CodeMoving, mobyfs.CodeStaleFence,
			mobyfs.CodeDenied, mobyfs.CodeUnavailable, mobyfs.CodeNoSpace, mobyfs.CodeCorrupt, mobyfs.CodeInternal,
		} {
			disk := errors.New("disk on fire")
			answer = fmt.Errorf("claim it: %w", mobyfs.Errorf(code, `volume "pgdata": %w`, disk).WithHint("do %s", code))
			_, err := c.Claim(t.Context(), "v")
			var got *mobyfs.Error
			if !errors.As(err, &got) {
				t.Fatalf("%s: it arrives as %T", code, err)
			}
			if got.Code != code || got.Text != `claim it: volume "pgdata": disk on fire` || got.Hint != "do "+string(code) || got.Err.Error() != "disk on fire" {
				t.Errorf("%s: it arrives as %+v", code, got)
			}
		}
		answer = errors.New("a bug")
		_, err := c.Claim(t.Context(), "v")
		if mobyfs.CodeOf(err) != mobyfs.CodeInternal || err.Error() != "a bug" {
			t.Errorf("an error without a code arrives as %v (%s)", err, mobyfs.CodeOf(err))
		}
	})
}

func TestPanicIsAnsweredAndTheServerGoesOn(t *testing.T) {
	eachWay(t, func(t *testing.T, w *world) {
		broken := true
		_, address := w.serve(&fake{claim: func(context.Context, pki.Identity) (mobyfs.Grant, error) {
			if broken {
				panic("oops")
			}
			return mobyfs.Grant{Fence: 7}, nil
		}}, "")
		c := w.client(address)
		if _, err := c.Claim(t.Context(), "v"); mobyfs.CodeOf(err) != mobyfs.CodeInternal || strings.Contains(err.Error(), "oops") {
			t.Errorf("got %v (%s)", err, mobyfs.CodeOf(err))
		}
		broken = false
		if g, err := c.Claim(t.Context(), "v"); err != nil || g.Fence != 7 {
			t.Errorf("after it: %v, %v", g, err)
		}
	})
}

func TestNobodyThereNamesTheEndpoints(t *testing.T) {
	eachWay(t, func(t *testing.T, w *world) {
		a, b := deadAddress(t), deadAddress(t)
		_, err := w.client(a, b).Claim(t.Context(), "v")
		if mobyfs.CodeOf(err) != mobyfs.CodeUnavailable || !strings.Contains(err.Error(), a) || !strings.Contains(err.Error(), b) ||
			!strings.Contains(err.Error(), "connection refused") || mobyfs.HintOf(err) == "" {
			t.Errorf("got %q (%s), hint %q", err, mobyfs.CodeOf(err), mobyfs.HintOf(err))
		}
		if err := w.client(a).Watch(t.Context(), func(mobyfs.Change) {}); mobyfs.CodeOf(err) != mobyfs.CodeUnavailable {
			t.Errorf("watch: got %v", err)
		}
		if _, err := w.client().Claim(t.Context(), "v"); err == nil {
			t.Error("without an endpoint it succeeds")
		}
	})
}

// TestControlThatIsCutOffIsPassedOver: it is there and can decide nothing. If none can, the answer of one is told.
func TestControlThatIsCutOffIsPassedOver(t *testing.T) {
	eachWay(t, func(t *testing.T, w *world) {
		asked := 0
		_, cut := w.serve(&fake{claim: func(context.Context, pki.Identity) (mobyfs.Grant, error) {
			asked++
			return mobyfs.Grant{}, mobyfs.Errorf(mobyfs.CodeUnavailable, "the store has no quorum")
		}}, "")
		_, fine := w.serve(granting(mobyfs.Grant{Fence: 7}), "")
		c := w.client(cut, fine)
		for range 3 {
			if g, err := c.Claim(t.Context(), "v"); err != nil || g.Fence != 7 {
				t.Errorf("got %+v, %v", g, err)
			}
		}
		if asked != 1 {
			t.Errorf("it was asked %d times, want once", asked)
		}
		_, err := w.client(cut, cut).Claim(t.Context(), "v")
		if mobyfs.CodeOf(err) != mobyfs.CodeUnavailable || !strings.Contains(err.Error(), "no quorum") {
			t.Errorf("got %v", err)
		}
	})
}

// TestControlThatStandsStillIsPassedBy: who has less time than it takes to give one up finds another with the next call.
func TestControlThatStandsStillIsPassedBy(t *testing.T) {
	eachWay(t, func(t *testing.T, w *world) {
		_, still := w.serve(&fake{claim: func(ctx context.Context, _ pki.Identity) (mobyfs.Grant, error) {
			<-ctx.Done()
			return mobyfs.Grant{}, ctx.Err()
		}}, "")
		_, fine := w.serve(granting(mobyfs.Grant{Fence: 7}), "")
		c := w.client(still, fine)
		short, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		if _, err := c.Claim(short, "v"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("the first call: %v", err)
		}
		if g, err := c.Claim(t.Context(), "v"); err != nil || g.Fence != 7 || c.way.Load().last.Load() != 1 {
			t.Errorf("the next one: %+v, %v", g, err)
		}
		given, giveUp := context.WithCancel(t.Context())
		giveUp()
		if _, err := c.Claim(given, "v"); err == nil || c.way.Load().last.Load() != 1 {
			t.Errorf("a call that its caller gave up goes elsewhere, or is answered: %v", err)
		}
	})
}

func TestServerThatIsNotControlIsRefused(t *testing.T) {
	eachWay(t, func(t *testing.T, w *world) {
		w.control = w.files(pki.RoleNode, "h2") // a node that pretends
		_, address := w.serve(granting(mobyfs.Grant{}), "")
		if _, err := w.client(address).Claim(t.Context(), "v"); mobyfs.CodeOf(err) != mobyfs.CodeUnavailable || !strings.Contains(err.Error(), "certificate") {
			t.Errorf("got %v", err)
		}
	})
}

func TestClientGoesToTheNextEndpointAndStaysThere(t *testing.T) {
	eachWay(t, func(t *testing.T, w *world) {
		dead := deadAddress(t)
		_, address := w.serve(granting(mobyfs.Grant{Fence: 7}), "")
		c := w.client(dead, address)
		for range 3 {
			if g, err := c.Claim(t.Context(), "v"); err != nil || g.Fence != 7 {
				t.Fatalf("got %v, %v", g, err)
			}
		}
		if c.way.Load().last.Load() != 1 {
			t.Error("it does not remember who answered")
		}
	})
}

func TestRestartOfTheServerIsNotNoticed(t *testing.T) {
	eachWay(t, func(t *testing.T, w *world) {
		s, address := w.serve(granting(mobyfs.Grant{Fence: 1}), "")
		c := w.client(address)
		for i := range 3 {
			if _, err := c.Claim(t.Context(), "v"); err != nil {
				t.Fatalf("after restart %d: %v", i, err)
			}
			w.shutdown(s)
			s, _ = w.serve(granting(mobyfs.Grant{Fence: 1}), address)
		}
		if _, err := c.Claim(t.Context(), "v"); err != nil {
			t.Error(err)
		}
	})
}

func TestShutdownEndsWatchesAndLetsCallsFinish(t *testing.T) {
	eachWay(t, func(t *testing.T, w *world) {
		claiming, finish := make(chan struct{}), make(chan struct{})
		s, address := w.serve(&fake{
			claim: func(context.Context, pki.Identity) (mobyfs.Grant, error) {
				close(claiming)
				<-finish
				return mobyfs.Grant{Fence: 7}, nil
			},
			watch: func(ctx context.Context, each func(mobyfs.Change) error) error {
				if err := each(mobyfs.Change{Full: &mobyfs.Snapshot{}}); err != nil {
					return err
				}
				<-ctx.Done()
				return ctx.Err()
			},
		}, "")
		c := w.client(address)
		watching, watched, claimed := make(chan struct{}), make(chan error, 1), make(chan error, 1)
		go func() { watched <- c.Watch(context.Background(), func(mobyfs.Change) { close(watching) }) }()
		go func() {
			g, err := c.Claim(context.Background(), "v")
			if err == nil && g.Fence != 7 {
				err = fmt.Errorf("it got %+v", g)
			}
			claimed <- err
		}()
		<-watching
		<-claiming
		var stopping sync.WaitGroup
		stopping.Go(func() { w.shutdown(s) })
		if err := <-watched; mobyfs.CodeOf(err) != mobyfs.CodeUnavailable {
			t.Errorf("the watch ended with %v", err)
		}
		close(finish)
		if err := <-claimed; err != nil {
			t.Errorf("the call under way: %v", err)
		}
		stopping.Wait()
	})
}

func TestCallsShareOneConnection(t *testing.T) {
	eachWay(t, func(t *testing.T, w *world) {
		_, address := w.serve(granting(mobyfs.Grant{}), "")
		c := w.client(address)
		var dials atomic.Int32
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{ConnectStart: func(string, string) { dials.Add(1) }})
		claim := func() {
			if _, err := c.Claim(ctx, "v"); err != nil {
				t.Error(err)
			}
		}
		claim()
		var all sync.WaitGroup
		for range 20 {
			all.Go(claim)
		}
		all.Wait()
		if n := dials.Load(); n != 1 {
			t.Errorf("21 calls made %d connections, want 1", n)
		}
	})
}

func TestNamesNeverLeadToAnotherPath(t *testing.T) {
	c := NewClient([]string{"127.0.0.1:1"}, &tls.Config{})
	for _, name := range []string{"", "..", "../nodes", "a/b", "a?b", "a%2fb", "a:move", "a#b"} {
		if _, err := c.Volume(t.Context(), name); mobyfs.CodeOf(err) != mobyfs.CodeInvalid {
			t.Errorf("%q: got %v, want invalid", name, err)
		}
	}
}

// piped is a server and a client that meet in memory, so that time in between can be virtual.
func piped(t *testing.T, service Service) *Client {
	t.Helper()
	conns := make(chan net.Conn)
	l := &pipeListener{conns: conns, closed: make(chan struct{})}
	s := NewServer(service, quiet())
	who := pki.Identity{Cluster: "shop", Role: "node", Name: "h1"}
	state := &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{{URIs: []*url.URL{who.URI()}, DNSNames: []string{pki.ServerName(who.Role, who.Name)}}}}}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.TLS = state
		s.Handler().ServeHTTP(w, r)
	})}
	go func() { _ = server.Serve(l) }()
	c := NewClient([]string{"control:7946"}, &tls.Config{})
	c.way.Load().http.Transport.(*http.Transport).DialTLSContext = func(context.Context, string, string) (net.Conn, error) {
		near, far := net.Pipe()
		conns <- far
		return near, nil
	}
	t.Cleanup(func() {
		c.Close()
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

type pipeListener struct {
	conns  <-chan net.Conn
	once   sync.Once
	closed chan struct{}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}
func (l *pipeListener) Close() error   { l.once.Do(func() { close(l.closed) }); return nil }
func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{} }

func TestQuietWatchLivesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := piped(t, &fake{watch: func(ctx context.Context, each func(mobyfs.Change) error) error {
			if err := each(mobyfs.Change{Full: &mobyfs.Snapshot{Cluster: "shop"}}); err != nil {
				return err
			}
			select {
			case <-time.After(10 * time.Minute):
			case <-ctx.Done():
				return ctx.Err()
			}
			return each(mobyfs.Change{Gone: "v"})
		}})
		var got []mobyfs.Change
		err := c.Watch(t.Context(), func(ch mobyfs.Change) { got = append(got, ch) })
		if mobyfs.CodeOf(err) != mobyfs.CodeUnavailable { // the service has ended it
			t.Errorf("it ended with %v", err)
		}
		if len(got) != 2 || got[0].Full == nil || got[1].Gone != "v" {
			t.Errorf("in ten minutes came %+v (%v)", got, err)
		}
	})
}

func TestDeadConnectionIsNoticedByItsSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conns := make(chan net.Conn, 1)
		c := NewClient([]string{"control:7946", "other:7946"}, &tls.Config{})
		c.way.Load().http.Transport.(*http.Transport).DialTLSContext = func(context.Context, string, string) (net.Conn, error) {
			near, far := net.Pipe()
			conns <- far
			return near, nil
		}
		ended := make(chan error, 1)
		changes := 0
		start := time.Now()
		go func() { ended <- c.Watch(context.Background(), func(mobyfs.Change) { changes++ }) }()
		far := <-conns
		defer far.Close()
		if _, err := far.Read(make([]byte, 4096)); err != nil {
			t.Fatal(err)
		}
		line := `{"revision":1,"gone":"v"}` + "\n\n"
		if _, err := fmt.Fprintf(far, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n", len(line), line); err != nil {
			t.Fatal(err)
		}
		err := <-ended // from here on the far end says nothing
		if c.way.Load().last.Load() != 1 {
			t.Error("the next watch begins at the end that is silent")
		}
		if mobyfs.CodeOf(err) != mobyfs.CodeUnavailable || !strings.Contains(err.Error(), "control:7946") || !strings.Contains(err.Error(), watchSilence.String()) {
			t.Errorf("it ended with %v", err)
		}
		if took := time.Since(start); took != watchSilence || changes != 1 {
			t.Errorf("%d changes in %v, want 1 in %v", changes, took, watchSilence)
		}
	})
}

// TestAnswerThatIsCutShortIsAskedForAgain: with the same key, so that what was done is not done twice.
func TestAnswerThatIsCutShortIsAskedForAgain(t *testing.T) {
	for cuts, want := range []string{"rebuilt", "rebuilt", ""} {
		conns := make(chan net.Conn)
		c := NewClient([]string{"control:7946"}, &tls.Config{})
		c.way.Load().http.Transport.(*http.Transport).DialTLSContext = func(context.Context, string, string) (net.Conn, error) {
			near, far := net.Pipe()
			conns <- far
			return near, nil
		}
		keys := make(chan string, 3)
		go func() {
			for n := 0; ; n++ {
				conn, ok := <-conns
				if !ok {
					return
				}
				r, err := http.ReadRequest(bufio.NewReader(conn))
				if err != nil {
					t.Error(err)
					return
				}
				keys <- r.Header.Get(keyHeader)
				answer := fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 18\r\n\r\n%s", `{"name":"rebuilt"}`)
				if n < cuts {
					answer = answer[:len(answer)-5]
				}
				_, _ = io.WriteString(conn, answer)
				_ = conn.Close()
			}
		}()
		v, err := c.CreateVolume(t.Context(), "v", mobyfs.VolumeSpec{}, "")
		if v.Name != want || (err == nil) != (want != "") || err != nil && mobyfs.CodeOf(err) != mobyfs.CodeUnavailable {
			t.Errorf("cut %d times: %q, %v", cuts, v.Name, err)
		}
		close(conns)
		first := <-keys
		for range min(cuts, 1) {
			if again := <-keys; first == "" || again != first {
				t.Errorf("asked with the key %q and then with %q", first, again)
			}
		}
	}
}

func TestWatchEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gone := make(chan struct{})
		c := piped(t, &fake{watch: func(ctx context.Context, each func(mobyfs.Change) error) error {
			defer close(gone)
			if err := each(mobyfs.Change{Full: &mobyfs.Snapshot{}}); err != nil {
				return err
			}
			<-ctx.Done()
			return ctx.Err()
		}})
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if err := c.Watch(ctx, func(mobyfs.Change) {}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("it ended with %v", err)
		}
		<-gone // the server has noticed
	})
}

func TestWatcherThatDoesNotReadIsCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gone := make(chan error, 1)
		c := piped(t, &fake{watch: func(ctx context.Context, each func(mobyfs.Change) error) error {
			var err error
			for err == nil {
				err = each(mobyfs.Change{Gone: "v"})
			}
			gone <- err
			return err
		}})
		stuck := make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- c.Watch(ctx, func(mobyfs.Change) { <-stuck }) }()
		start := time.Now()
		if err := <-gone; err == nil {
			t.Error("the service is told nothing")
		}
		if took := time.Since(start); took != watchPatience {
			t.Errorf("the server waited %v, want %v", took, watchPatience)
		}
		cancel()
		close(stuck)
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("the watch ended with %v", err)
		}
	})
}

func TestCallThatHangsEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := piped(t, &fake{claim: func(ctx context.Context, _ pki.Identity) (mobyfs.Grant, error) {
			<-ctx.Done()
			return mobyfs.Grant{}, mobyfs.Errorf(mobyfs.CodeUnavailable, "write to the store: %w", ctx.Err())
		}})
		start := time.Now()
		_, err := c.Claim(t.Context(), "v")
		if mobyfs.CodeOf(err) != mobyfs.CodeUnavailable || time.Since(start) != answerTimeout {
			t.Errorf("got %v after %v, want an answer after %v", err, time.Since(start), answerTimeout)
		}
	})
}

// TestWhoeverStopsWaitingIsToldSoInPlainWords: the text ends up before a user of Docker.
func TestWhoeverStopsWaitingIsToldSoInPlainWords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := piped(t, &fake{claim: func(ctx context.Context, _ pki.Identity) (mobyfs.Grant, error) {
			<-ctx.Done()
			return mobyfs.Grant{}, ctx.Err()
		}})
		ctx, cancel := context.WithTimeout(t.Context(), answerTimeout/2)
		defer cancel()
		_, err := c.Claim(ctx, "v")
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "no answer in time") || strings.Contains(err.Error(), "context") {
			t.Errorf("got %v", err)
		}
	})
}
