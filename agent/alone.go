package agent

import (
	"context"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/failpoint"
)

// A node whose control is away may use a volume whose only bytes it has, without the lease: nobody else can get the
// volume meanwhile, whatever control decides. A move needs this node to give the bytes away (Offer), and it does not
// while somebody here uses them; if it has given them away before, the backend lets only a newer decision attach them.
// So the node itself is the one place where "used here" and "moved away" exclude each other. What control is told
// afterwards is a claim like any other. See docs/decisions/0026-alone-with-the-only-bytes.md.
//
// Killed after any step: the ledger says that the volume is used alone, so the next life attaches it and asks control.

// mayGoAlone reports whether the volume may be used here although control can't be asked. Bytes that other nodes see
// too are never used so, for those nodes need nothing from this one.
func (v view) mayGoAlone() bool {
	r := v.record
	return r != nil && !v.shared && r.Node == v.me && r.State == mobyfs.VolumeReady && r.Migration == nil &&
		v.bytes && len(v.staged) == 0 && v.exports == 0 && v.lease == 0
}

// aloneFence is the newest decision that is known here: control's as last told, or the one that lies beside the bytes.
func (v view) aloneFence() mobyfs.Fence { return max(v.record.Fence, v.seen, v.settling) }

// doGoAlone writes down that the volume is used without asking. A release whose outcome is not known is taken back: if
// it took effect, control's record says so later, and the lease is asked for anew.
func (w *worker) doGoAlone(_ context.Context, s step, v view) error {
	failpoint.Reach("agent.alone.before")
	w.agent.ledger.change(w.id, func(e *entry) { e.Lease, e.Releasing, e.Alone = s.fence, 0, true })
	if err := w.agent.ledger.flush(); err != nil {
		w.decline(about(err, "mount", w.name(v.record)))
		return err
	}
	failpoint.Reach("agent.alone.after")
	w.mu.Lock()
	defer w.mu.Unlock()
	w.away = false
	w.log.Warn("control can't be asked; the volume is used without it, for its only bytes are here", "volume", w.name(v.record), "fence", s.fence)
	return nil
}

// notAlone takes back that the volume is used here without asking: the backend knows of a newer decision.
func (w *worker) notAlone(v view, why error) {
	w.agent.ledger.change(w.id, func(e *entry) { e.Lease, e.Alone = 0, false })
	w.decline(mobyfs.Errorf(mobyfs.CodeUnavailable, "volume %q can't be mounted before control answers: %w", w.name(v.record), why).
		WithHint("try again once control answers"))
}

// controlIsAway notes that control could not be asked for the lease, and reports whether the volume may be used all
// the same.
func (w *worker) controlIsAway(v view) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.away = true
	return v.mayGoAlone()
}

// releasePatience is how long the answer to a release is waited for. While the watch is down that is short, for a
// container that comes meanwhile waits behind it.
func (w *worker) releasePatience(v view) time.Duration {
	if v.fresh {
		return callTimeout
	}
	return askTimeout
}
