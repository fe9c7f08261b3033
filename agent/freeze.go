package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/failpoint"
)

// A freeze is the moment of a live move in which nothing writes to the volume any more, at neither end. The source comes
// to it in this order: no Mount is let in; the journal says whom it will stop; control says that it freezes; containers
// are stopped; what they wrote is on the disk. Killed after any step it finds the journal, and does what control's record
// then says (decide.go):
//
//	committed    the containers are killed as they are: they never run another instruction
//	aborted      they go on
//	otherwise    control is asked to take the freeze back, which it refuses once it has committed it; then they go on
//
// While control can't be asked they stay frozen, however long that takes: only control knows whether they run elsewhere.

// commitPatience is how long a source waits for the commit after it has given all away. It takes the freeze back then,
// which the commit may still forestall.
const commitPatience = 10 * time.Second

// thawRest is the longest that a source waits between two tries to take a freeze back.
const thawRest = 2 * time.Second

// freezing reports whether no Mount may be let in because of a freeze. Under mu.
func (w *worker) freezing() bool { return w.shut || w.hold != nil && !w.hold.Over }

// setHold writes down what is held, and takes it over.
func (w *worker) setHold(h *hold) error {
	if err := w.agent.freezes.set(w.id, h); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hold = h
	return nil
}

// freeze stops all that uses the volume, as a job of its worker. On error what was stopped goes on, once control has
// agreed.
func (w *worker) freeze(ctx context.Context, s *liveOffer) (int, error) {
	w.mu.Lock()
	if w.freezing() {
		w.mu.Unlock()
		return 0, mobyfs.Errorf(mobyfs.CodeUnavailable, "volume %q is frozen still from the try before", w.name(nil)).WithHint("try again")
	}
	w.shut = true
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.shut = false
		w.start()
	}()
	r, err := w.recordOf(ctx, s.migration)
	if err != nil {
		return 0, err
	}
	flushed := w.flushAhead(w.path(&r))
	h, err := w.whom(ctx, r, s)
	if err != nil {
		return 0, about(err, "freeze", r.Name)
	}
	if err := w.setHold(h); err != nil {
		return 0, err
	}
	if h, err = w.announceFreeze(ctx, h); err != nil {
		return 0, about(err, "freeze", r.Name)
	}
	select {
	case <-flushed:
	case <-ctx.Done():
		return 0, about(ctx.Err(), "freeze", r.Name)
	}
	if err := w.unthrottle(ctx); err != nil { // who has no time to run can't come to where it is frozen
		return 0, about(err, "freeze", r.Name)
	}
	if err := w.stopAll(ctx, h, w.path(&r)); err != nil {
		return 0, about(err, "freeze", r.Name)
	}
	w.log.Info("frozen", "volume", r.Name, "to", h.To, "migration", h.Migration, "containers", len(h.Containers), "took", time.Since(h.Since).Round(time.Millisecond))
	return h.Freeze, nil
}

// flushAhead begins to write out what the kernel holds back, so that little of it is left for the pause. Whether it works is told by
// the sync within the pause.
func (w *worker) flushAhead(path string) (done <-chan struct{}) {
	over := make(chan struct{})
	go func() { // it ends by itself, and nothing depends on it
		defer close(over)
		if err := w.agent.Kernel.Sync(path); err != nil {
			w.log.Debug("write out a volume before it is frozen", "err", err)
		}
	}()
	return over
}

// recordOf is the record of the volume while a migration is under way, from control if it is not known here yet.
func (w *worker) recordOf(ctx context.Context, m mobyfs.MigrationID) (mobyfs.Volume, error) {
	if r, _ := w.agent.catalogue.record(w.id); r != nil && r.Migration != nil && r.Migration.ID == m {
		return *r, nil
	}
	r, err := w.askRecord(ctx)
	if err == nil && (r.Migration == nil || r.Migration.ID != m) {
		err = mobyfs.Errorf(mobyfs.CodeStaleFence, "migration %s of volume %q is not under way", m, r.Name)
	}
	return r, err
}

// askRecord asks control for the volume's record. CodeNotFound if there is none.
func (w *worker) askRecord(ctx context.Context) (mobyfs.Volume, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	told, err := w.agent.Control.Records(ctx, []mobyfs.VolumeID{w.id})
	if err != nil {
		return mobyfs.Volume{}, fmt.Errorf("ask for the record: %w", err)
	}
	if i := slices.IndexFunc(told.Volumes, func(v mobyfs.Volume) bool { return v.ID == w.id }); i >= 0 {
		w.agent.learn(told.Volumes[i])
		return told.Volumes[i], nil
	}
	if slices.Contains(told.Gone, w.id) {
		return mobyfs.Volume{}, mobyfs.Errorf(mobyfs.CodeNotFound, "there is no volume %s", w.id)
	}
	return mobyfs.Volume{}, mobyfs.Errorf(mobyfs.CodeUnavailable, "the record of volume %s can't be read", w.id)
}

// whom says which containers have to be stopped, and how. It is an error if there is anybody else, or if a container is
// just coming or going.
func (w *worker) whom(ctx context.Context, r mobyfs.Volume, s *liveOffer) (*hold, error) {
	standing := w.agent.ledger.standing(w.id)
	h := &hold{Migration: s.migration, Name: r.Name, Lease: standing.lease, To: r.Migration.To, Since: time.Now(), session: s}
	users, err := w.occupants(ctx, r.Name)
	if err != nil {
		return nil, err
	}
	var ids []string
	mounts := 0
	for _, u := range users {
		c := held{ID: u.ID, Name: u.Name, First: u.PID, Was: paused, Remove: s.packed[u.ID]}
		switch {
		case u.Paused:
			c.Was = leftAlone
		case r.Migration.Options.Consistency == mobyfs.ConsistencyClean && u.AutoRemove:
			return nil, mobyfs.Errorf(mobyfs.CodeInvalid, "container %s can't be stopped and started again: it is removed when it stops", u.Name).
				WithHint("move it with --consistency crash")
		case r.Migration.Options.Consistency == mobyfs.ConsistencyClean:
			c.Was = stopped
		}
		h.Containers = append(h.Containers, c)
		ids, mounts = append(ids, u.ID), mounts+u.Mounts
	}
	switch late := standing.uses - mounts; {
	case late > 0 && w.agent.ledger.quiet(w.id) < startsWithin:
		return nil, mobyfs.Errorf(mobyfs.CodeUnavailable, "volume %q has %d users that Docker was told of, and %d that run: a container is just coming or going",
			r.Name, standing.uses, mounts).WithHint("wait a moment")
	case late > 0: // Docker was told of them and never knew, such as when the agent died in a Mount; they end when the kernel shows nobody
		w.log.Info("uses that no container has do not hold a move up", "volume", r.Name, "uses", late)
	}
	if s.luggage != nil && !s.packs(ids) {
		return nil, mobyfs.Errorf(mobyfs.CodeUnavailable, "other containers use volume %q than when the session began", r.Name).WithHint("wait a moment")
	}
	return h, w.noStrangers(&r, w.path(&r), ids, true)
}

// occupants lists the containers that use the volume.
func (w *worker) occupants(ctx context.Context, name string) ([]Occupant, error) {
	if w.agent.Docker == nil {
		if w.agent.ledger.standing(w.id).uses == 0 {
			return nil, nil
		}
		return nil, mobyfs.Errorf(mobyfs.CodeInvalid, "%s does not ask dockerd, so it can't stop the containers of volume %q", w.agent.Node, name).
			WithHint("start mobyfs with --docker, or stop them and move the volume without --live")
	}
	return w.agent.Docker.Occupants(ctx, name)
}

// noStrangers is an error if any process outside of the containers could write to the volume.
func (w *worker) noStrangers(r *mobyfs.Volume, path string, containers []string, files bool) error {
	strangers, err := w.agent.Kernel.Strangers(path, containers, files)
	if err != nil {
		return fmt.Errorf("ask the kernel who else uses %s: %w", path, err)
	}
	if len(strangers) > 0 {
		return w.held(r, strangers[0].String()+", which is in no container that can be frozen", "end it, then try again")
	}
	return nil
}

// announceFreeze tells control, which numbers the freeze. If it is not known whether control heard it, the hold stays.
func (w *worker) announceFreeze(ctx context.Context, h *hold) (*hold, error) {
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	v, err := w.agent.Control.Freeze(call, w.id, h.Migration)
	if code := mobyfs.CodeOf(err); code == mobyfs.CodeUnavailable || code == mobyfs.CodeInternal {
		return nil, err
	}
	if err != nil {
		return nil, errors.Join(err, w.setHold(nil))
	}
	next := *h
	next.Freeze = v.Migration.Freezes
	if err := w.setHold(&next); err != nil {
		return nil, err
	}
	w.agent.learn(v)
	return &next, nil
}

// stopAll stops the containers of a hold and returns once all that they wrote is on the disk.
func (w *worker) stopAll(ctx context.Context, h *hold, path string) error {
	failpoint.Reach("agent.stop.before")
	all, each := errgroup.WithContext(ctx)
	var ids []string
	for _, c := range h.Containers {
		ids = append(ids, c.ID)
		all.Go(func() error {
			switch c.Was {
			case paused:
				return w.agent.Docker.Pause(each, c.ID)
			case stopped:
				return w.agent.Docker.Stop(each, c.ID)
			}
			return nil
		})
	}
	if err := all.Wait(); err != nil {
		return err
	}
	failpoint.Reach("agent.stop.after")
	r, _ := w.agent.catalogue.record(w.id)
	var checks errgroup.Group
	checks.Go(func() error { return w.noStrangers(r, path, ids, false) })
	checks.Go(func() error { return w.agent.Kernel.Sync(path) })
	return checks.Wait()
}

// doThaw takes a freeze back at control, and lets go on what was stopped if control agrees.
func (w *worker) doThaw(ctx context.Context, s step, v view) error {
	h := v.hold
	if h == nil {
		return w.disown(ctx, v)
	}
	if !v.thawed(h) && !failpoint.Without("thaw") {
		switch ok, err := w.retract(ctx, h); {
		case err != nil:
			w.stayFrozen(h, err)
			return err
		case !ok:
			return nil // what control said is known now
		}
	}
	return w.letGo(ctx, h, s.why)
}

// disown takes a freeze back that control knows of and that nothing here was stopped for.
func (w *worker) disown(ctx context.Context, v view) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	m := v.record.Migration
	now, err := w.agent.Control.Thaw(ctx, w.id, m.ID, m.Freezes, "nothing is frozen on "+w.agent.Node)
	if err == nil {
		w.agent.learn(now)
		return nil
	}
	if code := mobyfs.CodeOf(err); code == mobyfs.CodeUnavailable || code == mobyfs.CodeInternal {
		return err
	}
	_, err = w.askRecord(ctx)
	return err
}

// retract asks control to take a freeze back, and reports whether it did.
func (w *worker) retract(ctx context.Context, h *hold) (bool, error) {
	n := h.Freeze
	if n == 0 { // control may have heard of it, or not
		r, err := w.askRecord(ctx)
		if err != nil {
			return false, err
		}
		if r.Migration == nil || r.Migration.ID != h.Migration {
			return false, w.sayEnded(ctx, h, r)
		}
		if r.Migration.State != mobyfs.MigrationFreezing {
			return true, nil // a call that comes late freezes nothing: no receipt will name its number
		}
		n = r.Migration.Freezes
	}
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	v, err := w.agent.Control.Thaw(call, w.id, h.Migration, n, "the freeze on "+w.agent.Node+" came to nothing")
	switch mobyfs.CodeOf(err) {
	case "":
		w.agent.learn(v)
		return true, nil
	case mobyfs.CodeStaleFence:
		w.log.Info("the migration was committed; its containers do not go on here", "migration", h.Migration)
		w.mu.Lock()
		w.gone = h.Migration
		w.mu.Unlock()
		return false, nil
	case mobyfs.CodeChanged: // a call of ours that was lost came late; nobody can commit its freeze
		r, asked := w.askRecord(ctx)
		if asked != nil || r.Migration == nil || r.Migration.ID != h.Migration {
			return false, errors.Join(err, asked)
		}
		next := *h
		next.Freeze = r.Migration.Freezes
		return false, w.setHold(&next)
	case mobyfs.CodeNotFound:
		r, asked := w.askRecord(ctx)
		if asked != nil {
			return false, asked
		}
		return false, w.sayEnded(ctx, h, r)
	}
	return false, err
}

// sayEnded decides by a record in which the migration of a hold is not under way. If control knows nothing of it, as after
// a restore from a backup, the lease tells: if it is still the one that was relied on, the volume was not given away.
func (w *worker) sayEnded(ctx context.Context, h *hold, r mobyfs.Volume) error {
	w.mu.Lock()
	v := w.view()
	w.mu.Unlock()
	v.record = &r
	switch {
	case v.committedAway(h), v.thawed(h):
		return nil // the next look decides so
	case r.Node == v.me && (r.Lease == nil && h.Lease == 0 || r.Lease != nil && r.Lease.Node == v.me && r.Lease.Fence == h.Lease):
		return w.letGo(ctx, h, "control knows nothing of the migration, and the lease is still here")
	}
	return mobyfs.Errorf(mobyfs.CodeStaleFence, "control knows nothing of migration %s, and the lease that volume %q was used under is not here any more", h.Migration, h.Name).
		WithHint("docker kill the paused containers, or docker unpause them if the volume is used nowhere else")
}

// stayFrozen shows why what is frozen does not go on.
func (w *worker) stayFrozen(h *hold, why error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.problem == "" {
		w.log.Warn("the volume stays frozen until control says that it was not given away", "volume", h.Name, "to", h.To, "migration", h.Migration, "err", why)
	}
	w.problem = fmt.Sprintf("frozen for a move to %s since %s; it goes on once control says that it was not given away: %s",
		h.To, h.Since.UTC().Format(time.RFC3339), why)
	w.refuseSince(time.Now().Add(-controlPatience), mobyfs.Errorf(mobyfs.CodeMoving, "volume %q is frozen for a move to %s, and control has not answered", h.Name, h.To).
		WithHint("try again once control answers"))
}

// letGo lets go on what was stopped. No commit can come any more.
func (w *worker) letGo(ctx context.Context, h *hold, why string) error {
	failpoint.Reach("agent.go-on.before")
	all, each := errgroup.WithContext(ctx)
	start := false
	for _, c := range h.Containers {
		switch c.Was {
		case paused:
			all.Go(func() error { return w.agent.Docker.Unpause(each, c.ID) })
		case stopped:
			start = true
		}
	}
	if err := all.Wait(); err != nil {
		return w.trouble(about(err, "thaw", h.Name))
	}
	failpoint.Reach("agent.go-on.after")
	var left *hold
	if start {
		over := *h
		over.Over, left = true, &over
	}
	if err := w.setHold(left); err != nil {
		return err
	}
	w.mu.Lock()
	w.problem = ""
	w.lingers = time.Now().Add(patience) // the containers that are started come at once
	w.mu.Unlock()
	w.log.Info("thawed", "volume", h.Name, "migration", h.Migration, "step", why, "took", time.Since(h.Since).Round(time.Millisecond))
	if start {
		w.agent.goDo(func() { w.startStopped(w.agent.work, left) })
	}
	return nil
}

// startStopped starts the containers that were stopped for a freeze which came to nothing.
func (w *worker) startStopped(ctx context.Context, h *hold) {
	for _, c := range h.Containers {
		if c.Was != stopped {
			continue
		}
		if err := w.agent.Docker.Start(ctx, c.ID); err != nil && ctx.Err() == nil {
			w.log.Error("start a container again that was stopped for a move", "container", c.Name, "err", err, "hint", "docker start "+c.Name)
		}
	}
	if ctx.Err() != nil {
		return // the next life does it
	}
	if err := w.setHold(nil); err != nil {
		w.log.Warn("forget a freeze that is over", "err", err)
	}
	w.poke()
}

// doKill ends the containers of a volume that was committed away. They are frozen, and die as they are.
func (w *worker) doKill(ctx context.Context, v view) error {
	h := v.hold
	failpoint.Reach("agent.kill.before")
	for _, c := range h.Containers {
		if err := w.kill(ctx, c); err != nil {
			return w.trouble(about(err, "end the containers of", h.Name))
		}
	}
	failpoint.Reach("agent.kill.after")
	if v.bytes {
		if err := w.checkUnused(v.record); err != nil {
			return w.trouble(err)
		}
	}
	w.agent.ledger.change(w.id, func(e *entry) {
		e.Lease, e.Releasing, e.Alone = 0, 0, false
		clear(e.Uses)
		clear(e.doubt)
	})
	if err := w.agent.ledger.flush(); err != nil {
		return err
	}
	if v.bytes {
		if err := w.home(v.record).Detach(ctx, w.id); err != nil && mobyfs.CodeOf(err) != mobyfs.CodeNotFound {
			return w.trouble(err)
		}
	}
	w.agent.unguard(w.id)
	if err := w.setHold(nil); err != nil {
		return err
	}
	w.mu.Lock()
	w.granted, w.attached, w.problem, w.gone = 0, "", "", ""
	w.mu.Unlock()
	w.agent.roster.forget(w.id)
	w.log.Info("ended the containers of a volume that moved away", "volume", h.Name, "to", h.To, "migration", h.Migration, "containers", len(h.Containers))
	return nil
}

// kill ends one container, and removes it if it was made anew elsewhere.
func (w *worker) kill(ctx context.Context, c held) error {
	if err := w.agent.Kernel.End(Container{c.ID, c.Name}, c.First); err != nil {
		return fmt.Errorf("kill the processes of container %s: %w", c.Name, err)
	}
	failpoint.Reach("agent.kill.middle")
	policy, err := w.agent.Docker.Kill(ctx, c.ID)
	if err != nil {
		return err
	}
	if c.Remove {
		return w.agent.Docker.Remove(ctx, c.ID)
	}
	if policy != "" {
		w.log.Warn("a container stays stopped, for its volume has moved; its restart policy was set to no, or it would take the volume back",
			"container", c.Name, "hint", fmt.Sprintf("docker update --restart %s %s", policy, c.Name))
	}
	return nil
}
