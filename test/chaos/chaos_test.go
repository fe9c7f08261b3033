package chaos

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

var (
	seedFlag   = flag.Uint64("seed", 0, "seed of the random run; 0 chooses one and prints it")
	length     = flag.Duration("for", 60*time.Second, "how long faults happen")
	faultsWant = flag.Int("faults", 0, "end a run once so many faults have happened")
	long       = flag.Bool("long", false, "TestLong runs")
	controls   = flag.Int("controls", 3, "how many controls")
	agentCount = flag.Int("agents", 5, "how many agents")
	away       = flag.Duration("away", 20*time.Second, "how long control is away in TestNobodyNoticesThatControlIsAway")
	without    = flag.String("without", "", "guards that are switched off, with commas: to see that the checks notice")
	into       = flag.String("into", "", "file that TestLong writes its result to")
)

// programs are built once for all runs.
var programs = sync.OnceValues(func() (bins, error) { return build(filepath.Join(os.Getenv(insideDir), "bin")) })

// configure makes the directories of a run.
func configure(t *testing.T, number int) Config {
	t.Helper()
	dir, n := os.Getenv(insideDir), strconv.Itoa(number)
	for again := 2; ; again++ { // what another run of the test left is mounted still
		if _, err := os.Stat(filepath.Join(dir, "d", n)); err != nil {
			break
		}
		n = fmt.Sprintf("%d-%d", number, again)
	}
	cfg := Config{
		Number: number, Length: *length, Faults: *faultsWant, Controls: *controls, Agents: *agentCount, Module: "../..",
		Dir: filepath.Join(dir, "d", n), Logs: filepath.Join(dir, "logs", n), Log: t.Logf,
	}
	for _, d := range []string{cfg.Dir, cfg.Logs} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return cfg
}

func runOnce(t *testing.T, number int, seed uint64, guards ...string) *result {
	t.Helper()
	b, err := programs()
	if err != nil {
		t.Fatal(err)
	}
	cfg := configure(t, number)
	cfg.Seed, cfg.Without = seed, guards
	r, err := run(t.Context(), cfg, b)
	if err != nil {
		t.Fatalf("seed %d: %v", seed, err)
	}
	t.Logf("\n%s\n%s", r.table(), r.details())
	return r
}

// mustHold fails the test for each violation.
func mustHold(t *testing.T, r *result) {
	t.Helper()
	all := r.violations()
	for i, v := range all {
		if i == 20 {
			t.Errorf("and %d more", len(all)-i)
			break
		}
		t.Error(v)
	}
	if r.undecided > 0 {
		t.Errorf("porcupine had too little time for %d volumes", r.undecided)
	}
	if r.acked == 0 || r.docker["writes acked"] == 0 || len(r.faults) == 0 {
		t.Error("nothing was done that could have gone wrong")
	}
	if t.Failed() {
		t.Logf("again: go test ./test/chaos -run Random -seed %d -for %v", r.Seed, r.Length)
	}
}

func guards() []string {
	if *without == "" {
		return nil
	}
	return strings.Split(*without, ",")
}

func TestFixedSeed(t *testing.T) {
	t.Parallel()
	mustHold(t, runOnce(t, 2, 1, guards()...))
}

func TestRandomSeed(t *testing.T) {
	t.Parallel()
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64N(1 << 32)
	}
	t.Logf("seed %d", seed)
	mustHold(t, runOnce(t, 3, seed, guards()...))
}

// TestSourcesNameEnoughMoments: each is one at which runs kill, stall or let fail.
func TestSourcesNameEnoughMoments(t *testing.T) {
	m, err := readMoments("../..")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d moments in the agent, %d in the watchdog, %d in control", len(m.agent), len(m.watchdog), len(m.control))
	if n := len(m.agent) + len(m.watchdog) + len(m.control); n < 40 {
		t.Errorf("%d moments are named, 40 are the least", n)
	}
	has := map[string]bool{}
	for _, name := range slices.Concat(m.agent, m.watchdog, m.control) {
		has[name] = true
	}
	for name := range has {
		if before, is := strings.CutSuffix(name, ".before"); is && !has[before+".after"] {
			t.Errorf("%s has no moment behind it", name)
		}
	}
	for _, must := range []string{"store.commit.before", "agent.claim.after", "agent.attach.before", "dir.adopt.before", "watchdog.remount.before", "agent.mounts.after"} {
		if !has[must] {
			t.Errorf("there is no moment %s", must)
		}
	}
}
