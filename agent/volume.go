package agent

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/backend"
	"github.com/mobyfs/mobyfs/internal/tracing"
)

// worker does all the work on one volume, one step at a time. Its goroutine lives only while there is something to
// do: poke starts it.
type worker struct {
	agent *Agent
	id    mobyfs.VolumeID
	log   *slog.Logger

	mu       sync.Mutex
	running  bool
	waiters  map[*waiter]bool
	jobs     []*job
	changed  chan struct{} // closed and replaced after each step
	retry    backoff
	retrying step        // what failed last, while it is to be tried again
	failure  error       // why it failed
	doing    task        // what is being done now
	last     step        // what was done last without an error,
	repeats  int         // and how often in a row: a step that changes nothing must not spin
	timer    *time.Timer // pokes at retry.next

	backend  backend.Backend // where the bytes are or belong; nil: not known yet
	bytes    bool
	size     int64 // what the bytes have room for, 0 if that was never said
	staged   []backend.Staged
	attached string             // the path, "" if not attached
	granted  mobyfs.Fence       // a lease that control gave and the ledger may not have yet
	released mobyfs.Fence       // the last lease that was given back for sure
	lingers  time.Time          // until then the lease stays although nobody uses the volume
	over     mobyfs.MigrationID // known to have ended
	arriving mobyfs.MigrationID // committed in this life; its containers are being started
	exports  int
	fenced   bool               // the watchdog ended all writing here: control has to confirm the lease
	trusted  bool               // control has confirmed it since
	seen     mobyfs.Fence       // the highest fence beside the bytes, as far as is known
	away     bool               // control could not be asked the last time
	hold     *hold              // what is frozen here, or about to be; replaced, never changed
	shut     bool               // a freeze is being prepared: nobody is let in
	expects  time.Time          // until then the commit of what is frozen is waited for
	gone     mobyfs.MigrationID // control said that it was committed, and what was frozen for it must not go on
	filling  context.CancelFunc // ends the copying that a new volume is made by; nil if there is none
	filled   arrival            // how far that is
	problem  string             // what a person should know, shown by docker volume inspect
	move     move
}

// waiter is a Mount that waits. Whoever takes it out of worker.waiters decides it: done is closed after err is set,
// and without err the use is counted.
type waiter struct {
	name, use string
	trace     string // the traceparent of the Mount
	since     time.Time
	done      chan struct{}
	path      string
	err       error
}

// job is something that is done between two steps, on behalf of somebody who waits for it.
type job struct {
	do   func()
	done chan struct{}
}

func newWorker(a *Agent, id mobyfs.VolumeID) *worker {
	return &worker{
		agent:   a,
		id:      id,
		log:     a.Log.With("id", string(id)),
		waiters: map[*waiter]bool{},
		changed: make(chan struct{}),
		retry:   backoff{first: 100 * time.Millisecond, most: 30 * time.Second},
	}
}

// poke makes the worker look at its volume again.
func (w *worker) poke() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.start()
}

// start is poke under mu.
func (w *worker) start() {
	if w.running {
		return
	}
	w.agent.goDo(func() {
		for w.next() {
		}
	})
	w.running = true
}

// hurry is start for somebody who wants what failed before to be tried now. Under mu.
func (w *worker) hurry() {
	w.retry.next = time.Time{}
	w.start()
}

// recordChanged tells the worker of its volume's new record. A pull whose migration has ended is stopped.
func (w *worker) recordChanged(v mobyfs.Volume) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.move.stop != nil && (v.Migration == nil || v.Migration.ID != w.move.migration) && !w.move.won(v) {
		w.move.stop()
	}
	if w.filling != nil && v.State == mobyfs.VolumeRemoving {
		w.filling()
	}
	w.start()
}

// view gathers what the next step depends on, under mu.
func (w *worker) view() view {
	record, told := w.agent.catalogue.record(w.id)
	s := w.agent.ledger.standing(w.id)
	held := w.hold
	if held != nil && held.Over {
		held = nil
	}
	return view{
		hold: held, expects: held != nil && (held.session.goesOn() || time.Now().Before(w.expects)), gone: w.gone,
		me: w.agent.Node, record: record, told: told, fresh: w.agent.catalogue.isFresh(), unknown: w.agent.catalogue.isUnknown(w.id),
		bytes: w.bytes, room: w.size, staged: w.staged, attached: w.attached != "", over: w.over,
		lease: max(s.lease, w.granted), settling: s.releasing, released: w.released,
		uses: s.uses, waiting: len(w.waiters), exports: w.exports, linger: time.Until(w.lingers),
		shared: record != nil && mobyfs.SharesBytes(record.Spec.WithDefaults().Backend), seen: w.seen, away: w.away, alone: s.alone && w.granted == 0, fenced: w.fenced,
	}
}

// next does one step and reports whether it is worth looking again at once.
func (w *worker) next() bool {
	ctx := w.agent.work
	w.mu.Lock()
	if ctx.Err() != nil {
		w.pause()
		w.mu.Unlock()
		return false
	}
	if len(w.jobs) > 0 {
		j := w.jobs[0]
		w.jobs = w.jobs[1:]
		w.mu.Unlock()
		j.do()
		close(j.done)
		return true
	}
	v := w.view()
	w.refuseAborted(v)
	v.waiting = len(w.waiters)
	s := decide(v)
	if s.task != w.retrying.task || s.migration != w.retrying.migration {
		w.retrying, w.failure = step{}, nil
		w.retry.reset()
	}
	switch wait := time.Until(w.retry.next); {
	case s.task == rest, s.task == missing && v.waiting == 0 && w.problem != "":
		w.pause()
		if v.lease != 0 && v.uses == 0 && v.lingers() {
			w.wakeIn(v.linger)
		}
		if until := time.Until(w.expects); v.hold != nil && until > 0 {
			w.wakeIn(until)
		}
		done := v.record == nil && !v.bytes && len(v.staged) == 0 && v.lease == 0 && v.uses == 0 && v.exports == 0 && w.hold == nil
		w.mu.Unlock()
		if done {
			w.agent.forget(w)
		}
		return false
	case wait > 0:
		w.pause()
		w.wakeIn(wait)
		w.mu.Unlock()
		return false
	}
	w.doing = s.task
	ctx, span := w.trace(ctx, s, v)
	w.mu.Unlock()

	err := w.do(ctx, s, v)
	tracing.End(span, err)

	w.mu.Lock()
	defer w.mu.Unlock()
	w.doing = rest
	if err == nil {
		err = w.checkProgress(s)
	}
	if err != nil && ctx.Err() == nil {
		w.failed(s, err)
	} else {
		w.retrying, w.failure = step{}, nil
		w.retry.reset()
	}
	w.announce()
	return true
}

// checkProgress is an error if the same step was done over and over, under mu.
func (w *worker) checkProgress(s step) error {
	if s != w.last {
		w.last, w.repeats = s, 0
		return nil
	}
	if w.repeats++; w.repeats < 8 {
		return nil
	}
	return mobyfs.Errorf(mobyfs.CodeInternal, "it was done %d times and changed nothing", w.repeats+1)
}

// pause ends the goroutine's turn, under mu.
func (w *worker) pause() {
	w.running = false
	w.last, w.repeats = step{}, 0
	w.announce()
}

// wakeIn makes the worker look again after a while, in place of an earlier such wish. Under mu.
func (w *worker) wakeIn(wait time.Duration) {
	if w.timer != nil {
		w.timer.Stop()
	}
	w.timer = time.AfterFunc(wait, w.poke)
}

// announce wakes those who wait for a change, under mu.
func (w *worker) announce() {
	close(w.changed)
	w.changed = make(chan struct{})
}

// failed plans the next try of a step, under mu.
func (w *worker) failed(s step, err error) {
	w.retrying, w.failure = s, err
	w.agent.metrics.failures.WithLabelValues(string(s.task), codeLabel(err)).Inc()
	wait := w.retry.fail(time.Now())
	if s.task == thaw && wait > thawRest {
		wait, w.retry.next = thawRest, time.Now().Add(thawRest)
	}
	level := slog.LevelDebug
	if w.retry.tries == 1 || w.retry.tries%10 == 0 {
		level = slog.LevelWarn
	}
	w.log.Log(w.agent.work, level, "could not "+string(s.task), "step", s.why, "attempt", w.retry.tries, "again_in", wait, "err", err)
}

// until returns once ok is true of the worker's state, or ctx ends. ok is called under mu.
func (w *worker) until(ctx context.Context, ok func() bool) error {
	for {
		w.mu.Lock()
		good, changed := ok(), w.changed
		w.mu.Unlock()
		if good {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// run does something between two steps of the worker, and waits for it. When ctx ends first it may be done still.
func (w *worker) run(ctx context.Context, do func()) error {
	j := &job{do: do, done: make(chan struct{})}
	w.mu.Lock()
	w.jobs = append(w.jobs, j)
	w.start()
	w.mu.Unlock()
	select {
	case <-j.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-w.agent.work.Done():
		return w.agent.work.Err()
	}
}

// enter lets a Mount wait, or counts its use at once.
func (w *worker) enter(ctx context.Context, name, use string) *waiter {
	wt := &waiter{name: name, use: use, trace: tracing.Parent(ctx), since: time.Now(), done: make(chan struct{})}
	w.mu.Lock()
	defer w.mu.Unlock()
	if v := w.view(); w.attached != "" && v.lease != 0 && v.settling == 0 && !w.freezing() && !v.doubtsLease() && !(mayBeTaken(v.record) && w.agent.sessionOver()) {
		w.count(wt, v.lease)
		return wt
	}
	w.waiters[wt] = true
	w.hurry()
	return wt
}

// leave takes a Mount out again. False: it was decided before, and without an error its use is counted.
func (w *worker) leave(wt *waiter) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.waiters[wt] {
		return false
	}
	delete(w.waiters, wt)
	w.start()
	return true
}

// count decides a waiter: its use is counted in memory. Under mu.
func (w *worker) count(wt *waiter, lease mobyfs.Fence) {
	w.agent.ledger.take(w.id, wt.name, wt.use, lease)
	delete(w.waiters, wt)
	wt.path = w.attached
	close(wt.done)
}

// refuseAll decides all who wait, under mu.
func (w *worker) refuseAll(err error) { w.refuseSince(time.Time{}, err) }

// refuseSince decides those who have waited since a time or longer, all if it is zero. Under mu.
func (w *worker) refuseSince(since time.Time, err error) {
	for wt := range w.waiters {
		if since.IsZero() || !wt.since.After(since) {
			delete(w.waiters, wt)
			wt.err = err
			close(wt.done)
		}
	}
}

// give takes a use back. With the last one the lease begins to linger.
func (w *worker) give(use string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.agent.ledger.give(w.id, use)
	w.lingers = time.Now().Add(w.agent.Linger)
	w.start()
}

// takeBack takes back a use that was counted and whose Mount came to nothing after all.
func (w *worker) takeBack(use string) {
	w.give(use)
	if err := w.agent.ledger.flush(); err != nil {
		w.log.Warn("write down that a mount came to nothing", "mount", use, "err", err)
	}
}

// path is where the volume is or would be shown on this node.
func (w *worker) path(v *mobyfs.Volume) string { return w.home(v).Path(w.id) }

// home is the backend that has or will have the bytes.
func (w *worker) home(v *mobyfs.Volume) backend.Backend {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.backend != nil {
		return w.backend
	}
	return w.agent.backendOf(v)
}

// backendOf is the backend that a record asks for, as far as this node has it.
func (a *Agent) backendOf(v *mobyfs.Volume) backend.Backend {
	if v != nil {
		if b := a.backends[v.Spec.WithDefaults().Backend]; b != nil {
			return b
		}
	}
	return a.backends[mobyfs.DefaultBackend]
}
