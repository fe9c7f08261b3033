package bundle

import (
	"bytes"
	"encoding/binary"
	"io"
	"math"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/mobyfs/mobyfs"
)

// hears is an end that only hears, of lanes that tests write into.
type hears struct {
	in    *incoming
	lanes []net.Conn
	wg    sync.WaitGroup
	limit int64
}

func newHears(t testing.TB, lanes int) *hears {
	t.Helper()
	h := &hears{}
	var ours []*lane
	for range lanes {
		mine, theirs := net.Pipe()
		l := &lane{raw: mine, wire: newWire(mine, soon)}
		l.wire.awaitReads(0)
		l.conn = l.wire
		ours = append(ours, l)
		h.lanes = append(h.lanes, theirs)
	}
	h.in = newIncoming(ours, soon)
	h.in.limit = func(n int64) { h.limit = n }
	for i, l := range ours {
		h.wg.Go(func() { h.in.run(i, l) })
	}
	t.Cleanup(func() {
		h.in.end(net.ErrClosed)
		for i, l := range ours {
			_ = l.raw.Close()
			_ = h.lanes[i].Close()
		}
		h.wg.Wait()
	})
	return h
}

// frame is a block as it crosses.
func frame(k kind, number uint64, raw int, payload []byte) []byte {
	return append(header{k, number, raw, len(payload)}.appendTo(nil), payload...)
}

func plainBlock(number uint64, data string) []byte {
	return frame(kindPlain, number, len(data), []byte(data))
}

func packed(t testing.TB, b []byte, opts ...zstd.EOption) []byte {
	t.Helper()
	e, err := zstd.NewWriter(nil, opts...)
	must(t, err)
	return e.EncodeAll(b, nil)
}

// feed writes each lane's blocks, as far as they are taken, and ends the lanes.
func (h *hears) feed(lanes ...[]byte) {
	for i, b := range lanes {
		go func() {
			_, _ = h.lanes[i].Write(b)
			_ = h.lanes[i].Close()
		}()
	}
}

func TestBlocksAreReadInTheOrderOfTheirNumbers(t *testing.T) {
	h := newHears(t, 3)
	var lanes [3][]byte
	var want []byte
	for n := range 200 {
		data := random(1+n%7, byte(n))
		want = append(want, data...)
		at := (n*n + n/5) % 3
		lanes[at] = append(lanes[at], frame(kindPlain, uint64(n), len(data), data)...)
	}
	h.feed(lanes[:]...)
	got, err := io.ReadAll(readerOf(h.in))
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("got %d bytes and %v, want %d", len(got), err, len(want))
	}
}

type reader struct{ in *incoming }

func (r reader) Read(b []byte) (int, error) { return r.in.read(b) }

func readerOf(in *incoming) io.Reader { return reader{in} }

func TestDamagedBlocksAreRefused(t *testing.T) {
	zero := make([]byte, blockSize)
	bomb := packed(t, make([]byte, 64<<20))
	streamed := func(n int) []byte { // a frame that does not say how much it holds
		var b bytes.Buffer
		e, err := zstd.NewWriter(&b, zstd.WithWindowSize(1<<10))
		must(t, err)
		for range n / len(zero) {
			_, err = e.Write(zero)
			must(t, err)
		}
		must(t, e.Close())
		return b.Bytes()
	}
	for what, lanes := range map[string][2][]byte{
		"number twice on one connection":   {slices.Concat(plainBlock(0, "a"), plainBlock(0, "b"))},
		"number that was read before":      {slices.Concat(plainBlock(0, "a"), plainBlock(1, "b")), slices.Concat(plainBlock(2, "c"), plainBlock(1, "d"))},
		"number twice on two":              {plainBlock(1, "a"), plainBlock(1, "b")},
		"numbers that fall":                {plainBlock(5, "a"), slices.Concat(plainBlock(4, "a"), plainBlock(3, "b"))},
		"gap":                              {plainBlock(1, "a"), plainBlock(2, "b")},
		"gap after a block":                {slices.Concat(plainBlock(0, "a"), plainBlock(2, "b")), plainBlock(3, "b")},
		"gap as wide as can be":            {plainBlock(math.MaxUint64-1, "a"), plainBlock(math.MaxUint64-2, "b")},
		"last number there is":             {plainBlock(math.MaxUint64, "a")},
		"unknown kind":                     {frame(77, 0, 1, []byte("a"))},
		"kind zero":                        {make([]byte, headerSize)},
		"empty block":                      {frame(kindPlain, 0, 0, nil)},
		"length that lies":                 {frame(kindPlain, 0, 5, []byte("a"))},
		"too long":                         {header{kindPlain, 0, blockSize + 1, blockSize + 1}.appendTo(nil)},
		"far too long":                     {header{kindPlain, 0, math.MaxUint32, math.MaxUint32}.appendTo(nil)},
		"packed block of nothing":          {frame(kindZstd, 0, 10, nil)},
		"packed block that is larger":      {frame(kindZstd, 0, 5, packed(t, []byte("abcde")))},
		"packed block for too much":        {header{kindZstd, 0, blockSize + 1, 100}.appendTo(nil)},
		"packed block that is none":        {frame(kindZstd, 0, 1000, random(100, 1))},
		"packed block that is cut":         {frame(kindZstd, 0, blockSize, packed(t, text(blockSize, 1))[:1000])},
		"packed block that holds less":     {frame(kindZstd, 0, blockSize, packed(t, zero[:1000]))},
		"packed block that holds more":     {frame(kindZstd, 0, 1000, packed(t, zero))},
		"bomb":                             {frame(kindZstd, 0, blockSize, bomb)},
		"bomb that does not say its size":  {frame(kindZstd, 0, blockSize, streamed(64<<20))},
		"bomb of many frames":              {frame(kindZstd, 0, blockSize, bytes.Repeat(packed(t, zero), 500))},
		"window larger than a block":       {frame(kindZstd, 0, blockSize, windowed(30))},
		"limit of another length":          {frame(kindLimit, 0, 0, make([]byte, 7))},
		"limit with bytes of the stream":   {frame(kindLimit, 0, 8, make([]byte, 8))},
		"text instead of blocks":           {[]byte("HTTP/1.1 400 Bad Request\r\n\r\n")},
		"gap that only headers tell about": {plainBlock(1, "a"), slices.Concat(plainBlock(2, "b"), plainBlock(9999, "c"))},
	} {
		h := newHears(t, 2)
		for i, b := range lanes {
			go func() { _, _ = h.lanes[i].Write(b) }()
		}
		_, err := io.ReadAll(readerOf(h.in))
		if codeOf(err) != mobyfs.CodeCorrupt {
			t.Errorf("%s: got %v, want CodeCorrupt", what, err)
		}
	}
}

// windowed is the head of a frame of zstd that asks for a window of 2^log bytes.
func windowed(log int) []byte {
	return []byte{0x28, 0xb5, 0x2f, 0xfd, 0, byte(log-10) << 3, 1, 0, 0}
}

func TestBombsTakeNoMemory(t *testing.T) {
	u := &unpacker{}
	bomb := packed(t, make([]byte, 256<<20))
	res := testing.Benchmark(func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			into := newBlock()
			into.raw = blockSize
			if err := u.unpack(into, bomb); codeOf(err) != mobyfs.CodeCorrupt {
				b.Fatalf("got %v, want CodeCorrupt", err)
			}
			into.free()
		}
	})
	if got := res.AllocedBytesPerOp(); got > 2*blockSize {
		t.Errorf("%d bytes were allocated for a block that is refused", got)
	}
}

func TestNoMoreBlocksWaitThanTheWindowHolds(t *testing.T) {
	h := newHears(t, 2)
	data := random(1000, 1)
	done := make(chan uint64, 1)
	go func() {
		n := uint64(1)
		for ; n < 3*window; n++ {
			if _, err := h.lanes[1].Write(frame(kindPlain, n, len(data), data)); err != nil {
				break
			}
			if n == window-1 {
				done <- n
			}
		}
		done <- n
	}()
	<-done
	select {
	case n := <-done:
		t.Fatalf("%d blocks were taken before the one that is next", n)
	case <-time.After(100 * time.Millisecond):
	}
	h.in.mu.Lock()
	waiting := 0
	for _, b := range h.in.waiting {
		if b != nil {
			waiting++
		}
	}
	h.in.mu.Unlock()
	if waiting > window {
		t.Errorf("%d blocks wait, want %d at most", waiting, window)
	}
	go func() { _, _ = h.lanes[0].Write(frame(kindPlain, 0, len(data), data)) }()
	got := make([]byte, 3*window*len(data))
	if _, err := io.ReadFull(readerOf(h.in), got); err != nil {
		t.Errorf("once it came: %v", err)
	}
}

func TestStreamWithAMissingEndIsNoProperEnd(t *testing.T) {
	for what, tc := range map[string]struct {
		lanes [2][]byte
		want  error
	}{
		"proper end":             {[2][]byte{plainBlock(0, "a"), plainBlock(1, "b")}, nil},
		"nothing at all":         {[2][]byte{}, nil},
		"half of a header":       {[2][]byte{plainBlock(0, "a"), plainBlock(1, "b")[:5]}, io.ErrUnexpectedEOF},
		"half of a block":        {[2][]byte{plainBlock(0, "a"), plainBlock(1, "bcd")[:headerSize+1]}, io.ErrUnexpectedEOF},
		"a block that is missed": {[2][]byte{plainBlock(0, "a"), plainBlock(2, "b")}, io.ErrUnexpectedEOF},
	} {
		h := newHears(t, 2)
		h.feed(tc.lanes[:]...)
		if _, err := io.ReadAll(readerOf(h.in)); err != tc.want {
			t.Errorf("%s: got %v, want %v", what, err, tc.want)
		}
	}
}

func TestStreamMayEndWhenTheWindowIsFull(t *testing.T) {
	for last, want := range map[uint64]error{window: io.EOF, window + 1: io.ErrUnexpectedEOF} {
		in := newIncoming(make([]*lane, 2), soon)
		in.last = []uint64{window - 1, last}
		for n := range in.waiting {
			in.waiting[n] = newBlock()
		}
		verdict := make(chan error, 1)
		go func() { verdict <- in.verdict() }()
		select {
		case got := <-verdict:
			if got != want {
				t.Errorf("with %d blocks here, and the last one numbered %d: got %v, want %v", window, last-1, got, want)
			}
		case <-time.After(soon):
			t.Fatal("how it ended is never known")
		}
	}
}

func TestTheLatestLimitHolds(t *testing.T) {
	limit := func(number, v uint64) []byte {
		return frame(kindLimit, number, 0, binary.BigEndian.AppendUint64(nil, v))
	}
	h := newHears(t, 2)
	_, err := h.lanes[1].Write(slices.Concat(limit(3, 300), plainBlock(4, "a")))
	must(t, err)
	_, err = h.lanes[0].Write(slices.Concat(limit(0, 100), limit(1, math.MaxUint64), limit(2, 200), plainBlock(5, "b")))
	must(t, err)
	got := make([]byte, 2)
	if _, err := io.ReadFull(readerOf(h.in), got); err != nil || string(got) != "ab" || h.limit != 300 {
		t.Errorf("got %q, %v and a limit of %d, want 300", got, err, h.limit)
	}
}

func FuzzBlocks(f *testing.F) {
	f.Add(plainBlock(0, "a"), plainBlock(1, "b"))
	f.Add(frame(kindZstd, 0, blockSize, packed(f, make([]byte, blockSize))), frame(kindLimit, 1, 0, make([]byte, 8)))
	f.Add(frame(kindZstd, 0, 1000, packed(f, make([]byte, blockSize))), plainBlock(2, "x"))
	f.Add(plainBlock(1, "a"), plainBlock(2, "b"))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		h := newHears(t, 2)
		h.feed(a, b)
		total := 0
		buf := make([]byte, 4<<10)
		for {
			n, err := h.in.read(buf)
			total += n
			if err != nil {
				break
			}
		}
		if most := (len(a) + len(b)) / (headerSize + 1) * blockSize; total > most {
			t.Fatalf("%d bytes came of %d", total, len(a)+len(b))
		}
	})
}
