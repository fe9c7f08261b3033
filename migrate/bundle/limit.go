package bundle

import (
	"math"
	"net"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"
)

// leastLimit is what a limit is at least, in bytes a second, so that signs of life pass.
const leastLimit = 4 << 10

// limit is the bandwidth limit of one direction: a token bucket for all of its connections. It changes while some wait.
type limit struct {
	lanes  []*lane
	bucket *rate.Limiter

	mu      sync.Mutex
	own     int64 // this end's
	asked   int64 // the other end's; 0 is none, as for own
	now     int64 // the one that holds
	changed chan struct{}
	closed  bool
}

func newLimit(lanes []*lane) *limit {
	return &limit{lanes: lanes, bucket: rate.NewLimiter(rate.Inf, blockSize), changed: make(chan struct{})}
}

func (l *limit) set(bytesPerSecond int64) { l.change(&l.own, bytesPerSecond) }
func (l *limit) ask(bytesPerSecond int64) { l.change(&l.asked, bytesPerSecond) }

func (l *limit) change(which *int64, to int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	*which = max(0, to)
	now := l.own
	if now == 0 || l.asked > 0 && l.asked < now {
		now = l.asked
	}
	if now > 0 {
		now = max(now, leastLimit)
	}
	if now == l.now || l.closed {
		return
	}
	l.now = now
	if now == 0 {
		l.bucket.SetLimit(rate.Inf)
	} else {
		l.bucket.SetLimit(rate.Limit(now))
		l.bucket.SetBurst(pieceOf(now))
	}
	for _, lane := range l.lanes {
		pace(lane.raw, now)
	}
	close(l.changed)
	l.changed = make(chan struct{})
}

// rate is the limit in bytes a second; 0 is none.
func (l *limit) rate() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.now
}

// piece is how much may be asked for at once.
func (l *limit) piece() int { return pieceOf(l.rate()) }

func pieceOf(rate int64) int {
	if rate == 0 {
		return blockSize
	}
	return int(min(64<<10, max(1<<10, rate/8)))
}

// tight reports whether there is a limit, and so no use in collecting what it lets pass.
func (l *limit) tight() bool { return l.rate() > 0 }

// wait waits until n bytes may be sent.
func (l *limit) wait(n int) error {
	for n > 0 {
		l.mu.Lock()
		changed, closed, now := l.changed, l.closed, l.now
		l.mu.Unlock()
		if closed {
			return net.ErrClosed
		}
		if now == 0 {
			return nil
		}
		part := min(n, pieceOf(now))
		r := l.bucket.ReserveN(time.Now(), part)
		d := r.Delay()
		if !r.OK() { // the limit has just changed
			continue
		}
		if d == 0 {
			n -= part
			continue
		}
		t := time.NewTimer(d)
		select {
		case <-t.C:
			n -= part
		case <-changed:
			r.Cancel()
		}
		t.Stop()
	}
	return nil
}

func (l *limit) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		l.closed = true
		close(l.changed)
	}
}

// pace has the kernel spread what a connection sends, so that a limit does not come in bursts. It helps and is not
// needed, so an error is none.
func pace(c net.Conn, bytesPerSecond int64) {
	v := uint64(bytesPerSecond)
	if v == 0 {
		v = math.MaxUint64
	}
	onSocket(c, func(fd int) { _ = unix.SetsockoptUint64(fd, unix.SOL_SOCKET, unix.SO_MAX_PACING_RATE, v) })
}

// tune keeps the kernel from queueing much that is not sent yet: a block should go to the connection that is free next.
func tune(c net.Conn) {
	onSocket(c, func(fd int) { _ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, 1<<20) })
}

func onSocket(c net.Conn, do func(fd int)) {
	s, ok := c.(syscall.Conn)
	if !ok {
		return
	}
	if raw, err := s.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { do(int(fd)) })
	}
}
