package chaos

import (
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"
)

// leastFaults and leastKinds are what a long run is to show.
const (
	leastFaults = 1000
	leastKinds  = 14
	leastTaken  = 20 // volumes, by control itself
	longAway    = 2 * time.Minute
)

// TestLong is make chaos-long: as many faults as are promised, recorded where -into says.
func TestLong(t *testing.T) {
	if !*long {
		return // make chaos-long runs it
	}
	*faultsWant = leastFaults
	seed := *seedFlag
	if seed == 0 {
		seed = uint64(time.Now().UnixNano() % (1 << 32))
	}
	t.Logf("seed %d", seed)
	var r *result
	var outage string
	t.Run("both", func(t *testing.T) { // on clusters of their own
		t.Run("faults", func(t *testing.T) {
			t.Parallel()
			r = runOnce(t, 4, seed)
			mustHold(t, r)
		})
		t.Run("outage", func(t *testing.T) {
			t.Parallel()
			outage = withoutControl(t, 8, longAway)
		})
	})
	if r == nil || outage == "" {
		return
	}
	total := 0
	for _, n := range r.faults {
		total += n
	}
	if total < leastFaults || len(r.faults) < leastKinds {
		t.Errorf("%d faults of %d kinds, at least %d of %d are promised", total, len(r.faults), leastFaults, leastKinds)
	}
	if r.takeovers < leastTaken {
		t.Errorf("%d takeovers by control, at least %d are promised", r.takeovers, leastTaken)
	}
	if *into == "" || t.Failed() {
		return
	}
	text := fmt.Sprintf("# Chaos\nMade by `make chaos-long` on %s with %s: a cluster of real programs, each on a host of namespaces of its own, is used\nby containers and operators while faults happen; then the data, the history and the log of events are checked. What\neach line means tells `test/chaos/doc.go`.\n\n%s\n%s\n",
		time.Now().UTC().Format(time.DateOnly), runtime.Version(), r.table(), outage)
	if err := os.WriteFile(*into, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}
