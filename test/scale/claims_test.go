//go:build bench

package scale

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// bareEtcd, set to a directory, makes this program serve nothing but etcd there.
const bareEtcd = "MOBYFS_BENCH_ETCD"

// serveEtcd serves at a socket in dir until it is killed.
func serveEtcd(dir string) {
	cfg := embed.NewConfig()
	cfg.Dir, cfg.LogLevel, cfg.LogOutputs = filepath.Join(dir, "data"), "error", []string{"/dev/null"}
	cfg.ListenPeerUrls = nil
	socket := url.URL{Scheme: "unix", Path: filepath.Join(dir, "s")}
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{socket}, []url.URL{socket}
	cfg.AdvertisePeerUrls = []url.URL{{Scheme: "http", Host: "127.0.0.1:2380"}}
	cfg.InitialCluster = cfg.Name + "=http://127.0.0.1:2380"
	if _, err := embed.StartEtcd(cfg); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	select {}
}

// turns is into how many parts each throughput is cut. Those of what is compared take turns: a machine that others share
// is faster at one time than at another.
const turns = 5

// benchClaims: decisions over the whole way, against the transactions alone that they are made of: a comparison of one
// key's revision, that key and an event. What both take of the cores they share is told apart from what their callers do.
func benchClaims(t *testing.T) []row {
	bare := startBare(t)
	c := newCluster(t)
	c.start()
	var rows []row
	for _, clients := range []int{1, 64, 256} {
		write, decide := transactions(t, bare, clients), decisions(t, c, clients)
		var theirs, ours work
		for range turns {
			theirs.drive(t, bare.pid, write)
			ours.drive(t, c.process.Process.Pid, decide)
		}
		ratio := ours.rate() / theirs.rate()
		rows = append(rows, show(t, row{
			what:   fmt.Sprintf("Claims and releases, %d clients, against bare etcd's compare-and-swap with event", clients),
			figure: fmt.Sprintf("**%.2f**: %s against %s", ratio, ours, theirs),
			goal:   "≥ 0.5", met: ratio >= 0.5,
			why: fmt.Sprintf("both share the cores with their callers, and a claim costs %v of CPU on both sides where the bare transaction costs %v: beside etcd there are the link and TLS, "+
				"the check of the request, the rules, the record and its event, and what all watchers know", ours.cost(), theirs.cost()),
		}))
	}
	return rows
}

// work is what was done in the turns of one side.
type work struct {
	took            []time.Duration // by each act
	served, callers time.Duration   // CPU in the process that served them, and in this one
}

func (w work) rate() float64 { return float64(len(w.took)) / each.Seconds() }

// cost is the CPU of one act, on both sides.
func (w work) cost() time.Duration {
	return ((w.served + w.callers) / time.Duration(len(w.took))).Round(time.Microsecond)
}

func (w work) String() string {
	n := time.Duration(len(w.took))
	return fmt.Sprintf("%.0f/s (p50 %v, p99 %v; CPU of each %v, of its caller %v)", w.rate(),
		round(quantile(w.took, .5)), round(quantile(w.took, .99)), (w.served / n).Round(time.Microsecond), (w.callers / n).Round(time.Microsecond))
}

func round(d time.Duration) time.Duration { return d.Round(10 * time.Microsecond) }

// bareStore is an etcd in a process of its own.
type bareStore struct {
	endpoint string
	pid      int
}

func startBare(t *testing.T) bareStore {
	t.Helper()
	dir, err := os.MkdirTemp("", "etcd")
	if err != nil {
		t.Fatal(err)
	}
	cmd := itself(bareEtcd, dir)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		os.RemoveAll(dir)
	})
	return bareStore{"unix://" + filepath.Join(dir, "s"), cmd.Process.Pid}
}

// transactions is what as many clients do again and again to write as fast as they can.
func transactions(t *testing.T, bare bareStore, clients int) []func() error {
	var conns []*clientv3.Client
	for range min(clients, 8) {
		conn, err := clientv3.New(clientv3.Config{Endpoints: []string{bare.endpoint}, DialTimeout: 30 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		conns = append(conns, conn)
	}
	record, event := strings.Repeat("v", 330), strings.Repeat("e", 300)
	acts := make([]func() error, clients)
	for client := range acts {
		conn, key, n := conns[client%len(conns)], fmt.Sprintf("/bench/%d/%d", clients, client), 0
		rev := int64(0)
		acts[client] = func() error {
			n++
			resp, err := conn.Txn(t.Context()).If(clientv3.Compare(clientv3.ModRevision(key), "=", rev)).
				Then(clientv3.OpPut(key, record), clientv3.OpPut(fmt.Sprintf("/event/%d/%d/%d", clients, client, n), event)).Commit()
			if err == nil && !resp.Succeeded {
				err = fmt.Errorf("somebody else wrote %s", key)
			}
			if err == nil {
				rev = resp.Header.Revision
			}
			return err
		}
	}
	return acts
}

// decisions is what as many nodes do again and again to claim and release a volume each as fast as they can.
func decisions(t *testing.T, c *cluster, clients int) []func() error {
	ctx, acts := t.Context(), make([]func() error, clients)
	for client := range acts {
		node := fmt.Sprintf("n%d-%d", clients, client)
		agent := c.client(pki.RoleNode, node)
		t.Cleanup(agent.Close)
		if _, err := agent.Report(ctx, mobyfs.Report{Address: node + ":8080", Capacity: mobyfs.Capacity{TotalBytes: 1 << 40, FreeBytes: 1 << 40}}); err != nil {
			t.Fatal(err)
		}
		v, err := agent.CreateVolume(ctx, "vol-"+node, mobyfs.VolumeSpec{}, node)
		if err == nil {
			v, err = agent.Created(ctx, v.ID)
		}
		if err != nil {
			t.Fatal(err)
		}
		var held mobyfs.Fence
		acts[client] = func() error {
			if held != 0 {
				fence := held
				held = 0
				return agent.Release(ctx, v.ID, fence)
			}
			g, err := agent.Claim(ctx, v.ID)
			held = g.Fence
			return err
		}
	}
	return acts
}

// drive has all clients act again and again, all at once, for a turn. A tenth of it warms up. server is the process that
// serves them.
func (w *work) drive(t *testing.T, server int, acts []func() error) {
	t.Helper()
	turn := *each / turns
	var mu sync.Mutex
	var wg sync.WaitGroup
	from := time.Now().Add(turn / 10)
	until := from.Add(turn)
	for _, act := range acts {
		wg.Go(func() {
			mine := again(t, act, from, until)
			mu.Lock()
			w.took = append(w.took, mine...)
			mu.Unlock()
		})
	}
	wg.Go(func() {
		time.Sleep(time.Until(from))
		served, callers := usageOf(t, server), usageOf(t, os.Getpid())
		time.Sleep(time.Until(until))
		w.served += usageOf(t, server).cpu - served.cpu
		w.callers += usageOf(t, os.Getpid()).cpu - callers.cpu
	})
	wg.Wait()
	if len(w.took) == 0 {
		t.Fatal("nothing was done")
	}
}

// again acts again and again, and returns how long each took that lay between two moments.
func again(t *testing.T, act func() error, from, until time.Time) []time.Duration {
	var took []time.Duration
	for begun := time.Now(); begun.Before(until); {
		if err := act(); err != nil {
			t.Error(err)
			break
		}
		ended := time.Now()
		if ended.After(from) && ended.Before(until) {
			took = append(took, ended.Sub(begun))
		}
		begun = ended
	}
	return took
}
