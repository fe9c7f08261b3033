package agent

import (
	"context"
	"time"

	"github.com/mobyfs/mobyfs"
)

// watch follows control until ctx ends. While it can't, the catalogue stands as it was and says that it is stale.
func (a *Agent) watch(ctx context.Context) {
	retry := backoff{first: 200 * time.Millisecond, most: 5 * time.Second}
	for away := false; ; {
		start := time.Now()
		asking, stop := context.WithCancel(ctx)
		err := a.Control.Watch(ctx, func(c mobyfs.Change) {
			if c.Full != nil && away {
				a.Log.Info("control answers again")
				away = false
			}
			a.apply(c)
			if c.Full != nil && c.Full.Partial {
				stop() // what was asked for before the new state
				asking, stop = context.WithCancel(ctx)
				now := asking
				a.goDo(func() { a.askForOthers(now) })
			}
		})
		stop()
		a.catalogue.stale()
		if ctx.Err() != nil {
			return
		}
		if time.Since(start) > retry.most {
			retry.reset()
		}
		wait := retry.fail(time.Now())
		if !away && retry.tries > 1 {
			a.Log.Warn("control can't be reached; what is here goes on", "err", err, "hint", mobyfs.HintOf(err))
			away = true
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// apply takes over one change.
func (a *Agent) apply(c mobyfs.Change) {
	switch {
	case c.Full != nil:
		a.catalogue.replace(c.Full, c.Revision, func(id mobyfs.VolumeID) bool { return a.known(id) != nil })
		a.pokeAll()
		a.warnOfStrays()
		a.reporter.repeat()
		signal(a.engine.revived)
		a.trusted(c.Full.Trust)
	case c.Trust != nil:
		a.trusted(c.Trust)
	case c.Volume != nil:
		a.learn(*c.Volume)
	case c.Gone != "":
		a.catalogue.remove(c.Gone)
		if w := a.known(c.Gone); w != nil {
			w.poke()
		}
	}
}

// trusted passes on who belongs to the cluster, if control said it, and tells control what became of it.
func (a *Agent) trusted(t *mobyfs.Trust) {
	if t != nil && a.Trusted != nil {
		a.Trusted(*t)
		a.reporter.kick()
	}
}

// warnOfStrays says which bytes here belong to no volume that control knows. They stay: what nobody knows may be
// the last copy of something.
func (a *Agent) warnOfStrays() {
	for _, w := range a.all() {
		record, _ := a.catalogue.record(w.id)
		unknown := a.catalogue.isUnknown(w.id)
		w.mu.Lock()
		if w.bytes && record == nil && !unknown && w.problem == "" {
			w.problem = "control knows no such volume"
			w.log.Warn("bytes of a volume that control does not know stay here")
		}
		w.mu.Unlock()
	}
}
