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
	heapEvery    = time.Second            // between two looks
	loadingEvery = 100 * time.Millisecond // while records are read, and the heap grows by a hundred megabytes a second
)

// What will be in use once all records are read, for each byte of the store's file (2 with a million volumes, whose file
// has 552 MiB), and how much of it is counted on, for a file may be mostly empty.
const (
	loadedPerByte = 2
	mostLoaded    = 1 << 30
)

// heapLoaded is how large the heap will be at least when the records of a file of so many bytes are read, with half of what
// may lie about then.
func heapLoaded(file int64) uint64 {
	return min(uint64(max(file, 0))*loadedPerByte, mostLoaded) + mostGarbage/2
}

// gcPercent is what the collector is told for so many bytes that are in use, as GOGC counts. A heap that grows to a size that
// is known may double on its way there: what is collected before frees no memory that is not needed soon. It may not do more,
// for while the collector marks, Go lets the heap grow beyond what it was told by as much again.
func gcPercent(live, grows uint64) int {
	live = max(live, 1<<20)
	room := min(max(live/2, leastGarbage), mostGarbage)
	if grows > live {
		room = max(room, min(grows-live, live))
	}
	return int(100 * room / live)
}

// keepHeapSmall tells the collector what is right for the heap as it grows and shrinks, until ctx ends; grows is what it
// grows to before loaded is closed. Whoever sets GOGC has decided otherwise.
func keepHeapSmall(ctx context.Context, grows uint64, loaded <-chan struct{}) {
	if os.Getenv("GOGC") != "" {
		return
	}
	tick := time.NewTicker(loadingEvery)
	defer tick.Stop()
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	for told := 0; ; {
		metrics.Read(live)
		if live[0].Value.Kind() != metrics.KindUint64 {
			return // a Go that does not tell it
		}
		percent := gcPercent(live[0].Value.Uint64(), grows)
		if told == 0 || max(percent-told, told-percent)*10 > told { // to tell it stops all for a moment
			debug.SetGCPercent(percent)
			told = percent
		}
		select {
		case <-ctx.Done():
			return
		case <-loaded:
			grows, loaded = 0, nil
			tick.Reset(heapEvery)
		case <-tick.C:
		}
	}
}
