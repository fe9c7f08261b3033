package bundle

import (
	"encoding/binary"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

// outgoing cuts what is written into blocks, which the connections take one by one: whichever is free takes the next.
type outgoing struct {
	lanes  []*lane
	limit  *limit
	pack   packer
	todo   chan *block
	failed chan struct{} // closed with err
	err    error
	once   sync.Once
	wire   atomic.Int64 // bytes
	bytes  atomic.Int64

	mu     sync.Mutex
	cur    *block
	number uint64

	done      sync.Mutex
	unwritten int           // blocks that are not on their way
	idle      chan struct{} // closed when there are none; nil if nobody waits for that
}

func newOutgoing(lanes []*lane) *outgoing {
	return &outgoing{lanes: lanes, limit: newLimit(lanes), todo: make(chan *block, len(lanes)), failed: make(chan struct{})}
}

// fail ends the writing. The first error holds.
func (o *outgoing) fail(err error) {
	o.once.Do(func() {
		o.err = err
		close(o.failed)
		o.limit.close()
	})
}

func (o *outgoing) write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for done := 0; ; {
		if o.cur == nil {
			o.cur = newBlock()
		}
		n := copy(o.cur.data[len(o.cur.data):blockSize], p[done:])
		o.cur.data = o.cur.data[:len(o.cur.data)+n]
		done += n
		if done == len(p) && len(o.cur.data) < blockSize {
			return done, nil
		}
		if err := o.seal(kindPlain); err != nil {
			return done, err
		}
		if done == len(p) {
			return done, nil
		}
	}
}

func (o *outgoing) flush() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.seal(kindPlain)
}

// seal hands the current block to a connection, if there is anything in it.
func (o *outgoing) seal(k kind) error {
	b := o.cur
	if b == nil || len(b.data) == 0 {
		select {
		case <-o.failed:
			return o.err
		default:
			return nil
		}
	}
	o.cur = nil
	b.header = header{kind: k, number: o.number, raw: len(b.data), length: len(b.data)}
	if k == kindLimit {
		b.raw = 0
	}
	o.number++
	o.count(1)
	select {
	case o.todo <- b:
		return nil
	case <-o.failed:
		return o.err
	}
}

// tellLimit sends a block of its own.
func (o *outgoing) tellLimit(bytesPerSecond int64) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := o.seal(kindPlain); err != nil {
		return err
	}
	o.cur = newBlock()
	o.cur.data = binary.BigEndian.AppendUint64(o.cur.data, uint64(max(0, bytesPerSecond)))
	return o.seal(kindLimit)
}

func (o *outgoing) count(n int) {
	o.done.Lock()
	defer o.done.Unlock()
	o.unwritten += n
	if o.unwritten == 0 && o.idle != nil {
		close(o.idle)
		o.idle = nil
	}
}

// drain waits until all that was written is on its way, or for d.
func (o *outgoing) drain(d time.Duration) {
	deadline := time.NewTimer(d)
	defer deadline.Stop()
	sealed := make(chan struct{})
	go func() { // a Write that waits may hold the lock; it ends with the connections
		defer close(sealed)
		_ = o.flush()
	}()
	select {
	case <-sealed:
	case <-deadline.C:
		return
	}
	o.done.Lock()
	if o.unwritten == 0 {
		o.done.Unlock()
		return
	}
	if o.idle == nil {
		o.idle = make(chan struct{})
	}
	idle := o.idle
	o.done.Unlock()
	select {
	case <-idle:
	case <-o.failed:
	case <-deadline.C:
	}
}

// run writes blocks to one connection. What it has written is sent before it waits for more.
func (o *outgoing) run(l *lane) {
	p := o.pack.lane()
	for {
		b, written := o.take(), 0
		for ; b != nil; b = o.poll() {
			if err := o.send(l, p, b); err != nil {
				o.fail(err)
				return
			}
			written++
		}
		if written == 0 {
			return
		}
		if err := l.wire.Flush(); err != nil {
			o.fail(err)
			return
		}
		o.count(-written)
	}
}

// take waits for a block; nil is the end.
func (o *outgoing) take() *block {
	select {
	case b := <-o.todo:
		return b
	case <-o.failed:
		return nil
	}
}

// poll returns a block if there is one at hand.
func (o *outgoing) poll() *block {
	select {
	case b := <-o.todo:
		return b
	default:
		return nil
	}
}

// send packs one block, if that pays, and writes it.
func (o *outgoing) send(l *lane, p *lanePacker, b *block) error {
	o.bytes.Add(int64(b.raw))
	b, err := p.pack(b, o.linkRate)
	if err != nil {
		return err
	}
	defer b.free()
	var head [headerSize]byte
	rest := b.data
	piece := b.header.appendTo(head[:0])
	for {
		if err := o.limit.wait(len(piece)); err != nil {
			return err
		}
		if _, err := l.conn.Write(piece); err != nil {
			return err
		}
		if o.limit.tight() {
			if err := l.wire.Flush(); err != nil {
				return err
			}
		}
		if len(rest) == 0 {
			o.wire.Add(int64(headerSize + b.length))
			return nil
		}
		n := min(len(rest), o.limit.piece())
		piece, rest = rest[:n], rest[n:]
	}
}

// linkRate is how many bytes a second the connections take together, or 0 if that is not known yet. A limit counts as
// the speed of the link.
func (o *outgoing) linkRate() int64 {
	var sum, known int64
	for _, l := range o.lanes {
		if r := l.wire.speed.rate(); r > 0 {
			sum += r
			known++
		}
	}
	if known > 0 {
		sum = sum * int64(len(o.lanes)) / known
	}
	if limit := o.limit.rate(); limit > 0 && (sum == 0 || limit < sum) {
		return limit
	}
	return sum
}

func (o *outgoing) stats(s *Stats) {
	s.Sent, s.Written = o.wire.Load(), o.bytes.Load()
	s.LinkRate, s.PackRate = o.linkRate(), o.pack.speed.rate()
	s.Packing = o.pack.on.Load()
	s.BytesPerSecondLimit = o.limit.rate()
}

var _ io.Writer = (*Conn)(nil)
