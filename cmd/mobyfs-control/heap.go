package main

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// How much memory may lie about before it is collected. Go alone lets the heap double: that is work for nothing while it is
// small, and a gigabyte for nothing with a million volumes.
const (
	leastGarbage = 64 << 20
	mostGarbage  = 192 << 20
	heapEvery    = time.Second // between two looks
)

// gcPercent is what the collector is told for so many bytes that are in use, as GOGC counts.
func gcPercent(live uint64) int {
	live = max(live, 1<<20)
	return int(100 * min(max(live/2, leastGarbage), mostGarbage) / live)
}

// keepHeapSmall tells the collector what is right for the heap as it grows and shrinks, until ctx ends. Whoever sets GOGC
// has decided otherwise.
func keepHeapSmall(ctx context.Context) {
	if os.Getenv("GOGC") != "" {
		return
	}
	tick := time.NewTicker(heapEvery)
	defer tick.Stop()
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	for told := 0; ; {
		metrics.Read(live)
		if live[0].Value.Kind() != metrics.KindUint64 {
			return // a Go that does not tell it
		}
		percent := gcPercent(live[0].Value.Uint64())
		if told == 0 || max(percent-told, told-percent)*10 > told { // to tell it stops all for a moment
			debug.SetGCPercent(percent)
			told = percent
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
