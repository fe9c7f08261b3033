package chaos

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// table is the result for people, as Markdown.
func (r *result) table() string {
	var b strings.Builder
	row := func(name string, value any) { fmt.Fprintf(&b, "| %s | %v |\n", name, value) }
	total, kinds := 0, 0
	for _, n := range r.faults {
		total += n
		kinds++
	}
	fmt.Fprintf(&b, "| what | figure |\n|---|---|\n")
	row("seed", r.Seed)
	row("controls / agents", fmt.Sprintf("%d / %d", r.Controls, r.Agents))
	if len(r.Without) > 0 {
		row("switched off", strings.Join(r.Without, ", "))
	}
	row("length", r.took.Round(time.Second))
	row("**faults**", fmt.Sprintf("**%d of %d kinds**", total, kinds))
	for _, kind := range slices.Sorted(maps.Keys(r.faults)) {
		row("– "+kind, r.faults[kind])
	}
	row("moments at which something happened", len(r.moments))
	row("starts of programs", r.starts)
	row("operations on control", r.ops)
	row("acknowledged changes", r.acked)
	row("unknown outcomes (of those in the log)", fmt.Sprintf("%d (%d)", r.unknown, r.resolved))
	row("events in the log", r.events)
	row("containers that wrote", r.docker["container started"])
	row("– killed or fenced by the watchdog, or with their host", r.docker["container killed"]+r.docker["container fenced"])
	row("takeovers by control / by an operator", fmt.Sprintf("%d / %d", r.takeovers, r.byHand))
	row("writes acknowledged", r.docker["writes acked"])
	row("nodes drained / operations that did not end", fmt.Sprintf("%d / %d", r.docker["drain acked"], len(r.stuck)))
	row("longest time between two answers of control", r.gap.Round(time.Millisecond))
	row("**Porcupine**", fmt.Sprintf("**%s**, %d volumes, %v", r.linearizable(), r.volumes, r.porcupined.Round(time.Millisecond)))
	row("**acknowledged and lost**", fmt.Sprintf("**%d** writes, **%d** changes", len(r.lost), len(r.unlogged)))
	row("**forgotten of a newer version's records**", fmt.Sprintf("**%d**", len(r.forgotten)))
	row("**stale writes accepted**", fmt.Sprintf("**%d**", len(r.stale)))
	row("**double owners**", fmt.Sprintf("**%d**", len(r.doubles)))
	return b.String()
}

// details is what the table leaves out, for whoever looks for a cause.
func (r *result) details() string {
	var b strings.Builder
	section := func(title string, counts map[string]int) {
		if len(counts) == 0 {
			return
		}
		fmt.Fprintf(&b, "%s:\n", title)
		for _, k := range slices.Sorted(maps.Keys(counts)) {
			fmt.Fprintf(&b, "  %6d %s\n", counts[k], k)
		}
	}
	section("calls of Docker", r.docker)
	section("faults that could not be made to happen", r.misses)
	section("moments", r.moments)
	section("events", r.texts)
	section("unexpected", r.trouble)
	fmt.Fprintf(&b, "faults while control did not answer for %v: %s\n", r.gap.Round(time.Millisecond), r.meanwhile)
	for _, n := range r.notes {
		fmt.Fprintln(&b, "note:", n)
	}
	return b.String()
}
