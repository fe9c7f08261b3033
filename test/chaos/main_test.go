package chaos

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestMain runs the tests as the first process of namespaces of processes, mounts and networks. When it ends the kernel
// ends all that it started, and nothing is left of what it mounted and connected.
func TestMain(m *testing.M) {
	flag.Parse()
	dir := os.Getenv(insideDir)
	if dir == "" {
		os.Exit(enter())
	}
	if err := furnish(dir); err != nil {
		fmt.Fprintln(os.Stderr, "chaos:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// enter runs this program again, inside, and returns its exit code.
func enter() int {
	runtime.LockOSThread() // Pdeathsig is about the thread
	clearLeftovers()
	clearGroups()
	dir, err := os.MkdirTemp("", fmt.Sprintf("%s%d-", dirPrefix, os.Getpid()))
	if err != nil {
		fmt.Fprintln(os.Stderr, "chaos:", err)
		return 1
	}
	self, err := os.Executable()
	if err != nil {
		fmt.Fprintln(os.Stderr, "chaos:", err)
		return 1
	}
	cmd := exec.Command(self, os.Args[1:]...)
	cmd.Env = append(os.Environ(), insideDir+"="+dir)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL,
	}
	err = cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		_ = os.RemoveAll(dir)
		return 0
	case errors.As(err, &exit):
		fmt.Fprintln(os.Stderr, "chaos: what the programs said is in", filepath.Join(dir, "logs"))
		return max(1, exit.ExitCode())
	default:
		fmt.Fprintln(os.Stderr, "chaos: namespaces can't be made; this needs root:", err)
		return 1
	}
}

// clearLeftovers removes the directories of runs that were killed. Of those nothing else is left. Those of runs that
// failed keep their logs.
func clearLeftovers() {
	dirs, _ := filepath.Glob(filepath.Join(os.TempDir(), dirPrefix+"*"))
	for _, dir := range dirs {
		pid, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), dirPrefix), "-")
		if n, err := strconv.Atoi(pid); err == nil && syscall.Kill(n, 0) == syscall.ESRCH {
			_ = os.RemoveAll(filepath.Join(dir, "bin"))
			if logs, _ := filepath.Glob(filepath.Join(dir, "logs", "*")); len(logs) == 0 {
				_ = os.RemoveAll(dir)
			}
		}
	}
}

// furnish makes the namespaces a place to live in: mounts that nobody else sees, processes of this namespace alone in
// /proc, and room for disks.
func furnish(dir string) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("part from the machine's mounts: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	for _, sub := range []string{"bin", "logs", "d"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return err
		}
	}
	if err := unix.Mount("tmpfs", filepath.Join(dir, "d"), "tmpfs", 0, "size=4g,mode=755"); err != nil {
		return fmt.Errorf("make room for disks: %w", err)
	}
	return nil
}

// clearGroups removes control groups that runs left which were killed. One in which something lives stays.
func clearGroups() {
	for _, root := range []string{groupsV1, groupsV2} {
		groups, _ := filepath.Glob(filepath.Join(root, dirPrefix+"*"))
		for _, group := range groups {
			_ = unix.Rmdir(group)
		}
	}
}
