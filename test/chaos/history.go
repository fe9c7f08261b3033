package chaos

import (
	"math"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mobyfs/mobyfs"
)

// kind is what an operation asked for.
type kind string

const (
	opClaim   kind = "claim"
	opRelease kind = "release"
	opCommit  kind = "commit"
	opAbort   kind = "abort"
	opMove    kind = "move"
	opRead    kind = "read"    // of the record, by an operator
	opMounted kind = "mounted" // by Docker: the node holds the lease
)

// outcome is what is known of an operation.
type outcome string

const (
	acked   outcome = "acked"
	refusal outcome = "refused"
	unknown outcome = "unknown" // it may take effect at any time, or never
)

// op is one call of the harness and its answer.
type op struct {
	kind    kind
	volume  mobyfs.VolumeID
	who     string       // URI of the caller, or the node of a mount
	fence   mobyfs.Fence // of the lease or, to end it, of the migration
	shared  bool         // a volume whose bytes all nodes see
	call    int64        // CLOCK_BOOTTIME, ns
	ret     int64
	outcome outcome
	code    mobyfs.Code
	record  *mobyfs.Volume // as the answer told it
}

// forever is later than any time.
const forever = int64(math.MaxInt64)

// maybeTwice is how long an answered call may have taken if it was surely made once: a client repeats what breaks.
const maybeTwice = int64(time.Second)

// history is what happened, as the harness saw it. All methods may be called at once.
type history struct {
	mu      sync.Mutex
	ops     []op
	last    int64         // when an operation was answered last
	gap     time.Duration // the longest time between two answers
	gapTo   int64         // when it ended
	windows []window
	acked   map[mobyfs.VolumeID]map[string]ackedWrites // by writer
	gone    map[mobyfs.VolumeID]bool                   // removed, or perhaps
	counts  map[string]int                             // of Docker's calls, by outcome
}

// ackedWrites is how many writes of a container are on disk for sure.
type ackedWrites struct {
	seq uint64
	at  int64
}

// window is a time during which a container wrote.
type window struct {
	volume     mobyfs.VolumeID
	node       string
	writer     string
	fence      uint64
	begin, end int64
}

func newHistory() *history {
	return &history{acked: map[mobyfs.VolumeID]map[string]ackedWrites{}, gone: map[mobyfs.VolumeID]bool{}, counts: map[string]int{}}
}

// boottime is CLOCK_BOOTTIME in ns: it goes on in suspend and no clock that is set changes it.
func boottime() int64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		panic(err) // every Linux has it
	}
	return t.Nano()
}

func (h *history) add(o op) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ops = append(h.ops, o)
	if o.outcome == acked && o.kind != opMounted {
		h.answered(o.ret)
	}
}

// answered notes that control completed something. Under mu.
func (h *history) answered(at int64) {
	if gap := time.Duration(at - h.last); h.last != 0 && gap > h.gap {
		h.gap, h.gapTo = gap, at
	}
	h.last = max(h.last, at)
}

func (h *history) count(what string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.counts[what]++
}

// ack notes that a container's write is on disk.
func (h *history) ack(volume mobyfs.VolumeID, writer string, seq uint64, at int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.acked[volume] == nil {
		h.acked[volume] = map[string]ackedWrites{}
	}
	h.acked[volume][writer] = ackedWrites{seq, at}
}

// ackedUntil is what was acknowledged of a volume so far.
func (h *history) ackedUntil(volume mobyfs.VolumeID) map[string]uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	all := map[string]uint64{}
	for writer, a := range h.acked[volume] {
		all[writer] = a.seq
	}
	return all
}

func (h *history) wrote(w window) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.windows = append(h.windows, w)
}

// windowsOf are the times during which containers wrote into a volume.
func (h *history) windowsOf(volume mobyfs.VolumeID) []window {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(h.windows), func(w window) bool { return w.volume != volume })
}

func (h *history) removed(volume mobyfs.VolumeID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.gone[volume] = true
}
