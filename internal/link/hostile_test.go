package link

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"os"
	"testing"
	"time"
)

func callOf(number uint32, q request) []byte {
	return frame{kindCall, number, q.append(nil)}.append(nil)
}

// What is not the protocol ends the link before it costs anything.
func TestAttackFramesThatMayNotBeSent(t *testing.T) {
	get := request{method: "GET", target: "/"}
	flood := []byte{}
	for i := range uint32(201) {
		flood = append(flood, callOf(i+1, get)...)
	}
	for name, sent := range map[string][]byte{
		"an unknown kind":               frame{kind: 99}.append(nil),
		"a frame of a server":           frame{kind: kindAnswer, call: 1}.append(nil),
		"a call of 16 MiB, announced":   {0xff, 0xff, 0xff, byte(kindCall), 0, 0, 0, 1},
		"a ping that carries something": frame{kindPing, 0, []byte("x")}.append(nil),
		"a request that can't be read":  frame{kindCall, 1, []byte{0xff, 0xff}}.append(nil),
		"a target that is no path":      callOf(1, request{method: "GET", target: "control"}),
		"a method that is none":         callOf(1, request{method: "get /", target: "/"}),
		"a header with a line break":    callOf(1, request{method: "GET", target: "/", header: http.Header{"X": {"a\r\nb"}}}),
		"a header by another name":      callOf(1, request{method: "GET", target: "/", header: http.Header{"idempotency-key": {"a"}}}),
		"a number that was used":        append(callOf(7, get), callOf(7, get)...),
		"more calls than there may be":  flood,
		"more room than there ever was": append(callOf(1, get), frame{kindWindow, 1, []byte{0xff, 0xff, 0xff, 0xff}}.append(nil)...),
	} {
		t.Run(name, func(t *testing.T) {
			stop := make(chan struct{})
			p := newPair(t, func(_ http.ResponseWriter, r *http.Request) {
				select {
				case <-stop:
				case <-r.Context().Done():
				}
			})
			defer close(stop)
			conn := p.dial()
			if _, err := conn.Write(sent); err != nil {
				t.Fatal(err)
			}
			_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second)) // a read that fails tells
			if _, err := io.ReadAll(conn); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Error("the link is open still")
			}
			eventually(t, "it is forgotten", func() bool { return p.server.Links() == 0 && p.ended.Load() == 1 })
		})
	}
}

// A request that comes a byte at a time is not waited for, whether it is cut between records of TLS or within one.
func TestAttackSlowCall(t *testing.T) {
	p := newPair(t, func(http.ResponseWriter, *http.Request) { t.Error("it is asked") })
	p.server.CallTime = 300 * time.Millisecond
	conn := p.dial()
	began := time.Now()
	for _, b := range callOf(1, request{method: "GET", target: "/", body: make([]byte, 1000)}) {
		if _, err := conn.Write([]byte{b}); err != nil {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("the server waited %v", took)
	}
	eventually(t, "the link has ended", func() bool { return p.ended.Load() == 1 })

	plain := p.dial()
	record := []byte{23, 3, 3, 0x40, 0} // of TLS, of 16 KiB
	if _, err := plain.NetConn().Write(append(record, 1)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the other has ended", func() bool { return p.ended.Load() == 2 })
}

// Calls that are taken back as soon as they are made count until they have ended, and never are more than there may be.
func TestAttackRapidCancelOnALink(t *testing.T) {
	most := make(chan int, 1)
	most <- 0
	now := 0
	p := newPair(t, func(_ http.ResponseWriter, r *http.Request) {
		n := <-most
		now++
		most <- max(n, now)
		<-r.Context().Done()
		time.Sleep(time.Millisecond) // work that does not stop at once
		n = <-most
		now--
		most <- n
	})
	conn := p.dial()
	go func() { _, _ = io.Copy(io.Discard, conn) }() // until the end
	for i := range uint32(5000) {
		b := append(callOf(i+1, request{method: "GET", target: "/"}), frame{kind: kindCancel, call: i + 1}.append(nil)...)
		if _, err := conn.Write(b); err != nil {
			break // it was cut off, as it may
		}
	}
	eventually(t, "all calls have ended", func() bool { n := <-most; defer func() { most <- n }(); return now == 0 })
	if n := <-most; n > 200 {
		t.Errorf("%d calls were answered at once", n)
	} else {
		most <- n
	}
}

func TestAttackManyLinks(t *testing.T) {
	p := newPair(t, func(http.ResponseWriter, *http.Request) {})
	for range 30 {
		p.dial()
	}
	eventually(t, "only eight are open", func() bool { return p.server.Links() == 8 && p.ended.Load() == 22 })
}

// FuzzFrames: whatever a client sends is read as frames that, sent again, are the same, or refused; however it is cut.
func FuzzFrames(f *testing.F) {
	f.Add(callOf(1, request{"POST", "/v1/agent/report", http.Header{"Content-Type": {"application/json"}}, []byte(`{}`)}))
	f.Add(frame{kind: kindPing}.append(frame{kindWindow, 3, []byte{0, 0, 1, 0}}.append(nil)))
	f.Add([]byte{0xff, 0xff, 0xff, 1, 0, 0, 0, 1})
	f.Add(callOf(2, request{method: "GET", target: "/v1/volumes/a%2fb:wait?revision=1"}))
	clients := limitsOfClients(1 << 20)
	f.Fuzz(func(t *testing.T, b []byte) {
		var again []byte
		rest := b
		for {
			fr, after, ok, err := clients.cut(rest)
			if err != nil || !ok {
				break
			}
			if len(after) >= len(rest) || len(fr.payload) > maxHead+1<<20 {
				t.Fatalf("a frame of %d bytes leaves %d of %d", len(fr.payload), len(after), len(rest))
			}
			again = fr.append(again)
			if fr.kind == kindCall {
				fuzzRequest(t, fr.payload)
			}
			rest = after
		}
		if !bytes.Equal(again, b[:len(b)-len(rest)]) {
			t.Errorf("%x became %x", b, again)
		}
		if a, err := readAnswer(b); err == nil {
			if c, err := readAnswer(a.append(nil)); err != nil || c.status != a.status || !bytes.Equal(c.body, a.body) {
				t.Errorf("%+v became %+v, %v", a, c, err)
			}
		}
	})
}

func fuzzRequest(t *testing.T, payload []byte) {
	q, err := readRequest(payload)
	if err != nil {
		return
	}
	if c, err := readRequest(q.append(nil)); err != nil || c.method != q.method || c.target != q.target || !bytes.Equal(c.body, q.body) || len(c.header) != len(q.header) {
		t.Errorf("%+v became %+v, %v", q, c, err)
	}
	if u, err := q.url(); err == nil && plainTarget(q.target) && u.RequestURI() != q.target {
		t.Errorf("%q is read as %q", q.target, u.RequestURI())
	}
	n := 0
	for _, values := range q.header {
		n += len(values)
	}
	if n > maxHeaders {
		t.Errorf("it has %d headers", n)
	}
}
