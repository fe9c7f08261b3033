package link

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// Bounds of a client's end.
const (
	pingAfter  = 12 * time.Second // of silence while an answer is awaited
	pingLimit  = 20 * time.Second // of silence, after which the other end counts as dead
	sayAfter   = 20 * time.Second // of saying nothing, for the server to know that we are there
	lookEvery  = 4 * time.Second
	sendTime   = 10 * time.Second // for a frame to be sent
	clientSide = 150              // calls under way; what is beyond them waits
)

// ErrClosed is why a call could not be made or was not answered: the link has ended, or its server asks for nothing more
// to be asked there.
var ErrClosed = errors.New("the link is closed")

// Client is the end that asks. It implements http.RoundTripper; many may use it at once.
type Client struct {
	conn     net.Conn
	headTime time.Duration
	idleTime time.Duration
	slots    chan struct{} // one value for each call under way
	heard    atomic.Int64  // when something came last, in ns since 1970
	said     atomic.Int64  // when something was sent last

	sending sync.Mutex // frames go in the order of their calls' numbers

	mu      sync.Mutex
	calls   map[uint32]*waiting
	last    uint32 // the number of the last call
	used    time.Time
	retired bool  // no call begins any more
	err     error // why it has ended
	done    chan struct{}
	looks   *time.Timer
}

// waiting is a call whose answer has not come whole.
type waiting struct {
	answer chan *http.Response // gets one
	body   *stream             // nil before the head has come
	left   bool                // nobody waits for it any more
}

// NewClient asks over a connection whose handshake is done, which it closes. An answer must begin within headTime; if
// nothing was asked for idleTime the link ends. A link on which nothing comes for 20 s while an answer is awaited counts
// as dead.
func NewClient(conn net.Conn, headTime, idleTime time.Duration) *Client {
	c := &Client{
		conn: conn, headTime: headTime, idleTime: idleTime, slots: make(chan struct{}, clientSide),
		calls: map[uint32]*waiting{}, done: make(chan struct{}), used: time.Now(),
	}
	c.heard.Store(time.Now().UnixNano())
	c.looks = time.AfterFunc(lookEvery, c.look)
	go c.read()
	return c
}

// Usable reports whether calls can be made.
func (c *Client) Usable() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err == nil && !c.retired
}

// Retire lets calls that are under way end, and the link after them.
func (c *Client) Retire() {
	c.mu.Lock()
	c.retired = true
	quiet := len(c.calls) == 0
	c.mu.Unlock()
	if quiet {
		c.fail(ErrClosed)
	}
}

// RoundTrip implements http.RoundTripper. ErrClosed says that the request was not sent, or not answered.
func (c *Client) RoundTrip(r *http.Request) (*http.Response, error) {
	var body []byte
	if r.Body != nil {
		var err error
		body, err = io.ReadAll(r.Body)
		_ = r.Body.Close()
		if err != nil {
			return nil, err
		}
	}
	ctx := r.Context()
	select {
	case c.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-c.done:
		return nil, c.why()
	}
	w := &waiting{answer: make(chan *http.Response, 1)}
	call, err := c.send(w, request{r.Method, r.URL.RequestURI(), r.Header, body})
	if err != nil {
		return nil, err
	}
	patience := time.NewTimer(c.headTime)
	defer patience.Stop()
	select {
	case resp := <-w.answer:
		return c.answered(ctx, call, w, r, resp)
	case <-ctx.Done():
		c.leave(call, w)
		return nil, ctx.Err()
	case <-patience.C:
		c.leave(call, w)
		return nil, fmt.Errorf("no answer for %v", c.headTime)
	case <-c.done:
		select {
		case resp := <-w.answer:
			return c.answered(ctx, call, w, r, resp)
		default:
			return nil, c.why()
		}
	}
}

// answered gives an answer out. The body of one that goes on ends with ctx.
func (c *Client) answered(ctx context.Context, call uint32, w *waiting, r *http.Request, resp *http.Response) (*http.Response, error) {
	if resp == nil {
		return nil, errors.New("the server broke the answer off")
	}
	resp.Request = r
	if b, ok := resp.Body.(*stream); ok {
		b.leave = func() { c.leave(call, w) }
		b.stop = context.AfterFunc(ctx, func() { b.fail(context.Cause(ctx)) })
	}
	return resp, nil
}

// send makes a call.
func (c *Client) send(w *waiting, q request) (uint32, error) {
	c.sending.Lock()
	defer c.sending.Unlock()
	c.mu.Lock()
	if c.err != nil || c.retired || c.last == 1<<31 {
		c.mu.Unlock()
		<-c.slots
		return 0, ErrClosed
	}
	if len(c.calls) == 0 {
		c.heard.Store(time.Now().UnixNano()) // nothing was to be heard before
	}
	c.last++
	call := c.last
	c.calls[call] = w
	c.used = time.Now()
	c.mu.Unlock()
	b := q.append(frame{kind: kindCall, call: call}.open(make([]byte, 0, 256+len(q.body))))
	if !seal(b, 0) {
		err := errors.New("the request is too long")
		c.fail(err)
		return call, err
	}
	return call, c.writeLocked(b)
}

func (c *Client) write(f frame) error {
	c.sending.Lock()
	defer c.sending.Unlock()
	return c.writeLocked(f.append(nil))
}

func (c *Client) writeLocked(b []byte) error {
	now := time.Now()
	c.said.Store(now.UnixNano())
	err := c.conn.SetWriteDeadline(now.Add(sendTime))
	if err == nil {
		_, err = c.conn.Write(b)
	}
	if err != nil {
		c.fail(err)
		return c.why()
	}
	return nil
}

// leave tells the server that nobody waits for an answer. Its number is free when the server has said its last of it.
func (c *Client) leave(call uint32, w *waiting) {
	c.mu.Lock()
	there := c.calls[call] == w && !w.left
	w.left = true
	c.mu.Unlock()
	if there {
		_ = c.write(frame{kind: kindCancel, call: call}) // if it fails the link has ended
	}
}

// look ends the link if it is dead, or needed no more.
func (c *Client) look() {
	now := time.Now()
	silent, mute := now.Sub(time.Unix(0, c.heard.Load())), now.Sub(time.Unix(0, c.said.Load()))
	c.mu.Lock()
	waits, ended, idle := len(c.calls) > 0, c.err != nil, now.Sub(c.used)
	c.mu.Unlock()
	switch {
	case ended:
		return
	case !waits && idle > c.idleTime:
		c.fail(ErrClosed)
		return
	case waits && silent > pingLimit:
		c.fail(fmt.Errorf("nothing came for %v", pingLimit))
		return
	case waits && (silent > pingAfter || mute > sayAfter):
		_ = c.write(frame{kind: kindPing}) // if it fails the link has ended
	}
	c.looks.Reset(lookEvery)
}

// read takes what comes, until the link ends.
func (c *Client) read() {
	in := bufio.NewReaderSize(c.conn, 4<<10)
	var head [frameHeader]byte
	for {
		if _, err := io.ReadFull(in, head[:]); err != nil {
			c.fail(err)
			return
		}
		c.heard.Store(time.Now().UnixNano())
		size := int(head[0])<<16 | int(head[1])<<8 | int(head[2])
		f := frame{kind: kind(head[3]), call: binary.BigEndian.Uint32(head[4:])}
		if most, known := limitsOfServers[f.kind]; !known || size > most {
			c.fail(fmt.Errorf("%w: a frame of kind %d with %d bytes", errProtocol, f.kind, size))
			return
		}
		f.payload = make([]byte, size)
		if _, err := io.ReadFull(in, f.payload); err != nil {
			c.fail(err)
			return
		}
		if err := c.take(f); err != nil {
			c.fail(err)
			return
		}
	}
}

// take does what a frame says.
func (c *Client) take(f frame) error {
	switch f.kind {
	case kindPong:
		return nil
	case kindBye:
		c.Retire()
		return nil
	}
	c.mu.Lock()
	w := c.calls[f.call]
	c.mu.Unlock()
	if w == nil {
		return fmt.Errorf("%w: an answer to nothing", errProtocol)
	}
	switch f.kind {
	case kindAnswer, kindBegin:
		return c.takeHead(f, w)
	case kindData:
		if w.body == nil {
			return fmt.Errorf("%w: a body without a head", errProtocol)
		}
		return w.body.add(f.payload)
	default:
		if w.body == nil {
			w.answer <- nil
		}
		c.ended(f.call, w, string(f.payload))
		return nil
	}
}

func (c *Client) takeHead(f frame, w *waiting) error {
	a, err := readAnswer(f.payload)
	if err != nil || w.body != nil {
		return fmt.Errorf("%w: an answer that can't be read", errProtocol)
	}
	resp := &http.Response{
		StatusCode: a.status, Status: strconv.Itoa(a.status) + " " + http.StatusText(a.status), Proto: "HTTP/2.0", ProtoMajor: 2,
		Header: a.header, ContentLength: int64(len(a.body)), Body: io.NopCloser(bytes.NewReader(a.body)),
	}
	if f.kind == kindBegin {
		w.body = newStream(func(n int) {
			_ = c.write(frame{kindWindow, f.call, binary.BigEndian.AppendUint32(nil, uint32(n))}) // if it fails the link has ended
		})
		resp.ContentLength, resp.Body = -1, w.body
	}
	w.answer <- resp
	if f.kind == kindAnswer {
		c.ended(f.call, w, "")
	}
	return nil
}

// ended frees the number of a call whose answer has ended; with a reason if it is not whole.
func (c *Client) ended(call uint32, w *waiting, reason string) {
	c.mu.Lock()
	delete(c.calls, call)
	c.used = time.Now()
	quiet := c.retired && len(c.calls) == 0
	c.mu.Unlock()
	<-c.slots
	switch {
	case w.body != nil && reason == "":
		w.body.fail(io.EOF)
	case w.body != nil:
		w.body.fail(fmt.Errorf("the server broke the answer off: %s", reason))
	}
	if quiet {
		c.fail(ErrClosed)
	}
}

// fail ends the link.
func (c *Client) fail(err error) {
	c.mu.Lock()
	first := c.err == nil
	if first {
		c.err = err
		close(c.done)
	}
	calls := c.calls
	c.calls = map[uint32]*waiting{}
	c.mu.Unlock()
	if !first {
		return
	}
	c.looks.Stop()
	_ = c.conn.Close() // it may be broken already
	for _, w := range calls {
		if w.body != nil {
			w.body.fail(c.why())
		}
	}
}

// why is the error of calls that can't be answered any more.
func (c *Client) why() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil || errors.Is(c.err, ErrClosed) {
		return ErrClosed
	}
	return fmt.Errorf("%w: %w", ErrClosed, c.err)
}

// stream is the body of an answer as it comes.
type stream struct {
	widen func(n int)
	leave func() // set before anybody reads
	stop  func() bool

	mu   sync.Mutex
	some sync.Cond
	b    []byte
	read int // bytes that the server has not been told were read
	err  error
}

func newStream(widen func(n int)) *stream {
	s := &stream{widen: widen}
	s.some.L = &s.mu
	return s
}

// add takes what has come. More than the window is not the protocol.
func (s *stream) add(b []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.b)+s.read+len(b) > window {
		return fmt.Errorf("%w: more than there is room for", errProtocol)
	}
	if s.err == nil {
		s.b = append(s.b, b...)
		s.some.Broadcast()
	}
	return nil
}

// fail ends the body after what has come.
func (s *stream) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
		s.some.Broadcast()
	}
}

// Alive reports that a Client sees to it that the server is there for as long as the body goes on.
func (s *stream) Alive() bool { return true }

// Read implements io.Reader.
func (s *stream) Read(b []byte) (int, error) {
	s.mu.Lock()
	for len(s.b) == 0 && s.err == nil {
		s.some.Wait()
	}
	n := copy(b, s.b)
	if s.b = s.b[n:]; len(s.b) == 0 {
		s.b = nil
	}
	err := s.err
	s.read += n
	more := s.read
	if more < window/2 || err != nil {
		more = 0
	}
	s.read -= more
	s.mu.Unlock()
	if more > 0 {
		s.widen(more)
	}
	if n > 0 {
		return n, nil
	}
	return 0, err
}

// Close implements io.Closer.
func (s *stream) Close() error {
	s.stop()
	s.fail(errors.New("the body was closed"))
	s.leave()
	return nil
}
