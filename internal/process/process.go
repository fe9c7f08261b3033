// Package process knows a process by its ID and the moment it began, so that another one that gets the same ID later
// is not taken for it.
package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Life is the life of one process.
type Life struct {
	PID   int
	Began uint64 // in clock ticks since the machine was booted, as in /proc/PID/stat
}

// String is the form that Parse reads: "812@52345".
func (l Life) String() string { return fmt.Sprintf("%d@%d", l.PID, l.Began) }

// Parse reads what String wrote.
func Parse(text string) (Life, error) {
	pid, began, ok := strings.Cut(text, "@")
	id, err1 := strconv.Atoi(pid)
	ticks, err2 := strconv.ParseUint(began, 10, 64)
	if !ok || err1 != nil || err2 != nil || id < 1 {
		return Life{}, fmt.Errorf("%q is not the life of a process, such as 812@52345", text)
	}
	return Life{id, ticks}, nil
}

// Of returns the life of the process that has the ID now. If there is none it is an error.
func Of(pid int) (Life, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return Life{}, fmt.Errorf("look at process %d: %w", pid, err)
	}
	// The name stands in parentheses and may hold anything; the 20th field after it is the 22nd of all.
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 20 {
		return Life{}, fmt.Errorf("look at process %d: its stat is cut short", pid)
	}
	began, err := strconv.ParseUint(string(fields[19]), 10, 64)
	if err != nil {
		return Life{}, fmt.Errorf("look at process %d: %w", pid, err)
	}
	return Life{pid, began}, nil
}

// goesOn reports whether the process still is the one that began then.
func (l Life) goesOn() bool {
	now, err := Of(l.PID)
	return err == nil && now == l
}

// glance is how often a kernel that has no pidfd is asked, and ctx is looked at.
const glance = 500 * time.Millisecond

// Wait returns nil once the life has ended, at once if it had ended before, or ctx's error.
func (l Life) Wait(ctx context.Context) error {
	fd, err := unix.PidfdOpen(l.PID, 0)
	if err == nil {
		defer func() { _ = unix.Close(fd) }()
	}
	// The descriptor stands for whoever has the ID now: only from here on can the ID pass to nobody else unnoticed.
	for l.goesOn() {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			select {
			case <-ctx.Done():
			case <-time.After(glance):
			}
			continue
		}
		n, pollErr := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(glance.Milliseconds()))
		if n > 0 {
			return nil
		}
		if pollErr != nil && !errors.Is(pollErr, unix.EINTR) {
			return fmt.Errorf("wait for the end of process %d: %w", l.PID, pollErr)
		}
	}
	return nil
}
