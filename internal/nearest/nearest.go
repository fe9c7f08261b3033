// Package nearest finds the word that was probably meant by one that was mistyped.
package nearest

import (
	"strings"

	"github.com/agext/levenshtein"
)

// most is how many letters may be wrong.
const most = 2

// Word returns the known word that differs least from what was typed, without regard to case, or "" if none is near. A
// word that would have to change altogether is not near. Of several that are equally near it is the first.
func Word(typed string, known []string) string {
	best, least := "", most+1
	for _, k := range known {
		if n := levenshtein.Distance(strings.ToLower(typed), strings.ToLower(k), nil); n < least && n < len(k) {
			best, least = k, n
		}
	}
	return best
}
