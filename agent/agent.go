// Package agent is a node: it keeps the volumes whose home the node is, brings volumes here when a container wants
// them, and answers Docker from what it knows, whether or not the control plane can be reached.
//
// The agent is level-triggered. Control writes records; for each volume that concerns this node a worker compares
// the record with what is on disk and in the ledger (decide.go), does one thing, and compares again until nothing
// is left to do. All work on one volume is done by its worker, one thing at a time, so attach and detach, release
// and claim can't overtake each other; workers of different volumes never wait for each other. Whoever wants
// something (a Mount, a Remove, a migration's source) changes what the worker sees and waits with its own context.
//
// Five things are kept on disk, so that a crash at any point is a delay and nothing more: the catalogue (what
// control told), the ledger (which leases are held here, and who uses each volume), the journal of freezes (which
// containers were stopped for a migration), that of throttles (which were slowed down for one), and the bytes
// themselves in their backend.
package agent

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/agent/keep"
	"github.com/mobyfs/mobyfs/backend"
	"github.com/mobyfs/mobyfs/internal/boottime"
	"github.com/mobyfs/mobyfs/internal/durable"
	"github.com/mobyfs/mobyfs/internal/pki"
	"github.com/mobyfs/mobyfs/internal/tracing"
	"github.com/mobyfs/mobyfs/migrate/feed"
)

// How long things may take.
const (
	patience        = 100 * time.Second       // a Mount waits for a volume that is on its way
	controlPatience = 5 * time.Second         // a Mount waits for a control plane that can't be reached
	callTimeout     = 10 * time.Second        // one call to control
	askTimeout      = 1800 * time.Millisecond // a call that Get waits for
	settleAfter     = 10 * time.Second        // from a Mount's answer, or dockerd's start, to the container's own mount
	startsWithin    = time.Minute             // the same, however busy the host: who freezes a volume waits so long for a use that no container has
	carriedDoubt    = 30 * time.Second        // uses counted by an earlier life of the agent are believed without proof
	settleEvery     = 10 * time.Second        // uses in doubt are compared with the kernel
	unseenAfter     = 10 * time.Minute        // a use that neither the kernel nor dockerd shows is believed; a container may wait for its other volumes
	purgeEvery      = 10 * time.Minute
	measureEvery    = time.Minute      // how much space a volume takes
	moveGivesUp     = 10 * time.Minute // a source can't be reached, and the migration is aborted
)

// Config is what an agent is made of.
type Config struct {
	Node     string // as its certificate says
	Address  string // host:port at which other nodes pull from here, until Advertise
	Version  string // of this program
	Zone     string // with Rack and Labels what placement knows of the node when it joins
	Rack     string
	Labels   map[string]string
	Root     string            // catalogue and ledger lie in Root/state
	Backends []backend.Backend // one of them is mobyfs.DefaultBackend
	Control  mobyfs.Control
	Peer     mobyfs.Peer
	Files    pki.Files // to check tickets with
	// Feed begins to tell what changes in a directory that is followed; nil compares all of it.
	Feed   func(dir string) feed.Feed
	Docker Engine // nil: dockerd is not asked, and containers that use a volume have no names
	// Linger is how long a lease stays after the last container has ended, unless another node wants the volume: a
	// container that is restarted, or created and then started, begins where it ended. 0 gives it back at once.
	Linger time.Duration
	// Trash is how long what was removed or has moved away stays in the trash, if the disk does not run short;
	// mobyfs.DefaultTrash if 0.
	Trash  time.Duration
	Kernel Kernel // nil: the real one
	// Watchdog ends writing to volumes of takeover auto when the session is over; nil: such volumes are not attached here.
	Watchdog Watchdog
	Clock    boottime.Clock // nil: CLOCK_BOOTTIME
	// Trusted is called with each news of who belongs to the cluster, and Held tells control what this node has of it.
	// Both may be nil.
	Trusted func(mobyfs.Trust)
	Held    func() *mobyfs.Held
	// Evicted tells who was evicted, as control has said it last; nil for nobody. A control that was restored asks for it.
	Evicted func() []mobyfs.Eviction
	Log     *slog.Logger
	// VolumeMetrics counts each volume of this node by itself, too.
	VolumeMetrics bool
	Tracer        trace.Tracer // records what is done for mounts and migrations; nil records nothing
}

// Agent implements mobyfs.Mounter.
type Agent struct {
	Config
	backends  map[string]backend.Backend
	catalogue *catalogue
	ledger    *ledger
	freezes   *freezes
	throttles *throttles
	roster    *roster
	reporter  *reporter
	session   session
	guard     guard
	engine    *engine
	metrics   *metrics
	copies    *keep.Copies
	errands   errands

	work context.Context // ends with the agent: what workers do is bounded by it, not by who waits
	stop context.CancelFunc
	wg   sync.WaitGroup

	mu      sync.Mutex
	workers map[mobyfs.VolumeID]*worker
	closed  bool
}

var _ mobyfs.Mounter = (*Agent)(nil)

// Open loads what an earlier life knew and takes up its work. It asks nobody: Docker can be answered at once.
func Open(cfg Config) (*Agent, error) {
	if cfg.Trash == 0 {
		cfg.Trash = mobyfs.DefaultTrash
	}
	if cfg.Kernel == nil {
		cfg.Kernel = realKernel{}
	}
	if cfg.Clock == nil {
		cfg.Clock = boottime.Now
	}
	cfg.Control = moments{cfg.Control}
	a := &Agent{Config: cfg, backends: map[string]backend.Backend{}, workers: map[mobyfs.VolumeID]*worker{}}
	for _, b := range cfg.Backends {
		a.backends[b.Name()] = b
	}
	if a.backends[mobyfs.DefaultBackend] == nil {
		return nil, fmt.Errorf("open the agent: there is no backend %q", mobyfs.DefaultBackend)
	}
	state := filepath.Join(cfg.Root, "state")
	if err := os.MkdirAll(cfg.Root, 0o700); err != nil {
		return nil, err
	}
	if err := durable.Mkdir(state, 0o700); err != nil {
		return nil, err
	}
	a.catalogue = openCatalogue(filepath.Join(state, catalogueName), cfg.Log)
	a.ledger = openLedger(filepath.Join(state, ledgerName), cfg.Log, time.Now().Add(carriedDoubt))
	a.freezes = openFreezes(filepath.Join(state, freezesName), cfg.Log)
	a.throttles = openThrottles(filepath.Join(state, throttlesName), cfg.Log)
	a.guard = guard{wanted: map[mobyfs.VolumeID]bool{}, lost: map[mobyfs.VolumeID]bool{}}
	a.metrics = newMetrics(a)
	a.roster = newRoster(a)
	a.reporter = newReporter(a)
	a.engine = newEngine()
	a.copies = keep.In(cfg.Root)
	a.work, a.stop = context.WithCancel(tracing.With(context.Background(), cfg.Tracer))
	if err := a.look(); err != nil {
		a.stop()
		return nil, err
	}
	a.pokeAll()
	return a, nil
}

// Run keeps the agent in touch with control and with the kernel until ctx ends, and returns once all work has
// stopped. It unmounts nothing: containers go on.
func (a *Agent) Run(ctx context.Context) {
	defer a.Close()
	a.goDo(func() { a.watch(ctx) })
	a.goDo(func() { a.reporter.run(ctx) })
	a.goDo(func() { a.measure(ctx) })
	a.goDo(func() { a.followEngine(ctx) })
	a.goDo(func() { a.unthrottleAll(ctx, a.throttles.volumes()) })
	a.goDo(func() { every(ctx, settleEvery, a.settle) })
	a.goDo(func() { every(ctx, purgeEvery, a.purge) })
	a.goDo(func() { a.catalogue.keep(ctx, a.Log) })
	<-ctx.Done()
}

// Close stops all work and waits until it has stopped. What is half-done is taken up by the next Open.
func (a *Agent) Close() {
	a.mu.Lock()
	a.closed = true
	a.mu.Unlock()
	a.stop()
	a.wg.Wait()
	if err := a.catalogue.save(); err != nil {
		a.Log.Warn("save the catalogue", "err", err)
	}
}

// goDo runs f in a goroutine that Close waits for. After Close it does nothing.
func (a *Agent) goDo(f func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.closed {
		a.wg.Go(f)
	}
}

// look lists what is on disk and gives each volume's worker its part.
func (a *Agent) look() error {
	for _, b := range a.Backends {
		held, staged, err := b.List(a.work)
		if err != nil {
			return fmt.Errorf("open the agent: %w", err)
		}
		for _, h := range held {
			w := a.worker(h.ID)
			w.backend, w.bytes, w.seen, w.size = b, true, h.Fence, h.SizeBytes
		}
		for _, s := range staged {
			if s.Volume == "" {
				a.Log.Warn("what a migration brought can't be read; it stays where it is", "migration", s.Migration)
				continue
			}
			w := a.worker(s.Volume)
			w.backend, w.staged = b, append(w.staged, s)
		}
	}
	for _, id := range a.ledger.volumes() {
		a.worker(id)
	}
	for id, h := range a.freezes.holds() {
		w := a.worker(id)
		w.hold = h
		if h.Over {
			a.goDo(func() { w.startStopped(a.work, h) })
		}
	}
	return nil
}

// worker returns the worker of a volume.
func (a *Agent) worker(id mobyfs.VolumeID) *worker {
	a.mu.Lock()
	defer a.mu.Unlock()
	w := a.workers[id]
	if w == nil {
		w = newWorker(a, id)
		a.workers[id] = w
	}
	return w
}

// known returns the worker of a volume if there is one.
func (a *Agent) known(id mobyfs.VolumeID) *worker {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.workers[id]
}

// forget drops a worker that has nothing to do any more. Its volume is gone, and IDs never come back.
func (a *Agent) forget(w *worker) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.workers[w.id] == w {
		delete(a.workers, w.id)
	}
}

// all returns the workers there are.
func (a *Agent) all() []*worker {
	a.mu.Lock()
	defer a.mu.Unlock()
	list := make([]*worker, 0, len(a.workers))
	for _, w := range a.workers {
		list = append(list, w)
	}
	return list
}

// pokeAll wakes the worker of each volume that concerns this node.
func (a *Agent) pokeAll() {
	for _, v := range a.catalogue.all() {
		a.pokeFor(v)
	}
	for _, w := range a.all() {
		w.poke()
	}
}

// pokeFor wakes the worker of a volume whose record changed, if it concerns this node.
func (a *Agent) pokeFor(v mobyfs.Volume) {
	if w := a.known(v.ID); w != nil {
		w.recordChanged(v)
	} else if a.concerns(v) {
		a.worker(v.ID).poke()
	}
}

// learn takes over a record that control answered with.
func (a *Agent) learn(v mobyfs.Volume) {
	if a.catalogue.learn(v) {
		a.pokeFor(v)
	}
}

// purge empties the trash of what has been there long enough, and of more while the disk is short of space.
func (a *Agent) purge(ctx context.Context) {
	for _, b := range a.Backends {
		err := b.Purge(ctx, time.Now().Add(-a.Trash))
		if trash, ok := b.(backend.Trash); ok && err == nil {
			err = a.purgeEarly(ctx, trash)
		}
		if err != nil {
			a.Log.Warn("empty the trash", "backend", b.Name(), "err", err)
		}
	}
}

// shortOf is the part of a disk, one in so many, that is kept free by emptying the trash early.
const shortOf = 20

// purgeEarly empties the trash from the oldest on while less than a twentieth of the disk is free.
func (a *Agent) purgeEarly(ctx context.Context, b backend.Trash) error {
	for {
		c, err := b.Capacity(ctx)
		if err != nil || c.FreeBytes >= c.TotalBytes/shortOf && (c.TotalInodes == 0 || c.FreeInodes >= c.TotalInodes/shortOf) {
			return err
		}
		id, err := b.PurgeOldest(ctx)
		if err != nil || id == "" {
			return err
		}
		a.metrics.purgedEarly.Inc()
		a.Log.Warn("the disk is short of space: a removed volume was deleted from the trash before its time", "backend", b.Name(), "volume", string(id))
	}
}

// every calls do at each tick until ctx ends.
func every(ctx context.Context, period time.Duration, do func(context.Context)) {
	t := time.NewTicker(period)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			do(ctx)
		}
	}
}

// Alive returns once each lock that Docker's calls need could be taken; if one of them is stuck it returns with ctx.
func (a *Agent) Alive(ctx context.Context) error {
	done := make(chan struct{})
	go func() {
		a.all()
		a.catalogue.isFresh()
		a.ledger.standing("")
		close(done)
	}()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("the agent is stuck: %w", ctx.Err())
	}
}
