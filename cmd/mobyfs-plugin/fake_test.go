package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/driver"
)

// mounter is what stands in for the agent: it notes what it is asked, counts uses, and answers what a test wants.
type mounter struct {
	mu    sync.Mutex
	asked []string
	opts  map[string]string // of the last Create
	uses  map[string]int    // volume/id → count
	lives int
	mount func(ctx context.Context) error // what a Mount waits for
	err   error                           // of Create and Remove
}

var made = time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)

func hostPath(name string) string { return "/var/lib/mobyfs/volumes/" + name + "/data" }

func (m *mounter) note(call string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.asked = append(m.asked, call)
}

func (m *mounter) calls() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]string{}, m.asked...)
}

func (m *mounter) count(use string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.uses[use]
}

func (m *mounter) add(use string, n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.uses == nil {
		m.uses = map[string]int{}
	}
	m.uses[use] += n
}

func (m *mounter) Create(_ context.Context, name string, opts map[string]string) error {
	m.note("Create " + name)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.opts = opts
	return m.err
}

func (m *mounter) Remove(_ context.Context, name string) error {
	m.note("Remove " + name)
	return m.err
}

func (m *mounter) Mount(ctx context.Context, name, id string) (string, error) {
	m.note("Mount " + name + " " + id)
	if m.mount != nil {
		if err := m.mount(ctx); err != nil {
			return "", err
		}
	}
	m.add(name+"/"+id, 1)
	return hostPath(name), nil
}

func (m *mounter) Unmount(_ context.Context, name, id string) error {
	m.note("Unmount " + name + " " + id)
	m.add(name+"/"+id, -1)
	return nil
}

func (m *mounter) Get(_ context.Context, name string) (mobyfs.DockerVolume, error) {
	m.note("Get " + name)
	if name != "pgdata" {
		return mobyfs.DockerVolume{}, mobyfs.Errorf(mobyfs.CodeNotFound, "there is no volume %q", name)
	}
	return m.List()[0], nil
}

func (m *mounter) List() []mobyfs.DockerVolume {
	return []mobyfs.DockerVolume{{Name: "pgdata", Mountpoint: hostPath("pgdata"), CreatedAt: made, Status: map[string]any{"node": "h1"}}}
}

func (m *mounter) Activated() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lives++
}

// pipes is a listener whose connections are pipes, so that time in a test may be a bubble's.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), closed: make(chan struct{})} }

func (p *pipes) dial(ctx context.Context) (net.Conn, error) {
	near, far := net.Pipe()
	select {
	case p.conns <- far:
		return near, nil
	case <-p.closed:
		return nil, errors.New("connection refused")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error { p.once.Do(func() { close(p.closed) }); return nil }

func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "unix"} }

// agentOf serves a handler as the agent's socket does, until stop.
func agentOf(h http.Handler) (p *pipes, stop func()) {
	p = newPipes()
	s := driver.Server(h)
	s.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(p) }()
	return p, func() { _ = s.Close(); <-done }
}

// pluginOf is a plugin in front of the agent that dial reaches, until stop.
func pluginOf(t *testing.T, dial func(context.Context) (net.Conn, error)) (d dockerd, stop func()) {
	t.Helper()
	p, ctx := newPipes(), t.Context()
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	log := slog.New(slog.DiscardHandler)
	go func() { done <- serve(ctx, p, newAgent(dial, log), log) }()
	return dockerd{t, p}, func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the plugin ended with %v", err)
		}
	}
}

// chain is a plugin in front of the driver in front of m.
func chain(t *testing.T, m mobyfs.Mounter) (d dockerd, stop func()) {
	t.Helper()
	a, stopAgent := agentOf(driver.New(m, slog.New(slog.DiscardHandler)))
	d, stopPlugin := pluginOf(t, a.dial)
	return d, func() { stopPlugin(); stopAgent() }
}

// dockerd calls a plugin the way Docker does.
type dockerd struct {
	t *testing.T
	p *pipes
}

// post makes a call; an error means that the connection was cut.
func (d dockerd) post(ctx context.Context, call, body string) (status int, ans reply, err error) {
	d.t.Helper()
	client := &http.Client{Transport: &http.Transport{
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return d.p.dial(ctx) },
		DisableKeepAlives: true,
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://plugin.moby.localhost/"+call, bytes.NewReader([]byte(body)))
	if err != nil {
		d.t.Fatal(err)
	}
	req.Header.Set("Accept", dockerAccept)
	resp, err := client.Do(req)
	if err != nil {
		return 0, ans, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return resp.StatusCode, ans, err
	}
	if err := json.Unmarshal(raw, &ans); err != nil {
		d.t.Errorf("%s was answered with %q: %v", call, raw, err)
	}
	return resp.StatusCode, ans, nil
}

// ask makes a call that must be answered, with status 200 as all that Docker understands.
func (d dockerd) ask(call, body string) reply {
	d.t.Helper()
	status, ans, err := d.post(d.t.Context(), call, body)
	if err != nil || status != http.StatusOK {
		d.t.Fatalf("%s: status %d, %v", call, status, err)
	}
	return ans
}

// cut makes a call whose connection must be cut.
func (d dockerd) cut(call, body string) {
	d.t.Helper()
	if status, ans, err := d.post(d.t.Context(), call, body); err == nil {
		d.t.Errorf("%s was answered with %d %+v, want the connection cut", call, status, ans)
	}
}

// scoped is what Docker makes of a path in an answer to Mount, Path and List: it joins the plugin's root directory and
// the path.
func scoped(path string) string {
	return filepath.Join("/srv/very/deep/var/lib/docker/plugins/4f163d4468f8/rootfs", path)
}
