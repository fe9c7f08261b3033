package peer

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/driver"
)

// fault is how a connection ends before its time.
type fault int

const (
	none         fault = iota
	requestLost        // Docker has written its call, and the driver does not see it
	answerBroken       // the driver can't write its answer, and notices
	answerLost         // the driver has written its answer, and Docker does not see it
)

// line is the driver's socket: it writes down what is called and puts faults on connections.
type line struct {
	net.Listener
	socket string

	mu     sync.Mutex
	calls  []string         // in the order in which they began
	empty  []string         // those among them that came without the body that they need
	faults map[string]fault // by call, for the next one
}

// serve puts the driver in front of a Mounter.
func serve(t testing.TB, m mobyfs.Mounter) *line {
	t.Helper()
	return serveHandler(t, driver.New(m, discard()))
}

func serveHandler(t testing.TB, h http.Handler) *line {
	t.Helper()
	l := listen(t)
	s := driver.Server(h)
	s.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close(); <-done })
	return l
}

// listen makes a socket. Its path is short, for the kernel takes 107 bytes only.
func listen(t testing.TB) *line {
	t.Helper()
	l := &line{socket: filepath.Join(shortDir(t), "mobyfs.sock"), faults: map[string]fault{}}
	var err error
	if l.Listener, err = net.Listen("unix", l.socket); err != nil {
		t.Fatal(err)
	}
	return l
}

// put puts a fault on the next connection that makes the call.
func (l *line) put(call string, f fault) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.faults[call] = f
}

// took returns the calls since the last time.
func (l *line) took() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	calls := l.calls
	l.calls = nil
	return calls
}

// empties returns the calls that came without their body.
func (l *line) empties() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.empty)
}

// begins notes a call by the first bytes of its connection, and tells what is to happen to it.
func (l *line) begins(head []byte) fault {
	_, path, _ := bytes.Cut(head, []byte("POST /"))
	path, _, _ = bytes.Cut(path, []byte(" "))
	call := string(path)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.calls = append(l.calls, call)
	if bytes.Contains(head, []byte("\r\nContent-Length: 0\r\n")) && call != "Plugin.Activate" {
		l.empty = append(l.empty, call)
	}
	f := l.faults[call]
	delete(l.faults, call)
	return f
}

func (l *line) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &faulty{Conn: c, line: l}, nil
}

// faulty is a connection of a line.
type faulty struct {
	net.Conn
	line  *line
	once  sync.Once
	fault fault
}

func (c *faulty) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.once.Do(func() { c.fault = c.line.begins(p[:n]) })
	}
	if c.fault == requestLost {
		c.Close()
		return 0, io.EOF
	}
	return n, err
}

func (c *faulty) Write(p []byte) (int, error) {
	switch c.fault {
	case answerBroken:
		c.Close()
		return 0, syscall.EPIPE
	case answerLost:
		c.Close()
		return len(p), nil
	}
	return c.Conn.Write(p)
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

// post makes a call as Docker does, for a look at what its client does not show.
func post(socket, call, body string) (*http.Response, error) {
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}}
	r, err := http.NewRequest(http.MethodPost, "http://plugin.moby.localhost/"+call, strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Accept", "application/vnd.docker.plugins.v1.2+json")
	return client.Do(r)
}
