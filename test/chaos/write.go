package chaos

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/mobyfs/mobyfs"
)

// writePause is between two writes of a container.
const writePause = 15 * time.Millisecond

// write runs a container on a mounted volume for a while and notes what it was told is on disk. It reports whether that is
// anything.
func (w *workload) write(ctx context.Context, at *agent, id mobyfs.VolumeID, path, writer string, fence mobyfs.Fence, life time.Duration) bool {
	cmd := exec.Command(w.c.bins.container(), path, writer, fmt.Sprint(fence), writePause.String())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		w.say("make a container", err)
		return false
	}
	stdout, err := cmd.StdoutPipe()
	if err == nil {
		err = at.host.Do(cmd.Start)
	}
	if err != nil {
		w.say("start a container", err)
		return false
	}
	w.h.count("container started")
	enough := context.AfterFunc(ctx, func() { _ = stdin.Close() })
	timer := time.AfterFunc(life, func() { _ = stdin.Close() })
	lived := window{volume: id, node: at.node, writer: writer, fence: uint64(fence)}
	for lines := bufio.NewScanner(stdout); lines.Scan(); {
		var seq uint64
		var begin, end int64
		if _, err := fmt.Sscanf(lines.Text(), "ack %d %d %d", &seq, &begin, &end); err != nil {
			w.ended(lines.Text())
			break
		}
		if lived.begin == 0 {
			lived.begin = begin
		}
		lived.end = end
		w.h.ack(id, writer, seq, end)
		w.h.count("writes acked")
	}
	enough()
	timer.Stop()
	_ = stdin.Close()
	if err := cmd.Wait(); err != nil && strings.Contains(err.Error(), "killed") {
		w.h.count("container killed") // by the watchdog, or with its host
	}
	if lived.begin != 0 {
		w.h.wrote(lived)
	}
	return lived.begin != 0
}

// ended counts a container that ended by an error. A full disk is one of ours, and a volume that can't be written to any
// more is the watchdog's work.
func (w *workload) ended(text string) {
	switch {
	case strings.Contains(text, "no space left"):
	case strings.Contains(text, "read-only file system"):
		w.h.count("container fenced")
	default:
		w.say("a container ended", errors.New(text))
	}
	w.h.count("container ended by an error")
}
