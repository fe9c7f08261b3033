package chaos

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/api"
	"github.com/mobyfs/mobyfs/internal/audit"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// Config says what a run is like.
type Config struct {
	Number   int // of this run among those of the process at the same time
	Seed     uint64
	Length   time.Duration // of the faults
	Faults   int           // the run goes on until so many happened; 0 for as long as Length
	Controls int
	Agents   int
	Without  []string // guards that are switched off
	Dir      string   // for disks and sockets; short
	Logs     string   // for what the programs say
	Module   string   // where the module lies
	Log      func(format string, args ...any)
}

// How long things may take at the ends of a run.
const (
	startTime  = 90 * time.Second
	settleTime = 3 * time.Minute
	checkTime  = time.Minute // for porcupine, each volume
)

// result is what a run showed.
type result struct {
	Config
	verdict
	faults    map[string]int
	misses    map[string]int
	notes     []string
	moments   map[string]int
	docker    map[string]int
	trouble   map[string]int
	ops       int
	acked     int
	gap       time.Duration
	meanwhile string // faults during it
	starts    int
	events    int
	texts     map[string]int // of the events
	took      time.Duration
}

// run makes a cluster, uses it while faults happen, and checks what came of it. An error means that there was nothing
// to check.
func run(ctx context.Context, cfg Config, b bins) (*result, error) {
	m, err := readMoments(cfg.Module)
	if err != nil {
		return nil, err
	}
	c, err := newCluster(cfg, b)
	if err != nil {
		return nil, err
	}
	defer c.stop()
	began := time.Now()
	starting, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	if err := c.start(starting); err != nil {
		return nil, fmt.Errorf("start the cluster: %w", err)
	}
	cfg.Log("%d controls and %d agents are ready after %v; seed %d", cfg.Controls, cfg.Agents, time.Since(began).Round(time.Millisecond), cfg.Seed)
	w := &workload{c: c, h: newHistory(), seed: cfg.Seed}
	n, err := newNemesis(c, m, cfg.Log)
	if err != nil {
		return nil, err
	}
	if err := play(ctx, cfg, w, n); err != nil {
		return nil, err
	}
	events, err := settle(ctx, w, c)
	if err != nil {
		c.halt(unix.SIGQUIT)
		return nil, fmt.Errorf("%w (the logs in %s end with what each program was doing)", err, cfg.Logs)
	}
	r := judge(cfg, w, n, events)
	if r.forgotten, err = n.forgotten(ctx); err != nil {
		return nil, err
	}
	r.took = time.Since(began)
	for _, x := range c.controls {
		r.starts += x.starts
	}
	for _, x := range c.agents {
		r.starts += x.starts
	}
	return r, nil
}

// play uses the cluster while faults happen, and makes all of them good again.
func play(ctx context.Context, cfg Config, w *workload, n *nemesis) error {
	using, stop := context.WithCancel(ctx)
	defer stop()
	bare, err := w.bare(using)
	if err != nil {
		return err
	}
	used := make(chan error, 1)
	go func() { used <- w.run(using, bare) }()
	pause(ctx, 2*time.Second) // so that there is something to break
	breaking, enough := context.WithTimeout(ctx, cfg.Length)
	defer enough()
	var watch sync.WaitGroup
	watch.Go(func() { report(breaking, enough, cfg, w, n) })
	n.run(breaking, cfg.Seed)
	n.heal()
	watch.Wait()
	pause(ctx, 2*time.Second)
	stop()
	return <-used
}

// report tells now and then how the run is, and ends it once enough faults have happened.
func report(ctx context.Context, enough func(), cfg Config, w *workload, n *nemesis) {
	for at := time.Now(); ctx.Err() == nil; pause(ctx, time.Second) {
		if cfg.Faults > 0 && n.total() >= cfg.Faults {
			enough()
		}
		if time.Since(at) < 20*time.Second {
			continue
		}
		at = time.Now()
		w.h.mu.Lock()
		w.mu.Lock()
		cfg.Log("%d faults, %d operations, %d writes acknowledged, %d lost, %d stale", n.total(), len(w.h.ops), w.h.counts["writes acked"], len(w.found.lost), len(w.found.stale))
		w.mu.Unlock()
		w.h.mu.Unlock()
	}
}

// settle waits until the cluster is whole, looks at the data of every volume at its home, and returns the log.
func settle(ctx context.Context, w *workload, c *Cluster) ([]mobyfs.Event, error) {
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	if err := c.await(ctx, c.controls); err != nil {
		return nil, fmt.Errorf("after the faults: %w", err)
	}
	if err := c.awaitNodes(ctx); err != nil {
		return nil, fmt.Errorf("after the faults: %w", err)
	}
	operator, err := c.client(pki.RoleOperator, "checker")
	if err != nil {
		return nil, err
	}
	stuck, err := awaitOperations(ctx, operator, time.Minute)
	if err != nil {
		return nil, err
	}
	w.found.stuck = append(w.found.stuck, stuck...)
	if err := w.lookAtAll(ctx, operator); err != nil {
		return nil, err
	}
	return readLog(ctx, c, operator)
}

// lookAtAll mounts every volume at its home once more and compares its data with all that was acknowledged. One that
// can't be mounted any more counts as lost, as does one that is not there although nobody removed it.
func (w *workload) lookAtAll(ctx context.Context, operator *api.Client) error {
	all, err := operator.Volumes(ctx)
	if err != nil {
		return fmt.Errorf("list the volumes: %w", err)
	}
	there := map[mobyfs.VolumeID]bool{}
	var wg sync.WaitGroup
	slots := make(chan bool, 4)
	for _, v := range all {
		there[v.ID] = true
		if v.State == mobyfs.VolumeRemoving || len(w.h.ackedUntil(v.ID)) == 0 {
			continue
		}
		for _, at := range w.c.agents {
			if at.node == v.Node {
				wg.Go(func() {
					slots <- true
					defer func() { <-slots }()
					w.lookOnce(ctx, at, v)
				})
			}
		}
	}
	wg.Wait()
	w.h.mu.Lock()
	defer w.h.mu.Unlock()
	for id, writers := range w.h.acked {
		if !there[id] && !w.h.gone[id] {
			w.found.lost = append(w.found.lost, fmt.Sprintf("lost: volume %s with the writes of %d containers is not there any more", id, len(writers)))
		}
	}
	return nil
}

// lookOnce mounts a volume at its home, however often that needs to be tried, and looks at it.
func (w *workload) lookOnce(ctx context.Context, at *agent, v mobyfs.Volume) {
	use := "look-" + string(v.ID)
	var err error
	for ctx.Err() == nil {
		var path string
		call, cancel := context.WithTimeout(ctx, mountTime)
		path, err = at.docker.mount(call, v.Name, use)
		cancel()
		if err == nil {
			w.look(v.ID, at.node, path)
			w.unmount(at, at.boots.Load(), v.Name, use)
			return
		}
		now, asked := w.finder.Volume(ctx, v.Name)
		if mobyfs.CodeOf(asked) == mobyfs.CodeNotFound || asked == nil && (now.ID != v.ID || now.State == mobyfs.VolumeRemoving) {
			return // removed since: it was being removed when the faults ended
		}
		pause(ctx, 500*time.Millisecond)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.h.ackedUntil(v.ID)) > 0 {
		w.found.lost = append(w.found.lost, fmt.Sprintf("lost: volume %s (%s) on %s can't be mounted any more: %v", v.ID, v.Name, at.node, err))
	}
}

var errComplete = errors.New("complete")

// readLog reads all events, in their order: those that the store has, and those that control has taken out of it for want of
// room, from the audit trail that lies on the disks of the controls.
func readLog(ctx context.Context, c *Cluster, operator *api.Client) ([]mobyfs.Event, error) {
	known := map[string]mobyfs.Event{}
	for {
		err := operator.Events(ctx, 0, func(e mobyfs.Event) error {
			known[e.ID] = e
			return nil
		}, func(api.Complete) error { return errComplete })
		if errors.Is(err, errComplete) {
			break
		}
		if ctx.Err() != nil {
			return nil, fmt.Errorf("read the log of events: %w", errors.Join(err, ctx.Err()))
		}
		pause(ctx, time.Second)
	}
	config, err := c.operatorTLS("trail")
	if err != nil {
		return nil, err
	}
	for _, x := range c.controls { // one that was replaced has only what came since
		if err := readTrail(ctx, api.NewClient([]string{x.address()}, config), known); err != nil {
			return nil, fmt.Errorf("read the audit trail of %s: %w", x.name, err)
		}
	}
	return slices.SortedFunc(maps.Values(known), func(a, b mobyfs.Event) int {
		return cmp.Or(cmp.Compare(a.Revision, b.Revision), cmp.Compare(a.ID, b.ID))
	}), nil
}

// readTrail adds the events that a control has on its disk.
func readTrail(ctx context.Context, client *api.Client, known map[string]mobyfs.Event) error {
	defer client.Close()
	trail, err := client.AuditTrail(ctx)
	if err != nil {
		return err
	}
	for _, n := range trail.Segments {
		text, err := client.AuditSegment(ctx, n)
		if err != nil {
			return err
		}
		_, entries, err := audit.Read(text)
		if err != nil {
			return err
		}
		for _, entry := range entries {
			var e mobyfs.Event
			if err := json.Unmarshal(entry.Event, &e); err != nil {
				return fmt.Errorf("decode an event of segment %d: %w", n, err)
			}
			if e.Revision = entry.Revision; e.Denied == "" { // refusals are not of this log
				known[e.ID] = e
			}
		}
	}
	return nil
}

// judge checks what happened.
func judge(cfg Config, w *workload, n *nemesis, events []mobyfs.Event) *result {
	w.h.mu.Lock()
	defer w.h.mu.Unlock()
	r := &result{Config: cfg, verdict: w.found, faults: n.counts, misses: n.misses, notes: n.notes, moments: n.moments.reached,
		docker: w.h.counts, trouble: w.trouble, ops: len(w.h.ops), gap: w.h.gap, events: len(events)}
	r.meanwhile = n.during(w.h.gapTo-int64(w.h.gap), w.h.gapTo)
	for _, o := range w.h.ops {
		if o.outcome == acked && o.kind != opRead && o.kind != opMounted {
			r.acked++
		}
	}
	r.texts = map[string]int{}
	for _, e := range events {
		text, _, _ := strings.Cut(e.Text, ":")
		text, _, _ = strings.Cut(text, " from ")
		text, _, _ = strings.Cut(text, " by ")
		r.texts[text]++
	}
	r.checkWindows(w.h.windows)
	r.checkLog(w.h.ops, events, checkTime)
	r.keep()
	return r
}
