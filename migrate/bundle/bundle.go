// Package bundle carries one ordered stream of bytes each way over several TCP connections with mutual TLS 1.3, so
// that more than one core encrypts and more than one connection's window is filled. It packs what is worth packing,
// and keeps to a limit that may change at any time. protocol.md tells what crosses.
package bundle

import (
	"crypto/tls"
	"io"
	"net"
	"runtime"
	"sync"
	"time"

	"github.com/mobyfs/mobyfs"
)

// Protocols that are spoken: 1 is a single connection and plain bytes, 2 is a bundle.
const (
	Protocol1 = 1
	Protocol2 = 2
)

// Sizes that both ends agree on.
const (
	MaxConnections = 4
	blockSize      = 256 << 10 // the greatest block, before it is packed
	window         = 64        // blocks that may have come before the one that is next
	bufferSize     = 512 << 10 // under TLS, each way: one system call for many records
)

// Times.
const (
	idleTimeout      = 60 * time.Second // without a byte from the other end
	handshakeTimeout = 15 * time.Second
	joinTimeout      = 15 * time.Second // from the first connection of a bundle to the last
	lingerTime       = time.Second
)

// connections is how many an end wants if nobody says.
func connections() int { return min(MaxConnections, max(1, runtime.GOMAXPROCS(0))) }

// corrupt says that the other end sent what it must not send.
func corrupt(format string, args ...any) *mobyfs.Error {
	return mobyfs.Errorf(mobyfs.CodeCorrupt, "the stream is damaged: "+format, args...)
}

// Conn is one end of a bundle. Reads come from one goroutine at a time; all else may be called at once.
type Conn struct {
	lanes []*lane
	plain *plain // protocol 1; the rest is unused then
	in    *incoming
	out   *outgoing

	closing sync.Once
	onClose func()
	wg      sync.WaitGroup
}

// lane is one connection of a bundle.
type lane struct {
	raw  net.Conn
	wire *wire
	tls  *tls.Conn
	conn io.ReadWriter // tls
}

// start begins to carry bytes. onClose is called once, when the connections are closed.
func start(lanes []*lane, idle time.Duration, onClose func()) *Conn {
	c := &Conn{lanes: lanes, onClose: onClose}
	c.in = newIncoming(lanes, idle)
	c.out = newOutgoing(lanes)
	c.in.limit = c.out.limit.ask
	for i, l := range lanes {
		tune(l.raw)
		l.wire.awaitReads(0)
		c.wg.Go(func() { c.in.run(i, l) })
		c.wg.Go(func() { c.out.run(l) })
	}
	return c
}

// Version is the protocol that both ends speak.
func (c *Conn) Version() int {
	if c.plain != nil {
		return Protocol1
	}
	return Protocol2
}

// State tells who the other end is.
func (c *Conn) State() tls.ConnectionState { return c.lanes[0].tls.ConnectionState() }

// Read reads what the other end wrote. io.EOF is its proper end; io.ErrUnexpectedEOF, and any other error, says that
// the stream broke, which it does if a single one of its connections does. What came before is read first.
func (c *Conn) Read(b []byte) (int, error) {
	if c.plain != nil {
		return c.plain.read(b)
	}
	return c.in.read(b)
}

// Write takes b in, to be sent once a block is full or Flush is called. An error may be that of an earlier Write.
func (c *Conn) Write(b []byte) (int, error) {
	if c.plain != nil {
		return c.plain.conn.Write(b)
	}
	return c.out.write(b)
}

// Flush has everything sent that was written. It does not wait until it is.
func (c *Conn) Flush() error {
	if c.plain != nil {
		return c.plain.wire.Flush()
	}
	return c.out.flush()
}

// AwaitReads sets how long a Read may take from now on without a byte from the other end, one that waits already
// included. 0 is for ever. At first it is the idle time.
func (c *Conn) AwaitReads(d time.Duration) {
	if c.plain != nil {
		c.plain.wire.awaitReads(d)
		return
	}
	c.in.await(d)
}

// Limit has the other end send no more bytes than this in a second, as they cross the network. 0 is no limit. It can
// be changed at any time, and holds at once.
func (c *Conn) Limit(bytesPerSecond int64) error {
	if c.plain != nil {
		c.plain.limit.ask(bytesPerSecond)
		return nil
	}
	return c.out.tellLimit(bytesPerSecond)
}

// SetLimit is Limit for what this end sends. The lower one of both holds.
func (c *Conn) SetLimit(bytesPerSecond int64) {
	if c.plain == nil {
		c.out.limit.set(bytesPerSecond)
	}
}

// Stats is what a bundle has carried.
type Stats struct {
	Connections         int
	Sent, Received      int64 // bytes as they crossed, without what TLS and TCP add
	Written, Read       int64 // the same before they were packed
	LinkRate, PackRate  int64 // bytes a second that the connections take, and that one core packs; 0: not known
	Packing             bool  // the link is slow enough for it to pay
	BytesPerSecondLimit int64 // of what this end sends; 0: none
}

// Stats tells what has been carried so far. Of protocol 1 only the number of connections is known.
func (c *Conn) Stats() Stats {
	s := Stats{Connections: len(c.lanes)}
	if c.plain == nil {
		c.in.stats(&s)
		c.out.stats(&s)
	}
	return s
}

// Close sends what was written, which may take a second at most, and closes the connections.
func (c *Conn) Close() {
	if c.plain == nil {
		c.out.drain(lingerTime)
	}
	c.Break()
}

// Break closes the connections at once.
func (c *Conn) Break() {
	c.closing.Do(func() {
		for _, l := range c.lanes {
			_ = l.raw.Close()
		}
		if c.plain != nil {
			c.plain.limit.close()
		} else {
			c.in.end(net.ErrClosed)
			c.out.fail(net.ErrClosed)
		}
		if c.onClose != nil {
			c.onClose()
		}
	})
	c.wg.Wait()
}

// Linger sends what was written, ends the writing side and waits a moment for the other end to do the same, so that
// what was written last is read there: closing a connection on which something lies unread throws that away.
func (c *Conn) Linger() {
	if c.plain != nil {
		linger(c.plain.wire.Conn)
		return
	}
	c.out.drain(lingerTime)
	c.in.discard()
	for _, l := range c.lanes {
		if half, ok := l.raw.(interface{ CloseWrite() error }); ok {
			_ = half.CloseWrite()
		}
	}
	c.in.waitEnd(lingerTime)
}
