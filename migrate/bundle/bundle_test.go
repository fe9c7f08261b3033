package bundle

import (
	"bytes"
	"io"
	"slices"
	"sync"
	"testing"
	"time"
)

func TestBytesArriveInOrderBothWays(t *testing.T) {
	s := newServer(t)
	for connections := 1; connections <= MaxConnections; connections++ {
		client, served := s.pair(t, connections)
		there := slices.Concat(random(3<<20, 1), text(6<<20, 2), random(100_000, 3), make([]byte, 1<<20))
		back := text(2<<20, 4)
		var wg sync.WaitGroup
		for _, way := range []struct {
			from, to *Conn
			data     []byte
		}{{client, served, there}, {served, client, back}} {
			wg.Go(func() {
				if err := pour(way.from, way.data, uint64(connections)); err != nil {
					t.Errorf("%d connections: write: %v", connections, err)
				}
			})
			wg.Go(func() {
				got := make([]byte, len(way.data))
				if _, err := io.ReadFull(way.to, got); err != nil || !bytes.Equal(got, way.data) {
					t.Errorf("%d connections: what came is another than what was sent, or %v", connections, err)
				}
			})
		}
		wg.Wait()
		if st := served.Stats(); st.Connections != connections || st.Read != int64(len(there)) || st.Written != int64(len(back)) {
			t.Errorf("got %+v, want %d connections, %d bytes in and %d out", st, connections, len(there), len(back))
		}
		client.Close()
		if _, err := served.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("%d connections: after the end: got %v, want EOF", connections, err)
		}
		served.Close()
	}
}

func TestWhatWasWrittenLastArrivesThoughTheWriterCloses(t *testing.T) {
	s := newServer(t)
	for i := range 20 {
		client, served := s.pair(t, 3)
		data := random(1+i*100_000, byte(i))
		_, err := served.Write(data)
		must(t, err)
		go served.Linger()
		if got, err := sum(client); err != nil || got != sumOf(data) {
			t.Fatalf("%d bytes: got %v, or others than were sent", len(data), err)
		}
		client.Close()
		served.Close()
	}
}

func TestOneLostConnectionBreaksTheStream(t *testing.T) {
	s := newServer(t)
	client, served := s.pair(t, 3)
	_, err := client.Write([]byte("before"))
	must(t, err)
	must(t, client.Flush())
	got := make([]byte, 6)
	_, err = io.ReadFull(served, got)
	must(t, err)
	must(t, client.lanes[1].raw.Close())
	for _, c := range []*Conn{client, served} {
		begin := time.Now()
		if _, err := c.Read(got); err == nil || err == io.EOF {
			t.Errorf("got %v, want an error that is no proper end", err)
		}
		if took := time.Since(begin); took > soon/2 {
			t.Errorf("it took %v to notice", took)
		}
	}
	within(t, "writing fails too", func() bool {
		_, err := client.Write(random(blockSize, 1))
		return err != nil
	})
}

func TestReadGivesUpAfterTheIdleTimeAndNotWhileBytesCome(t *testing.T) {
	s := newServer(t)
	client, served := s.pair(t, 2)
	client.AwaitReads(500 * time.Millisecond)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
				_, _ = served.Write([]byte("a"))
				_ = served.Flush()
			}
		}
	})
	begin := time.Now()
	for time.Since(begin) < time.Second {
		if _, err := client.Read(make([]byte, 1)); err != nil {
			t.Fatalf("while bytes come: %v", err)
		}
	}
	close(stop)
	wg.Wait()
	var err error
	for err == nil {
		_, err = client.Read(make([]byte, 1))
	}
	if err != errStalled {
		t.Errorf("got %v, want errStalled", err)
	}
	client.AwaitReads(0)
	read := make(chan error, 1)
	go func() {
		_, err := client.Read(make([]byte, 1))
		read <- err
	}()
	client.AwaitReads(time.Nanosecond)
	if err := <-read; err != errStalled {
		t.Errorf("a read that waits when the time is set: got %v, want errStalled", err)
	}
}

func TestLimitHoldsAndCanBeChangedWhileBytesWait(t *testing.T) {
	s := newServer(t)
	client, served := s.pair(t, 2)
	must(t, client.Limit(1<<20))
	within(t, "the limit is known", func() bool { return served.Stats().BytesPerSecondLimit == 1<<20 })
	data := random(64<<20, 1) // a minute at this speed
	begin := time.Now()
	written := make(chan error, 1)
	go func() { written <- pour(served, data, 1) }()
	got := make([]byte, len(data))
	_, err := io.ReadFull(client, got[:3<<20/2])
	must(t, err)
	if took := time.Since(begin); took < time.Second {
		t.Errorf("1.5 MiB came in %v, want more than a second", took)
	}
	must(t, client.Limit(0))
	_, err = io.ReadFull(client, got[3<<20/2:])
	must(t, err)
	if took := time.Since(begin); took > soon {
		t.Errorf("without a limit the rest took %v", took)
	}
	must(t, <-written)
	if !bytes.Equal(got, data) {
		t.Error("what came is another than what was sent")
	}
}

func TestTheLowerLimitHolds(t *testing.T) {
	for _, tc := range []struct{ own, asked, want int64 }{
		{0, 0, 0}, {1 << 20, 0, 1 << 20}, {0, 1 << 20, 1 << 20}, {1 << 20, 2 << 20, 1 << 20}, {2 << 20, 1 << 20, 1 << 20},
		{1, 0, leastLimit}, {-5, 0, 0}, {0, -1, 0},
	} {
		l := newLimit(nil)
		l.set(tc.own)
		l.ask(tc.asked)
		if got := l.rate(); got != tc.want {
			t.Errorf("own %d, asked %d: got %d, want %d", tc.own, tc.asked, got, tc.want)
		}
	}
}

func TestSlowLinkIsSentLess(t *testing.T) {
	s := newServer(t)
	client, served := s.pair(t, 2)
	served.SetLimit(1 << 18) // slower than any core packs, beside whatever else it does
	data := slices.Concat(text(1<<20, 1), random(1<<19, 2), text(1<<20, 3))
	written := make(chan error, 1)
	go func() { written <- pour(served, data, 1) }()
	got := make([]byte, len(data))
	_, err := io.ReadFull(client, got)
	must(t, err)
	must(t, <-written)
	if !bytes.Equal(got, data) {
		t.Error("what came is another than what was sent")
	}
	within(t, "both ends count the same", func() bool { // the last block may be here before it is counted there
		here, there := client.Stats(), served.Stats()
		return here.Read == there.Written && here.Received == there.Sent
	})
	if st := served.Stats(); st.Sent > st.Written*3/4 || st.Sent < 1<<19 {
		t.Errorf("%d bytes were sent for %d, want less than three quarters", st.Sent, st.Written)
	}
}

func TestPackingBeginsAndEndsBySpeed(t *testing.T) {
	p := &packer{}
	p.speed.now.Store(1000)
	for _, tc := range []struct {
		link int64
		want bool
	}{{0, false}, {900, false}, {600, false}, {499, true}, {600, true}, {749, true}, {750, false}, {600, false}, {100, true}, {0, false}} {
		if got := p.due(tc.link); got != tc.want {
			t.Errorf("a link of %d when a core packs 1000: got %v, want %v", tc.link, got, tc.want)
		}
	}
}

func TestCoresThatWereSlowOnceAreMeasuredAgain(t *testing.T) {
	all := &packer{}
	all.speed.now.Store(1) // a moment at which everything else ran
	p := all.lane()
	data := text(blockSize, 1)
	for n := 0; n < 100*lookEvery; n++ {
		b := newBlock()
		b.header, b.data = header{kind: kindPlain, raw: len(data), length: len(data)}, append(b.data, data...)
		b, err := p.pack(b, func() int64 { return 1000 })
		must(t, err)
		packed := b.kind == kindZstd
		b.free()
		if packed {
			return
		}
	}
	t.Errorf("nothing is packed though a core packs %d bytes a second and the link takes 1000", all.speed.rate())
}
