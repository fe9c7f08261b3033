package control

import (
	"fmt"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs"
)

// heartbeats are when a node's are heard in a while: each is late by what late says, and the next is sent when the answer
// to this one says.
func heartbeats(node string, begun time.Time, every, while time.Duration, late func() time.Duration) []time.Time {
	var heard []time.Time
	for now := begun; now.Before(begun.Add(while)); {
		now = now.Add(late())
		heard = append(heard, now)
		now = now.Add(nextHeartbeat(node, every, now))
	}
	return heard
}

func TestNodesAreHeardInTheirSlots(t *testing.T) {
	const nodes, every = 10_000, 10 * time.Second
	begun := time.Date(2026, 1, 2, 3, 4, 5, 678, time.UTC)
	slots := map[time.Duration]int{} // nodes heard in each, of the last time between two heartbeats
	for i := range nodes {
		n := 0
		late := func() time.Duration { n++; return time.Duration((i*7+n*3)%40-10) * time.Millisecond } // up to 10 ms too early
		all := heartbeats(fmt.Sprint("node-", i), begun, every, 10*every, late)
		if len(all) < 10 || len(all) > 11 {
			t.Fatalf("node %d was heard %d times in ten times of %v", i, len(all), every)
		}
		for k := 2; k < len(all); k++ {
			if gap := all[k].Sub(all[k-1]); gap < every*99/100 || gap > every*101/100 {
				t.Fatalf("node %d was heard after %v and not after %v", i, gap, every)
			}
		}
		slots[time.Duration(all[len(all)-1].UnixNano())%every/(every/heartbeatSlots)]++
	}
	most := 0
	for _, n := range slots {
		most = max(most, n)
	}
	if mean := nodes / heartbeatSlots; most > 2*mean {
		t.Errorf("%d nodes are heard in one slot, %d in the mean of all", most, mean)
	}
}

// Which heartbeat it is does not depend on which control hears it, nor on when that one began.
func TestASlotIsTheNodes(t *testing.T) {
	for _, every := range []time.Duration{mobyfs.MinSessionTTL / 3, mobyfs.Heartbeat} {
		now := time.Now()
		at := now.Add(nextHeartbeat("h1", every, now))
		for _, before := range []time.Duration{every * 9 / 10, every / 2, every / 10, every / heartbeatSlots} {
			if got := nextHeartbeat("h1", every, at.Add(-before)); got != before {
				t.Errorf("%v before its slot, each %v, h1 is to be heard in %v", before, every, got)
			}
		}
		if got, want := nextHeartbeat("h1", every, at.Add(-every/heartbeatSlots/4)), every+every/heartbeatSlots/4; got != want {
			t.Errorf("heard a little early, h1 is to be heard again in %v, want %v", got, want)
		}
	}
}

func TestAnswersTellTheNextHeartbeat(t *testing.T) {
	f := newFleet(t, true)
	h1 := f.node("h1")
	for range 5 {
		f.clock.advance(1234 * time.Millisecond)
		got, err := h1.Report(t.Context(), mobyfs.Report{Address: "h1:8080"})
		if err != nil {
			t.Fatal(err)
		}
		if want := nextHeartbeat("h1", mobyfs.Heartbeat, f.clock.Now()); got.Next() != want.Truncate(time.Millisecond) {
			t.Errorf("the next heartbeat is due in %v, want %v", got.Next(), want)
		}
	}
}
