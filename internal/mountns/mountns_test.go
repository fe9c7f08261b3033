package mountns

import (
	"bufio"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// live starts a shell in its own mount namespace, runs the script, and returns once it said that it is ready.
func live(t *testing.T, script string, args ...string) (pid int, end func()) {
	t.Helper()
	cmd := exec.Command("/bin/sh", append([]string{"-ec", script + "\necho ready\nread line", "sh"}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	in, _ := cmd.StdinPipe()
	out, _ := cmd.StdoutPipe()
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatalf("start a process in its own mount namespace (this test needs root): %v", err)
	}
	done := false
	end = func() {
		if !done {
			done = true
			in.Close()
			_ = cmd.Wait()
		}
	}
	t.Cleanup(end)
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("the process said %q, %v", line, err)
	}
	return cmd.Process.Pid, end
}

func volume(t *testing.T) (root, dir string) {
	t.Helper()
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	dir = filepath.Join(root, "volumes", "01 a", "data") // the space is escaped in mountinfo
	for _, d := range []string{filepath.Join(dir, "sub"), dir + "-twin", filepath.Join(root, "mnt")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return root, dir
}

func TestUsersSeesABindInAnotherNamespace(t *testing.T) {
	root, dir := volume(t)
	for _, source := range []string{dir, filepath.Join(dir, "sub")} {
		pid, end := live(t, `mount --bind "$1" "$2"`, source, filepath.Join(root, "mnt"))
		users, err := Users(dir)
		if err != nil {
			t.Fatal(err)
		}
		if len(users) != 1 || users[0].PID != pid || users[0].Path != filepath.Join(root, "mnt") {
			t.Errorf("bind of %s: got %v, want process %d", source, users, pid)
		}
		end()
		if users, err := Users(dir); err != nil || len(users) != 0 {
			t.Errorf("after the process ended: got %v, %v", users, err)
		}
	}
}

func TestUsersOfOneNamespaceAreToldOnce(t *testing.T) {
	root, dir := volume(t)
	live(t, `mount --bind "$1" "$2"; sleep 60 & child=$!; trap 'kill $child' EXIT`, dir, filepath.Join(root, "mnt"))
	if users, err := Users(dir); err != nil || len(users) != 1 {
		t.Errorf("got %v, %v, want one user", users, err)
	}
}

func TestUsersLooksAtRootsNotAtNames(t *testing.T) {
	root, dir := volume(t)
	live(t, `mount --bind "$1" "$2"`, dir+"-twin", filepath.Join(root, "mnt")) // a sibling whose name begins the same
	live(t, `mount --bind "$1" "$2"`, root, filepath.Join(root, "mnt"))        // what holds the volume is no use of it
	live(t, `mount -t tmpfs none "$1"`, filepath.Join(root, "mnt"))            // root / of another file system
	live(t, `true`)                                                            // a namespace of its own that sees all of the host
	if users, err := Users(dir); err != nil || len(users) != 0 {
		t.Errorf("got %v, %v, want none", users, err)
	}
}

func TestUsersStaysTrueWhenTheDirectoryMoves(t *testing.T) {
	root, dir := volume(t)
	pid, _ := live(t, `mount --bind "$1" "$2"`, dir, filepath.Join(root, "mnt"))
	moved := filepath.Join(root, "trash")
	if err := os.Rename(dir, moved); err != nil {
		t.Fatal(err)
	}
	if users, err := Users(moved); err != nil || len(users) != 1 || users[0].PID != pid {
		t.Errorf("got %v, %v, want process %d", users, err, pid)
	}
}

func TestUsersOfNothingIsAnError(t *testing.T) {
	if _, err := Users(filepath.Join(t.TempDir(), "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want fs.ErrNotExist", err)
	}
}

func TestC80OpenSeesAProcessThatOnlyHoldsAFile(t *testing.T) {
	_, dir := volume(t)
	pid, end := live(t, `exec 9>"$1/file"`, dir)
	users, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(users) != 1 || users[0].PID != pid || users[0].Path != filepath.Join(dir, "file") {
		t.Errorf("got %v, want process %d", users, pid)
	}
	end()
	pid, _ = live(t, `cd "$1/sub"`, dir)
	if users, err := Open(dir); err != nil || len(users) != 1 || users[0].PID != pid {
		t.Errorf("working directory: got %v, %v, want process %d", users, err, pid)
	}
}

func TestOpenLeavesOutOurselves(t *testing.T) {
	_, dir := volume(t)
	f, err := os.Create(filepath.Join(dir, "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if users, err := Open(dir); err != nil || len(users) != 0 {
		t.Errorf("got %v, %v, want none", users, err)
	}
}

func BenchmarkUsers(b *testing.B) {
	dir := b.TempDir()
	for b.Loop() {
		if _, err := Users(dir); err != nil {
			b.Fatal(err)
		}
	}
}

// TestUsersLeavesOutCopiesOfOurOwnMount has a mount at dir itself, which each service with a private namespace has, too.
func TestUsersLeavesOutCopiesOfOurOwnMount(t *testing.T) {
	root, dir := volume(t)
	if err := syscall.Mount("none", dir, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) }()
	live(t, `true`)
	if users, err := Users(dir); err != nil || len(users) != 0 {
		t.Errorf("a namespace that is a copy of ours: got %v, %v", users, err)
	}
	pid, end := live(t, `mount --bind "$1" "$2"`, dir, filepath.Join(root, "mnt"))
	defer end()
	if users, err := Users(dir); err != nil || len(users) != 1 || users[0].PID != pid {
		t.Errorf("a bind in one: got %v, %v, want process %d", users, err, pid)
	}
}
