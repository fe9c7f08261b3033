package bundle

import (
	"bufio"
	"errors"
	"net"
	"os"
	"sync"
	"sync/atomic"
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

	lastRead atomic.Int64 // when a byte came last, in nanoseconds since began
	speed    speed        // of the connection, as its writes tell

	mu       sync.Mutex
	w        *bufio.Writer
	buffered bool
}

// began is what monotonic times in this package count from.
var began = time.Now()

func sinceBegan() int64 { return int64(time.Since(began)) }

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
	if n > 0 {
		r.w.lastRead.Store(sinceBegan())
	}
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
		before := time.Now()
		n, err := s.w.Conn.Write(b[done:])
		s.w.speed.add(n, time.Since(before))
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
