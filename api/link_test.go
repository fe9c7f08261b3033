package api

import (
	"context"
	"crypto/tls"
	"net"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// An agent makes all its calls and its watch over one connection, which is a link.
func TestAgentHasOneLink(t *testing.T) {
	w := newWorld(t)
	w.links = true
	s, address := w.serve(&fake{
		claim: func(context.Context, pki.Identity) (mobyfs.Grant, error) { return mobyfs.Grant{Fence: 7}, nil },
		watch: func(ctx context.Context, each func(mobyfs.Change) error) error {
			if err := each(mobyfs.Change{Full: &mobyfs.Snapshot{}}); err != nil {
				return err
			}
			<-ctx.Done()
			return ctx.Err()
		},
	}, "")
	c := w.client(address)
	ctx, cancel := context.WithCancel(t.Context())
	watching, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- c.Watch(ctx, func(mobyfs.Change) { close(watching) }) }()
	<-watching
	for range 20 {
		if g, err := c.Claim(t.Context(), "v"); err != nil || g.Fence != 7 {
			t.Fatalf("got %+v, %v", g, err)
		}
	}
	s.guests.mu.Lock()
	open := len(s.guests.conns)
	s.guests.mu.Unlock()
	if s.links.Links() != 1 || open != 1 {
		t.Errorf("%d links are open, and %d connections", s.links.Links(), open)
	}
	if n := s.underWay.Load(); n != 1 {
		t.Errorf("%d requests are under way, want the watch", n)
	}
	cancel()
	if err := <-ended; err == nil {
		t.Error("the watch ended as if nothing had ended it")
	}
	for until := time.Now().Add(time.Minute); s.underWay.Load() != 0; time.Sleep(time.Millisecond) {
		if time.Now().After(until) {
			t.Fatal("the watch is under way still")
		}
	}
	s.clients.mu.Lock()
	defer s.clients.mu.Unlock()
	if s.clients.calls[clientKind{pki.Identity{Cluster: "shop", Role: "node", Name: "h1"}, true}] != 0 {
		t.Error("its stream counts still")
	}
}

// Versions may differ: a control that knows no links is asked by HTTP, and an agent that knows none is answered so.
func TestAgentAndControlOfDifferentVersionsSpeakHTTP(t *testing.T) {
	for name, links := range map[string]struct{ agent, control bool }{"an old control": {agent: true}, "an old agent": {control: true}} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.links = links.control
			s, address := w.serve(granting(mobyfs.Grant{Fence: 7}), "")
			w.links = links.agent
			c := w.client(address)
			for range 3 {
				if g, err := c.Claim(t.Context(), "v"); err != nil || g.Fence != 7 {
					t.Errorf("got %+v, %v", g, err)
				}
			}
			if n := s.links.Links(); n != 0 {
				t.Errorf("there are %d links", n)
			}
		})
	}
}

// Links are for nodes. Whoever else asks for one, and who comes through the door, gets none.
func TestAttackLinkOfWhoIsNoNode(t *testing.T) {
	w := newWorld(t)
	w.links = true
	s, address := w.serve(granting(mobyfs.Grant{}), "")
	for _, role := range []string{pki.RoleOperator, pki.RoleControl} {
		config, err := w.files(role, "eve").ClientTLS(pki.RoleControl, "control")
		if err != nil {
			t.Fatal(err)
		}
		config.NextProtos = []string{pki.LinkProtocol}
		conn, err := tls.Dial("tcp", address, config)
		if err != nil {
			continue
		}
		defer conn.Close()
		if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Read(make([]byte, 1)); err == nil || isTimeout(err) {
			t.Errorf("%s: the connection is open (%v)", role, err)
		}
	}
	config := pki.PeekTLS()
	config.NextProtos = []string{pki.LinkProtocol, "h2"}
	conn, err := tls.Dial("tcp", address, config)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if got := conn.ConnectionState().NegotiatedProtocol; got != "h2" {
		t.Errorf("behind the door %q is spoken", got)
	}
	if n := s.links.Links(); n != 0 {
		t.Errorf("there are %d links", n)
	}
}

func isTimeout(err error) bool {
	e, ok := err.(net.Error)
	return ok && e.Timeout()
}

// A link whose handshake never ends holds nothing up.
func TestShutdownDoesNotWaitForHandshakes(t *testing.T) {
	w := newWorld(t)
	w.links = true
	s, address := w.serve(granting(mobyfs.Grant{}), "")
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := w.client(address).Claim(t.Context(), "v"); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	w.shutdown(s)
	if took := time.Since(began); took > 4*time.Second {
		t.Errorf("it took %v", took)
	}
}
