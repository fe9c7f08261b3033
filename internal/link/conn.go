package link

import (
	"errors"
	"io"
	"net"
	"syscall"
	"time"
)

// Conn is the connection below TLS. At first it reads as any other. Once it is taken by a Server, reading does not wait:
// crypto/tls is told that nothing is there yet, and somebody with a small stack waits.
type Conn struct {
	net.Conn
	raw   syscall.RawConn
	taken bool // it does not wait
	empty bool // all that has come was read

	// What the next call of try is about, for it to need no memory of its own.
	b   []byte
	n   int
	err error
	one func(fd uintptr) bool

	patience time.Duration // for the other side to read what is written
	out      []byte
	sent     int
	outErr   error
	put      func(fd uintptr) bool
}

// NewConn is the connection as a Server can take it; false if it is none of a socket.
func NewConn(c net.Conn) (*Conn, bool) {
	s, ok := c.(syscall.Conn)
	if !ok {
		return nil, false
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return nil, false
	}
	return &Conn{Conn: c, raw: raw}, true
}

// notYet says that nothing is there to be read. To crypto/tls it is an error after which one may go on reading.
type notYet struct{}

func (notYet) Error() string   { return "nothing has come yet" }
func (notYet) Timeout() bool   { return true }
func (notYet) Temporary() bool { return true }

// take makes reading not wait any more, and writing not longer than patience.
func (c *Conn) take(patience time.Duration) {
	c.taken, c.empty, c.patience = true, true, patience
	c.one, c.put = c.try, c.offer
}

// Read implements net.Conn.
func (c *Conn) Read(b []byte) (int, error) {
	if !c.taken {
		return c.Conn.Read(b)
	}
	if c.empty || len(b) == 0 {
		return 0, notYet{}
	}
	c.b = b
	err := c.raw.Read(c.one)
	c.b = nil
	if err != nil {
		return 0, err
	}
	switch {
	case errors.Is(c.err, syscall.EAGAIN):
		c.empty = true
		return 0, notYet{}
	case c.err != nil:
		return 0, c.err
	case c.n == 0:
		return 0, io.EOF
	}
	c.empty = c.n < len(b) // whatever comes from now on is seen by await
	return c.n, nil
}

// try reads what is there.
func (c *Conn) try(fd uintptr) bool {
	for {
		c.n, c.err = syscall.Read(int(fd), c.b)
		if !errors.Is(c.err, syscall.EINTR) {
			return true
		}
	}
}

// await waits until there is something to be read, the read deadline has passed or the connection is closed.
func (c *Conn) await() error {
	looked := false
	err := c.raw.Read(func(fd uintptr) bool {
		if looked {
			return true
		}
		looked = true
		var one [1]byte
		_, _, err := syscall.Recvfrom(int(fd), one[:], syscall.MSG_PEEK)
		return !errors.Is(err, syscall.EAGAIN)
	})
	c.empty = false
	return err
}

// Write implements net.Conn. What does not fit into the socket may take as long as patience says.
func (c *Conn) Write(b []byte) (int, error) {
	if !c.taken {
		return c.Conn.Write(b)
	}
	c.out = b
	err := c.raw.Write(c.put)
	c.out = nil
	if err == nil && !errors.Is(c.outErr, syscall.EAGAIN) {
		err = c.outErr
	}
	if err != nil || c.sent == len(b) {
		return c.sent, err
	}
	sent := c.sent
	if err := c.SetWriteDeadline(time.Now().Add(c.patience)); err != nil {
		return sent, err
	}
	n, err := c.Conn.Write(b[sent:])
	if err == nil {
		err = c.SetWriteDeadline(time.Time{})
	}
	return sent + n, err
}

// offer writes what fits.
func (c *Conn) offer(fd uintptr) bool {
	for {
		c.sent, c.outErr = syscall.Write(int(fd), c.out)
		if !errors.Is(c.outErr, syscall.EINTR) {
			c.sent = max(c.sent, 0)
			return true
		}
	}
}
