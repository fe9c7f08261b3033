package chaos

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/test/chaos/journal"
)

// verdict is what the checks found in a run. Each list holds a line for each violation.
type verdict struct {
	lost       []string                   // acknowledged writes that are not in the data
	stale      []string                   // writes under a lower fence behind those under a higher one
	doubles    []string                   // two nodes whose containers wrote at once
	unlogged   []string                   // acknowledged changes that are not in the log
	nonlinear  []string                   // volumes whose history no order explains
	illegal    []string                   // events that can't follow each other
	stuck      []string                   // operations that do not end
	forgotten  []string                   // records that do not hold any more what a newer version wrote
	dumps      map[mobyfs.VolumeID]string // the least of a history that no order explains
	takeovers  int                        // that the log shows, by control itself
	byHand     int                        // by an operator
	undecided  int                        // volumes for which porcupine had too little time
	volumes    int
	unknown    int // operations whose outcome the answer did not tell
	resolved   int // of those, how many the log shows to have happened
	porcupined time.Duration
}

func (v verdict) violations() []string {
	return slices.Concat(v.lost, v.stale, v.doubles, v.unlogged, v.illegal, v.forgotten, v.stuck, v.nonlinear)
}

// linearizable says it in a word.
func (v verdict) linearizable() string {
	switch {
	case len(v.nonlinear)+len(v.illegal) > 0:
		return "Illegal"
	case v.undecided > 0:
		return fmt.Sprintf("Unknown (%d)", v.undecided)
	default:
		return "Ok"
	}
}

// checkJournal compares the data of a volume with what was acknowledged before it was read.
func (v *verdict) checkJournal(volume mobyfs.VolumeID, where string, records []journal.Record, acked map[string]uint64) {
	has := map[string]map[uint64]bool{}
	var highest journal.Record
	for _, r := range records {
		if has[r.Writer] == nil {
			has[r.Writer] = map[uint64]bool{}
		}
		has[r.Writer][r.Seq] = true
		if r.Fence < highest.Fence {
			v.stale = append(v.stale, fmt.Sprintf("stale write: volume %s on %s: %s wrote %d at fence %d behind fence %d of %s",
				volume, where, r.Writer, r.Seq, r.Fence, highest.Fence, highest.Writer))
		}
		if r.Fence > highest.Fence {
			highest = r
		}
	}
	for writer, last := range acked {
		for seq := uint64(1); seq <= last; seq++ {
			if !has[writer][seq] {
				v.lost = append(v.lost, fmt.Sprintf("lost: volume %s on %s: write %d of %d by %s was acknowledged and is not there (%d records are)",
					volume, where, seq, last, writer, len(records)))
				break
			}
		}
	}
}

// checkWindows finds containers on two nodes that wrote into one volume at once.
func (v *verdict) checkWindows(windows []window) {
	by := map[mobyfs.VolumeID][]window{}
	for _, w := range windows {
		by[w.volume] = append(by[w.volume], w)
	}
	for volume, all := range by {
		slices.SortFunc(all, func(a, b window) int { return cmp.Compare(a.begin, b.begin) })
		for i, a := range all {
			for _, b := range all[i+1:] {
				if b.begin > a.end {
					break
				}
				if a.node != b.node {
					v.doubles = append(v.doubles, fmt.Sprintf("two owners: volume %s: %s on %s wrote until %d, %s on %s from %d",
						volume, a.writer, a.node, a.end, b.writer, b.node, b.begin))
				}
			}
		}
	}
}

// checkLog checks the operations on each volume against the log of events, and both with porcupine.
func (v *verdict) checkLog(ops []op, events []mobyfs.Event, timeout time.Duration) {
	log := map[mobyfs.VolumeID][]mobyfs.Event{}
	for _, e := range events {
		if decides(e) {
			log[e.Volume] = append(log[e.Volume], e)
		}
	}
	by := map[mobyfs.VolumeID][]op{}
	for _, o := range ops {
		if o.outcome == unknown {
			v.unknown++
		}
		by[o.volume] = append(by[o.volume], o)
	}
	begin := time.Now()
	for volume, all := range by {
		if len(log[volume]) == 0 {
			v.unlogged = append(v.unlogged, fmt.Sprintf("not in the log: volume %s has %d operations and no event", volume, len(all)))
			continue
		}
		v.volumes++
		v.checkEvents(volume, log[volume])
		steps := v.place(volume, all, log[volume])
		switch porcupine.CheckOperationsTimeout(model(), steps, timeout) {
		case porcupine.Illegal:
			v.keepDump(volume, steps)
			v.nonlinear = append(v.nonlinear, fmt.Sprintf("not linearizable: volume %s with %d operations and %d events: %s",
				volume, len(all), len(log[volume]), explain(steps)))
		case porcupine.Unknown:
			v.undecided++
		}
	}
	v.porcupined = time.Since(begin)
}

// decides reports whether an event is of a decision about a volume. Those of operations, and refusals, have no fence.
func decides(e mobyfs.Event) bool { return e.Volume != "" && e.Fence != 0 && e.Denied == "" }

// checkEvents checks that the events of a volume can follow each other as the log has them.
func (v *verdict) checkEvents(volume mobyfs.VolumeID, events []mobyfs.Event) {
	s := state{}
	for _, e := range events {
		switch {
		case strings.HasPrefix(e.Text, takenOver) && isClaimed(e):
			v.takeovers++
		case strings.HasPrefix(e.Text, takenOver):
			v.byHand++
		}
		next, err := s.follow(e)
		if err != nil {
			v.illegal = append(v.illegal, fmt.Sprintf("illegal: volume %s: %v", volume, err))
		}
		s = next
	}
}

// place turns the operations on a volume and its events into steps with the times in which they took effect. An event
// that an operation brought about lies within the operation; others may lie anywhere, and their fences order them.
func (v *verdict) place(volume mobyfs.VolumeID, ops []op, events []mobyfs.Event) []porcupine.Operation {
	slices.SortStableFunc(ops, func(a, b op) int { return cmp.Compare(a.call, b.call) })
	took := make([][2]int64, len(events))
	taken := make([]bool, len(events))
	for i := range events {
		took[i] = [2]int64{0, forever}
	}
	var steps []porcupine.Operation
	add := func(x step, call, ret int64) {
		steps = append(steps, porcupine.Operation{ClientId: len(steps), Input: x, Call: call, Return: ret})
	}
	for n, o := range ops {
		switch {
		case o.outcome == refusal:
			if o.code == mobyfs.CodeInUse || o.code == mobyfs.CodeMoving {
				add(step{refused: o.code}, o.call, o.ret)
			}
		case o.outcome == acked:
			i := find(o, events, taken)
			if i >= 0 {
				taken[i] = true
				took[i] = [2]int64{earliest(ops[:n], o), o.ret}
			} else if why := mustBeLogged(o, events); why != "" {
				v.unlogged = append(v.unlogged, fmt.Sprintf("not in the log: volume %s: %s", volume, why))
			}
			if o.record != nil && i < 0 {
				add(step{seen: o.record}, o.call, o.ret)
			}
			if o.kind == opMounted {
				add(step{holder: o.who, fence: o.fence, alone: !o.shared}, o.call, o.ret)
			}
		}
	}
	for _, o := range ops { // what the answers did not tell, the log does
		if o.outcome != unknown {
			continue
		}
		for i, e := range events {
			if !taken[i] && brings(o, e) {
				taken[i], took[i] = true, [2]int64{o.call, forever}
				v.resolved++
				break
			}
		}
	}
	for i := range events {
		add(step{event: &events[i], index: i}, took[i][0], took[i][1])
	}
	return steps
}

// earliest is when an operation's event may have happened at the earliest: a call before it, whose outcome is not known
// or which may have been made twice, may have brought it about in its place.
func earliest(before []op, o op) int64 {
	at := o.call
	for _, p := range before {
		if p.who == o.who && p.kind == o.kind && (p.outcome == unknown || p.ret-p.call > maybeTwice) && o.call-p.call < int64(time.Minute) {
			at = min(at, p.call)
		}
	}
	return at
}

// brings reports whether an event may be the effect of an operation.
func brings(o op, e mobyfs.Event) bool {
	if e.Who != o.who {
		return false
	}
	switch o.kind {
	case opClaim:
		return e.Text == "lease given" || strings.HasPrefix(e.Text, "migration begins, for") || strings.HasPrefix(e.Text, "migration aborted, lease")
	case opRelease:
		return e.Text == "lease released" && (o.fence == 0 || e.Fence == o.fence+1)
	case opCommit:
		return e.Text == "migration committed" && (o.fence == 0 || e.Fence == o.fence+1)
	case opAbort:
		return e.Text == "migration aborted" && (o.fence == 0 || e.Fence == o.fence+1)
	case opMove:
		return e.Text == "migration begins"
	}
	return false
}

// find finds the event of an acknowledged operation among those that belong to no other; -1 if there is none.
func find(o op, events []mobyfs.Event, taken []bool) int {
	for i, e := range events {
		if taken[i] || !brings(o, e) {
			continue
		}
		if o.record == nil || e.Fence == o.record.Fence {
			return i
		}
	}
	return -1
}

// mustBeLogged tells of an acknowledged change whose event is missing. A call that was answered with what was true
// before has none of its own; the fence that it was told then is in the log all the same.
func mustBeLogged(o op, events []mobyfs.Event) string {
	if o.kind == opMounted {
		for _, e := range events {
			if e.Fence == o.fence {
				return ""
			}
		}
		return fmt.Sprintf("%s mounted it at fence %d", o.who, o.fence)
	}
	if o.kind == opRelease {
		for _, e := range events {
			if e.Text != "lease given" && e.Fence == o.fence+1 {
				return ""
			}
		}
		return fmt.Sprintf("%s released it at fence %d", o.who, o.fence)
	}
	if o.record == nil {
		return ""
	}
	for _, e := range events {
		if e.Fence == o.record.Fence {
			return ""
		}
	}
	return fmt.Sprintf("%s by %s was answered with fence %d", o.kind, o.who, o.record.Fence)
}

// explain names a step that has no place. The order of the events is given, so each has an earliest and a latest time,
// and what was seen must be true between two events within the time in which it was seen.
func explain(steps []porcupine.Operation) string {
	var events, seen []porcupine.Operation
	for _, o := range steps {
		if o.Input.(step).event != nil {
			events = append(events, o)
		} else {
			seen = append(seen, o)
		}
	}
	slices.SortFunc(events, func(a, b porcupine.Operation) int { return cmp.Compare(a.Input.(step).index, b.Input.(step).index) })
	low, high := make([]int64, len(events)+1), make([]int64, len(events)+1) // of state i, between event i-1 and i
	states := []state{{}}
	for i, e := range events {
		low[i+1] = max(low[i], e.Call)
		next, _ := states[i].apply(e.Input.(step))
		states = append(states, next)
	}
	high[len(events)] = forever
	for i := len(events) - 1; i >= 0; i-- {
		high[i] = min(high[i+1], events[i].Return)
		if low[i+1] > high[i] {
			return fmt.Sprintf("%v can't have happened between %d and %d", events[i].Input, low[i+1], high[i])
		}
	}
	for _, o := range seen {
		fits := slices.ContainsFunc(states, func(s state) bool {
			_, ok := s.apply(o.Input.(step))
			return ok && low[s.next] <= o.Return && high[s.next] >= o.Call
		})
		if fits {
			continue
		}
		text := fmt.Sprintf("%v between %d and %d:", o.Input, o.Call, o.Return)
		for i, s := range states {
			if low[i] <= o.Return && high[i] >= o.Call {
				text += fmt.Sprintf(" %+v (%d to %d)", s, low[i], high[i])
			}
		}
		return text
	}
	return "each step has a place, but not all together"
}
