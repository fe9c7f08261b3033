package main

import "testing"

func TestGarbageIsBoundedHoweverLargeTheHeap(t *testing.T) {
	for _, live := range []uint64{0, 1 << 20, 20 << 20, 100 << 20, 300 << 20, 1 << 30, 8 << 30} {
		percent := gcPercent(live)
		garbage := max(live, 1<<20) * uint64(percent) / 100
		if percent < 1 || garbage > mostGarbage {
			t.Errorf("with %d MiB in use the collector waits for %d MiB (%d %%)", live>>20, garbage>>20, percent)
		}
		if live >= 1<<20 && garbage < leastGarbage*9/10 {
			t.Errorf("with %d MiB in use it collects each %d MiB (%d %%)", live>>20, garbage>>20, percent)
		}
	}
}
