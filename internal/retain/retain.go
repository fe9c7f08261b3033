// Package retain says which backups are kept: the newest of each of the last 24 hours in which there was one, and of each
// of the last 7 such days. Control and the nodes go by the same rule, each for what it has.
package retain

import (
	"slices"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"
)

const (
	hours = 24
	days  = 7
	// Most is how many backups are kept at most.
	Most = hours + days
)

// MadeAt tells when the backup of an ID was made, and whether it is the ID of one: a ULID in lower case.
func MadeAt(id string) (time.Time, bool) {
	u, err := ulid.ParseStrict(strings.ToUpper(id))
	if err != nil || strings.ToLower(u.String()) != id {
		return time.Time{}, false
	}
	return ulid.Time(u.Time()).UTC(), true
}

// Surplus tells which of the backups are not kept, oldest first. What is the ID of no backup is not among them.
func Surplus(ids []string) []string {
	ids = slices.Compact(slices.Sorted(slices.Values(ids)))
	perHour, perDay := map[string]bool{}, map[string]bool{}
	var out []string
	for _, id := range slices.Backward(ids) {
		at, ok := MadeAt(id)
		if !ok {
			continue
		}
		hour, day := at.Format("2006-01-02T15"), at.Format(time.DateOnly)
		kept := !perHour[hour] && len(perHour) < hours || !perDay[day] && len(perDay) < days
		if len(perHour) < hours {
			perHour[hour] = true
		}
		if len(perDay) < days {
			perDay[day] = true
		}
		if !kept {
			out = append(out, id)
		}
	}
	slices.Reverse(out)
	return out
}
