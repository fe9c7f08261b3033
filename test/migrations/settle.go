package migrations

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/test/fleet"
	"github.com/mobyfs/mobyfs/test/ledger"
)

// settleWithin is how long it may take after a move until all is quiet: a source takes a freeze back after ten seconds, an
// agent that control does not answer tries again within some more, and a commit that comes late is awaited.
const settleWithin = 90 * time.Second

func decode(text string, v any) error { return json.Unmarshal([]byte(text), v) }

// outcome is what came of a move.
type outcome struct {
	fault
	happened bool
	moved    bool
	gap      time.Duration // the longest time in which the container acknowledged nothing
	byHand   string        // the container ran nowhere, and this is what said so
	ledger.Verdict
	wrong []string // other promises that do not hold
	said  string
}

// bad reports whether a promise does not hold.
func (o outcome) bad() bool { return len(o.Lost)+len(o.Doubles)+len(o.wrong) > 0 }

// try moves the volume with a fault, waits until all is quiet, and looks.
func (l *lab) try(f fault) outcome {
	l.t.Helper()
	return l.tryTo(f, l.goal(f, l.Volume(l.t, l.volume).Node))
}

func (l *lab) tryTo(f fault, to string) outcome {
	l.t.Helper()
	from, began := l.Volume(l.t, l.volume).Node, ledger.Now()
	o := outcome{fault: f}
	l.troubles = len(l.ledger.Troubles(l.volume))
	said, end := l.move(f, from, to)
	o.said = said
	v, missing := l.quiet()
	if missing != "" {
		o.happened = end()
		o.wrong = append(o.wrong, "it does not come to rest: "+missing)
		return o
	}
	o.moved = v.Node != from
	note := func(missing string) {
		if missing != "" {
			o.wrong = append(o.wrong, missing)
		}
	}
	if f.kind == cold {
		note(l.runAgain(v.Node))
	} else {
		l.seeThatItRuns(v, &o)
	}
	o.happened = end() // what it does to the container's start belongs to it
	note(l.writes())
	o.gap = ledger.LongestGap(l.ledger.Acks(l.volume), began)
	o.Verdict = l.Judge(l.t, l.ledger, v)
	if got := l.TryOn(l.t, v.Node, "hosttool", "sum", treeOf(v)); strings.TrimSpace(got.Stdout) != l.tree {
		note("what lies beside the records on " + v.Node + " is not what was put there")
	}
	note(l.alone(v))
	return o
}

// await asks until nothing is missing, or tells what was in the end.
func await(within time.Duration, ask func() (missing string)) (missing string) {
	for begun := time.Now(); ; time.Sleep(200 * time.Millisecond) {
		if missing = ask(); missing == "" || time.Since(begun) > within {
			return missing
		}
	}
}

// quiet waits until the volume is on a node and no move is under way.
func (l *lab) quiet() (v mobyfs.Volume, missing string) {
	missing = await(settleWithin, func() string {
		now, ok := l.record()
		switch {
		case !ok:
			return "control does not answer"
		case now.Migration != nil || now.State != mobyfs.VolumeReady:
			return "it is " + now.Condition() + " from or on " + now.Node
		}
		v = now
		return ""
	})
	return v, missing
}

// seeThatItRuns waits until the container runs on the volume's node and nowhere else. If it runs nowhere that must have been
// told, and then it is started by hand.
func (l *lab) seeThatItRuns(v mobyfs.Volume, o *outcome) {
	l.t.Helper()
	missing := await(settleWithin, func() string {
		if on := l.RunsOn(l.t, l.volume); !slices.Equal(on, []string{v.Node}) {
			return fmt.Sprintf("the container runs on %q, the volume is on %s", on, v.Node)
		}
		return ""
	})
	if missing == "" {
		return
	}
	if on := l.RunsOn(l.t, l.volume); len(on) > 0 {
		o.wrong = append(o.wrong, missing)
		return
	}
	o.byHand = l.told()
	if o.byHand == "" {
		o.wrong = append(o.wrong, missing+", and nothing says why")
	}
	if missing := l.runAgain(v.Node); missing != "" {
		o.wrong = append(o.wrong, missing)
	}
}

// told is what mobyctl says of a container that does not run, or what the container itself has said in this move before it
// ended: on a full disk it can't write.
func (l *lab) told() string {
	if said := l.ledger.Troubles(l.volume)[l.troubles:]; len(said) > 0 {
		return "it ended by itself: " + said[len(said)-1]
	}
	if v, ok := l.record(); ok && v.LastMove != nil && v.LastMove.Trouble != "" {
		return v.LastMove.Trouble
	}
	for line := range strings.Lines(l.Try(l.t, "volume", "inspect", l.volume).Stdout) {
		if strings.Contains(line, "frozen") || strings.Contains(line, "does not start") {
			return strings.TrimSpace(line)
		}
	}
	return ""
}

// writes waits until the container writes.
func (l *lab) writes() (missing string) {
	before := len(l.ledger.Acks(l.volume))
	return await(settleWithin, func() string {
		if len(l.ledger.Acks(l.volume)) < before+5 {
			return fmt.Sprintf("the container writes nothing: %q", l.ledger.Troubles(l.volume))
		}
		return ""
	})
}

// alone waits until no other host than the volume's node has anything of it or of its container.
func (l *lab) alone(v mobyfs.Volume) (missing string) {
	var others []string
	for _, h := range hostNames {
		if h != v.Node {
			others = append(others, h)
		}
	}
	look := fmt.Sprintf("ls %s >/dev/null 2>&1 && echo bytes; docker container inspect %s >/dev/null 2>&1 && echo container; grep -q %s /proc/mounts && echo mount; true",
		fleet.DataDir(v), l.volume, v.ID)
	return await(settleWithin, func() string {
		for h, left := range l.OnEach(others, "sh", "-c", look) {
			if left.Stdout != "" {
				return h + " has of it still: " + strings.Join(strings.Fields(left.Stdout), ", ")
			}
		}
		return ""
	})
}
