package peer

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/agent"
	"github.com/mobyfs/mobyfs/api"
	"github.com/mobyfs/mobyfs/backend"
	"github.com/mobyfs/mobyfs/backend/dir"
	"github.com/mobyfs/mobyfs/control"
	"github.com/mobyfs/mobyfs/driver"
	"github.com/mobyfs/mobyfs/internal/mountns"
	"github.com/mobyfs/mobyfs/internal/pki"
	"github.com/mobyfs/mobyfs/migrate/transfer"
)

// cluster is a control plane that answers over mutual TLS, and the hosts that know it.
type cluster struct {
	t         testing.TB
	authority *pki.Authority
	control   *control.Control
	identity  pki.Files
	address   string
	server    *api.Server // nil while control is away
	operator  *api.Client
	hosts     map[string]*host
}

// host is a node: the driver on a socket, in front of an agent.
type host struct {
	cluster *cluster
	name    string
	root    string
	files   pki.Files
	line    *line
	kernel  *kernel
	gate    *gate
	agent   *denier
	driver  atomic.Value // the http.Handler of the agent's present life
	docker  string       // where its dockerd keeps what it knows
	logs    *journal
	end     func()
}

func newCluster(t testing.TB, names ...string) *cluster {
	t.Helper()
	c := &cluster{t: t, hosts: map[string]*host{}}
	root := shortDir(t)
	var err error
	if c.authority, err = pki.NewAuthority(filepath.Join(root, "pki"), "shop"); err != nil {
		t.Fatal(err)
	}
	c.identity = c.member(pki.RoleControl, "control")
	c.control, err = control.Open(t.Context(), control.Config{Cluster: "shop", Root: root, Identity: c.identity, Version: "test", Log: discard()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.control.Close(); err != nil {
			t.Error(err)
		}
	})
	c.address = "127.0.0.1:0"
	c.back()
	t.Cleanup(c.away)
	c.operator = c.client(c.member(pki.RoleOperator, "ana"))
	for _, name := range names {
		h := &host{cluster: c, name: name, root: t.TempDir(), files: c.member(pki.RoleNode, name), docker: t.TempDir(), kernel: &kernel{uses: map[string]int{}}, logs: &journal{}}
		c.hosts[name] = h
		h.start()
		t.Cleanup(func() { h.end() })
	}
	eventually(t, "all nodes have joined", func() bool {
		nodes, err := c.operator.Nodes(t.Context())
		return err == nil && len(nodes) == len(names)
	})
	return c
}

// shortDir is a directory whose path leaves room for the name of a socket.
func shortDir(t testing.TB) string {
	t.Helper()
	path, err := os.MkdirTemp("", "peer")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(path) })
	return path
}

func (c *cluster) member(role, name string) pki.Files {
	c.t.Helper()
	f := pki.FilesIn(c.t.TempDir(), name)
	csr, err := f.NewRequest()
	if err != nil {
		c.t.Fatal(err)
	}
	cert, err := c.authority.Sign(csr, pki.Identity{Cluster: "shop", Role: role, Name: name})
	if err == nil {
		err = f.Install(cert, c.authority.CertPEM)
	}
	if err != nil {
		c.t.Fatal(err)
	}
	return f
}

func (c *cluster) client(f pki.Files) *api.Client {
	c.t.Helper()
	tls, err := f.ClientTLS(pki.RoleControl, "control")
	if err != nil {
		c.t.Fatal(err)
	}
	client := api.NewClient([]string{c.address}, tls)
	c.t.Cleanup(client.Close)
	return client
}

// away ends all connections to control; until it is back they are refused.
func (c *cluster) away() {
	if c.server == nil {
		return
	}
	now, cancel := context.WithCancel(context.Background())
	cancel() // nothing is waited for
	if err := c.server.Shutdown(now); err != nil && !errors.Is(err, context.Canceled) {
		c.t.Error(err)
	}
	c.server = nil
}

// back lets control answer again, at the address it had.
func (c *cluster) back() {
	c.t.Helper()
	tls, err := c.identity.ServerTLS()
	if err != nil {
		c.t.Fatal(err)
	}
	l, err := net.Listen("tcp", c.address)
	if err != nil {
		c.t.Fatal(err)
	}
	c.address = l.Addr().String()
	s := api.NewServer(c.control, discard())
	c.server = s
	go func() { _ = s.Serve(l, tls) }()
}

// volume is control's record of a volume, the zero Volume if there is none.
func (c *cluster) volume(name string) mobyfs.Volume {
	c.t.Helper()
	v, err := c.operator.Volume(c.t.Context(), name)
	if err != nil && mobyfs.CodeOf(err) != mobyfs.CodeNotFound {
		c.t.Fatal(err)
	}
	return v
}

// leased tells whether some node holds the lease of a volume.
func (c *cluster) leased(name string) bool { return c.volume(name).Lease != nil }

// start begins a life of the agent. The first one makes the socket.
func (h *host) start() {
	t := h.cluster.t
	t.Helper()
	store, err := dir.Open(h.root)
	if err != nil {
		t.Fatal(err)
	}
	h.gate = &gate{Backend: store}
	log := slog.New(slog.NewTextHandler(h.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	a, err := agent.Open(agent.Config{Node: h.name, Address: "127.0.0.1:1", Version: "test", Root: h.root, Backends: []backend.Backend{h.gate},
		Control: h.cluster.client(h.files), Peer: transfer.NewClient(h.files), Files: h.files, Kernel: h.kernel, Log: log})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); a.Run(ctx) }()
	h.end = sync.OnceFunc(func() { cancel(); <-done })
	h.agent = &denier{Mounter: a}
	h.driver.Store(driver.New(h.agent, log))
	if h.line == nil {
		h.line = serveHandler(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.driver.Load().(http.Handler).ServeHTTP(w, r) }))
	}
}

// restart is the agent's end and next life. The socket stays, as systemd keeps it.
func (h *host) restart() {
	h.cluster.t.Helper()
	h.end()
	h.start()
}

// boot begins a life of the host's dockerd.
func (h *host) boot() *dockerd { return boot(h.cluster.t, h.docker, h.line.socket) }

// journal is what a host logged.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

// kernel shows the users of a directory that a test says.
type kernel struct {
	mu   sync.Mutex
	uses map[string]int
}

func (k *kernel) set(dir string, mounts int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.uses[dir] = mounts
}

func (k *kernel) Users(dir string) ([]mountns.User, error) {
	if _, err := os.Stat(dir); err != nil {
		return nil, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Repeat([]mountns.User{{PID: 4711, Command: "postgres", Path: "/data"}}, k.uses[dir]), nil
}

func (k *kernel) Open(string) ([]mountns.User, error) { return nil, nil }

// What a live move asks of the kernel; none is made here.
func (k *kernel) Strangers(string, []string, bool) ([]mountns.User, error) { return nil, nil }
func (k *kernel) End(agent.Container, int) error                           { return nil }
func (k *kernel) Sync(string) error                                        { return nil }

// gate is a backend whose Attach a test may hold up or make fail.
type gate struct {
	backend.Backend
	mu     sync.Mutex
	attach func(id mobyfs.VolumeID) error
}

func (g *gate) at(attach func(id mobyfs.VolumeID) error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.attach = attach
}

func (g *gate) Attach(ctx context.Context, id mobyfs.VolumeID, fence mobyfs.Fence) (string, error) {
	g.mu.Lock()
	attach := g.attach
	g.mu.Unlock()
	if attach != nil {
		if err := attach(id); err != nil {
			return "", err
		}
	}
	return g.Backend.Attach(ctx, id, fence)
}

// denier is an agent that may be made to deny that any volume exists, as a driver with a bug does.
type denier struct {
	mobyfs.Mounter
	deny atomic.Bool
}

func (d *denier) Get(ctx context.Context, name string) (mobyfs.DockerVolume, error) {
	if d.deny.Load() {
		return mobyfs.DockerVolume{}, mobyfs.Errorf(mobyfs.CodeNotFound, "there is no volume %q", name)
	}
	return d.Mounter.Get(ctx, name)
}

// eventually waits until ok, for at most half a minute.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-ctx.Done():
			t.Fatalf("not within 30 s: %s", what)
		case <-tick.C:
		}
	}
}
