package main

import (
	"context"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"testing"
	"time"
)

func TestGarbageIsBoundedHoweverLargeTheHeap(t *testing.T) {
	for _, live := range []uint64{0, 1 << 20, 20 << 20, 100 << 20, 300 << 20, 1 << 30, 8 << 30} {
		percent := gcPercent(live, 0)
		garbage := max(live, 1<<20) * uint64(percent) / 100
		if percent < 1 || garbage > mostGarbage {
			t.Errorf("with %d MiB in use the collector waits for %d MiB (%d %%)", live>>20, garbage>>20, percent)
		}
		if live >= 1<<20 && garbage < leastGarbage*9/10 {
			t.Errorf("with %d MiB in use it collects each %d MiB (%d %%)", live>>20, garbage>>20, percent)
		}
	}
}

// While a million volumes are read the heap may double, as long as that is not more than it will be; what is more than that
// has to be less than what lies about afterwards.
func TestAHeapThatGrowsIsCollectedSeldom(t *testing.T) {
	for _, file := range []int64{-1, 0, 10 << 20, 100 << 20, 552 << 20, 30 << 30} {
		grows := heapLoaded(file)
		if grows > mostLoaded+mostGarbage/2 {
			t.Errorf("of a file of %d MiB the heap is to be %d MiB", file>>20, grows>>20)
		}
		for live := uint64(1 << 20); live < 4<<30; live *= 2 {
			usual, percent := gcPercent(live, 0), gcPercent(live, grows)
			then := live + live*uint64(percent)/100
			switch {
			case percent < usual || percent > max(usual, 100):
				t.Errorf("with %d MiB in use of a file of %d MiB it may grow by %d %%, usually %d", live>>20, file>>20, percent, usual)
			case percent > usual && then > grows:
				t.Errorf("with %d MiB in use of a file of %d MiB it collects at %d MiB", live>>20, file>>20, then>>20)
			}
		}
	}
	if gcPercent(400<<20, heapLoaded(552<<20)) != 100 {
		t.Error("a heap on its way to a gigabyte may not double")
	}
}

func TestTheCollectorIsToldOnceAllIsLoaded(t *testing.T) {
	before := debug.SetGCPercent(100)
	defer debug.SetGCPercent(before)
	t.Setenv("GOGC", "")
	held := make([]byte, 300<<20)
	ctx, stop := context.WithCancel(t.Context())
	loaded, done := make(chan struct{}), make(chan struct{})
	go func() { defer close(done); keepHeapSmall(ctx, heapLoaded(1<<30), loaded) }()
	defer func() { stop(); <-done }()
	goal := []metrics.Sample{{Name: "/gc/heap/goal:bytes"}}
	until := func(what string, ok func(goal uint64) bool) {
		t.Helper()
		for begun := time.Now(); ; time.Sleep(10 * time.Millisecond) {
			runtime.GC()
			metrics.Read(goal)
			if ok(goal[0].Value.Uint64()) {
				return
			}
			if time.Since(begun) > 20*time.Second {
				t.Fatalf("%s the collector waits until there are %d MiB", what, goal[0].Value.Uint64()>>20)
			}
		}
	}
	until("while records are read", func(goal uint64) bool { return goal >= 600<<20 })
	close(loaded)
	until("once they are", func(goal uint64) bool { return goal < 520<<20 })
	runtime.KeepAlive(held)
}
