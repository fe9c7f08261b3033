//go:build !failpoints

package failpoint

// Reach does nothing in programs that are built without the tag failpoints.
func Reach(string) {}
