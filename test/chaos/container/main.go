// Command container is what runs on a volume in the chaos harness, in place of a real container: in a mount namespace of
// its own, into which the volume is mounted, it appends records to a journal, each synced to disk, until its stdin ends.
//
//	container PATH WRITER FENCE PAUSE
//	container init
//
// It prints "ack SEQ BEGIN END" for each record that is on disk, with the times of CLOCK_BOOTTIME around the write, and
// "error …" when it can't write, which ends it. As init it is the first process of a host, and runs nothing.
package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mobyfs/mobyfs/test/chaos/journal"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 1 && args[0] == "init" {
		return live()
	}
	if len(args) != 4 {
		return fmt.Errorf("it takes PATH WRITER FENCE PAUSE")
	}
	fence, err := strconv.ParseUint(args[2], 10, 64)
	if err != nil {
		return err
	}
	pause, err := time.ParseDuration(args[3])
	if err != nil {
		return err
	}
	dir, err := mount(args[0])
	if err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(ended)
	}()
	return write(filepath.Join(dir, journal.Name), args[1], fence, pause, ended)
}

// live makes /proc that of this process's namespace, says so, and reaps until stdin ends.
func live() error {
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	signal.Ignore(unix.SIGCHLD) // the kernel reaps then
	fmt.Println("ready")
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

// mount shows the volume in this process's own mount namespace, as a container has it. The namespace was made by
// whoever started the process.
func mount(volume string) (string, error) {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return "", fmt.Errorf("part from the host's mounts: %w", err)
	}
	if err := unix.Mount("tmpfs", "/mnt", "tmpfs", 0, "size=64k"); err != nil {
		return "", fmt.Errorf("mount /mnt: %w", err)
	}
	dir := "/mnt/volume"
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", err
	}
	if err := unix.Mount(volume, dir, "", unix.MS_BIND, ""); err != nil {
		return "", fmt.Errorf("mount %s: %w", volume, err)
	}
	return dir, nil
}

func write(path, writer string, fence uint64, pause time.Duration, ended <-chan struct{}) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	out := bufio.NewWriter(os.Stdout)
	for seq := uint64(1); ; seq++ {
		begin := now()
		// A line of its own ends what a kill may have torn.
		record := journal.Record{Fence: fence, Writer: writer, Seq: seq, At: begin}.Line()
		if seq == 1 {
			record = "\n" + record
		}
		if _, err := f.WriteString(record); err != nil {
			return err
		}
		if err := f.Sync(); err != nil {
			return err
		}
		fmt.Fprintln(out, "ack", seq, begin, now())
		if err := out.Flush(); err != nil {
			return nil // nobody listens any more
		}
		select {
		case <-ended:
			return nil
		case <-time.After(pause):
		}
	}
}

func now() int64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		panic(err)
	}
	return t.Nano()
}
