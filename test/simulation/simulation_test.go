package simulation

import (
	"flag"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs/internal/pki"
)

var (
	worlds = flag.Int("worlds", 26, "how many worlds are simulated")
	hours  = flag.Float64("hours", 4, "how long each of them lasts, in hours of its own time")
	first  = flag.Uint64("seed", 1, "the seed of the first world")
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

// run simulates worlds one after the other and adds up what they came to.
func run(t *testing.T, worlds int, long time.Duration, p protocol) (sum tally) {
	files := identity(t)
	for i := range worlds {
		before := t.Failed()
		one := simulate(t, files, *first+uint64(i), long, p)
		if t.Failed() && !before {
			t.Fatalf("that was seed %d: %+v", *first+uint64(i), one)
		}
		sum = sum.plus(one)
	}
	return sum
}

func TestNoStaleWriteAndNoDoubleOwnerInHundredHours(t *testing.T) {
	begun := time.Now()
	long := time.Duration(*hours * float64(time.Hour))
	got := run(t, *worlds, long, protocol{lockDelay: true, fence: true})
	t.Logf("%.0f simulated hours in %v: %+v", float64(*worlds)**hours, time.Since(begun).Round(time.Second), got)
	if got.Stale != 0 || got.Overlaps != 0 || got.Lost != 0 {
		t.Errorf("%d stale writes, %d double owners, %d lost", got.Stale, got.Overlaps, got.Lost)
	}
	if got.Takeovers < *worlds || got.Moves < *worlds || got.Writes < 100**worlds {
		t.Errorf("too little happened to say anything")
	}
}

// What the guards are for: a run without them finds what they keep away.
func TestSimulationFindsWhatTheGuardsKeepAway(t *testing.T) {
	for name, p := range map[string]protocol{
		"no fence":                     {lockDelay: true},
		"neither fence nor lock-delay": {},
	} {
		got := run(t, 2, 4*time.Hour, p)
		t.Logf("%s: %d stale writes accepted, %d double owners in 8 hours", name, got.Stale, got.Overlaps)
		if got.Stale == 0 {
			t.Errorf("%s: no stale write was found, so the simulation finds none", name)
		}
	}
	if got := run(t, 2, 4*time.Hour, protocol{fence: true}); got.Overlaps == 0 {
		t.Errorf("without lock-delay no double owner was found, so the simulation finds none")
	}
}

func TestSameSeedGivesTheSameRun(t *testing.T) {
	files := identity(t)
	all := protocol{lockDelay: true, fence: true}
	one, again := simulate(t, files, *first, time.Hour, all), simulate(t, files, *first, time.Hour, all)
	if one != again {
		t.Errorf("seed %d gave %+v and then %+v", *first, one, again)
	}
	if other := simulate(t, files, *first+1, time.Hour, all); other.Trace == one.Trace {
		t.Error("another seed gave the same run")
	}
	t.Logf("seed %d: trace %016x, %d steps", *first, one.Trace, one.Steps)
}
