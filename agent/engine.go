package agent

import (
	"context"
	"sync"
	"time"
)

// How soon the agent acts on what dockerd tells.
const (
	endedPause = 500 * time.Millisecond // from a container's end until its mounts are gone from the kernel
	engineRest = 2 * time.Second        // the most that passes until a dockerd that came back is noticed
)

// luggageAfter is when containers that were made for migrations are looked for again: what becomes of one is known only once
// control has told of its volume, and the worker has seen to that.
var luggageAfter = []time.Duration{2 * time.Second, 5 * time.Second, 15 * time.Second, 40 * time.Second}

// engine is what the agent knows of dockerd's life.
type engine struct {
	ended   chan struct{} // holds one value if containers have ended since anybody looked
	revived chan struct{} // holds one value if containers may be waiting to be started

	mu       sync.Mutex
	stranded map[string]bool // IDs of the containers that dockerd could not start when it began
}

func newEngine() *engine {
	return &engine{ended: make(chan struct{}, 1), revived: make(chan struct{}, 1)}
}

// signal puts a value into a channel that holds one.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// followEngine listens to dockerd until ctx ends. Whenever it can be reached anew it may have begun a new life: it is
// made to know the driver, for Swarm gives a node no task whose driver its dockerd has never used, and containers that
// it could not start without us are started.
func (a *Agent) followEngine(ctx context.Context) {
	if a.Docker == nil {
		return
	}
	a.goDo(func() { a.reviveOn(ctx) })
	a.goDo(func() { a.settleOn(ctx) })
	retry := backoff{first: 100 * time.Millisecond, most: engineRest}
	for ctx.Err() == nil {
		start := time.Now()
		err := a.Docker.Follow(ctx, func() { a.goDo(func() { a.engineBegan(ctx) }) }, func() { signal(a.engine.ended) })
		a.Log.Debug("dockerd is not followed", "err", err)
		if time.Since(start) > retry.most {
			retry.reset()
		}
		select {
		case <-ctx.Done():
		case <-time.After(retry.fail(time.Now())):
		}
	}
}

// engineBegan makes dockerd know the driver, learns the names of those who use volumes here, and notes whom dockerd
// could not start.
func (a *Agent) engineBegan(ctx context.Context) {
	defer signal(a.engine.revived)
	for _, id := range a.ledger.volumes() {
		if record, _ := a.catalogue.record(id); record != nil && a.ledger.standing(id).uses > 0 {
			a.roster.look(id, record.Name)
		}
	}
	if err := a.Docker.ListVolumes(ctx); err != nil {
		a.Log.Warn("make dockerd list its volumes, so that it knows the driver", "err", err)
	}
	stranded, err := a.Docker.Stranded(ctx)
	if err != nil {
		a.Log.Warn("ask dockerd for containers that it could not start", "err", err)
		return
	}
	a.engine.mu.Lock()
	a.engine.stranded = map[string]bool{}
	for _, c := range stranded {
		a.engine.stranded[c.ID] = true
	}
	a.engine.mu.Unlock()
}

// reviveOn starts stranded containers when dockerd has begun, and again when control answers anew. Containers that were made
// for migrations are looked for a few times more.
func (a *Agent) reviveOn(ctx context.Context) {
	var later <-chan time.Time
	var looks []time.Duration
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.engine.revived:
			a.revive(ctx)
			looks = luggageAfter
		case <-later:
			a.findLuggage(ctx)
		}
		later = nil
		if len(looks) > 0 {
			later, looks = time.After(looks[0]), looks[1:]
		}
	}
}

// revive starts the containers that dockerd is to keep running and could not start for want of a volume when it began:
// dockerd does not try again by itself. Each is started once; those that were started, changed or removed meanwhile are
// left alone, and so are those whose start failed later, when somebody asked for it.
func (a *Agent) revive(ctx context.Context) {
	a.findLuggage(ctx)
	a.engine.mu.Lock()
	waiting := len(a.engine.stranded) > 0
	a.engine.mu.Unlock()
	if !waiting {
		return
	}
	still, err := a.Docker.Stranded(ctx)
	if err != nil {
		a.Log.Warn("ask dockerd for containers that it could not start", "err", err)
		return
	}
	var tries sync.WaitGroup
	for _, c := range still {
		a.engine.mu.Lock()
		ours := a.engine.stranded[c.ID]
		a.engine.mu.Unlock()
		if ours {
			tries.Go(func() { a.startStranded(ctx, c) })
		}
	}
	tries.Wait()
}

func (a *Agent) startStranded(ctx context.Context, c Container) {
	if err := a.Docker.Start(ctx, c.ID); err != nil {
		a.Log.Warn("start a container that dockerd could not start; it is tried again once control answers anew", "container", c.Name, "err", err)
		return
	}
	a.engine.mu.Lock()
	delete(a.engine.stranded, c.ID)
	a.engine.mu.Unlock()
	a.Log.Info("started a container that dockerd could not start without its volume", "container", c.Name)
}

// settleOn looks at the kernel whenever containers have ended: uses that ended unnoticed are forgotten, and a lease
// that could not be given back while the kernel showed a user is tried again.
func (a *Agent) settleOn(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.engine.ended:
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(endedPause):
		}
		a.settle(ctx)
		for _, w := range a.all() {
			w.retryRelease()
		}
	}
}

// retryRelease makes the worker try now to give a lease back that it could not give back before.
func (w *worker) retryRelease() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.failure != nil && w.retrying.task == release {
		w.hurry()
	}
}
