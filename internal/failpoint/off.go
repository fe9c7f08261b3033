//go:build !failpoints

package failpoint

import "time"

// Reach does nothing in programs that are built without the tag failpoints.
func Reach(string) {}

// Fail is nil in programs that are built without the tag failpoints.
func Fail(string) error { return nil }

// Without is false in programs that are built without the tag failpoints.
func Without(string) bool { return false }

// Now is time.Now in programs that are built without the tag failpoints.
func Now() time.Time { return time.Now() }
