package attacks

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/api"
	"github.com/mobyfs/mobyfs/internal/pki"
)

func (v *victim) transport(role, name string) *http.Transport {
	v.t.Helper()
	tlsConfig, err := v.identity(role, name).ClientTLS(pki.RoleControl, pki.RoleControl)
	if err != nil {
		v.t.Fatal(err)
	}
	transport := &http.Transport{TLSClientConfig: tlsConfig, ForceAttemptHTTP2: true}
	v.t.Cleanup(transport.CloseIdleConnections)
	return transport
}

// othersAreServed fails the test unless somebody else gets an answer, within a time that a machine needs which does much
// else at once.
func (v *victim) othersAreServed() {
	v.t.Helper()
	ctx, cancel := context.WithTimeout(v.t.Context(), 20*time.Second)
	defer cancel()
	began := time.Now()
	if _, err := v.client("operator", "bob").Volume(ctx, "pgdata"); err != nil {
		v.t.Errorf("meanwhile somebody else gets %v", err)
	}
	v.t.Logf("somebody else is answered within %v", time.Since(began).Round(time.Millisecond))
}

// A client that opens streams without end is refused those above its share, and nobody else notices.
func TestAttackManyIdleStreams(t *testing.T) {
	v := newVictim(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	transport := v.transport("viewer", "vic")
	open, refused := 0, 0
	for range 100 {
		req, err := http.NewRequestWithContext(ctx, "GET", "https://"+v.address+"/v1/events", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := transport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = resp.Body.Close() }) // the stream was cut off
		switch resp.StatusCode {
		case http.StatusOK:
			open++
		case http.StatusTooManyRequests:
			refused++
		default:
			t.Fatalf("got %s", resp.Status)
		}
	}
	if open != 32 || refused != 68 {
		t.Errorf("%d streams are open and %d refused, want 32 and 68", open, refused)
	}
	v.othersAreServed()
}

// Requests that are taken back as soon as they are made (HTTP/2 rapid reset) cost the attacker, and nobody else. They are
// written as frames, for Go's client does no such thing: it waits until a server has noticed what was taken back.
func TestAttackRapidReset(t *testing.T) {
	v := newVictim(t)
	tlsConfig, err := v.identity("viewer", "vic").ClientTLS(pki.RoleControl, pki.RoleControl)
	ok(t, err)
	tlsConfig.NextProtos = []string{http2.NextProtoTLS}
	conn, err := (&tls.Dialer{Config: tlsConfig}).DialContext(t.Context(), "tcp", v.address)
	ok(t, err)
	defer conn.Close()
	_, err = io.WriteString(conn, http2.ClientPreface)
	ok(t, err)
	attack := http2.NewFramer(conn, conn)
	ok(t, attack.WriteSettings())
	var list bytes.Buffer
	head := hpack.NewEncoder(&list)
	for _, f := range [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", v.address}, {":path", "/v1/volumes"}} {
		ok(t, head.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}))
	}
	ask := func(stream uint32) error {
		return attack.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: list.Bytes(), EndStream: true, EndHeaders: true})
	}
	ok(t, ask(1))
	for answered := false; !answered; { // what it asks for is answered unless it is taken back
		f, err := attack.ReadFrame()
		ok(t, err)
		_, answered = f.(*http2.HeadersFrame)
	}
	go func() { _, _ = io.Copy(io.Discard, conn) }()
	const requests = 30_000
	for n := range uint32(requests) {
		stream := 2*n + 3
		if ask(stream) != nil || attack.WriteRSTStream(stream, http2.ErrCodeCancel) != nil {
			t.Logf("the server has hung up after %d of %d requests", n, requests)
			break
		}
	}
	v.othersAreServed()
}

// A body that comes a byte at a time is not waited for, and changes nothing.
func TestAttackSlowBody(t *testing.T) {
	v := newVictim(t)
	before := v.state()
	body, feed := io.Pipe()
	defer func() { _ = feed.Close() }()
	req, err := http.NewRequestWithContext(t.Context(), "POST", "https://"+v.address+"/v1/volumes", body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	go func() { _, _ = io.WriteString(feed, `{"name":`) }() // and nothing more
	began := time.Now()
	resp, err := v.transport("operator", "ana").RoundTrip(req)
	if err == nil {
		defer resp.Body.Close()
		if resp.StatusCode != http.StatusRequestTimeout {
			t.Errorf("got %s", resp.Status)
		}
	}
	if took := time.Since(began); took > 9*time.Second {
		t.Errorf("the server waited %v", took)
	}
	if after := v.state(); after != before {
		t.Error("something was changed")
	}
}

// Headers that come a byte at a time end with the connection (slow loris).
func TestAttackSlowHeaders(t *testing.T) {
	v := newVictim(t)
	tlsConfig, err := v.identity("viewer", "vic").ClientTLS(pki.RoleControl, pki.RoleControl)
	if err != nil {
		t.Fatal(err)
	}
	tlsConfig.NextProtos = []string{"http/1.1"}
	conn, err := (&tls.Dialer{Config: tlsConfig}).DialContext(t.Context(), "tcp", v.address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := fmt.Fprint(conn, "GET /v1/volumes HTTP/1.1\r\nHost: x\r\nX-Slow: "); err != nil {
		t.Fatal(err)
	}
	ok(t, conn.SetReadDeadline(time.Now().Add(20*time.Second)))
	answer, err := io.ReadAll(conn)
	if err != nil && strings.Contains(err.Error(), "timeout") || strings.HasPrefix(string(answer), "HTTP/1.1 200") {
		t.Errorf("the connection is open still: %q, %v", answer, err)
	}
	v.othersAreServed()
}

// The key of a request is worth nothing to anybody else, nor for anything else.
func TestAttackKeyOfARequest(t *testing.T) {
	v := newVictim(t)
	shop := attack{name: "create", method: "POST", path: "/v1/volumes", body: `{"name":"shop"}`, headers: []string{"Idempotency-Key", "k1"}}
	if status, _, text := v.send(v.transport("operator", "ana"), shop); status != 200 {
		t.Fatalf("the owner gets %d %s", status, text)
	}
	before := v.state()
	for name, try := range map[string]func() (int, mobyfs.Code, string){
		"by another operator": func() (int, mobyfs.Code, string) { return v.send(v.transport("operator", "eve"), shop) },
		"by a node":           func() (int, mobyfs.Code, string) { return v.send(v.transport("node", "h1"), shop) },
		"with another body": func() (int, mobyfs.Code, string) {
			other := shop
			other.body = `{"name":"evil"}`
			return v.send(v.transport("operator", "ana"), other)
		},
		"for another call": func() (int, mobyfs.Code, string) {
			other := shop
			other.path, other.body = "/v1/volumes/moving:cancel-move", ""
			return v.send(v.transport("operator", "ana"), other)
		},
	} {
		if status, code, text := try(); status != 422 || code != mobyfs.CodeReused || strings.Contains(text, "shop") {
			t.Errorf("%s: got %d %s", name, status, text)
		}
	}
	if after := v.state(); after != before {
		t.Error("something was changed")
	}
}

// Whoever is refused again and again can't fill the audit trail.
func TestAttackFloodOfRefusals(t *testing.T) {
	v := newVictim(t)
	transport := v.transport("viewer", "vic")
	began := time.Now()
	for range 200 {
		if status, _, text := v.send(transport, attack{method: "DELETE", path: "/v1/volumes/pgdata"}); status != 403 {
			t.Fatalf("got %d %s", status, text)
		}
	}
	told := 0
	enough := fmt.Errorf("enough")
	_ = v.client("auditor", "aud").Audit(t.Context(), 0, func(e mobyfs.Event) error {
		if e.Denied != "" {
			told++
		}
		return nil
	}, func(api.Complete) error { return enough })
	if most := 2 + int(time.Since(began)/time.Second); told == 0 || told > most {
		t.Errorf("of 200 refusals the trail has %d, want 1 to %d", told, most)
	}
}
