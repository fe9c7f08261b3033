package chaos

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/api"
	"github.com/mobyfs/mobyfs/control/store"
	"github.com/mobyfs/mobyfs/internal/pki"
	"github.com/mobyfs/mobyfs/internal/seal"
	"github.com/mobyfs/mobyfs/test/chaos/network"
)

const (
	clusterName = "chaos"
	apiPort     = "7946"
	peerPort    = "7947"
	diskBytes   = 512 << 20 // of each node
	storeBytes  = 2 << 30   // of each control: below 512 MiB free it brings events to its disk and out of the store
	sessionTTL  = 4 * time.Second
	// overdue is when what a silent node has may be given to another: its session has ended, and as much time again.
	overdue = 2 * sessionTTL
)

// Cluster is the programs of a cluster, each on a host of its own.
type Cluster struct {
	Dir      string // of this run
	net      *network.Network
	here     *network.Host // of the harness
	controls []*control
	agents   []*agent
	bins     bins
	pki      *pki.Authority
	key      []byte   // that all controls seal with
	without  []string // guards that are switched off

	mu      sync.Mutex
	clients []*api.Client
}

// bins are the programs, built twice: an upgrade goes from one build to the other.
type bins struct{ dir string }

func (b bins) path(program string, build int) string {
	return filepath.Join(b.dir, fmt.Sprintf("build%d", build), program)
}

func (b bins) container() string { return filepath.Join(b.dir, "container") }

// machine is a host with a disk and one program.
type machine struct {
	*process
	root  string
	at    string // file of the failpoint
	clock string // file of the clock's offset
	build int
}

type control struct {
	machine
	join string
}

type agent struct {
	machine
	docker   docker
	node     string
	watchdog machine
	away     atomic.Bool  // for long, on purpose
	boots    atomic.Int64 // after a power loss
}

// build builds the programs with failpoints, as versions v1 and v2.
func build(dir string) (bins, error) {
	b := bins{dir}
	for version := range 2 {
		into := filepath.Join(dir, fmt.Sprintf("build%d", version))
		if err := os.MkdirAll(into, 0o755); err != nil {
			return b, err
		}
		if err := goBuild("-tags", "failpoints", "-ldflags", fmt.Sprintf("-s -w -X main.version=v%d", version+1), "-o", into+"/", "../../cmd/mobyfs", "../../cmd/mobyfs-control"); err != nil {
			return b, err
		}
	}
	return b, goBuild("-ldflags", "-s -w", "-o", b.container(), "./container")
}

func goBuild(args ...string) error {
	cmd := exec.Command("go", append([]string{"build"}, args...)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return nil
}

// newCluster makes the hosts, their disks and certificates. Nothing runs yet.
func newCluster(cfg Config, b bins) (*Cluster, error) {
	dir, logs := cfg.Dir, cfg.Logs
	c := &Cluster{Dir: dir, net: network.New(cfg.Number), bins: b, without: cfg.Without}
	var err error
	if c.here, err = c.net.JoinHere("here"); err != nil {
		return nil, err
	}
	for _, sub := range []string{"pki", "shared"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			return nil, err
		}
	}
	if c.pki, err = pki.NewAuthority(dir+"/pki", clusterName); err != nil {
		return nil, err
	}
	key, err := seal.Make(seal.PathIn(dir))
	if err != nil {
		return nil, err
	}
	c.key = key.Text()
	for i := range cfg.Controls {
		if err := c.addControl(fmt.Sprintf("c%d", i+1), logs); err != nil {
			return nil, err
		}
	}
	for i := range cfg.Agents {
		if err := c.addAgent(fmt.Sprintf("n%d", i+1), logs); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// machine makes a host with a disk, in memory or of ext4 in a file that lies there.
func (c *Cluster) machine(name, logs string, ext4 bool) (machine, error) {
	host, err := c.net.Join(name)
	if err != nil {
		return machine{}, err
	}
	disk := filepath.Join(c.Dir, name)
	if err := os.MkdirAll(disk, 0o700); err != nil {
		return machine{}, err
	}
	if ext4 {
		err = mountExt4(disk+".img", disk, storeBytes)
	} else {
		err = unix.Mount("tmpfs", disk, "tmpfs", 0, fmt.Sprintf("size=%d,mode=700", diskBytes))
	}
	if err != nil {
		return machine{}, fmt.Errorf("make the disk of %s: %w", name, err)
	}
	if err := host.Boot(c.bins.container(), "init"); err != nil {
		return machine{}, err
	}
	m := c.on(host, name, filepath.Join(disk, "r"), logs)
	return m, os.MkdirAll(filepath.Join(m.root, "pki"), 0o700)
}

// on is a program on a host.
func (c *Cluster) on(host *network.Host, name, root, logs string) machine {
	m := machine{root: root, at: filepath.Join(c.Dir, name+".at"), clock: filepath.Join(c.Dir, name+".clock")}
	m.process = &process{name: name, host: host, log: filepath.Join(logs, name+".log"), env: []string{
		"MOBYFS_KILL_AT=" + m.at, "MOBYFS_CLOCK=" + m.clock, "MOBYFS_WITHOUT=" + strings.Join(c.without, ","), "MOBYFS_CLUSTER=" + clusterName,
	}}
	return m
}

func (c *Cluster) addControl(name, logs string) error {
	m, err := c.machine(name, logs, true)
	if err != nil {
		return err
	}
	x := &control{machine: m}
	if err := c.certifyControl(x); err != nil {
		return err
	}
	if err := os.WriteFile(seal.PathIn(m.root), c.key, 0o600); err != nil {
		return err
	}
	x.args = func() []string {
		return []string{c.bins.path("mobyfs-control", x.build), "start"}
	}
	x.env = append(x.env, "MOBYFS_CONTROL_NAME="+name, "MOBYFS_CONTROL_ROOT="+m.root, "MOBYFS_CONTROL_LISTEN="+x.address(),
		"MOBYFS_PEER_LISTEN="+x.host.IP+":"+peerPort, "MOBYFS_PEER_URL="+x.peerURL(), "MOBYFS_CLASSES="+filepath.Join(m.root, "classes.json"),
		"MOBYFS_SESSION_TTL="+sessionTTL.String())
	c.controls = append(c.controls, x)
	return nil
}

// certifyControl gives a control's host the certificates that bootstrap gives it.
func (c *Cluster) certifyControl(x *control) error {
	dir := filepath.Join(x.root, "pki")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := c.certify(pki.FilesIn(dir, "control"), pki.RoleControl, x.name, time.Now()); err != nil {
		return err
	}
	return c.certify(pki.PeerFiles(dir), pki.RolePeer, x.name, time.Now())
}

func (x *control) address() string { return x.host.IP + ":" + apiPort }
func (x *control) peerURL() string { return "https://" + x.host.IP + ":" + peerPort }

func (c *Cluster) addAgent(name, logs string) error {
	m, err := c.machine(name, logs, false)
	if err != nil {
		return err
	}
	x := &agent{machine: m, node: name}
	if err := c.certify(x.files(), pki.RoleNode, name, time.Now()); err != nil {
		return err
	}
	socket := filepath.Join(c.Dir, name+".sock")
	x.docker = newDocker(socket)
	x.args = func() []string {
		return []string{c.bins.path("mobyfs", x.build), "start", "--node", name, "--control", strings.Join(c.addresses(), ","),
			"--advertise", x.host.IP + ":8080", "--root", x.root, "--endpoint", "unix://" + socket, "--docker", "",
			"--run", x.run(), "--kept", filepath.Join(x.root, "kept"), "--env-file", filepath.Join(x.root, "env"),
			"--linger", "300ms", "--shared", c.shared()}
	}
	x.watchdog = c.on(x.host, name+"-watchdog", x.root, logs)
	x.watchdog.args = func() []string {
		return []string{c.bins.path("mobyfs", x.watchdog.build), "watchdog", "--run", x.run(), "--shared", c.shared()}
	}
	c.agents = append(c.agents, x)
	return nil
}

// shared is the directory that all nodes see.
func (c *Cluster) shared() string { return filepath.Join(c.Dir, "shared") }

// run is where lies what does not outlive a boot.
func (x *agent) run() string { return filepath.Join(x.root, "run") }

// begin starts the programs of a node.
func (x *agent) begin() {
	x.watchdog.start()
	x.process.start()
}

func (x *agent) files() pki.Files { return pki.FilesIn(filepath.Join(x.root, "pki"), "node") }

func (c *Cluster) addresses() []string {
	var all []string
	for _, x := range c.controls {
		all = append(all, x.address())
	}
	return all
}

// certify gives files a certificate that begins at a time.
func (c *Cluster) certify(f pki.Files, role, name string, at time.Time) error {
	csr, err := f.NewRequest()
	if err != nil {
		return err
	}
	cert, err := c.pki.Issuer(pki.IssuerOf(role)).Sign(csr, pki.Identity{Cluster: clusterName, Role: role, Name: name}, at)
	if err != nil {
		return err
	}
	return f.Install(cert, c.pki.CertPEM)
}

// client is a client of control of its own, with a certificate of its own.
func (c *Cluster) client(role, name string) (*api.Client, error) {
	dir := filepath.Join(c.Dir, "clients")
	if err := os.MkdirAll(filepath.Join(dir, role+"-"+name), 0o700); err != nil {
		return nil, err
	}
	f := pki.FilesIn(filepath.Join(dir, role+"-"+name), name)
	if err := c.certify(f, role, name, time.Now()); err != nil {
		return nil, err
	}
	var config *tls.Config
	config, err := f.ClientTLS(pki.RoleControl, "control")
	if err != nil {
		return nil, err
	}
	client := api.NewClient(c.addresses(), config)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.clients = append(c.clients, client)
	return client, nil
}

// start starts the first control, lets the others join it, and starts the agents. It returns once all are ready.
func (c *Cluster) start(ctx context.Context) error {
	first := c.controls[0]
	first.process.start()
	if err := c.await(ctx, []*control{first}); err != nil {
		return err
	}
	for range 2 { // the second time each is told of all
		for _, x := range c.controls[1:] {
			if err := c.joinMember(ctx, x); err != nil {
				return err
			}
		}
	}
	for _, x := range c.controls[1:] {
		x.process.start()
	}
	if err := c.await(ctx, c.controls); err != nil {
		return err
	}
	for _, x := range c.agents {
		x.begin()
	}
	return c.awaitNodes(ctx)
}

// joinMember tells the store of a control that will start, and the control of the store.
func (c *Cluster) joinMember(ctx context.Context, x *control) error {
	return c.withStore(ctx, x, func(m *store.Members) error {
		join, err := m.Add(ctx, x.name, x.peerURL())
		if err == nil {
			x.join = join
			err = os.WriteFile(filepath.Join(x.root, "join"), []byte(join), 0o600)
		}
		return err
	})
}

// withStore does something with the members of the store at a control other than x, until it succeeds or ctx ends.
func (c *Cluster) withStore(ctx context.Context, x *control, do func(*store.Members) error) error {
	var err error
	for ctx.Err() == nil {
		for _, at := range c.controls {
			if at == x {
				continue
			}
			var m *store.Members
			if m, err = store.DialMembers(ctx, at.root); err != nil {
				continue
			}
			err = do(m)
			_ = m.Close()
			if err == nil {
				return nil
			}
		}
		pause(ctx, 300*time.Millisecond)
	}
	return errors.Join(err, ctx.Err())
}

// await returns once the controls answer.
func (c *Cluster) await(ctx context.Context, controls []*control) error {
	config, err := c.operatorTLS("await")
	if err != nil {
		return err
	}
	for _, x := range controls {
		client := api.NewClient([]string{x.address()}, config)
		for {
			call, cancel := context.WithTimeout(ctx, 2*time.Second)
			_, err := client.Cluster(call)
			cancel()
			if err == nil {
				break
			}
			if ctx.Err() != nil {
				return fmt.Errorf("wait for %s: %w", x.name, err)
			}
			pause(ctx, 100*time.Millisecond)
		}
		client.Close()
	}
	return nil
}

func (c *Cluster) operatorTLS(name string) (*tls.Config, error) {
	dir := filepath.Join(c.Dir, "clients", "tls-"+name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	f := pki.FilesIn(dir, name)
	if err := c.certify(f, pki.RoleOperator, name, time.Now()); err != nil {
		return nil, err
	}
	return f.ClientTLS(pki.RoleControl, "control")
}

// awaitNodes returns once all agents have joined and are ready.
func (c *Cluster) awaitNodes(ctx context.Context) error {
	client, err := c.client(pki.RoleOperator, "nodes")
	if err != nil {
		return err
	}
	missing := "nobody has said who is ready"
	for {
		call, cancel := context.WithTimeout(ctx, 5*time.Second)
		nodes, err := client.Nodes(call)
		cancel()
		if err == nil {
			var silent []string
			for _, x := range c.agents {
				if !slices.ContainsFunc(nodes, func(n mobyfs.Node) bool { return n.Name == x.node && n.Ready }) {
					silent = append(silent, x.node)
				}
			}
			if len(silent) == 0 {
				return nil
			}
			missing = strings.Join(silent, ", ") + " not ready"
		}
		if ctx.Err() != nil {
			return fmt.Errorf("wait for the nodes: %s: %w", missing, errors.Join(err, ctx.Err()))
		}
		pause(ctx, 200*time.Millisecond)
	}
}

// etcd reaches the store behind control's back, at the socket of one of its members.
func (c *Cluster) etcd(ctx context.Context, at *control) (*clientv3.Client, error) {
	return clientv3.New(clientv3.Config{
		Context: ctx, Endpoints: []string{"unix://" + filepath.Join(at.root, "etcd", "client.sock")},
		DialTimeout: 3 * time.Second, Logger: zap.NewNop(),
	})
}

// machines are all on which a program of the cluster runs.
func (c *Cluster) machines() []*machine {
	var all []*machine
	for _, x := range c.controls {
		all = append(all, &x.machine)
	}
	for _, x := range c.agents {
		all = append(all, &x.machine, &x.watchdog)
	}
	return all
}

// halt ends all programs with a signal and starts none of them again.
func (c *Cluster) halt(s unix.Signal) {
	var ending sync.WaitGroup
	for _, m := range c.machines() {
		ending.Go(func() { m.process.halt(s) })
	}
	ending.Wait()
}

// stop ends everything.
func (c *Cluster) stop() {
	c.halt(unix.SIGKILL)
	for _, x := range c.agents {
		_ = x.host.PowerOff() // nothing else if it is off
	}
	for _, x := range c.controls {
		_ = x.host.PowerOff()
	}
	_ = c.net.Close() // what is left ends with this process
}

// pause waits, but not longer than ctx.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// until returns true once it is so, or false when ctx ends before.
func until(ctx context.Context, so func() bool) bool {
	for !so() {
		if ctx.Err() != nil {
			return false
		}
		pause(ctx, 20*time.Millisecond)
	}
	return true
}
