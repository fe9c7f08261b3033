package bundle

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs"
)

// say opens one connection and says an opening on it. Its answer is an error unless the connection was taken; what the
// server would tell is dropped, for tests look at the server.
func say(t *testing.T, s *server, node string, o opening) (*lane, error) {
	t.Helper()
	d := s.dialer(t, node, 1)
	l, err := d.connect(t.Context())
	must(t, err)
	t.Cleanup(func() { _ = l.raw.Close() })
	must(t, l.raw.SetReadDeadline(time.Now().Add(soon)))
	_, err = d.open(t.Context(), l, o)
	return l, err
}

// refused waits for an error of Accept and closes the connection on which it would be told.
func (s *server) refused(t *testing.T) error {
	t.Helper()
	c, err := s.next(t)
	if c != nil {
		c.Close()
	}
	return err
}

func TestStrangersJoinNoSession(t *testing.T) {
	s := newServer(t)
	id := newSession()
	_, err := say(t, s, "h2", opening{id, 3, 0})
	must(t, err)

	for what, tc := range map[string]struct {
		node string
		o    opening
	}{
		"another node":              {"h3", opening{id, 3, 1}},
		"another certificate of h2": {"h2", opening{id, 3, 1}}, // say makes a new one each time
		"a session that is not":     {"h2", opening{newSession(), 3, 1}},
		"opens what is open":        {"h3", opening{id, 3, 0}},
	} {
		go func() {
			if _, err := say(t, s, tc.node, tc.o); err == nil {
				t.Errorf("%s: it was let in", what)
			}
		}()
		if err := s.refused(t); codeOf(err) != mobyfs.CodeDenied {
			t.Errorf("%s: got %v, want CodeDenied", what, err)
		}
	}
}

// sameNode says openings with one certificate.
func sameNode(t *testing.T, s *server) func(opening) (*lane, error) {
	t.Helper()
	d := s.dialer(t, "h2", 1)
	d.TLS = sameCertificate(bulk(d.TLS))
	return func(o opening) (*lane, error) {
		l, err := d.connect(t.Context())
		must(t, err)
		t.Cleanup(func() { _ = l.raw.Close() })
		must(t, l.raw.SetReadDeadline(time.Now().Add(soon)))
		_, err = d.open(t.Context(), l, o)
		return l, err
	}
}

func TestEachPlaceOfASessionIsTakenOnce(t *testing.T) {
	s := newServer(t)
	say := sameNode(t, s)
	id := newSession()
	_, err := say(opening{id, 3, 0})
	must(t, err)
	_, err = say(opening{id, 3, 2})
	must(t, err)
	refuse := func(what string, o opening) {
		t.Helper()
		told := make(chan error, 1)
		go func() {
			_, err := say(o)
			told <- err
		}()
		if err := s.refused(t); codeOf(err) != mobyfs.CodeDenied {
			t.Errorf("%s: got %v, want CodeDenied", what, err)
		}
		if err := <-told; err == nil {
			t.Errorf("%s: it was let in", what)
		}
	}
	refuse("the same place", opening{id, 3, 2})
	refuse("the same session", opening{id, 3, 0})
	refuse("a place that it has not", opening{id, 4, 3})
	_, err = say(opening{id, 3, 1})
	must(t, err)
	served, err := s.next(t)
	must(t, err)
	refuse("a session that has begun", opening{id, 3, 1})
	refuse("its opening again", opening{id, 3, 0})
	served.Close()
	refuse("a session that has ended", opening{id, 3, 1})
}

func TestSessionThatStaysIncompleteIsGivenUp(t *testing.T) {
	s := newServer(t, func(a *Acceptor) { a.Idle = 300 * time.Millisecond })
	say := sameNode(t, s)
	id := newSession()
	_, err := say(opening{id, 2, 0})
	must(t, err)
	if err := s.refused(t); codeOf(err) != mobyfs.CodeUnavailable {
		t.Errorf("got %v, want CodeUnavailable", err)
	}
	within(t, "the session is forgotten", func() bool {
		s.acceptor.mu.Lock()
		defer s.acceptor.mu.Unlock()
		return len(s.acceptor.sessions) == 0
	})
}

func TestServerMayTakeFewerConnections(t *testing.T) {
	s := newServer(t, func(a *Acceptor) { a.Connections = 2 })
	client, served := s.pair(t, 4)
	if c, s := client.Stats().Connections, served.Stats().Connections; c != 2 || s != 2 {
		t.Errorf("got %d and %d connections, want 2", c, s)
	}
}

func TestWhoIsNotAdmittedOpensNothing(t *testing.T) {
	s := newServer(t, func(a *Acceptor) {
		a.Admit = func(tls.ConnectionState) error { return mobyfs.Errorf(mobyfs.CodeDenied, "no") }
	})
	told := make(chan error, 1)
	go func() {
		_, err := s.dialer(t, "h2", 1).Dial(t.Context())
		told <- err
	}()
	if err := s.refused(t); codeOf(err) != mobyfs.CodeDenied {
		t.Errorf("got %v, want CodeDenied", err)
	}
	if err := <-told; err == nil {
		t.Error("it was let in")
	}
}

func TestOtherProtocolsAreLeftUnread(t *testing.T) {
	s := newServer(t)
	hello := func(protocol uint64) string {
		p := binary.AppendUvarint([]byte(magic), protocol)
		p = append(p, 4, 'g', 'o', 'o', 'd')
		return string(typed(typeHello, len(p))) + string(p)
	}
	for _, said := range []string{"", "x", "GET / HTTP/1.1\r\n\r\n", hello(1), hello(7), "\x01\xff\xff\xff\xff"} {
		d := s.dialer(t, "h2", 1)
		d.Plain = true
		client, err := d.Dial(t.Context())
		must(t, err)
		_, err = client.Write([]byte(said))
		must(t, err)
		must(t, client.Flush())
		must(t, client.lanes[0].raw.(*net.TCPConn).CloseWrite())
		served, err := s.next(t)
		if err != nil || served.Version() != Protocol1 {
			t.Fatalf("%q: got %v and %v, want a connection of protocol 1", said, served, err)
		}
		_, err = served.Write([]byte("answer"))
		must(t, err)
		must(t, served.Flush())
		got, err := io.ReadAll(served)
		if string(got) != said || err != nil {
			t.Errorf("said %q: %q is to be read, %v", said, got, err)
		}
		served.Close()
		if got, err := io.ReadAll(client); string(got) != "answer" || err != nil {
			t.Errorf("said %q: answered %q, %v", said, got, err)
		}
		client.Close()
	}
}

func TestDialEndsWithItsContext(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and says nothing
	must(t, err)
	defer l.Close()
	s := newServer(t)
	d := s.dialer(t, "h2", 2)
	d.Connect = func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", l.Addr().String())
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	begin := time.Now()
	if _, err := d.Dial(ctx); err == nil || time.Since(begin) > soon/2 {
		t.Errorf("got %v after %v", err, time.Since(begin))
	}
}

func TestRefusalReachesTheClient(t *testing.T) {
	s := newServer(t, func(a *Acceptor) { a.Admit = func(tls.ConnectionState) error { return errors.New("no") } })
	go func() {
		c, _ := s.next(t)
		_, _ = c.Write(append(typed(typeError, 7), "because"...))
		_ = c.Flush()
		c.Linger()
		c.Close()
	}()
	_, err := s.dialer(t, "h2", 3).Dial(t.Context())
	if err == nil || !strings.Contains(err.Error(), "because") {
		t.Errorf("got %v, want what the server said", err)
	}
}

func FuzzOpening(f *testing.F) {
	f.Add(opening{newSession(), 4, 3}.encode()[typedHead:])
	f.Add(append([]byte(magic), 1, 4, 'g', 'o', 'o', 'd'))
	f.Add(append([]byte(magic), 2, 18))
	f.Fuzz(func(t *testing.T, b []byte) {
		o, err := decodeOpening(b)
		if o == nil {
			return
		}
		if err != nil || o.count < 1 || o.count > MaxConnections || o.index < 0 || o.index >= o.count {
			t.Fatalf("%+v, %v", o, err)
		}
		if again, err := decodeOpening(o.encode()[typedHead:]); err != nil || *again != *o {
			t.Fatalf("%+v became %+v, %v", o, again, err)
		}
	})
}
