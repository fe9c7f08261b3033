package watchdog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/mobyfs/mobyfs/internal/failpoint"
	"github.com/mobyfs/mobyfs/internal/mountns"
)

const (
	mountPatience = 2 * time.Second // a remount on a file system that does not answer
	killPatience  = 2 * time.Second // until a process that was killed has ended
	rounds        = 5               // of remounting and killing, before it is tried again later
)

// errBusy says that a mount can't be made read-only, for somebody writes.
var errBusy = errors.New("it is being written to")

// Fence ends all writing to a place: every mount of it, in every mount namespace, becomes read-only. Where that is refused
// because something is open for writing, those processes are frozen and killed; if it still is refused, so is everything
// that lives in that namespace, unless it is our own. It returns nil once no mount can be written through. It may be
// called again and again: what is read-only already is left alone.
func Fence(ctx context.Context, place mountns.Place, log *slog.Logger) error {
	for round := range rounds {
		left, err := makeReadOnly(place)
		if err != nil || len(left) == 0 {
			return err
		}
		for _, n := range left {
			victims := n.Writers()
			if !n.Own && (round > 0 || len(victims) == 0) {
				victims = n.PIDs
			}
			log.Warn("the session is over: processes that write are killed", "mount", n.Mounts[0].Point, "processes", victims)
			end(ctx, n, victims, log)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	if left, err := makeReadOnly(place); err != nil || len(left) == 0 {
		return err
	}
	return errBusy
}

// makeReadOnly makes read-only what can be, and returns the namespaces in which something is left.
func makeReadOnly(place mountns.Place) ([]mountns.Namespace, error) {
	all, err := place.Namespaces()
	if err != nil {
		return nil, fmt.Errorf("look where the volume is mounted: %w", err)
	}
	var left []mountns.Namespace
	for _, n := range all {
		var writable []mountns.Mount
		for _, m := range n.Mounts {
			if !m.ReadOnly && remount(n, m) != nil {
				writable = append(writable, m)
			}
		}
		if len(writable) > 0 {
			n.Mounts = writable
			left = append(left, n)
		}
	}
	return left, nil
}

// remount makes one mount read-only. What does not answer within mountPatience counts as refused.
func remount(n mountns.Namespace, m mountns.Mount) error {
	done := make(chan error, 1)
	go offMain(func() { done <- inside(n, m.Point) })
	select {
	case err := <-done:
		return err
	case <-time.After(mountPatience):
		return fmt.Errorf("make %s read-only: the file system does not answer", m.Point)
	}
}

// offMain calls f on a thread of its own, which ends with it, and which is not the process's first: that one stands for
// the whole process in /proc and can't end.
func offMain(f func()) {
	runtime.LockOSThread()
	if unix.Gettid() != unix.Getpid() {
		f()
		return
	}
	defer runtime.UnlockOSThread()
	done := make(chan struct{})
	go func() {
		defer close(done)
		offMain(f)
	}()
	<-done
}

// inside makes the mount read-only from inside its namespace, for the kernel asks for that. The thread that goes there
// never comes back.
func inside(n mountns.Namespace, point string) error {
	pid := n.PIDs[0]
	at, err := unix.Open(fmt.Sprintf("/proc/%d/root%s", pid, point), unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", point, err)
	}
	defer func() { _ = unix.Close(at) }()
	if !n.Own {
		if err := enter(pid); err != nil {
			return err
		}
	}
	failpoint.Reach("watchdog.remount.before")
	err = unix.MountSetattr(at, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
	failpoint.Reach("watchdog.remount.after")
	if err != nil {
		return fmt.Errorf("make %s read-only: %w", point, err)
	}
	return nil
}

// enter takes this thread into the mount namespace of a process.
func enter(pid int) error {
	ns, err := unix.Open(fmt.Sprintf("/proc/%d/ns/mnt", pid), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(ns) }()
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return err
	}
	return unix.Setns(ns, unix.CLONE_NEWNS)
}

// end freezes the processes, so that none of them has a child meanwhile, kills them, and waits until they have ended.
func end(ctx context.Context, n mountns.Namespace, pids []int, log *slog.Logger) {
	var ending []int
	for _, pid := range pids {
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			continue // it has ended
		}
		if ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", pid)); err != nil || ns != n.Name || pid == os.Getpid() {
			_ = unix.Close(fd) // another process has its ID by now
			continue
		}
		ending = append(ending, fd)
		defer freeze(pid)()
	}
	for _, fd := range ending {
		if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			log.Error("kill a process that writes", "err", err)
		}
	}
	deadline := time.Now().Add(killPatience)
	for _, fd := range ending {
		for left := time.Until(deadline); left > 0 && ctx.Err() == nil; left = time.Until(deadline) {
			if ready, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(left.Milliseconds())+1); ready > 0 || err != nil && !errors.Is(err, unix.EINTR) {
				break
			}
		}
		_ = unix.Close(fd)
	}
}

// freeze stops the control group of a process, if it is one of its own and not one that we are in, and returns what
// lets it go on. Without control groups of version 2 it does nothing: killing does not depend on it.
func freeze(pid int) (thaw func()) {
	mounts, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup2"))
	group, ours := groupOf(fmt.Sprint(pid)), groupOf("self")
	if err != nil || len(mounts) == 0 || group == "" || group == "/" || ours == group || strings.HasPrefix(ours, group+"/") {
		return func() {}
	}
	file := filepath.Join(mounts[0].Mountpoint, group, "cgroup.freeze")
	if err := os.WriteFile(file, []byte("1"), 0); err != nil {
		return func() {}
	}
	return func() { _ = os.WriteFile(file, []byte("0"), 0) }
}

// groupOf is the control group (version 2) of a process, "" if it can't be told.
func groupOf(pid string) string {
	text, err := os.ReadFile(filepath.Join("/proc", pid, "cgroup"))
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		if path, ok := strings.CutPrefix(line, "0::"); ok {
			return strings.TrimSuffix(path, "\n")
		}
	}
	return ""
}
