package chaos

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/mobyfs/mobyfs"
)

// keepDump keeps the least of a volume's history that no order explains, for people.
func (v *verdict) keepDump(volume mobyfs.VolumeID, steps []porcupine.Operation) {
	if v.dumps == nil {
		v.dumps = map[mobyfs.VolumeID]string{}
	}
	v.dumps[volume] = dump(volume, least(steps))
}

// least leaves out what was seen and has a place, as long as what is left has none. Events stay: they are the order.
func least(steps []porcupine.Operation) []porcupine.Operation {
	var events, seen []porcupine.Operation
	for _, o := range steps {
		if o.Input.(step).event != nil {
			events = append(events, o)
		} else {
			seen = append(seen, o)
		}
	}
	illegal := func(seen ...porcupine.Operation) bool {
		return porcupine.CheckOperationsTimeout(model(), slices.Concat(events, seen), 5*time.Second) == porcupine.Illegal
	}
	if illegal() {
		return events
	}
	for _, o := range seen { // nearly always one alone is enough
		if illegal(o) {
			return append(events, o)
		}
	}
	for i := 0; i < len(seen); {
		if without := slices.Delete(slices.Clone(seen), i, i+1); illegal(without...) {
			seen = without
		} else {
			i++
		}
	}
	return append(events, seen...)
}

// dump is a history with the times, in ms since its first call, between which each step took effect, and the state that
// each event leads to. The events stand in the order of the log.
func dump(volume mobyfs.VolumeID, steps []porcupine.Operation) string {
	zero := forever
	for _, o := range steps {
		if o.Call > 0 {
			zero = min(zero, o.Call)
		}
	}
	ms := func(t int64) string {
		switch t {
		case 0:
			return "any"
		case forever:
			return "ever"
		}
		return fmt.Sprintf("%.3f", float64(t-zero)/1e6)
	}
	slices.SortStableFunc(steps, func(a, b porcupine.Operation) int {
		x, y := a.Input.(step), b.Input.(step)
		if x.event != nil && y.event != nil {
			return cmp.Compare(x.index, y.index)
		}
		return cmp.Compare(btoi(x.event == nil), btoi(y.event == nil))
	})
	var b strings.Builder
	fmt.Fprintf(&b, "volume %s\n%s\n", volume, explain(slices.Clone(steps)))
	s := state{}
	for _, o := range steps {
		x := o.Input.(step)
		fmt.Fprintf(&b, "%12s %12s  %v\n", ms(o.Call), ms(o.Return), x)
		if x.event == nil {
			continue
		}
		var err error
		if s, err = s.follow(*x.event); err != nil {
			fmt.Fprintf(&b, "%27s %v\n", "IMPOSSIBLE:", err)
		}
		fmt.Fprintf(&b, "%25s  rev %d at %s  %+v\n", "", x.event.Revision, x.event.At.Format("15:04:05.000"), s)
	}
	return b.String()
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// keep writes the dumps beside the logs of the programs, and says where.
func (r *result) keep() {
	for volume, text := range r.dumps {
		path := filepath.Join(r.Logs, "history-"+string(volume)+".txt")
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			path = err.Error()
		}
		r.Log("the history of %s is in %s", volume, path)
	}
}
