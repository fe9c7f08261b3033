//go:build failpoints

package failpoint

import (
	"os"
	"strings"
	"syscall"
)

// Reach kills the process if a test asked for it at this moment.
func Reach(moment string) {
	file := os.Getenv("MOBYFS_KILL_AT")
	if file == "" {
		file = "/run/mobyfs.kill-at"
	}
	want, err := os.ReadFile(file)
	if err != nil || strings.TrimSpace(string(want)) != moment {
		return
	}
	if os.Remove(file) == nil {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // SIGKILL is on its way; nothing after the moment may happen
	}
}
