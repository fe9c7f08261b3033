package main

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

const strangersCall = "POST /VolumeDriver.Remove HTTP/1.1\r\nHost: x\r\nContent-Length: 17\r\n\r\n{\"Name\":\"pgdata\"}"

// playStranger connects to a socket and prints what it is told.
func playStranger(socket string) {
	c, err := net.Dial("unix", socket)
	if err == nil {
		err = c.SetDeadline(time.Now().Add(20 * time.Second))
	}
	if err == nil {
		_, _ = io.WriteString(c, strangersCall) // nobody may be reading
		_, err = io.Copy(os.Stdout, c)
	}
	fmt.Println(err)
}

// openToAll serves h at a socket that everybody may connect to, as if all modes had been lost.
func openToAll(t *testing.T, h http.HandlerFunc) (socket string, log *notes) {
	t.Helper()
	dir, err := os.MkdirTemp("", "mobyfs")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket = filepath.Join(dir, "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir, socket} {
		if err := os.Chmod(path, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	log = &notes{}
	served := serveDocker([]door{{l, ""}}, h, slog.New(slog.NewTextHandler(log, nil)))
	t.Cleanup(served.close)
	return socket, log
}

// notes is a log that may be read while it is written.
type notes struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (n *notes) Write(b []byte) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.text.Write(b)
}

func (n *notes) String() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.text.String()
}

// stranger calls the socket as a child with other rights than ours, and returns what it heard.
func stranger(t *testing.T, socket string, as *syscall.SysProcAttr) string {
	t.Helper()
	binary := filepath.Join(filepath.Dir(socket), "stranger") // where a stranger can read it
	if _, err := os.Stat(binary); err != nil {
		self, err := os.ReadFile("/proc/self/exe")
		if err == nil {
			err = os.WriteFile(binary, self, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), binary)
	cmd.Env, cmd.SysProcAttr, cmd.Dir = []string{"MOBYFS_TEST_STRANGER=" + socket}, as, "/"
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("the stranger could not call: %v: %s", err, out)
	}
	return string(out)
}

func TestAttackPluginSocketByAnybodyButRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("only root can play somebody else: run the tests as root")
	}
	const nobody = 65534
	var calls atomic.Int64
	socket, log := openToAll(t, func(http.ResponseWriter, *http.Request) { calls.Add(1) })
	root := func(host int) []syscall.SysProcIDMap {
		return []syscall.SysProcIDMap{{ContainerID: 0, HostID: host, Size: 1}}
	}
	for name, as := range map[string]*syscall.SysProcAttr{
		"a user":                        {Credential: &syscall.Credential{Uid: nobody, Gid: nobody}},
		"a user of root's group":        {Credential: &syscall.Credential{Uid: nobody, Gid: 0}},
		"root of a container's own IDs": {Cloneflags: syscall.CLONE_NEWUSER, UidMappings: root(nobody), GidMappings: root(nobody), Credential: &syscall.Credential{NoSetGroups: true}},
	} {
		heard := stranger(t, socket, as)
		if !strings.HasPrefix(heard, "HTTP/1.1 403 ") || !strings.Contains(heard, "user 65534 may not call mobyfs") {
			t.Errorf("%s was told %q", name, heard)
		}
	}
	if heard := stranger(t, socket, &syscall.SysProcAttr{}); !strings.HasPrefix(heard, "HTTP/1.1 200 ") {
		t.Errorf("root was told %q", heard)
	}
	if n := calls.Load(); n != 1 {
		t.Errorf("the driver got %d calls, want root's alone", n)
	}
	if said := log.String(); !strings.Contains(said, "uid=65534") {
		t.Errorf("the log says %q", said)
	}
}

// Of more calls than are answered at once the rest waits for its turn; none is lost.
func TestCallersBeyondTheBoundWaitTheirTurn(t *testing.T) {
	socket, _ := openToAll(t, func(http.ResponseWriter, *http.Request) {})
	conns := make([]net.Conn, maxCallers)
	for i := range conns {
		c, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := io.WriteString(c, "POST /VolumeDriver.Get HTTP/1.1\r\n"); err != nil { // and nothing more
			t.Fatal(err)
		}
		conns[i] = c
	}
	waits, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer waits.Close()
	if _, err := io.WriteString(waits, strangersCall); err != nil {
		t.Fatal(err)
	}
	first := make([]byte, 1)
	_ = waits.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if n, err := waits.Read(first); n > 0 || err == nil {
		t.Fatal("one more than the bound is answered")
	}
	_ = conns[0].Close()
	_ = waits.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := waits.Read(first); err != nil {
		t.Errorf("with one ended the next in line is not answered: %v", err)
	}
}
