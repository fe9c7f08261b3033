package chaos

import (
	"strings"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/test/chaos/journal"
)

const (
	v1 = mobyfs.VolumeID("v1")
	r1 = "spiffe://chaos/node/r1"
	r2 = "spiffe://chaos/node/r2"
)

func event(text string, fence mobyfs.Fence, node, who string) mobyfs.Event {
	e := mobyfs.Event{Text: text, Fence: fence, Node: node, Volume: v1, Actor: mobyfs.Actor{Who: who}}
	if strings.HasPrefix(text, "migration begins") {
		e.Migration = "m"
	}
	return e
}

func record(fence mobyfs.Fence, node, lease string, leaseFence mobyfs.Fence) *mobyfs.Volume {
	v := &mobyfs.Volume{ID: v1, Fence: fence, Node: node}
	if lease != "" {
		v.Lease = &mobyfs.Lease{Node: lease, Fence: leaseFence}
	}
	return v
}

// begun is a volume that is ready on r1.
func begun(more ...mobyfs.Event) []mobyfs.Event {
	return append([]mobyfs.Event{event("volume placed", 1, "r1", ""), event("volume is ready", 1, "r1", r1)}, more...)
}

func TestCheckerJudgesHistories(t *testing.T) {
	given, released := event("lease given", 2, "r1", r1), event("lease released", 3, "r1", r1)
	claim := op{kind: opClaim, volume: v1, who: r1, call: 10, ret: 20, outcome: acked, record: record(2, "r1", "r1", 2)}
	release := op{kind: opRelease, volume: v1, who: r1, fence: 2, call: 30, ret: 40, outcome: acked}
	read := func(v *mobyfs.Volume, call, ret int64) op {
		return op{kind: opRead, volume: v1, call: call, ret: ret, outcome: acked, record: v}
	}
	for name, c := range map[string]struct {
		ops    []op
		events []mobyfs.Event
		wrong  string // what the first violation begins with
	}{
		"claim and release":                        {[]op{claim, release}, begun(given, released), ""},
		"a read in between":                        {[]op{claim, read(record(2, "r1", "r1", 2), 22, 25), release}, begun(given, released), ""},
		"a read during the claim sees either":      {[]op{claim, read(record(1, "r1", "", 0), 12, 15), release}, begun(given, released), ""},
		"a read that goes back":                    {[]op{claim, read(record(1, "r1", "", 0), 22, 25), release}, begun(given, released), "not linearizable"},
		"a read of what comes later":               {[]op{claim, read(record(3, "r1", "", 0), 22, 25), release}, begun(given, released), "not linearizable"},
		"a read of what never was":                 {[]op{claim, read(record(2, "r2", "r2", 2), 22, 25), release}, begun(given, released), "not linearizable"},
		"a claim that the log does not know":       {[]op{claim}, begun(), "not in the log"},
		"a release that the log does not know":     {[]op{claim, release}, begun(given), "not in the log"},
		"a volume that the log does not know":      {[]op{claim}, nil, "not in the log"},
		"two leases at once":                       {[]op{claim}, begun(given, event("lease given", 3, "r1", r2)), "illegal"},
		"a lease given anew":                       {[]op{claim}, begun(given, event("volume resized", 3, "r1", "op"), event("lease given anew", 4, "r1", r1), event("lease released", 5, "r1", r1)), ""},
		"a lease given anew to who had none":       {[]op{claim, release}, begun(given, released, event("lease given anew", 4, "r1", r1)), "illegal"},
		"a fence twice":                            {[]op{claim, release}, begun(given, event("lease released", 2, "r1", r1)), "not in the log"},
		"a fence that jumps":                       {[]op{claim}, begun(given, event("lease released", 9, "r1", r1)), "illegal"},
		"a higher epoch":                           {[]op{claim}, begun(given, event("lease released", 1<<40, "r1", r1)), ""},
		"a commit without a migration":             {[]op{claim}, begun(given, released, event("migration committed", 4, "r2", r2)), "illegal"},
		"a lease during a migration":               {[]op{claim}, begun(given, released, event("migration begins", 4, "r1", r2), event("lease given", 5, "r1", r1)), "illegal"},
		"the commit gives the lease":               {[]op{claim, {kind: opMounted, volume: v1, who: "r2", fence: 5, call: 50, ret: 60, outcome: acked}}, begun(given, released, event("migration begins, for a container waits", 4, "r1", r2), event("migration committed", 5, "r2", r2)), ""},
		"an operation goes on":                     {[]op{claim, release}, begun(event("move is running", 0, "r1", ""), given, released), ""},
		"an abort that gives the lease":            {[]op{claim, release, {kind: opMounted, volume: v1, who: "r1", fence: 6, call: 60, ret: 70, outcome: acked}}, begun(given, released, event("migration begins, for a container waits", 4, "r1", r2), event("migration aborted, lease given", 6, "r1", r1)), ""},
		"an abort that is one decision too few":    {[]op{claim, release}, begun(given, released, event("migration begins, for a container waits", 4, "r1", r2), event("migration aborted, lease given", 5, "r1", r1)), "illegal"},
		"a takeover for a container":               {[]op{claim, {kind: opMounted, volume: v1, who: "r2", fence: 3, shared: true, call: 50, ret: 60, outcome: acked}}, begun(given, event("volume taken over from r1: a container on r2 wants it", 3, "r2", r2)), ""},
		"a takeover, and the old owner mounts":     {[]op{claim, read(record(3, "r2", "r2", 3), 25, 28), {kind: opMounted, volume: v1, who: "r1", fence: 2, shared: true, call: 50, ret: 60, outcome: acked}}, begun(given, event("volume taken over from r1: a container on r2 wants it", 3, "r2", r2)), "not linearizable"},
		"a takeover by an operator":                {[]op{claim, {kind: opMounted, volume: v1, who: "r2", fence: 3, shared: true, call: 50, ret: 60, outcome: acked}}, begun(given, event("volume taken over from r1: it burns", 3, "r2", "op")), "not linearizable"},
		"a takeover by who has it":                 {[]op{claim}, begun(given, event("volume taken over from r1: it burns", 3, "r1", "op")), "illegal"},
		"a mount by who has no lease":              {[]op{claim, release, {kind: opMounted, volume: v1, who: "r1", fence: 2, shared: true, call: 50, ret: 60, outcome: acked}}, begun(given, released), "not linearizable"},
		"a mount without control by the home":      {[]op{claim, release, {kind: opMounted, volume: v1, who: "r1", fence: 2, call: 50, ret: 60, outcome: acked}}, begun(given, released), ""},
		"a mount without control by another":       {[]op{claim, release, {kind: opMounted, volume: v1, who: "r2", fence: 2, call: 50, ret: 60, outcome: acked}}, begun(given, released), "not linearizable"},
		"refused in use while nobody uses it":      {[]op{claim, release, {kind: opClaim, volume: v1, who: r2, call: 50, ret: 60, outcome: refusal, code: mobyfs.CodeInUse}}, begun(given, released), "not linearizable"},
		"unknown, and it happened":                 {[]op{{kind: opClaim, volume: v1, who: r1, call: 10, ret: 20, outcome: unknown}, read(record(2, "r1", "r1", 2), 90, 95)}, begun(given), ""},
		"unknown, and it happened before the call": {[]op{read(record(2, "r1", "r1", 2), 1, 5), {kind: opClaim, volume: v1, who: r1, call: 10, ret: 20, outcome: unknown}}, begun(given), "not linearizable"},
		"unknown, and it never happened":           {[]op{{kind: opClaim, volume: v1, who: r1, call: 10, ret: 20, outcome: unknown}, read(record(1, "r1", "", 0), 90, 95)}, begun(), ""},
	} {
		var v verdict
		v.checkLog(c.ops, c.events, time.Minute)
		got := strings.Join(v.violations(), "\n")
		if c.wrong == "" && got != "" || c.wrong != "" && !strings.HasPrefix(got, c.wrong) {
			t.Errorf("%s: got %q, want %q", name, got, c.wrong)
		}
	}
}

func TestCheckerFindsWhatIsWrongWithData(t *testing.T) {
	good := []journal.Record{{Fence: 2, Writer: "a", Seq: 1}, {Fence: 2, Writer: "a", Seq: 2}, {Fence: 5, Writer: "b", Seq: 1}}
	for name, c := range map[string]struct {
		records     []journal.Record
		acked       map[string]uint64
		lost, stale int
	}{
		"whole":             {good, map[string]uint64{"a": 2, "b": 1}, 0, 0},
		"more than acked":   {good, map[string]uint64{"a": 1}, 0, 0},
		"the last is lost":  {good, map[string]uint64{"a": 2, "b": 2}, 1, 0},
		"one is lost":       {append(good[:1:1], good[2]), map[string]uint64{"a": 2}, 1, 0},
		"a hole":            {good[1:], map[string]uint64{"a": 2}, 1, 0},
		"all is lost":       {nil, map[string]uint64{"a": 2, "b": 1}, 2, 0},
		"a stale write":     {append(good[:3:3], journal.Record{Fence: 2, Writer: "a", Seq: 3}), map[string]uint64{"a": 3}, 0, 1},
		"two stale writers": {append(good[:3:3], journal.Record{Fence: 3, Writer: "c", Seq: 1}, journal.Record{Fence: 2, Writer: "a", Seq: 3}), nil, 0, 2},
	} {
		var v verdict
		v.checkJournal(v1, "r1", c.records, c.acked)
		if len(v.lost) != c.lost || len(v.stale) != c.stale {
			t.Errorf("%s: got %q, want %d lost and %d stale", name, v.violations(), c.lost, c.stale)
		}
	}
}

func TestCheckerFindsTwoOwnersAtOnce(t *testing.T) {
	w := func(node string, begin, end int64) window {
		return window{volume: v1, node: node, begin: begin, end: end}
	}
	for name, c := range map[string]struct {
		windows []window
		doubles int
	}{
		"one after the other":    {[]window{w("r1", 1, 5), w("r2", 6, 9)}, 0},
		"two on one node":        {[]window{w("r1", 1, 5), w("r1", 2, 4)}, 0},
		"two nodes":              {[]window{w("r1", 1, 5), w("r2", 5, 9)}, 1},
		"one inside the other":   {[]window{w("r2", 3, 4), w("r1", 1, 9)}, 1},
		"a third one in between": {[]window{w("r1", 1, 9), w("r1", 2, 3), w("r2", 8, 12)}, 1},
		"another volume":         {[]window{w("r1", 1, 9), {volume: "v2", node: "r2", begin: 1, end: 9}}, 0},
	} {
		var v verdict
		v.checkWindows(c.windows)
		if len(v.doubles) != c.doubles {
			t.Errorf("%s: got %q, want %d", name, v.doubles, c.doubles)
		}
	}
}
