package mountns

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestMembersAreAllProcessesOfTheNamespace(t *testing.T) {
	root, dir := volume(t)
	pid, _ := live(t, `mount --make-rprivate /; mount --bind "$1" "$2"; sleep 100 & trap "kill $!" EXIT
		until read -r name </proc/$!/comm && [ "$name" = sleep ]; do :; done`, dir, filepath.Join(root, "mnt")) // a child is "sh" until it runs its program
	members, err := Members(dir)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, m := range members {
		found[m.Command] = true
		if m.Path != filepath.Join(root, "mnt") {
			t.Errorf("%v is said to have it elsewhere", m)
		}
	}
	if len(members) != 2 || members[0].PID != pid && members[1].PID != pid || !found["sleep"] {
		t.Errorf("got %v, want the shell %d and its child", members, pid)
	}
	if others, err := Members(dir + "-twin"); err != nil || len(others) != 0 {
		t.Errorf("of another directory: %v, %v", others, err)
	}
}

// TestEndGroupKillsFrozenProcesses: what is killed while it is frozen does nothing more, and the one that is spared lives.
func TestEndGroupKillsFrozenProcesses(t *testing.T) {
	name := "mobyfs-test-" + filepath.Base(t.TempDir()) + "-" + strings.ReplaceAll(t.Name(), "/", "-")
	var freezer string
	var group string
	switch {
	case exists("/sys/fs/cgroup/cgroup.controllers"):
		group, freezer = filepath.Join("/sys/fs/cgroup", name), "cgroup.freeze"
	case exists("/sys/fs/cgroup/unified/cgroup.procs"):
		group, freezer = filepath.Join("/sys/fs/cgroup/unified", name), "cgroup.freeze"
	case exists("/sys/fs/cgroup/freezer/cgroup.procs"):
		group, freezer = filepath.Join("/sys/fs/cgroup/freezer", name), "freezer.state"
	default:
		t.Fatal("this test needs control groups with a freezer")
	}
	if err := os.Mkdir(group, 0o755); err != nil {
		t.Fatalf("make a control group (this test needs root): %v", err)
	}
	file := filepath.Join(t.TempDir(), "written")
	var writers []*exec.Cmd
	for range 2 {
		w := exec.Command("/bin/sh", "-c", `while :; do echo x >>"$1"; done`, "sh", file)
		if err := w.Start(); err != nil {
			t.Fatal(err)
		}
		writers = append(writers, w)
		if err := os.WriteFile(filepath.Join(group, "cgroup.procs"), []byte(pidText(w.Process.Pid)), 0); err != nil {
			t.Fatal(err)
		}
	}
	defer func() {
		for _, w := range writers {
			_ = w.Process.Kill()
			_ = w.Wait()
		}
		if err := os.Remove(group); err != nil {
			t.Errorf("remove the control group: %v", err)
		}
	}()
	freeze, thaw := "1", "0"
	if freezer == "freezer.state" {
		freeze, thaw = "FROZEN", "THAWED"
	}
	if err := os.WriteFile(filepath.Join(group, freezer), []byte(freeze), 0); err != nil {
		t.Fatal(err)
	}
	for before := int64(-1); before != size(file); time.Sleep(50 * time.Millisecond) {
		before = size(file)
	}
	frozenAt := size(file)
	if err := EndGroup(name, writers[0].Process.Pid); err != nil {
		t.Fatal(err)
	}
	if err := writers[0].Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("the spared one: %v", err)
	}
	if err := EndGroup(name, 0); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(group, freezer), []byte(thaw), 0); err != nil {
		t.Fatal(err)
	}
	for _, w := range writers {
		if err := w.Wait(); err == nil || w.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Errorf("a writer ended with %v", w.ProcessState)
		}
	}
	if now := size(file); now != frozenAt {
		t.Errorf("%d bytes were written after the freeze", now-frozenAt)
	}
	writers = nil
}

func exists(path string) bool { _, err := os.Stat(path); return err == nil }

func size(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return info.Size()
}

func pidText(pid int) string { return strconv.Itoa(pid) }

// TestSuspectsAreAllWhoCanBeLookedAt tells a process that no mount leads to the directory from one that could reach it unseen.
func TestSuspectsAreAllWhoCanBeLookedAt(t *testing.T) {
	root, _ := volume(t)
	dir := filepath.Join(root, "mnt")
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	far, _ := live(t, `mount --make-rprivate /; umount "$1"`, dir)
	near, _ := live(t, `mount --make-rprivate /`)
	pids, err := Suspects(dir)
	if err != nil {
		t.Fatal(err)
	}
	place, err := Locate(dir)
	if err != nil {
		t.Fatal(err)
	}
	for pid, want := range map[int]bool{far: false, near: true, os.Getpid(): true} {
		if !slices.Contains(pids, pid) {
			t.Errorf("process %d can be looked at and is left out", pid)
		}
		if reaches, err := place.reachedBy(pid); err != nil || reaches != want {
			t.Errorf("process %d reaches it: %v, %v, want %v", pid, reaches, err, want)
		}
	}
}
