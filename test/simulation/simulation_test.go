package simulation

import (
	"flag"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs/internal/pki"
)

var (
	worlds = flag.Int("worlds", 26, "how many worlds are simulated")
	hours  = flag.Float64("hours", 4, "how long each of them lasts, in hours of its own time")
	first  = flag.Uint64("seed", 1, "the seed of the first world")
	told   = flag.Bool("trace", false, "tell all that happens")
)

// identity is control's, made outside of any world: it has a time of its own.
func identity(t *testing.T) pki.Files {
	t.Helper()
	a, err := pki.NewAuthority(t.TempDir(), "shop")
	if err != nil {
		t.Fatal(err)
	}
	files := pki.FilesIn(t.TempDir(), "control")
	csr, err := files.NewRequest()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := a.Sign(csr, pki.Identity{Cluster: "shop", Role: pki.RoleControl, Name: "control"})
	if err != nil {
		t.Fatal(err)
	}
	if err := files.Install(cert, a.CertPEM); err != nil {
		t.Fatal(err)
	}
	return files
}

// run simulates worlds with seeds from one on, as many at once as there are cores, and adds up what they came to.
func run(t *testing.T, from uint64, worlds int, long time.Duration, p protocol) (sum tally) {
	files := identity(t)
	var mu sync.Mutex
	t.Run("worlds", func(t *testing.T) { // returns when all have ended
		for i := range worlds {
			seed := from + uint64(i)
			t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
				t.Parallel()
				one := simulate(t, files, seed, long, p)
				mu.Lock()
				defer mu.Unlock()
				sum = sum.plus(one)
			})
		}
	})
	return sum
}

func TestNoStaleWriteAndNoDoubleOwnerInHundredHours(t *testing.T) {
	begun := time.Now()
	long := time.Duration(*hours * float64(time.Hour))
	got := run(t, *first, *worlds, long, guarded)
	t.Logf("%.0f simulated hours in %v: %+v", float64(*worlds)**hours, time.Since(begun).Round(time.Second), got)
	if got.Stale != 0 || got.Overlaps != 0 || got.Stuck != 0 || got.Lost != 0 {
		t.Errorf("%d stale writes, %d double owners, %d leases that can't be released, %d lost", got.Stale, got.Overlaps, got.Stuck, got.Lost)
	}
	if got.Takeovers < *worlds || got.Moves < *worlds || got.LiveMoves < 10**worlds || got.Thaws < *worlds || got.Writes < 100**worlds {
		t.Errorf("too little happened to say anything")
	}
}

// What the guards are for: a run without them finds what they keep away.
func TestSimulationFindsWhatTheGuardsKeepAway(t *testing.T) {
	for name, p := range map[string]protocol{
		"no fence":                     {lockDelay: true, thaw: true},
		"neither fence nor lock-delay": {thaw: true},
	} {
		got := run(t, *first, 2, 4*time.Hour, p)
		t.Logf("%s: %d stale writes accepted, %d double owners in 8 hours", name, got.Stale, got.Overlaps)
		if got.Stale == 0 {
			t.Errorf("%s: no stale write was found, so the simulation finds none", name)
		}
	}
	if got := run(t, *first, 2, 4*time.Hour, protocol{fence: true, thaw: true}); got.Overlaps == 0 {
		t.Errorf("without lock-delay no double owner was found, so the simulation finds none")
	}
	got := run(t, *first, 2, 4*time.Hour, protocol{lockDelay: true, fence: true})
	t.Logf("frozen volumes that go on by themselves: %d times a write was missing in 8 hours", got.Lost)
	if got.Lost == 0 {
		t.Errorf("no lost write was found where frozen volumes go on by themselves, so the simulation finds none")
	}
}

func TestSameSeedGivesTheSameRun(t *testing.T) {
	const some, long = 3, 4 * time.Hour
	one, again := run(t, *first, some, long, guarded), run(t, *first, some, long, guarded)
	if one != again {
		t.Errorf("seeds from %d on gave %+v and then %+v", *first, one, again)
	}
	if other := run(t, *first+1, some, long, guarded); other.Trace == one.Trace {
		t.Error("other seeds gave the same run")
	}
	t.Logf("seeds from %d on: trace %016x, %d steps", *first, one.Trace, one.Steps)
}
