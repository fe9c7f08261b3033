package bundle

import (
	"encoding/binary"
	"errors"
	"io"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mobyfs/mobyfs"
)

// incoming puts the blocks that come in on several connections in order. At most window of them wait for those before
// them; a connection that is further ahead is not read meanwhile, which its sender feels.
type incoming struct {
	lanes []*lane
	limit func(bytesPerSecond int64) // is told what the other end allows
	pack  unpacker
	wire  atomic.Int64 // bytes
	bytes atomic.Int64

	cur *block // being read, from at on
	at  int

	mu        sync.Mutex
	room      sync.Cond      // next or err has changed
	ready     chan struct{}  // wakes read: the next block is there, or err, or the time has changed
	waiting   [window]*block // by number
	next      uint64         // the block that read takes next
	last      []uint64       // 1 + the number of the latest block that has begun on each connection
	over      []bool         // connections that have ended
	limited   uint64         // 1 + the number of the latest limit
	open      int            // connections that have not ended
	err       error          // read fails with it once next is not there
	cause     error          // why the first connection ended, unless properly
	dropping  bool           // nobody reads any more
	ended     chan struct{}  // closed with the last connection
	idle      time.Duration  // 0: wait for ever
	idleSince int64          // when idle was set
	grace     *time.Timer    // between the end of the first connection and that of the others
}

func newIncoming(lanes []*lane, idle time.Duration) *incoming {
	in := &incoming{lanes: lanes, last: make([]uint64, len(lanes)), over: make([]bool, len(lanes)), open: len(lanes), idle: idle, idleSince: sinceBegan(),
		ready: make(chan struct{}, 1), ended: make(chan struct{})}
	in.room.L = &in.mu
	return in
}

// run reads the blocks of one connection until it ends.
func (in *incoming) run(i int, l *lane) {
	err := in.blocks(i, l)
	in.mu.Lock()
	defer in.mu.Unlock()
	in.laneEnded(i, err)
}

func (in *incoming) blocks(i int, l *lane) error {
	for {
		h, err := readHeader(l.conn)
		if err == nil {
			err = in.admit(i, h)
		}
		if err != nil {
			return err
		}
		b, err := in.receive(l, h)
		if err != nil {
			return err
		}
		in.put(b)
	}
}

// admit checks that a block may come now on this connection, and waits until there is room for it.
func (in *incoming) admit(i int, h header) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	if h.number < in.last[i] || h.number == math.MaxUint64 {
		return corrupt("block %d comes after %d", h.number, in.last[i]-1)
	}
	in.last[i] = h.number + 1
	for in.err == nil && !in.dropping && h.number >= in.next && h.number-in.next >= window {
		if in.missing() {
			return in.gap()
		}
		in.room.Wait()
	}
	switch {
	case in.err != nil:
		return in.err
	case in.dropping:
		return nil
	case h.number < in.next || in.waiting[h.number%window] != nil:
		return corrupt("block %d comes twice", h.number)
	case in.missing():
		return in.gap()
	}
	return nil
}

// missing reports whether the next block is not here, though every connection is past it: then it can't come any more.
func (in *incoming) missing() bool {
	if in.waiting[in.next%window] != nil {
		return false
	}
	for i, last := range in.last {
		if !in.over[i] && last <= in.next+1 { // it may still begin, or is on its way
			return false
		}
	}
	return true
}

// gap is why the next block never comes: damage if no connection has ended.
func (in *incoming) gap() error {
	if in.open < len(in.lanes) {
		return in.lost()
	}
	return corrupt("block %d never comes", in.next)
}

// receive reads what belongs to a header.
func (in *incoming) receive(l *lane, h header) (*block, error) {
	b := newBlock()
	b.header = h
	into := b
	if h.kind == kindZstd {
		into = newBlock()
		defer into.free()
	}
	into.data = into.data[:h.length]
	if _, err := io.ReadFull(l.conn, into.data); err != nil {
		b.free()
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	in.wire.Add(int64(headerSize + h.length))
	if h.kind == kindZstd {
		if err := in.pack.unpack(b, into.data); err != nil {
			b.free()
			return nil, err
		}
	}
	return b, nil
}

// put puts a block in its place.
func (in *incoming) put(b *block) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if b.kind == kindLimit {
		if b.number >= in.limited {
			in.limited = b.number + 1
			in.limit(int64(min(binary.BigEndian.Uint64(b.data), math.MaxInt64)))
		}
		b.data = b.data[:0]
	}
	if in.dropping || in.err != nil {
		b.free()
		return
	}
	in.waiting[b.number%window] = b
	if b.number == in.next {
		in.wake()
	}
}

func (in *incoming) wake() {
	select {
	case in.ready <- struct{}{}:
	default:
	}
}

// laneEnded notes the end of one connection. The others are given a moment to end too, for what the other end said
// last may be on them.
func (in *incoming) laneEnded(i int, err error) {
	if err != io.EOF && in.cause == nil {
		in.cause = err
	}
	in.open--
	in.over[i] = true
	in.wake() // the next block may be one that was to come on it
	in.room.Broadcast()
	if in.open == 0 {
		in.finish(in.verdict())
		if in.grace != nil {
			in.grace.Stop()
		}
		close(in.ended)
		return
	}
	var damage *mobyfs.Error
	if errors.As(err, &damage) {
		in.finish(err)
	}
	if in.grace == nil {
		in.grace = time.AfterFunc(lingerTime, func() {
			in.mu.Lock()
			defer in.mu.Unlock()
			in.finish(in.lost())
		})
	}
}

// verdict is how the stream ended now that all connections have.
func (in *incoming) verdict() error {
	if in.cause != nil {
		return in.cause
	}
	n := in.next // the first block that is not here
	for n < in.next+window && in.waiting[n%window] != nil {
		n++
	}
	if slices.Max(in.last) > n {
		return io.ErrUnexpectedEOF
	}
	return io.EOF
}

// lost is how the stream ended if only some of the connections have.
func (in *incoming) lost() error {
	if in.cause != nil {
		return in.cause
	}
	return io.ErrUnexpectedEOF
}

// finish has read fail with err once it has taken the blocks that are there in order. The first one holds.
func (in *incoming) finish(err error) {
	if in.err == nil {
		in.err = err
	}
	in.room.Broadcast()
	in.wake()
}

// end is finish for others.
func (in *incoming) end(err error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.finish(err)
}

// discard throws away all that comes from now on.
func (in *incoming) discard() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.dropping = true
	in.room.Broadcast()
}

// waitEnd waits until all connections have ended, or for d.
func (in *incoming) waitEnd(d time.Duration) {
	select {
	case <-in.ended:
	case <-time.After(d):
	}
}

func (in *incoming) await(d time.Duration) {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.idle, in.idleSince = d, sinceBegan()
	in.wake()
}

func (in *incoming) read(p []byte) (int, error) {
	for in.cur == nil || in.at == len(in.cur.data) {
		if in.cur != nil {
			in.cur.free()
			in.cur = nil
		}
		b, err := in.take()
		if err != nil {
			return 0, err
		}
		in.cur, in.at = b, 0
		in.bytes.Add(int64(len(b.data)))
	}
	n := copy(p, in.cur.data[in.at:])
	in.at += n
	return n, nil
}

// take waits for the next block.
func (in *incoming) take() (*block, error) {
	asked := sinceBegan()
	for {
		b, wait, err := in.poll(asked)
		if b != nil || err != nil {
			return b, err
		}
		if wait < 0 {
			<-in.ready
			continue
		}
		t := time.NewTimer(wait)
		select {
		case <-in.ready:
		case <-t.C:
		}
		t.Stop()
	}
}

// poll returns the next block, or the error in its place, or how long to wait; less than 0 is for ever.
func (in *incoming) poll(asked int64) (*block, time.Duration, error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if b := in.waiting[in.next%window]; b != nil {
		in.waiting[in.next%window] = nil
		in.next++
		in.room.Broadcast()
		return b, 0, nil
	}
	if in.missing() {
		in.finish(in.gap())
	}
	if in.err != nil {
		return nil, 0, in.err
	}
	if in.idle == 0 {
		return nil, -1, nil
	}
	since := max(asked, in.idleSince)
	for _, l := range in.lanes {
		since = max(since, l.wire.lastRead.Load())
	}
	wait := in.idle - time.Duration(sinceBegan()-since)
	if wait <= 0 {
		return nil, 0, errStalled
	}
	return nil, wait, nil
}

func (in *incoming) stats(s *Stats) {
	s.Received, s.Read = in.wire.Load(), in.bytes.Load()
}
