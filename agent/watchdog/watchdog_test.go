package watchdog

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/boottime"
	"github.com/mobyfs/mobyfs/internal/mountns"
)

// TestMain is the watchdog's process, or a stand-in for the agent's that keeps its session alive until it is stopped,
// where a test asks for them.
func TestMain(m *testing.M) {
	dir := os.Getenv("WATCHDOG_TEST_DIR")
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	switch os.Getenv("WATCHDOG_TEST_ROLE") {
	case "watchdog":
		w := Watchdog{Socket: filepath.Join(dir, "sock"), State: filepath.Join(dir, "state"), Clock: boottime.Now, Log: log}
		if err := w.Run(context.Background()); err != nil {
			log.Error("the watchdog ends", "err", err)
		}
		os.Exit(1)
	case "agent":
		for {
			_, err := Client{filepath.Join(dir, "sock")}.Tell(context.Background(), Message{Deadline: boottime.Now() + session})
			fmt.Println("beat", err)
			time.Sleep(session / 10)
		}
	}
	os.Exit(m.Run())
}

// session is how long a heartbeat of the stand-in counts.
const session = 2 * time.Second

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// process starts this program in a role, and returns once it said its first word, if it says any.
func process(t *testing.T, role, dir string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "WATCHDOG_TEST_ROLE="+role, "WATCHDOG_TEST_DIR="+dir)
	cmd.Stderr = os.Stderr
	must(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return cmd
}

// volume is a directory with the bytes of a volume, and one beside it to mount it at.
func volume(t *testing.T) (bytes, at string) {
	t.Helper()
	root, err := filepath.EvalSymlinks(t.TempDir())
	must(t, err)
	bytes, at = filepath.Join(root, "data"), filepath.Join(root, "mnt")
	must(t, errors.Join(os.Mkdir(bytes, 0o700), os.Mkdir(at, 0o700)))
	return bytes, at
}

// container is a shell in a mount namespace of its own, where the volume is mounted as $at. It is told what to do and says
// when it has begun. A control group of its own is given to it where there are any.
func container(t *testing.T, bytes, at, script string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/bin/sh", "-ec", `mount --bind "$bytes" "$at"; `+script)
	cmd.Env = append(os.Environ(), "bytes="+bytes, "at="+at)
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Setpgid: true}
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL); _ = cmd.Wait() })
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatalf("the container said %q, %v", line, err)
	}
	return cmd
}

const (
	writes = `exec 3>>"$at/log"; echo ready; while :; do echo x >&3; sleep 0.01; done`
	reads  = `echo old >"$at/old"; exec 3<"$at/old"; echo ready; while :; do sleep 0.05; done`
	idles  = `echo ready; while :; do sleep 0.05; done`
	tries  = `echo ready; while :; do echo late >"$at/late" 2>/dev/null || true; sleep 0.02; done`
)

func ended(cmd *exec.Cmd) bool {
	state, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", cmd.Process.Pid))
	return err != nil || strings.Contains(string(state), ") Z ")
}

func size(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return info.Size()
}

func TestFenceEndsWritersAndLeavesReaders(t *testing.T) {
	bytes, at := volume(t)
	writer, reader := container(t, bytes, at, writes), container(t, bytes, at, reads)
	other := t.TempDir()
	stranger := container(t, other, at, strings.ReplaceAll(writes, "log", "stranger"))
	place, err := mountns.Locate(bytes)
	must(t, err)
	start := time.Now()
	must(t, Fence(t.Context(), place, slog.New(slog.DiscardHandler)))
	took := time.Since(start)
	before, strangers := size(filepath.Join(bytes, "log")), size(filepath.Join(other, "stranger"))
	if before == 0 || !ended(writer) {
		t.Errorf("the writer wrote %d bytes and has ended: %v", before, ended(writer))
	}
	if ended(reader) || ended(stranger) {
		t.Errorf("the reader has ended: %v, who writes to another volume: %v", ended(reader), ended(stranger))
	}
	for wait := time.Now().Add(time.Minute); size(filepath.Join(other, "stranger")) == strangers && time.Now().Before(wait); {
		time.Sleep(10 * time.Millisecond)
	}
	if after := size(filepath.Join(bytes, "log")); after != before {
		t.Errorf("%d bytes were written after it was fenced", after-before)
	}
	if size(filepath.Join(other, "stranger")) == strangers {
		t.Error("who writes to another volume writes no more")
	}
	must(t, Fence(t.Context(), place, slog.New(slog.DiscardHandler))) // again
	t.Logf("a writer and a reader were fenced in %v", took.Round(time.Millisecond))
}

func TestFenceKeepsWhoOpensLaterFromWriting(t *testing.T) {
	bytes, at := volume(t)
	c := container(t, bytes, at, idles)
	place, err := mountns.Locate(bytes)
	must(t, err)
	must(t, Fence(t.Context(), place, slog.New(slog.DiscardHandler)))
	err = os.WriteFile(fmt.Sprintf("/proc/%d/root%s/late", c.Process.Pid, at), []byte("x"), 0o600)
	if !errors.Is(err, unix.EROFS) {
		t.Errorf("got %v, want that the file system is read-only", err)
	}
	if ended(c) {
		t.Error("a container that does not write was killed")
	}
}

// The agent is stopped as by a debugger, so it neither beats nor ends. The watchdog, a process of its own, ends a process
// that holds a file open and writes; a container that starts too late can't write either.
func TestAStoppedAgentCantKeepAWriterAlive(t *testing.T) {
	dir := t.TempDir()
	bytes, at := volume(t)
	process(t, "watchdog", dir)
	agent := process(t, "agent", dir)
	client := Client{filepath.Join(dir, "sock")}
	guard(t, client, bytes)
	writer := container(t, bytes, at, writes)
	time.Sleep(2 * session) // it lives longer than any one heartbeat counts
	if ended(writer) {
		t.Fatal("a writer was killed while the session was alive")
	}
	must(t, agent.Process.Signal(syscall.SIGSTOP))
	stopped := time.Now()
	for !ended(writer) && time.Since(stopped) < 10*session {
		time.Sleep(5 * time.Millisecond)
	}
	took := time.Since(stopped)
	if took > session+2*time.Second {
		t.Errorf("the writer ended %v after its agent was stopped, the session lasts %v", took, session)
	}
	wrote := size(filepath.Join(bytes, "log"))
	late := container(t, bytes, at, tries)
	for wait := time.Now().Add(10 * time.Second); !isReadOnly(late, at) && time.Now().Before(wait); {
		time.Sleep(10 * time.Millisecond)
	}
	if !isReadOnly(late, at) {
		t.Error("a container that started too late can write")
	}
	if after := size(filepath.Join(bytes, "log")); after != wrote {
		t.Errorf("%d bytes were written afterwards", after-wrote)
	}
	a, err := client.Tell(t.Context(), Message{})
	if err != nil || len(a.Fenced) != 1 {
		t.Errorf("the watchdog says %+v, %v", a, err)
	}
	t.Logf("session %v: writer dead %v after its agent was stopped, %d bytes written before, 0 after", session, took.Round(time.Millisecond), wrote)
}

// guard waits until the session lives and has the volume guarded.
func guard(t *testing.T, c Client, bytes string) {
	t.Helper()
	var err error
	for wait := time.Now().Add(time.Minute); time.Now().Before(wait); time.Sleep(10 * time.Millisecond) {
		if _, err = c.Tell(t.Context(), Message{Guard: &Volume{ID: "v1", Name: "pgdata", Bytes: bytes}}); err == nil {
			return
		}
	}
	t.Fatal(err)
}

// isReadOnly reports whether the volume can't be written to from inside the container.
func isReadOnly(c *exec.Cmd, at string) bool {
	err := os.WriteFile(fmt.Sprintf("/proc/%d/root%s/probe", c.Process.Pid, at), nil, 0o600)
	return errors.Is(err, unix.EROFS) || ended(c)
}

// The watchdog is killed too; the next one finds what was guarded, and until when.
func TestTheNextWatchdogGoesOnWhereTheOneThatDiedWas(t *testing.T) {
	dir := t.TempDir()
	bytes, at := volume(t)
	first := process(t, "watchdog", dir)
	agent := process(t, "agent", dir)
	guard(t, Client{filepath.Join(dir, "sock")}, bytes)
	writer := container(t, bytes, at, writes)
	must(t, errors.Join(first.Process.Kill(), agent.Process.Kill()))
	_ = first.Wait()
	process(t, "watchdog", dir)
	start := time.Now()
	for !ended(writer) && time.Since(start) < 10*session {
		time.Sleep(5 * time.Millisecond)
	}
	if !ended(writer) {
		t.Error("the writer lives")
	}
}

// rig is a watchdog in this process whose clock and whose deed are a test's.
type rig struct {
	*Watchdog
	now    atomic.Int64
	fenced atomic.Int64
}

func newRig(t *testing.T) *rig {
	r := &rig{}
	dir := t.TempDir()
	r.Watchdog = &Watchdog{
		Socket: filepath.Join(dir, "sock"), State: filepath.Join(dir, "state"), Log: slog.New(slog.DiscardHandler),
		Clock: func() time.Duration { return time.Duration(r.now.Load()) },
		Fence: func(context.Context, mountns.Place, *slog.Logger) error { r.fenced.Add(1); return nil },
	}
	must(t, r.load())
	return r
}

func TestDeadlineDecides(t *testing.T) {
	r := newRig(t)
	bytes, _ := volume(t)
	v := &Volume{ID: "v1", Name: "pgdata", Bytes: bytes}
	if _, err := r.hear(Message{Guard: v}); mobyfs.CodeOf(err) != mobyfs.CodeUnavailable {
		t.Errorf("guard without a session: got %v", err)
	}
	_, err := r.hear(Message{Deadline: 100, Guard: v})
	must(t, err)
	for _, step := range []struct {
		now    int64
		tell   Message
		fences int64
		fenced int
	}{
		{99, Message{}, 0, 0},
		{100, Message{}, 1, 1},
		{150, Message{}, 2, 1},              // and again: somebody may have come too late
		{160, Message{Deadline: 90}, 3, 1},  // an old heartbeat moves nothing
		{170, Message{Deadline: 300}, 3, 1}, // the session is back, the volume stays fenced
		{180, Message{Guard: v}, 3, 0},      // until it is attached anew
		{310, Message{}, 4, 1},              // over again
		{320, Message{Release: []mobyfs.VolumeID{"v1"}}, 4, 0},
	} {
		r.now.Store(step.now)
		a, err := r.hear(step.tell)
		must(t, err)
		r.check(t.Context())
		a = r.answer()
		if r.fenced.Load() != step.fences || len(a.Fenced) != step.fenced {
			t.Errorf("at %d: fenced %d times, says %v; want %d times and %d", step.now, r.fenced.Load(), a.Fenced, step.fences, step.fenced)
		}
		next := Watchdog{State: r.State} // what a restart would know is the same
		must(t, next.load())
		if next.state.Deadline != r.state.Deadline || len(next.state.Volumes) != len(r.state.Volumes) {
			t.Errorf("at %d the file says %+v, want %+v", step.now, next.state, r.state)
		}
	}
}

func TestUnreadableStateIsNotTakenForNothing(t *testing.T) {
	r := newRig(t)
	must(t, os.WriteFile(r.State, []byte("{"), 0o600))
	if err := r.Run(t.Context()); err == nil {
		t.Error("it goes on")
	}
}
