//go:build failpoints

package failpoint

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Reach is Fail at a moment at which nothing can fail.
func Reach(moment string) { _ = Fail(moment) }

// Fail makes happen what a test asked for at this moment. It returns an error if that is what was asked for.
func Fail(moment string) error {
	path := file()
	line, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	asked, what, ok := parse(string(line))
	if !ok || !asked(moment) {
		return nil
	}
	switch what.kind {
	case "hold":
		hold(path)
		return nil
	case "note":
		note(path, moment)
		return nil
	}
	if !what.always && os.Remove(path) != nil {
		return nil // somebody else was first
	}
	switch what.kind {
	case "stall":
		time.Sleep(what.stall)
		return nil
	case "error":
		return fmt.Errorf("a test lets this fail at %s: %w", moment, syscall.EIO)
	default:
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {} // SIGKILL is on its way; nothing after the moment may happen
	}
}

// hold says that the moment was reached and returns once it is let go.
func hold(path string) {
	held := path + ".held"
	if os.Rename(path, held) != nil {
		return // somebody else was first
	}
	for {
		if _, err := os.Stat(held); err != nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// note writes down that a moment was reached. A test that finds it missing knows so.
func note(path, moment string) {
	f, err := os.OpenFile(path+".noted", os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return
	}
	_, _ = f.WriteString(moment + "\n")
	_ = f.Close()
}

// Without reports whether a test runs the program without a guard.
func Without(guard string) bool {
	return slices.Contains(strings.Split(os.Getenv("MOBYFS_WITHOUT"), ","), guard)
}

// Now is the time by a clock that a test has set wrong by what stands in the file that MOBYFS_CLOCK names, such as -24h.
func Now() time.Time {
	now := time.Now()
	text, err := os.ReadFile(os.Getenv("MOBYFS_CLOCK"))
	if err != nil {
		return now
	}
	wrong, err := time.ParseDuration(strings.TrimSpace(string(text)))
	if err != nil {
		return now
	}
	return now.Add(wrong)
}

func file() string {
	if path := os.Getenv("MOBYFS_KILL_AT"); path != "" {
		return path
	}
	return "/run/mobyfs.kill-at"
}

type event struct {
	kind   string // kill, stall, hold, error, note
	stall  time.Duration
	always bool
}

// parse reads the line; ok is false for one that asks for nothing.
func parse(line string) (asked func(moment string) bool, what event, ok bool) {
	words := strings.Fields(line)
	if len(words) == 0 {
		return nil, event{}, false
	}
	name, family := strings.CutSuffix(words[0], "*")
	asked = func(moment string) bool { return moment == name || family && strings.HasPrefix(moment, name) }
	rest := words[1:]
	if n := len(rest); n > 0 && rest[n-1] == "always" {
		rest, what.always = rest[:n-1], true
	}
	if len(rest) == 0 {
		what.kind = "kill"
		return asked, what, true
	}
	what.kind = rest[0]
	switch {
	case what.kind == "stall" && len(rest) == 2:
		d, err := time.ParseDuration(rest[1])
		what.stall = d
		return asked, what, err == nil
	case what.kind == "note" && len(rest) == 1 && what.always, what.kind == "error" && len(rest) == 1, what.kind == "hold" && len(rest) == 1 && !what.always:
		return asked, what, true
	}
	return nil, event{}, false
}
