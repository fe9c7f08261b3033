package transfer

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// wire is the TCP connection under TLS. It moves a deadline with each read and write, so that it fails if the other
// end stalls but may take any time as long as something moves. From buffered on it collects TLS's records, which
// are 16 KiB at most, into writes of bufferSize.
//
// Reads come from one goroutine at a time; all else may be called at once.
type wire struct {
	net.Conn
	r    *bufio.Reader
	idle time.Duration

	readMu   sync.Mutex
	readIdle time.Duration // 0: wait for ever

	mu       sync.Mutex
	w        *bufio.Writer
	buffered bool
}

func newWire(c net.Conn, idle time.Duration) *wire {
	w := &wire{Conn: c, idle: idle}
	w.r = bufio.NewReaderSize(readSide{w}, bufferSize)
	w.w = bufio.NewWriterSize(writeSide{w}, bufferSize)
	w.readIdle = idle
	return w
}

func (w *wire) Read(b []byte) (int, error) { return w.r.Read(b) }

func (w *wire) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n, err := w.w.Write(b)
	if err == nil && !w.buffered {
		err = w.w.Flush()
	}
	return n, err
}

// buffer begins to collect writes. Called once the handshake, which waits for answers, is over.
func (w *wire) buffer() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.buffered = true
}

// Flush sends what was collected.
func (w *wire) Flush() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.w.Flush()
}

// awaitReads sets how long a read may take from now on, one that waits already included. 0 is for ever.
func (w *wire) awaitReads(d time.Duration) {
	w.readMu.Lock()
	defer w.readMu.Unlock()
	w.readIdle = d
	var t time.Time
	if d > 0 {
		t = time.Now().Add(d)
	}
	_ = w.SetReadDeadline(t) // fails only if the connection is closed, which the reader will see
}

type readSide struct{ w *wire }

func (r readSide) Read(b []byte) (int, error) {
	if err := r.w.beginRead(); err != nil {
		return 0, err
	}
	n, err := r.w.Conn.Read(b)
	return n, r.w.stalled(err)
}

func (w *wire) beginRead() error {
	w.readMu.Lock()
	defer w.readMu.Unlock()
	if w.readIdle == 0 {
		return nil
	}
	return w.SetReadDeadline(time.Now().Add(w.readIdle))
}

type writeSide struct{ w *wire }

// Write goes on after a deadline has passed if part of b was taken since the last.
func (s writeSide) Write(b []byte) (int, error) {
	for done := 0; ; {
		if err := s.w.SetWriteDeadline(time.Now().Add(s.w.idle)); err != nil {
			return done, err
		}
		n, err := s.w.Conn.Write(b[done:])
		done += n
		if err == nil || n == 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			return done, s.w.stalled(err)
		}
	}
}

var errStalled = errors.New("the other end has not moved a byte for too long")

func (w *wire) stalled(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return errStalled
	}
	return err
}

// linger ends the writing side and waits a moment for the other end to do the same, so that what was written last
// is read there: closing a connection on which something lies unread throws that away.
func linger(c net.Conn) {
	half, ok := c.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil || c.SetReadDeadline(time.Now().Add(lingerTime)) != nil {
		return
	}
	_, _ = io.Copy(io.Discard, c)
}

// handshake speaks TLS over the wire, within handshakeTimeout.
func handshake(ctx context.Context, w *wire, c *tls.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	if err := c.HandshakeContext(ctx); err != nil {
		return err
	}
	w.buffer()
	return nil
}

// bulk returns the TLS configuration with records of full size from the start.
func bulk(cfg *tls.Config) *tls.Config {
	cfg = cfg.Clone()
	cfg.DynamicRecordSizingDisabled = true
	if of := cfg.GetConfigForClient; of != nil {
		cfg.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			c, err := of(h)
			if c != nil {
				c = c.Clone()
				c.DynamicRecordSizingDisabled = true
			}
			return c, err
		}
	}
	return cfg
}
