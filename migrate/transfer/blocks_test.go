package transfer

import (
	"bytes"
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/migrate/feed"
)

// TestScatteredWritesCostWhatTheyChange is what keeps the pause of a database short: one page in each chunk is not all of each chunk.
func TestScatteredWritesCostWhatTheyChange(t *testing.T) {
	const chunks, page = 24, 4 << 10
	for name, told := range map[string]func(string) feed.Feed{"rescan": nil, "feed": armed(t)} {
		src := t.TempDir()
		f, err := os.OpenFile(filepath.Join(src, "data"), os.O_RDWR|os.O_CREATE, 0o600)
		must(t, err)
		_, err = f.Write(random(chunks*chunkSize, 1))
		must(t, err)
		r := rand.New(rand.NewPCG(3, 4))
		write := func() { // and leave it open, as a database does
			for i := range int64(chunks) {
				_, err := f.WriteAt(random(page, r.Uint64()), i*chunkSize+r.Int64N(chunkSize/page)*page)
				must(t, err)
			}
		}
		l := newLiveFleet(t, src, write)
		l.feed = told
		session, into := l.follow(t, mobyfs.FollowOptions{})
		_, err = session.Round(t.Context())
		must(t, err)
		for n := range 3 {
			write()
			round, err := session.Round(t.Context())
			must(t, err)
			if round.Bytes < chunks*page || round.Bytes > chunks*blockSize {
				t.Errorf("%s: round %d brought %d bytes for %d pages of %d", name, n, round.Bytes, chunks, page)
			}
		}
		before := session.(*follower).m.bytes.Load()
		receipt, err := session.Freeze(t.Context())
		must(t, err)
		if came := session.(*follower).m.bytes.Load() - before; came > chunks*blockSize {
			t.Errorf("%s: the last round brought %d bytes for %d pages of %d", name, came, chunks, page)
		}
		must(t, session.Close())
		must(t, f.Close())
		sameTrees(t, src, into, receipt)
	}
}

// TestDifferingBlocksAreAllThatDiffer compares blocks of chunks that grow, shrink and get holes with their bytes.
func TestDifferingBlocksAreAllThatDiffer(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for range 300 {
		was := random(r.IntN(chunkSize), r.Uint64())
		now := make([]byte, r.IntN(chunkSize))
		copy(now, was)
		for range r.IntN(6) {
			if len(now) > 0 {
				at := r.IntN(len(now))
				copy(now[at:min(len(now), at+r.IntN(3*blockSize))], make([]byte, 3*blockSize))
			}
		}
		// The destination has what was, cut or filled with zeros to the size that is now, and gets what differs.
		there := make([]byte, len(now))
		copy(there, was)
		for _, s := range clipped([]pieceSpan{{0, len(now), false}}, differing(sumBlocks(was), sumBlocks(now))) {
			copy(there[s.off:s.off+s.len], now[s.off:])
		}
		if string(there) != string(now) {
			t.Fatalf("%d bytes, then %d: what differs does not make one out of the other", len(was), len(now))
		}
	}
}

// TestWholeBlocks: each byte of a range lies in a block that is told, in one of them, and no block without a byte of a range is.
func TestWholeBlocks(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	for range 300 {
		length := 1 + r.IntN(chunkSize)
		var ranges []feed.Range
		want := make([]bool, blocksIn(length))
		for at := int64(r.IntN(3*blockSize)) - blockSize; at < chunkSize; at += int64(r.IntN(20 * blockSize)) {
			n := int64(1 + r.IntN(3*blockSize))
			ranges = append(ranges, feed.Range{Off: at, Len: n})
			for i := max(0, at) / blockSize; i*blockSize < at+n && int(i) < len(want); i++ {
				want[i] = true
			}
			at += n
		}
		got := make([]bool, len(want))
		for _, g := range wholeBlocks(length, ranges) {
			if g.Off%blockSize != 0 || g.Len <= 0 || g.Off+g.Len > int64(length) || (g.Len%blockSize != 0 && g.Off+g.Len != int64(length)) {
				t.Fatalf("%v is no stretch of whole blocks of %d bytes", g, length)
			}
			for i := g.Off / blockSize; i*blockSize < g.Off+g.Len; i++ {
				if got[i] {
					t.Fatalf("block %d is told twice", i)
				}
				got[i] = true
			}
		}
		if !slices.Equal(got, want) {
			t.Fatalf("of %d bytes and %v got %v, want %v", length, ranges, got, want)
		}
	}
}

// toldFeed is a feed that tells what a test lets it tell.
type toldFeed struct{ next feed.Set }

func (f *toldFeed) Name() string                              { return "told" }
func (f *toldFeed) Changes(context.Context) (feed.Set, error) { return f.next, nil }
func (f *toldFeed) Last(context.Context) (feed.Set, error)    { return f.next, nil }
func (f *toldFeed) Close() error                              { return nil }

// TestWhatIsNotToldIsNotSent: what changed after the feed was asked may be undone before it is asked again, and then it tells nothing of it.
func TestWhatIsNotToldIsNotSent(t *testing.T) {
	const page = blockSize
	src := t.TempDir()
	path := filepath.Join(src, "data")
	must(t, os.WriteFile(path, random(chunkSize+chunkSize/2, 1), 0o600))
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	told := &toldFeed{}
	l := newLiveFleetTold(t, src, func(string) feed.Feed { return told })
	session, into := l.follow(t, mobyfs.FollowOptions{})
	round := func(ranges ...feed.Range) {
		t.Helper()
		told.next = feed.Set{Paths: map[string][]feed.Range{"data": append([]feed.Range{}, ranges...)}}
		_, err := session.Round(t.Context())
		must(t, err)
	}
	put := func(b []byte, off int64) (was []byte) {
		t.Helper()
		was = make([]byte, len(b))
		_, err := f.ReadAt(was, off)
		must(t, err)
		_, err = f.WriteAt(b, off)
		must(t, err)
		return was
	}
	there := func(off int64) []byte {
		t.Helper()
		b := make([]byte, page)
		copied, err := os.Open(filepath.Join(into, "data"))
		must(t, err)
		defer copied.Close()
		_, err = copied.ReadAt(b, off)
		must(t, err)
		return b
	}
	round()

	// The page of zeros has the source read all of the chunk, and with it the other page, of which nobody tells.
	put(make([]byte, page), 2*page)
	was := put(random(page, 2), 7*page)
	round(feed.Range{Off: 2 * page, Len: page})
	if !bytes.Equal(there(2*page), make([]byte, page)) || !bytes.Equal(there(7*page), was) {
		t.Error("what was told did not come, or what was not told did")
	}
	put(was, 7*page)

	// So it is in a chunk that was all zeros, as databases make them before they write.
	put(make([]byte, chunkSize), 0)
	round(feed.Range{Len: chunkSize})
	put(random(page, 5), 2*page)
	was = put(random(page, 6), 7*page)
	round(feed.Range{Off: 2 * page, Len: 2 * page})
	if !bytes.Equal(there(7*page), was) {
		t.Error("what was not told came in a chunk of zeros")
	}
	round(feed.Range{Off: 7 * page, Len: page})

	// The file has another size, so its ends are read whatever is told.
	was = put(random(page, 3), chunkSize+3*page)
	_, err = f.WriteAt(random(100, 4), chunkSize+chunkSize/2)
	must(t, err)
	round(feed.Range{Off: chunkSize + chunkSize/2, Len: 100})
	put(was, chunkSize+3*page)
	round()

	receipt, err := session.Freeze(t.Context())
	must(t, err)
	must(t, session.Close())
	sameTrees(t, src, into, receipt)
}

func TestRangesOfAChunk(t *testing.T) {
	ranges := []feed.Range{{Off: 0, Len: 10}, {Off: chunkSize - 5, Len: 10}, {Off: 2*chunkSize - 1, Len: 1}, {Off: 2 * chunkSize, Len: 7}}
	got := inChunk(ranges, chunkSize)
	want := []feed.Range{{Off: -5, Len: 10}, {Off: chunkSize - 1, Len: 1}}
	if len(got) != 2 || got[0] != want[0] || got[1] != want[1] {
		t.Errorf("got %v, want %v", got, want)
	}
	spans := clipped([]pieceSpan{{0, 3, false}, {3, 4, true}, {chunkSize - 9, 9, false}}, got)
	if len(spans) != 3 || spans[0] != (pieceSpan{0, 3, false}) || spans[1] != (pieceSpan{3, 2, true}) || spans[2] != (pieceSpan{chunkSize - 1, 1, false}) {
		t.Errorf("got %v", spans)
	}
}
