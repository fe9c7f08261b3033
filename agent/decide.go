package agent

import (
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/backend"
	"github.com/mobyfs/mobyfs/internal/failpoint"
)

// view is all that a worker's next step depends on.
type view struct {
	me      string
	record  *mobyfs.Volume // as control last told; nil: there is none, or none is known
	told    bool           // control told it in this life: good enough to destroy by
	fresh   bool           // the watch is up: without a record the volume does not exist, unless it is unknown
	unknown bool           // control was not heard of the volume, which may exist

	bytes    bool               // the volume is on disk here
	room     int64              // that these bytes have, 0 if that was never said
	staged   []backend.Staged   // of this volume
	attached bool               // uses can be counted without further work
	over     mobyfs.MigrationID // a migration that is known to have ended, whatever the record says
	lease    mobyfs.Fence       // held here by the ledger or an answer of control, else 0
	settling mobyfs.Fence       // a release whose outcome is not known, else 0
	released mobyfs.Fence       // the last lease that was given back for sure
	uses     int                // counted
	waiting  int                // Mounts that wait
	linger   time.Duration      // how long the lease stays yet although nobody uses the volume
	fenced   bool               // the watchdog has ended all writing here
	exports  int                // migrations that read the volume here
	shared   bool               // all nodes see the bytes; then bytes says that this node has had the volume
	seen     mobyfs.Fence       // the highest that lies beside the bytes, as far as is known
	away     bool               // control could not be asked the last time
	alone    bool               // the lease is assumed: control was away and could not give it
	hold     *hold              // what is frozen here, or about to be; nil for nothing
	expects  bool               // the commit of what is frozen may come any moment
	gone     mobyfs.MigrationID // a migration that control said was committed, whatever the record says
}

// task is what a worker does next.
type task string

const (
	rest    task = ""          // nothing
	refuse  task = "refuse"    // those who wait: there is nothing to give them
	release task = "release"   // give the lease back
	confirm task = "confirm"   // that a lease used here is still ours
	create  task = "create"    // the empty volume
	recall  task = "undelete"  // the volume: it was removed, and comes back
	remove  task = "remove"    // the volume, for good
	adopt   task = "adopt"     // what a committed migration brought
	discard task = "discard"   // what a migration brought that did not win
	pull    task = "pull"      // the bytes from their home
	vacate  task = "vacate"    // the bytes of a volume that has its home elsewhere
	claim   task = "claim"     // the lease, for those who wait
	attach  task = "attach"    // the volume, under the lease
	goAlone task = "use alone" // the volume, whose only bytes are here, while control is away
	grow    task = "grow"      // the volume, to the size that it shall have
	thaw    task = "thaw"      // the volume: take the freeze back, and let go on what was stopped
	kill    task = "kill"      // what was stopped, for the volume was committed away
	missing task = "missing"   // say that the bytes are not where control and we believed them to be
)

// step is a task, of which migration if of one, under which fence, and why.
type step struct {
	task      task
	migration mobyfs.MigrationID
	fence     mobyfs.Fence
	why       string
}

// decide compares what should be with what is and names the one thing to do next. Doing it changes the view, or
// fails and is tried again later; when nothing is left to do it answers rest.
func decide(v view) step {
	r := v.record
	wanted := v.uses > 0 || v.waiting > 0
	switch {
	case v.hold != nil:
		return v.settleFreeze()
	case v.away && v.waiting > 0 && v.mayGoAlone():
		return step{task: goAlone, fence: v.aloneFence(), why: "a container waits, control is away, and the only bytes are here"}
	case v.settling != 0:
		return step{task: release, fence: v.settling, why: "a release has no known outcome yet"}
	case r == nil && v.waiting > 0:
		return step{task: refuse, why: "the volume does not exist any more"}
	case v.lease != 0 && !wanted && !v.lingers():
		return step{task: release, fence: v.lease, why: "nobody here uses the volume"}
	case v.doubtsLease():
		return step{task: confirm, why: "control has decided something since the lease was given"}
	case v.fenced && v.lease != 0 && wanted && v.record != nil:
		return step{task: confirm, why: "writing was ended here, and another node may have the volume"}
	case v.lease != 0 && wanted && (!v.attached || v.waiting > 0):
		return step{task: attach, fence: v.lease, why: "it is wanted and the lease is here"}
	case v.alone && v.lease != 0 && wanted:
		return step{task: confirm, why: "it is used and control has not given the lease yet"}
	case r == nil && v.fresh && !v.unknown && len(v.staged) > 0:
		return step{task: discard, migration: v.staged[0].Migration, why: "its volume does not exist any more"}
	case r == nil:
		return step{}
	}
	if s := v.onDisk(); s.task != rest {
		return s
	}
	switch {
	case v.told && v.frozenFor() && v.waiting+v.uses > 0 && v.exports == 0:
		return step{task: thaw, migration: r.Migration.ID, why: "control says that it is frozen here and it is not"}
	case v.waiting > 0 && r.State == mobyfs.VolumeRemoving:
		return step{task: refuse, why: "the volume is being removed"}
	case v.waiting > 0 && v.lost():
		return step{task: missing, why: "its home is here and its bytes are not"}
	case v.waiting > 0 && !v.attached:
		return step{task: claim, why: "a container waits"}
	case v.uses > 0 && v.lease == 0 && v.told && v.idleHere():
		return step{task: confirm, why: "containers use the volume and no lease is known"}
	case !wanted && v.lease == 0 && v.told && r.Lease != nil && r.Lease.Node == v.me && r.Lease.Fence > v.released:
		return step{task: release, fence: r.Lease.Fence, why: "control believes the volume in use here and it is not"}
	case v.lost():
		return step{task: missing, why: "its home is here and its bytes are not"}
	case v.outgrown():
		return step{task: grow, why: "it was given more room"}
	}
	return step{}
}

// settleFreeze says what becomes of what is frozen here.
func (v view) settleFreeze() step {
	m := v.hold.Migration
	switch {
	case v.committedAway(v.hold):
		return step{task: kill, migration: m, why: "the volume was committed away"}
	case v.thawed(v.hold):
		return step{task: thaw, migration: m, why: "no commit can come any more"}
	case v.expects:
		return step{}
	}
	return step{task: thaw, migration: m, why: "the freeze came to nothing"}
}

// committedAway reports whether what was stopped must never go on here.
func (v view) committedAway(h *hold) bool {
	r := v.record
	switch {
	case v.gone == h.Migration:
		return true
	case r == nil: // a volume that is in use here is removed only after it has moved
		return v.fresh && !v.unknown
	}
	last := r.LastMove
	return r.Arrived == h.Migration || last != nil && last.ID == h.Migration && last.State == mobyfs.MigrationCommitted || v.told && r.Node != v.me
}

// thawed reports whether the record says that the freeze can't be committed any more. One that is older than the freeze
// says nothing.
func (v view) thawed(h *hold) bool {
	r := v.record
	if r == nil {
		return false
	}
	last, now := r.LastMove, r.Migration
	return last != nil && last.ID == h.Migration && last.State == mobyfs.MigrationAborted ||
		now != nil && now.ID == h.Migration && now.State == mobyfs.MigrationCopying && h.Freeze > 0 && now.Freezes >= h.Freeze
}

// frozenFor reports whether control says that the volume is frozen here.
func (v view) frozenFor() bool {
	m := v.record.Migration
	return m != nil && m.Live && m.From == v.me && m.State == mobyfs.MigrationFreezing && !failpoint.Without("thaw")
}

// usableMeanwhile reports whether the volume may be used here although it is being moved away.
func (v view) usableMeanwhile() bool {
	m := v.record.Migration
	return m != nil && m.Live && m.From == v.me && m.State == mobyfs.MigrationCopying
}

// outgrown reports whether the bytes here have less room than control promises.
func (v view) outgrown() bool {
	r := v.record
	return v.told && r.Node == v.me && r.State == mobyfs.VolumeReady && r.Migration == nil && v.bytes && !v.shared && v.exports == 0 &&
		v.size() > v.room
}

// lingers reports whether a lease that nobody here uses is kept for the next container. It is not when somebody else
// wants the volume, nor when control has decided something since.
func (v view) lingers() bool {
	return v.linger > 0 && v.record != nil && (v.record.Lease == nil || v.record.Lease.Wanted == "") && !v.doubtsLease()
}

// doubtsLease reports whether control made a decision after the lease that is used here which does not contain it.
func (v view) doubtsLease() bool {
	if v.lease == 0 || !v.told || v.record == nil || v.record.Fence <= v.lease {
		return false
	}
	l := v.record.Lease
	return l == nil || l.Node != v.me || l.Fence != v.lease
}

// onDisk names what has to change on disk for the record to be true.
func (v view) onDisk() step {
	r := v.record
	home := r.Node == v.me
	switch {
	case home && r.State == mobyfs.VolumeCreating:
		return step{task: create, why: "this node was chosen as its home"}
	case home && r.Returning() && v.told:
		return step{task: recall, fence: r.Fence, why: "it was removed, and comes back"}
	case home && r.State == mobyfs.VolumeRemoving && v.told && v.exports == 0:
		return step{task: remove, fence: r.Fence, why: "it was removed"}
	}
	for _, s := range v.staged {
		switch {
		case v.won(s.Migration) && s.Receipt != nil:
			return step{task: adopt, migration: s.Migration, fence: r.Fence, why: "its migration was committed"}
		case v.told && !v.won(s.Migration) && !v.comes(s.Migration):
			return step{task: discard, migration: s.Migration, why: "its migration was not committed"}
		}
	}
	switch {
	case r.Migration != nil && v.comes(r.Migration.ID):
		return step{task: pull, migration: r.Migration.ID, why: "control moves it here"}
	case !home && v.bytes && v.uses == 0 && v.exports == 0 && v.told && !r.KeepsAt(v.me):
		return step{task: vacate, fence: r.Fence, why: "its home is " + r.Node}
	}
	return step{}
}

// idleHere reports whether this node may ask for the lease and get it, as far as the record tells.
func (v view) idleHere() bool {
	r := v.record
	return r.Node == v.me && r.State == mobyfs.VolumeReady && (r.Migration == nil || v.usableMeanwhile()) && (v.bytes || v.shared)
}

// lost reports whether the bytes should be here and nothing that is here can become them. Shared ones come with the
// home; whether they are there shows when they are attached.
func (v view) lost() bool {
	return v.record.Node == v.me && v.record.State == mobyfs.VolumeReady && !v.bytes && !v.shared && v.told
}

// comes reports whether a migration is under way to here.
func (v view) comes(m mobyfs.MigrationID) bool {
	now := v.record.Migration
	return now != nil && now.ID == m && now.To == v.me && m != v.over &&
		(now.State == mobyfs.MigrationCopying || now.State == mobyfs.MigrationFreezing)
}

// won reports whether a migration made this node the home. Later ones that failed don't change that: what it brought
// may still be waiting to be adopted.
func (v view) won(m mobyfs.MigrationID) bool {
	return v.record.Node == v.me && v.record.Arrived == m
}
