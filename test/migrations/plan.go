package migrations

import (
	"fmt"
	"slices"
	"strings"
)

// kind is how a volume is moved.
type kind string

const (
	live      kind = "live"      // with its container, which goes on
	cold      kind = "cold"      // once its container has ended
	cancelled kind = "cancelled" // live, and given up while it is frozen
)

var kinds = []kind{live, cold, cancelled}

// role is which program, or host, a fault is about.
type role string

const (
	source      role = "source"
	destination role = "destination"
	control     role = "control"
)

// what is a fault.
type what string

const (
	kill what = "kill -9"
	cut  what = "cut link"
	full what = "full disk"
)

// fault is what happens in a move, and when.
type fault struct {
	kind   kind
	what   what
	role   role
	moment string
}

func (f fault) String() string {
	return fmt.Sprintf("%s move, %s of the %s at %s", f.kind, f.what, f.role, f.moment)
}

// moments are those that each kind of move comes to, by the program.
type moments map[kind]map[role][]string

// split tells control's moments from those of an agent that is on the same host.
func split(all []string) (agents, controls []string) {
	for _, m := range all {
		switch {
		case strings.HasPrefix(m, "control.") || strings.HasPrefix(m, "store."):
			controls = append(controls, m)
		case !strings.HasPrefix(m, "watchdog."):
			agents = append(agents, m)
		}
	}
	return agents, controls
}

// faults lists what can happen: each kill, then cuts and full disks at a moment that pick chooses among those of the role.
func (m moments) faults(pick func(n int) int) (all []fault) {
	for _, k := range kinds {
		for _, r := range []role{source, destination, control} {
			at := m[k][r]
			for _, moment := range at {
				all = append(all, fault{k, kill, r, moment})
			}
			if len(at) == 0 || k == cancelled {
				continue
			}
			for range 6 {
				all = append(all, fault{k, cut, r, at[pick(len(at))]})
			}
			if r == destination {
				for range 6 {
					all = append(all, fault{k, full, r, at[pick(len(at))]})
				}
			}
		}
	}
	return slices.DeleteFunc(all, func(f fault) bool {
		// One file on a host tells of one moment: the destination of a cancelled move is held there already.
		return f.kind == cancelled && f.role == destination
	})
}
