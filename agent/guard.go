package agent

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/agent/watchdog"
	"github.com/mobyfs/mobyfs/backend"
)

// A volume of takeover auto is used here only while another process, the watchdog, guards it: when the session's
// deadline has passed it ends all writing, whatever the agent does. So the watchdog is told first, then the volume is
// attached; and it is let go only once the volume is detached. What was fenced is attached again only after control has
// confirmed the lease.
//
// Killed between any two steps, the volume is guarded and perhaps not attached: the next beat lets it go.

// Watchdog is what ends writing when the session is over. See package watchdog.
type Watchdog interface {
	Tell(ctx context.Context, m watchdog.Message) (watchdog.Answer, error)
}

// guard is this agent's word with the watchdog.
type guard struct {
	mu      sync.Mutex
	wanted  map[mobyfs.VolumeID]bool // attached, or about to be
	lost    map[mobyfs.VolumeID]bool // another node has them
	guarded []mobyfs.VolumeID        // as the watchdog last said
	silent  bool                     // it did not answer
	told    time.Duration            // the deadline that it was last told and took
}

// mayBeTaken reports whether control may give the volume to another node by itself.
func mayBeTaken(r *mobyfs.Volume) bool {
	return r != nil && cmp.Or(r.Spec.Takeover, mobyfs.TakeoverNever) == mobyfs.TakeoverAuto
}

// cantBeTaken reports whether it is known that control may not give the volume away by itself: its takeover was changed
// after the last use that was guarded.
func (a *Agent) cantBeTaken(id mobyfs.VolumeID) bool {
	record, _ := a.catalogue.record(id)
	return record != nil && !mayBeTaken(record)
}

// underGuard sees to it that a volume which control may give to another node is guarded before it is attached.
func (w *worker) underGuard(ctx context.Context, v view) error {
	if !mayBeTaken(v.record) {
		return nil
	}
	a := w.agent
	b, ok := w.home(v.record).(backend.Shared)
	switch {
	case !ok:
		return mobyfs.Errorf(mobyfs.CodeInvalid, "volume %q may be taken over and its bytes are on %s alone", v.record.Name, a.Node)
	case a.Watchdog == nil:
		return mobyfs.Errorf(mobyfs.CodeInvalid, "volume %q may be taken over, and %s has no watchdog", v.record.Name, a.Node).
			WithHint("start mobyfs-watchdog.service")
	case a.sessionOver():
		return sessionIsOver(v.record.Name, a.Node)
	}
	a.guard.mu.Lock()
	defer a.guard.mu.Unlock()
	now, err := a.Watchdog.Tell(ctx, watchdog.Message{Deadline: a.session.until()})
	if err == nil && slices.Contains(now.Fenced, w.id) && !w.confirmed() {
		w.fenceSeen()
		return mobyfs.Errorf(mobyfs.CodeUnavailable, "volume %q was fenced, and control has not confirmed its lease yet", v.record.Name).WithHint("try again")
	}
	if err != nil {
		return err
	}
	a.guard.wanted[w.id] = true
	delete(a.guard.lost, w.id)
	now, err = a.Watchdog.Tell(ctx, watchdog.Message{Deadline: a.session.until(),
		Guard: &watchdog.Volume{ID: w.id, Name: v.record.Name, Bytes: b.Bytes(w.id)}})
	if err == nil {
		a.guard.guarded = now.Guarded
		w.mu.Lock()
		w.trusted = false // used up
		w.mu.Unlock()
	}
	return err
}

func sessionIsOver(name, node string) error {
	return mobyfs.Errorf(mobyfs.CodeUnavailable, "volume %q can't be mounted: %s has not reached control in time, and another node may have the volume", name, node).
		WithHint("try again once control answers")
}

// checkSession is an error if the session ended while the volume was being attached. The volume is detached then.
func (w *worker) checkSession(ctx context.Context, v view) error {
	if !mayBeTaken(v.record) || !w.agent.sessionOver() {
		return nil
	}
	if err := w.home(v.record).Detach(ctx, w.id); err != nil {
		return err
	}
	return sessionIsOver(v.record.Name, w.agent.Node)
}

// unguard notes that the volume is detached. The watchdog hears of it with the next beat.
func (a *Agent) unguard(id mobyfs.VolumeID) {
	a.guard.mu.Lock()
	defer a.guard.mu.Unlock()
	delete(a.guard.wanted, id)
	delete(a.guard.lost, id)
}

// lose has writing to a volume ended at once, if it is guarded: another node has it.
func (a *Agent) lose(id mobyfs.VolumeID) {
	a.guard.mu.Lock()
	a.guard.lost[id] = true
	a.guard.mu.Unlock()
	a.goDo(func() { a.beat(a.work) })
}

// beat tells the watchdog the deadline, what it need not guard any more, and what is lost, and learns what it has fenced.
func (a *Agent) beat(ctx context.Context) {
	if a.Watchdog == nil {
		return
	}
	a.guard.mu.Lock()
	defer a.guard.mu.Unlock()
	m := watchdog.Message{Deadline: a.session.until()}
	for _, id := range a.guard.guarded {
		switch s := a.ledger.standing(id); {
		case !a.guard.wanted[id] && (s.lease == 0 && s.uses == 0 || a.cantBeTaken(id)):
			m.Release = append(m.Release, id)
		case a.guard.lost[id]:
			m.Lost = append(m.Lost, id)
		}
	}
	answer, err := a.Watchdog.Tell(ctx, m)
	if err != nil {
		if !a.guard.silent && ctx.Err() == nil {
			a.Log.Error("the watchdog does not answer", "err", err)
		}
		a.guard.silent = true
		return
	}
	a.guard.silent, a.guard.told, a.guard.guarded = false, m.Deadline, answer.Guarded
	for _, id := range answer.Fenced {
		if w := a.known(id); w != nil {
			w.fenceSeen()
		}
	}
}

// fenceSeen notes that writing to the volume was ended here. It has to be attached anew, after control was asked.
func (w *worker) fenceSeen() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fenced || w.agent.ledger.standing(w.id).lease == 0 && w.granted == 0 {
		return
	}
	w.fenced, w.attached, w.trusted = true, "", false
	w.problem = "writing to the volume was ended: control could not be reached in time"
	w.log.Error(w.problem)
	w.agent.metrics.selfFences.Inc()
	w.start()
}

// confirmed reports whether control has confirmed the lease since the volume was fenced.
func (w *worker) confirmed() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.trusted
}
