package mobyfs

import (
	"testing"
	"time"
)

func TestRoundsGoOnWhileTheyMakeThePauseShorter(t *testing.T) {
	const ms = time.Millisecond
	for _, c := range []struct {
		round         int
		before, pause time.Duration
		want          bool
	}{
		{0, 0, 600 * ms, false},        // too long
		{0, 0, 500 * ms, true},         // nothing is known of another round
		{2, 900 * ms, 400 * ms, false}, // the next may halve it again
		{3, 400 * ms, 299 * ms, false},
		{3, 400 * ms, 300 * ms, true}, // hardly shorter
		{4, 300 * ms, 450 * ms, true},
		{4, 900 * ms, 501 * ms, false},
		{7, 900 * ms, 400 * ms, true}, // the last of 8
		{7, 900 * ms, 501 * ms, false},
	} {
		if got := (MoveOptions{}).Enough(c.round, c.before, c.pause); got != c.want {
			t.Errorf("after round %d, %v and then %v: got %v", c.round, c.before, c.pause, got)
		}
	}
}
