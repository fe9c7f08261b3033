package chaos

import (
	"bufio"
	"context"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/mobyfs/mobyfs"
)

// writePause is between two writes of a container.
const writePause = 15 * time.Millisecond

// write runs a container on a mounted volume for a while and notes what it was told is on disk.
func (w *workload) write(ctx context.Context, at *agent, id mobyfs.VolumeID, path, writer string, fence mobyfs.Fence, life time.Duration) {
	cmd := exec.Command(w.c.bins.container(), path, writer, fmt.Sprint(fence), writePause.String())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		w.say("make a container", err)
		return
	}
	stdout, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		w.say("start a container", err)
		return
	}
	w.h.count("container started")
	enough := context.AfterFunc(ctx, func() { _ = stdin.Close() })
	timer := time.AfterFunc(life, func() { _ = stdin.Close() })
	lived := window{volume: id, node: at.node, writer: writer, fence: uint64(fence)}
	for lines := bufio.NewScanner(stdout); lines.Scan(); {
		var seq uint64
		var begin, end int64
		if _, err := fmt.Sscanf(lines.Text(), "ack %d %d %d", &seq, &begin, &end); err != nil {
			if !strings.Contains(lines.Text(), "no space left") { // which is what a full disk does
				w.say("a container ended", fmt.Errorf("%s", lines.Text()))
			}
			w.h.count("container ended by an error")
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
	_ = cmd.Wait()
	if lived.begin != 0 {
		w.h.wrote(lived)
	}
}
