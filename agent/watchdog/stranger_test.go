package watchdog

import (
	"context"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mobyfs/mobyfs/internal/boottime"
)

// asNobody writes to a socket as a user without rights, and returns what it hears.
func asNobody(t *testing.T, socket, text string) string {
	t.Helper()
	heard := make(chan string)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with its rights
		const nobody = 65534
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, nobody, nobody, nobody); errno != 0 {
			heard <- errno.Error()
			return
		}
		conn, err := net.Dial("unix", socket)
		if err != nil {
			heard <- err.Error()
			return
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
		_, _ = io.WriteString(conn, text) // nobody may be reading
		all, _ := io.ReadAll(conn)
		heard <- string(all)
	}()
	return <-heard
}

// Whoever could speak here could have a volume let go, and then write to it beside another node.
func TestAttackWatchdogsSocketByAnybodyButRoot(t *testing.T) {
	dir, err := os.MkdirTemp("", "mobyfs")
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	w := &Watchdog{Socket: filepath.Join(dir, "sock"), State: filepath.Join(dir, "state"), Clock: boottime.Now, Log: slog.New(slog.DiscardHandler)}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	t.Cleanup(func() { cancel(); must(t, <-done) })
	c := Client{w.Socket}
	bytes := t.TempDir()
	for {
		if _, err = c.Tell(ctx, Message{Deadline: boottime.Now() + time.Hour, Guard: &Volume{ID: "v1", Name: "pgdata", Bytes: bytes}}); err == nil {
			break
		}
		if ctx.Err() != nil || !strings.Contains(err.Error(), "no such file") && !strings.Contains(err.Error(), "refused") {
			t.Fatal(err)
		}
		runtime.Gosched() // it has not begun to listen
	}
	info, err := os.Stat(w.Socket)
	must(t, err)
	if info.Mode().Perm() != 0o600 {
		t.Errorf("the socket has the mode %v", info.Mode().Perm())
	}
	for _, path := range []string{dir, w.Socket} { // as if all modes were lost
		must(t, os.Chmod(path, 0o777))
	}
	if heard := asNobody(t, w.Socket, `{"deadline":1,"release":["v1"]}`); heard != "" {
		t.Errorf("a stranger hears %q", heard)
	}
	a, err := c.Tell(ctx, Message{})
	must(t, err)
	if len(a.Guarded) != 1 || a.Guarded[0] != "v1" {
		t.Errorf("after a stranger has called, %v are guarded", a.Guarded)
	}
}
