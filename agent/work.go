package agent

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/backend"
	"github.com/mobyfs/mobyfs/internal/failpoint"
)

// do carries out a step. No lock is held while it waits for anybody. An error means: try again later.
func (w *worker) do(ctx context.Context, s step, v view) error {
	if err := w.agent.mayAct(); err != nil {
		w.decline(err)
		return err
	}
	switch s.task {
	case refuse:
		w.decline(mobyfs.Errorf(mobyfs.CodeNotFound, "there is no volume %q any more: it was removed", w.name(v.record)))
		return nil
	case missing:
		w.reportMissing(v.record)
		return nil
	case release:
		return w.doRelease(ctx, s, v)
	case confirm:
		return w.doConfirm(ctx, v)
	case claim:
		return w.doClaim(ctx, v)
	case goAlone:
		return w.doGoAlone(ctx, s, v)
	case attach:
		return w.doAttach(ctx, s, v)
	case create:
		return w.doCreate(ctx, v)
	case recall:
		return w.doRecall(ctx, s, v)
	case remove:
		return w.doRemove(ctx, s, v)
	case vacate:
		return w.doVacate(ctx, s, v)
	case grow:
		return w.doGrow(ctx, v)
	case adopt:
		return w.doAdopt(ctx, s, v)
	case discard:
		return w.doDiscard(ctx, s, v)
	case pull:
		return w.doPull(ctx, s, v)
	case thaw:
		return w.doThaw(ctx, s, v)
	case kill:
		return w.doKill(ctx, v)
	default:
		return mobyfs.Errorf(mobyfs.CodeInternal, "nobody knows how to %s", s.task)
	}
}

// decline decides all who wait with an error.
func (w *worker) decline(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.refuseAll(err)
}

// reportMissing says that a volume's bytes are not where they have to be. An empty volume in their place would be
// taken for the real one.
func (w *worker) reportMissing(r *mobyfs.Volume) {
	err := mobyfs.Errorf(mobyfs.CodeCorrupt, "the bytes of volume %q should be on %s and are not there", r.Name, w.agent.Node).
		WithHint("bring %s back from a backup or from the trash, or remove the volume", w.path(r))
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.problem == "" {
		w.log.Error("the bytes of a volume are missing", "volume", r.Name, "hint", err.Hint)
	}
	w.problem = err.Text
	w.refuseAll(err)
}

// doClaim asks for the lease, for those who wait. What it brings is the lease, or a migration to here.
func (w *worker) doClaim(ctx context.Context, v view) error {
	if _, err := w.target(v.record); err != nil {
		w.decline(about(err, "mount", w.name(v.record))) // to claim it would take it from a node that can use it
		return nil
	}
	grant, err := w.claim(ctx, v)
	switch code := mobyfs.CodeOf(err); {
	case err == nil:
		w.accept(grant)
		return nil
	case code == mobyfs.CodeUnavailable && w.controlIsAway(v):
		return nil
	case code == mobyfs.CodeUnavailable:
		w.giveUpOnControl(v.record, "mounted", err)
		return err
	default:
		w.log.Info("control refused a claim", "err", err)
		w.decline(about(err, "mount", w.name(v.record)))
		return nil
	}
}

// claim asks for the lease. Where nothing depends on the answer it is not waited for long.
func (w *worker) claim(ctx context.Context, v view) (mobyfs.Grant, error) {
	patience := callTimeout
	if v.mayGoAlone() || v.alone {
		patience = askTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return w.agent.Control.Claim(ctx, w.id)
}

// accept takes over what a claim brought.
func (w *worker) accept(g mobyfs.Grant) {
	w.agent.learn(g.Volume)
	if g.From == nil {
		w.setGranted(g.Fence)
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.move.next(g.From)
}

func (w *worker) setGranted(lease mobyfs.Fence) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.granted, w.problem, w.away = lease, "", false
}

// giveUpOnControl refuses those who have waited for control long enough.
func (w *worker) giveUpOnControl(r *mobyfs.Volume, doing string, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.refuseSince(time.Now().Add(-controlPatience),
		mobyfs.Errorf(mobyfs.CodeUnavailable, "volume %q can't be %s now: %s", w.name(r), doing, err).
			WithHint("try again once control answers"))
}

// doConfirm asks for the lease that containers here rely on. If another node has it, nothing here is touched: the
// containers go on, but nobody new is let in.
func (w *worker) doConfirm(ctx context.Context, v view) error {
	r := v.record
	if r.Node != w.agent.Node || r.Migration != nil && !v.usableMeanwhile() {
		w.loseLease(fmt.Errorf("control gave volume %q to %s", r.Name, r.Node))
		return nil
	}
	grant, err := w.claim(ctx, v)
	switch code := mobyfs.CodeOf(err); {
	case err == nil && grant.From == nil:
		w.accept(grant)
		w.mu.Lock()
		w.attached = "" // attach it under the new fence
		w.fenced, w.trusted = false, true
		w.mu.Unlock()
		w.agent.ledger.change(w.id, func(e *entry) { e.Lease, e.Alone = grant.Fence, false })
		return w.agent.ledger.flush()
	case err == nil, code != mobyfs.CodeUnavailable && code != mobyfs.CodeInternal:
		w.loseLease(err)
		return nil
	}
	if v.fenced {
		w.giveUpOnControl(r, "mounted", err)
	}
	return err
}

// loseLease notes that a lease which was relied on is not ours.
func (w *worker) loseLease(why error) {
	w.agent.ledger.change(w.id, func(e *entry) { e.Lease = 0 })
	w.agent.lose(w.id)
	w.agent.metrics.lostLeases.Inc()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.granted, w.attached, w.fenced = 0, "", false
	w.problem = "containers here use the volume without a lease"
	w.log.Error(w.problem, "err", why)
}

// doAttach makes the volume usable and counts the uses of those who wait.
func (w *worker) doAttach(ctx context.Context, s step, v view) error {
	path, err := w.bringUp(ctx, s, v)
	if err == nil {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.attached, w.seen, w.bytes = path, max(w.seen, s.fence), true
		w.problem = ""
		for wt := range w.waiters {
			w.count(wt, s.fence)
		}
		w.log.Info("attached", "volume", w.name(v.record), "fence", s.fence)
		return nil
	}
	if mobyfs.CodeOf(err) == mobyfs.CodeNotFound && v.record != nil {
		w.mu.Lock()
		w.bytes = false
		w.mu.Unlock()
		w.reportMissing(v.record)
		if v.uses > 0 {
			return err
		}
		return nil
	}
	if v.alone && mobyfs.CodeOf(err) == mobyfs.CodeStaleFence {
		w.notAlone(v, err)
		return nil
	}
	w.decline(about(err, "mount", w.name(v.record)))
	if v.uses == 0 {
		w.log.Warn("attach", "volume", w.name(v.record), "fence", s.fence, "err", err)
		return nil
	}
	return err
}

// bringUp attaches the volume, guarded where it has to be.
func (w *worker) bringUp(ctx context.Context, s step, v view) (string, error) {
	if err := w.underGuard(ctx, v); err != nil {
		return "", err
	}
	failpoint.Reach("agent.attach.before")
	path, err := w.home(v.record).Attach(ctx, w.id, s.fence)
	failpoint.Reach("agent.attach.after")
	w.agent.metrics.fence("attach", err)
	if err == nil {
		err = w.checkSession(ctx, v)
	}
	return path, err
}

// doRelease gives a lease back: not while the kernel shows a user, and not while somebody waits here for the volume.
// From the moment that the ledger says so, the volume is not used here without a new lease.
func (w *worker) doRelease(ctx context.Context, s step, v view) error {
	if v.settling == 0 {
		if v.bytes {
			if err := w.checkUnused(v.record); err != nil {
				return w.trouble(err) // Docker says that nobody uses it, the kernel that somebody does
			}
		}
		if !w.close() {
			return nil // somebody came meanwhile
		}
		if v.bytes {
			failpoint.Reach("agent.detach.before")
			if err := w.home(v.record).Detach(ctx, w.id); err != nil {
				return err
			}
			failpoint.Reach("agent.detach.after")
			w.agent.unguard(w.id)
		}
		w.agent.ledger.change(w.id, func(e *entry) { e.Lease, e.Releasing = 0, s.fence })
		w.mu.Lock()
		w.granted = 0
		w.mu.Unlock()
	}
	if err := w.agent.ledger.flush(); err != nil {
		w.decline(about(err, "mount", w.name(v.record))) // whoever waits would wait for the disk
		return err
	}
	call, cancel := context.WithTimeout(ctx, w.releasePatience(v))
	defer cancel()
	err := w.agent.Control.Release(call, w.id, s.fence)
	if code := mobyfs.CodeOf(err); code == mobyfs.CodeUnavailable || code == mobyfs.CodeInternal {
		if w.controlIsAway(v) {
			return err
		}
		w.giveUpOnControl(v.record, "mounted", err)
		return err
	}
	if err != nil {
		w.log.Warn("control refused a release; the lease is not ours", "fence", s.fence, "err", err)
	} else {
		w.log.Info("released", "volume", w.name(v.record), "fence", s.fence)
	}
	w.agent.ledger.change(w.id, func(e *entry) { e.Releasing = 0 }) // repeating it after a crash does no harm
	w.mu.Lock()
	w.released, w.away = max(w.released, s.fence), false
	w.mu.Unlock()
	w.agent.roster.forget(w.id)
	return nil
}

// close takes the volume out of use unless somebody came.
func (w *worker) close() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.waiters) > 0 || w.agent.ledger.standing(w.id).uses > 0 {
		return false
	}
	w.attached, w.problem = "", ""
	return true
}

// doCreate makes the volume, empty or as a copy, and says so. Bytes that are here already stay.
func (w *worker) doCreate(ctx context.Context, v view) error {
	r := v.record
	b := w.agent.backends[r.Spec.WithDefaults().Backend]
	if b == nil {
		return w.trouble(mobyfs.Errorf(mobyfs.CodeInvalid, "%s has no backend %q for volume %q", w.agent.Node, r.Spec.Backend, r.Name))
	}
	if err := w.begin(ctx, b, v); err != nil {
		w.decline(about(err, "create", r.Name))
		return w.trouble(err)
	}
	w.mu.Lock()
	w.backend, w.bytes, w.problem, w.size = b, true, "", v.size()
	w.mu.Unlock()
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	now, err := w.agent.Control.Created(call, w.id)
	switch code := mobyfs.CodeOf(err); {
	case err == nil:
		w.log.Info("created", "volume", r.Name)
		w.agent.learn(now)
		return nil
	case code == mobyfs.CodeNotFound:
		w.agent.catalogue.remove(w.id) // removed before it was ready
		return nil
	}
	return err
}

// doGrow gives the volume the room that control promises; containers go on meanwhile.
func (w *worker) doGrow(ctx context.Context, v view) error {
	size := v.size()
	if err := w.home(v.record).Grow(ctx, w.id, size); err != nil {
		return w.trouble(err)
	}
	w.mu.Lock()
	w.size, w.problem = size, ""
	w.mu.Unlock()
	w.log.Info("grown", "volume", v.record.Name, "bytes", size)
	return nil
}

// trouble shows an error to whoever inspects the volume, and passes it on.
func (w *worker) trouble(err error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.problem = err.Error()
	return err
}

// doRecall takes a volume that was removed out of the trash and says so, or that the trash does not have it any more.
func (w *worker) doRecall(ctx context.Context, s step, v view) error {
	r := v.record
	b, ok := w.home(r).(backend.Trash)
	if !ok {
		return w.trouble(mobyfs.Errorf(mobyfs.CodeInvalid, "backend %s does not give volumes back", r.Spec.WithDefaults().Backend))
	}
	err := b.Undelete(ctx, w.id, r.Undeletion.Removed, s.fence)
	w.agent.metrics.fence("undelete", err)
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	switch {
	case mobyfs.CodeOf(err) == mobyfs.CodeNotFound:
		if err := w.agent.Control.Removed(call, w.id); err != nil && mobyfs.CodeOf(err) != mobyfs.CodeNotFound {
			return err
		}
		w.log.Warn("a removed volume was to come back, and the trash does not have it any more", "volume", r.Name)
		w.agent.catalogue.remove(w.id)
		return nil
	case err != nil:
		return w.trouble(err)
	}
	w.mu.Lock()
	w.backend, w.bytes, w.problem, w.size, w.seen = b, true, "", v.size(), max(w.seen, s.fence)
	w.mu.Unlock()
	now, err := w.agent.Control.Created(call, w.id)
	if err != nil {
		return err
	}
	w.log.Info("undeleted", "volume", r.Name, "fence", s.fence)
	w.agent.learn(now)
	return nil
}

// doRemove removes the bytes of a volume that control has removed, and says so.
func (w *worker) doRemove(ctx context.Context, s step, v view) error {
	r := v.record
	if v.bytes {
		if err := w.checkUnusedForGood(r); err != nil {
			return err
		}
	}
	b := w.home(r)
	if err := b.Detach(ctx, w.id); err != nil && mobyfs.CodeOf(err) != mobyfs.CodeNotFound {
		return err
	}
	err := b.Remove(ctx, w.id, s.fence)
	w.agent.metrics.fence("remove", err)
	if err != nil {
		return w.trouble(err)
	}
	w.agent.unguard(w.id)
	w.agent.ledger.change(w.id, func(e *entry) { *e = entry{} })
	w.mu.Lock()
	w.bytes, w.attached, w.granted = false, "", 0
	w.mu.Unlock()
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if err := w.agent.Control.Removed(call, w.id); err != nil && mobyfs.CodeOf(err) != mobyfs.CodeNotFound {
		return err
	}
	w.log.Info("removed", "volume", r.Name)
	w.agent.catalogue.remove(w.id)
	return nil
}

// doVacate ends what is left here of a volume that has moved away or was taken over.
func (w *worker) doVacate(ctx context.Context, s step, v view) error {
	if err := w.checkUnusedForGood(v.record); err != nil {
		return w.trouble(err)
	}
	if err := w.cede(ctx, s, v); err != nil {
		return w.trouble(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.bytes, w.attached, w.problem = false, "", ""
	w.log.Info("moved away", "volume", v.record.Name, "to", v.record.Node)
	return nil
}

// cede ends what this node has of a volume whose home is another one: its own copy goes to the trash; bytes that the new
// home uses stay where they are.
func (w *worker) cede(ctx context.Context, s step, v view) error {
	if b, ok := w.home(v.record).(backend.Shared); ok {
		w.agent.unguard(w.id)
		return b.Leave(ctx, w.id)
	}
	err := w.home(v.record).Remove(ctx, w.id, s.fence)
	w.agent.metrics.fence("remove", err)
	return err
}

// name is the volume's name as far as it is known, else its ID.
func (w *worker) name(r *mobyfs.Volume) string {
	if r == nil {
		return string(w.id)
	}
	return r.Name
}

// about says of which volume an error tells and what was to be done with it, unless its text says so already. Its
// kind and its way out stay.
func about(err error, doing, name string) error {
	if strings.Contains(err.Error(), name) {
		return err
	}
	return mobyfs.Errorf(mobyfs.CodeOf(err), "%s volume %q: %w", doing, name, err)
}
