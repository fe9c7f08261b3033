// Package boottime tells how long the machine has been up, the time it slept included. Nobody can set this clock, so
// leases are measured by it: Go's monotonic clock stands still while the machine sleeps, and the wall clock jumps.
package boottime

import (
	"time"

	"golang.org/x/sys/unix"
)

// Clock tells the time since some moment in the past. It never goes back.
type Clock func() time.Duration

// Now is the machine's own Clock, CLOCK_BOOTTIME.
func Now() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		panic(err) // every Linux since 2.6.39 has it
	}
	return time.Duration(t.Nano())
}
