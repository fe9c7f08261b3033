package link

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// link is one connection, as its server sees it. While nothing comes, a goroutine waits in rest; what comes is read and
// answered by the server's workers.
type link struct {
	server *Server
	client string
	conn   *tls.Conn
	raw    *Conn
	tls    *tls.ConnectionState
	from   string
	ended  func()
	turns  func()       // turn
	heard  atomic.Int64 // when something came last, in ns since 1970

	// Of turn, of which there is one at a time.
	part  []byte    // of a frame that has not come whole
	since time.Time // when something began to come that is not whole yet; zero if nothing has

	mu     sync.Mutex
	calls  []*exchange // under way
	last   uint32      // the highest number of a call
	closed bool
}

// rest waits until something comes.
func (l *link) rest() {
	if l.raw.await() != nil {
		l.close()
		return
	}
	l.server.workers.do(l.turns)
}

// turn reads what has come, and answers it.
func (l *link) turn() {
	answer, ok := l.read()
	if !ok {
		l.close()
		return
	}
	go l.rest()
	if answer != nil {
		answer()
	}
}

// read reads what has come and begins what is asked for, save the last, which it returns. It reports false if the link
// must be closed.
func (l *link) read() (last func(), ok bool) {
	buf, _ := l.server.bufs.Get().(*[]byte)
	defer l.server.bufs.Put(buf)
	whole := false
	for {
		n, err := l.conn.Read(*buf)
		b := (*buf)[:n]
		if len(l.part) > 0 {
			l.part = append(l.part, b...)
			b = l.part
		}
		for len(b) > 0 {
			f, rest, there, err := l.server.limits.cut(b)
			if err != nil {
				return nil, false
			}
			if !there {
				break
			}
			answer, ok := l.take(f)
			if !ok {
				return nil, false
			}
			if answer != nil && last != nil {
				l.server.workers.do(last)
			}
			if answer != nil {
				last = answer
			}
			whole, b = true, rest
		}
		l.keep(b)
		if errors.Is(err, notYet{}) {
			return last, l.setPace(whole, len(b) == 0)
		}
		if err != nil {
			return nil, false
		}
	}
}

// keep keeps what has come of the next frame.
func (l *link) keep(b []byte) {
	switch {
	case len(b) == 0:
		l.part = nil
	case len(l.part) == 0:
		l.part = bytes.Clone(b)
	case len(b) != len(l.part):
		l.part = bytes.Clone(b) // what lay before it may be freed
	}
}

// setPace limits how long the rest of a frame may take to come, or of a record of TLS: some says whether a frame came
// whole, and clean that nothing came after it.
func (l *link) setPace(some, clean bool) bool {
	now := time.Now()
	l.heard.Store(now.UnixNano())
	switch {
	case some && clean && l.since.IsZero(), !some && !l.since.IsZero():
		return true
	case some && clean:
		l.since = time.Time{}
		return l.raw.SetReadDeadline(time.Time{}) == nil
	}
	l.since = now
	return l.raw.SetReadDeadline(now.Add(l.server.CallTime)) == nil
}

// take does what a frame says, and returns what is to be done for it by a worker.
func (l *link) take(f frame) (work func(), ok bool) {
	switch f.kind {
	case kindCall:
		return l.begin(f)
	case kindCancel:
		if x := l.find(f.call); x != nil {
			x.giveUp()
		}
	case kindWindow:
		if len(f.payload) != 4 {
			return nil, false
		}
		if x := l.find(f.call); x != nil {
			return nil, x.widen(binary.BigEndian.Uint32(f.payload))
		}
	case kindPing:
		return nil, l.write(frame{kind: kindPong}.append(nil)) == nil
	}
	return nil, true
}

// begin begins to answer a call. Its number must be higher than that of the call before.
func (l *link) begin(f frame) (work func(), ok bool) {
	q, err := readRequest(bytes.Clone(f.payload)) // what it came in is used again
	if err != nil {
		return nil, false
	}
	x := &exchange{link: l, call: f.call, window: window}
	ctx, cancel := context.WithCancel(context.Background())
	x.cancel = cancel
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || f.call <= l.last || len(l.calls) >= l.server.MaxCalls {
		cancel()
		return nil, false
	}
	l.last = f.call
	l.calls = append(l.calls, x)
	return func() { x.serve(ctx, q) }, true
}

func (l *link) find(call uint32) *exchange {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, x := range l.calls {
		if x.call == call {
			return x
		}
	}
	return nil
}

// remove forgets a call that has been answered.
func (l *link) remove(x *exchange) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if i := slices.Index(l.calls, x); i >= 0 {
		l.calls = slices.Delete(l.calls, i, i+1)
	}
}

// isBusy reports whether an answer is not sent yet.
func (l *link) isBusy() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.calls) > 0 && !l.closed
}

func (l *link) write(b []byte) error {
	_, err := l.conn.Write(b)
	return err
}

func (l *link) sayBye() {
	if l.write(frame{kind: kindBye}.append(nil)) != nil {
		l.close()
	}
}

func (l *link) wakeStreams() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, x := range l.calls {
		if x.stream != nil {
			x.stream.Wake()
		}
	}
}

// close ends the link and all that goes on in it. It may be called twice, and by whoever wants.
func (l *link) close() {
	l.mu.Lock()
	calls, closed := slices.Clone(l.calls), l.closed
	l.closed = true
	l.mu.Unlock()
	if closed {
		return
	}
	_ = l.raw.Close() // not conn: that waits for a writer that is stuck
	l.server.forget(l)
	for _, x := range calls {
		x.giveUp()
	}
	l.ended()
}

// body is the body of a request, which is there.
type body struct{ bytes.Reader }

func (b *body) Close() error { return nil }

// serve has a call answered.
func (x *exchange) serve(ctx context.Context, q request) {
	defer func() {
		if p := recover(); p != nil {
			if p != http.ErrAbortHandler {
				panic(p)
			}
			x.finish("the answer was broken off")
		}
	}()
	u, err := q.url()
	if err != nil {
		x.WriteHeader(http.StatusBadRequest)
		x.finish("")
		return
	}
	r := (&http.Request{
		Method: q.method, URL: u, RequestURI: q.target, Proto: "HTTP/2.0", ProtoMajor: 2, Header: q.header,
		Body: http.NoBody, TLS: x.link.tls, RemoteAddr: x.link.from, ContentLength: int64(len(q.body)),
	}).WithContext(ctx)
	if len(q.body) > 0 {
		b := &body{}
		b.Reset(q.body)
		r.Body = b
	}
	x.link.server.Handler.ServeHTTP(x, r)
	if x.stream == nil {
		x.finish("")
	}
}

// exchange is a call under way, and the http.ResponseWriter of its answer.
type exchange struct {
	link   *link
	call   uint32
	cancel context.CancelFunc

	header http.Header
	status int
	body   []byte // of an answer that is not begun
	begun  bool   // its head is sent

	// Guarded by the link's mu.
	window int
	gone   bool          // nobody waits for the answer
	room   chan struct{} // told when the window is widened; nil unless somebody waits
	stream *Stream
}

// Header implements http.ResponseWriter.
func (x *exchange) Header() http.Header {
	if x.header == nil {
		x.header = make(http.Header, 2)
	}
	return x.header
}

// WriteHeader implements http.ResponseWriter.
func (x *exchange) WriteHeader(status int) {
	if x.status == 0 {
		x.status = status
	}
}

// Write implements http.ResponseWriter.
func (x *exchange) Write(b []byte) (int, error) {
	x.WriteHeader(http.StatusOK)
	if !x.begun && len(x.body)+len(b) <= maxPart {
		x.body = append(x.body, b...)
		return len(b), nil
	}
	if err := x.begin(); err != nil {
		return 0, err
	}
	return len(b), x.send(b)
}

// FlushError implements what http.ResponseController looks for.
func (x *exchange) FlushError() error {
	x.WriteHeader(http.StatusOK)
	return x.begin()
}

// SetReadDeadline and SetWriteDeadline are what http.ResponseController looks for. The request is there, and how long a
// write may take is the link's matter.
func (x *exchange) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline does nothing.
func (x *exchange) SetWriteDeadline(time.Time) error { return nil }

// begin sends the head of the answer, and what was written of its body.
func (x *exchange) begin() error {
	if x.begun {
		return nil
	}
	x.begun = true
	f := frame{kind: kindBegin, call: x.call}
	b := answer{status: x.status, header: x.header}.append(f.open(nil))
	if !seal(b, 0) || len(b) > frameHeader+maxHead {
		return errors.New("the head of the answer is too long")
	}
	if err := x.link.write(b); err != nil {
		return err
	}
	whole := x.body
	x.body = nil
	return x.send(whole)
}

// send sends a part of the body as the other side has room for it.
func (x *exchange) send(b []byte) error {
	for len(b) > 0 {
		n, err := x.waitForRoom(len(b))
		if err != nil {
			return err
		}
		if err := x.link.write(frame{kindData, x.call, b[:n]}.append(nil)); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// takeRoom takes as much of the window as there is and is wanted.
func (x *exchange) takeRoom(want int) (n int, gone bool) {
	x.link.mu.Lock()
	defer x.link.mu.Unlock()
	n = min(want, x.window, maxPart)
	x.window -= n
	return n, x.gone || x.link.closed
}

func (x *exchange) waitForRoom(want int) (int, error) {
	patience := time.NewTimer(x.link.server.Patience)
	defer patience.Stop()
	for {
		x.link.mu.Lock()
		if x.room == nil {
			x.room = make(chan struct{}, 1)
		}
		x.link.mu.Unlock()
		n, gone := x.takeRoom(want)
		if gone {
			return 0, io.ErrClosedPipe
		}
		if n > 0 {
			return n, nil
		}
		select {
		case <-x.room:
		case <-patience.C:
			x.link.close()
			return 0, fmt.Errorf("nobody has read the answer for %v", x.link.server.Patience)
		}
	}
}

// tell lets whoever waits look again. The link's mu is held.
func (x *exchange) tell() {
	if x.room != nil {
		select {
		case x.room <- struct{}{}:
		default:
		}
	}
	if x.stream != nil {
		x.stream.Wake()
	}
}

// widen lets more of the answer be sent. It reports false if that is more than was ever sent.
func (x *exchange) widen(n uint32) bool {
	x.link.mu.Lock()
	defer x.link.mu.Unlock()
	if int64(x.window)+int64(n) > window {
		return false
	}
	x.window += int(n)
	x.tell()
	return true
}

// giveUp notes that nobody waits for the answer.
func (x *exchange) giveUp() {
	x.cancel()
	x.link.mu.Lock()
	defer x.link.mu.Unlock()
	x.gone = true
	x.tell()
}

// finish ends the answer; with a reason if it is not whole. Each call gets an end, for its number to be free.
func (x *exchange) finish(reason string) {
	x.cancel()
	defer x.link.remove(x)
	x.WriteHeader(http.StatusOK)
	f := frame{kind: kindEnd, call: x.call, payload: []byte(reason)}
	if x.begun || reason != "" {
		x.last(f.append(nil))
		return
	}
	f = frame{kind: kindAnswer, call: x.call}
	b := answer{x.status, x.header, x.body}.append(f.open(make([]byte, 0, 256+len(x.body))))
	if !seal(b, 0) || len(b) > frameHeader+maxHead+maxPart {
		b = frame{kindEnd, x.call, []byte("the head of the answer is too long")}.append(nil)
	}
	x.last(b)
}

func (x *exchange) last(b []byte) {
	if x.link.write(b) != nil {
		x.link.close()
	}
}
