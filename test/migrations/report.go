package migrations

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// report is what came of all moves.
type report struct {
	seed     uint64
	began    time.Time
	outcomes []outcome
	acked    int
	never    []string // moments that the sources name and no move came to
}

// line is what came of a kind of fault.
type line struct {
	moves, happened, moved, byHand, lost, doubles, wrong int
	gap                                                  time.Duration
}

func (l *line) add(o outcome) {
	l.moves++
	count := func(n *int, yes bool) {
		if yes {
			*n++
		}
	}
	count(&l.happened, o.happened && o.what != "")
	count(&l.moved, o.moved)
	count(&l.byHand, o.byHand != "")
	l.lost, l.doubles, l.wrong = l.lost+len(o.Lost), l.doubles+len(o.Doubles), l.wrong+len(o.wrong)
	l.gap = max(l.gap, o.gap)
}

const head = "| fault | moves | it happened | moved | longest silence | reported, started by hand | lost | two writers | else |\n" +
	"|---|---|---|---|---|---|---|---|---|\n"

func (l *line) row(name string) string {
	return fmt.Sprintf("| %s | %d | %d | %d | %.1f s | %d | %d | %d | %d |\n", name, l.moves, l.happened, l.moved, l.gap.Seconds(), l.byHand, l.lost, l.doubles, l.wrong)
}

// table is the result for people, as Markdown.
func (r *report) table() string {
	lines := map[string]*line{}
	var all line
	for _, o := range r.outcomes {
		name := fmt.Sprintf("%s: %s, %s, `%s`", o.kind, o.what, o.role, o.moment)
		if o.what == "" {
			name = string(o.kind) + ": undisturbed"
		}
		if o.what == cut || o.what == full {
			name = fmt.Sprintf("%s: %s, %s", o.kind, o.what, o.role)
		}
		if lines[name] == nil {
			lines[name] = &line{}
		}
		lines[name].add(o)
		all.add(o)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "| what | figure |\n|---|---|\n| seed | %d |\n| length | %v |\n", r.seed, time.Since(r.began).Round(time.Second))
	fmt.Fprintf(&b, "| **moves** | **%d** |\n| faults that happened | %d |\n| moments with a kill | %d |\n", all.moves, all.happened, r.kills())
	fmt.Fprintf(&b, "| writes acknowledged | %d |\n| **acknowledged and lost** | **%d** |\n| **moments with two writers** | **%d** |\n", r.acked, all.lost, all.doubles)
	fmt.Fprintf(&b, "| **other promises broken** (half a volume, a container that runs nowhere unreported, something left behind) | **%d** |\n", all.wrong)
	fmt.Fprintf(&b, "| containers that ran nowhere, as was reported | %d |\n| longest silence of a container | %.1f s |\n\n", all.byHand, all.gap.Seconds())
	b.WriteString(head)
	for _, name := range slices.Sorted(maps.Keys(lines)) {
		b.WriteString(lines[name].row(name))
	}
	if len(r.never) > 0 {
		fmt.Fprintf(&b, "\nNo move came to these, which the sources name: %s.\n", strings.Join(r.never, ", "))
	}
	return b.String()
}

// kills is at how many moments of a program something was killed.
func (r *report) kills() int {
	at := map[string]bool{}
	for _, o := range r.outcomes {
		if o.what == kill && o.happened {
			at[fmt.Sprint(o.role, o.moment)] = true
		}
	}
	return len(at)
}

// problems tells of each promise that does not hold.
func (r *report) problems() string {
	var b strings.Builder
	for _, o := range r.outcomes {
		if !o.bad() {
			continue
		}
		fmt.Fprintf(&b, "%v\n  mobyctl said: %s\n", o.fault, strings.TrimSpace(o.said))
		for _, text := range slices.Concat(first(o.Lost), first(o.Doubles), o.wrong) {
			fmt.Fprintf(&b, "  %s\n", text)
		}
	}
	return b.String()
}

// first is the beginning of a list that may be long.
func first(all []string) []string { return all[:min(len(all), 5)] }
