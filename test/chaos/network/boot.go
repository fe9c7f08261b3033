package network

import (
	"bufio"
	"errors"
	"fmt"
	"os/exec"

	"golang.org/x/sys/unix"
)

// Boot gives the host namespaces of processes and mounts of its own: from then on all that Do starts lives in them, sees
// the processes of this host alone in /proc, and what it mounts nobody else sees. It begins with the mounts that this
// process has now. first is the host's first process, which has to mount /proc, to say "ready", to reap, and to stay.
func (h *Host) Boot(first ...string) error {
	return h.Do(func() error {
		if err := h.part(); err != nil {
			return fmt.Errorf("boot %s: %w", h.Name, err)
		}
		cmd := exec.Command(first[0], first[1:]...)
		if _, err := cmd.StdinPipe(); err != nil {
			return err
		}
		said, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		line := ""
		if err == nil {
			line, err = bufio.NewReader(said).ReadString('\n')
		}
		if err == nil && line != "ready\n" {
			err = errors.New(line)
		}
		if err != nil {
			return fmt.Errorf("start the first process of %s: %w", h.Name, err)
		}
		h.first = cmd
		return nil
	})
}

// part leaves the namespaces in which the host is for new ones. Under Do.
func (h *Host) part() error {
	if h.outside == (outside{}) {
		pids, err := unix.Open("/proc/thread-self/ns/pid_for_children", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		mounts, err := unix.Open("/proc/thread-self/ns/mnt", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		h.outside = outside{pids, mounts}
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return err
		}
	}
	if err := unix.Setns(h.outside.pids, unix.CLONE_NEWPID); err != nil {
		return fmt.Errorf("go back to the processes outside: %w", err)
	}
	if err := unix.Setns(h.outside.mounts, unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("go back to the mounts outside: %w", err)
	}
	return unix.Unshare(unix.CLONE_NEWPID | unix.CLONE_NEWNS)
}

// PowerOff ends all processes of the host at once. What it had mounted is gone with the next Boot.
func (h *Host) PowerOff() error {
	if h.first == nil {
		return errors.New(h.Name + " is off")
	}
	err := h.first.Process.Kill()
	_ = h.first.Wait()
	h.first = nil
	return err
}
