package store

import (
	"context"
	"fmt"
	"slices"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/failpoint"
)

// Turn is held by the one member that compresses its file. While it does, it answers nobody.
type Turn struct {
	Member string    `json:"member"`
	Since  time.Time `json:"since"`
}

// KindTurn is the kind of the record of whose turn it is.
const KindTurn Kind = "turn"

// Turns holds one record at most, which ends with the lease of who wrote it.
var Turns = Table[Turn]{Kind: KindTurn, prefix: "turn/"}

const theTurn = "compress"

// aloneMost is how much a store of one member may hold to be compressed without need: all waits for that, and sessions
// of nodes must outlive it.
const aloneMost = 1 << 30

// compressInTurn compresses this member's file if that is worth it: followers first, one at a time, and who leads last,
// after another member has taken over.
func (k *spaceKeeper) compressInTurn(ctx context.Context, space Space) error {
	if !k.mayCompress(space) {
		k.waiting = time.Time{}
		return nil
	}
	if k.waiting.IsZero() {
		k.waiting = time.Now()
	}
	if k.leads() && len(k.voters()) > 0 {
		if k.othersFirst() {
			return nil
		}
		return k.handOn(ctx)
	}
	taking, cancel := context.WithTimeout(ctx, k.tempo.patience)
	lease, mine, err := k.takeTurn(taking)
	cancel()
	if err != nil || !mine {
		return err
	}
	defer func() { _ = k.s.Revoke(context.WithoutCancel(ctx), lease) }() // or it ends by itself
	renewing, stop := context.WithCancel(ctx)
	defer stop()
	go k.holdTurn(renewing, lease)
	return k.compress()
}

// mayCompress reports whether a member should compress its file and can, and has not done so a moment ago: the copy needs
// room on the disk, and a store that is alone stands still meanwhile. A file that comes near to what etcd takes is
// compressed before there is an alarm.
func (k *spaceKeeper) mayCompress(space Space) bool {
	near := space.Size > space.Quota+reserve(space.Quota)/2 && space.Fragmented() > reserve(space.Quota)/2
	if !space.Worth && !near || space.InUse+diskFloor > space.Disk.Free || time.Since(k.shrunk) < k.tempo.low {
		return false
	}
	return near || len(k.voters()) > 0 || space.InUse <= aloneMost
}

// othersFirst reports whether a member that does not lead wants to compress its file too, or may be about to say so.
func (k *spaceKeeper) othersFirst() bool {
	if time.Since(k.waiting) < 5*k.tempo.look {
		return true
	}
	first := false
	k.s.View(func(v View) {
		_, taken := Turns.In(v, theTurn)
		first = taken
		for name, other := range Spaces.All(v) {
			fresh := k.s.now().Sub(other.At).Abs() < 2*k.tempo.tell
			first = first || name != k.me && other.Worth && fresh && time.Since(k.waiting) < k.tempo.tell
		}
	})
	return first
}

// handOn makes another member lead, the first one that can.
func (k *spaceKeeper) handOn(ctx context.Context) error {
	err := fmt.Errorf("no other member votes")
	for _, to := range k.voters() {
		trying, cancel := context.WithTimeout(ctx, k.tempo.patience/5)
		err = k.etcd.Server.MoveLeader(trying, k.id(), to)
		cancel()
		if err == nil {
			k.s.log.Info("another member leads the store while this one compresses its file")
			return nil
		}
	}
	return fmt.Errorf("let another member lead: %w", err)
}

// takeTurn reports whether this member has the turn now.
func (k *spaceKeeper) takeTurn(ctx context.Context) (Lease, bool, error) {
	taken := false
	k.s.View(func(v View) { _, taken = Turns.In(v, theTurn) })
	if taken {
		return 0, false, nil
	}
	lease, err := k.s.Grant(ctx, k.tempo.turn)
	if err != nil {
		return 0, false, err
	}
	err = k.s.Update(ctx, func(tx *Tx) error {
		_, err := Turns.Get(tx, theTurn)
		if taken = err == nil; taken {
			return nil
		}
		if mobyfs.CodeOf(err) != mobyfs.CodeNotFound {
			return err
		}
		return Turns.PutLeased(tx, theTurn, Turn{Member: k.me, Since: k.s.now().UTC()}, lease)
	})
	if err != nil || taken {
		_ = k.s.Revoke(context.WithoutCancel(ctx), lease) // or it ends by itself
		return 0, false, err
	}
	return lease, true, nil
}

// holdTurn renews the turn until ctx ends. The renewal is the leader's work: that this member stands still does not
// hinder it.
func (k *spaceKeeper) holdTurn(ctx context.Context, lease Lease) {
	tick := time.NewTicker(k.tempo.turn / 4)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if err := k.s.Renew(ctx, lease); err != nil && ctx.Err() == nil {
				k.s.log.Debug("the turn could not be renewed", "err", err)
			}
		}
	}
}

// compress writes this member's file anew, without what is free in it. Killed in between it is the old file.
func (k *spaceKeeper) compress() error {
	begun := time.Now()
	k.shrunk = begun
	before := k.etcd.Server.Backend().Size()
	failpoint.Reach("store.compress.before")
	if err := k.etcd.Server.Defragment(); err != nil {
		return fmt.Errorf("compress the store: %w", err)
	}
	failpoint.Reach("store.compress.after")
	took := time.Since(begun)
	k.s.counts.compressions.Add(1)
	k.s.counts.compressed.Add(int64(took))
	k.s.log.Info("the store's file was compressed", "from", before, "to", k.etcd.Server.Backend().Size(), "took", took.Round(time.Millisecond))
	return nil
}

// endAlarm makes room after etcd has said that there is none, and ends the alarm of this member: no member takes writes
// until each that has raised one has ended it. Nothing can be written now, so whose turn it is follows from the alarms
// themselves: those that do not lead go first, in the order of their IDs.
func (k *spaceKeeper) endAlarm(ctx context.Context) error {
	if time.Now().Before(k.pause) {
		return nil
	}
	who := alarmed(k.etcd)
	if !slices.Equal(who, k.alarms) {
		k.alarms, k.alarmedAt = who, time.Now()
	}
	lost := time.Since(k.alarmedAt) > k.tempo.patience // who is to go first does not
	if !slices.Contains(who, k.id()) {
		if !lost || !k.leads() {
			return nil
		}
		return k.disarm(ctx, who[0]) // it is away; if it comes back as full as it was it says so again
	}
	if !lost && k.goesAfter(who) {
		return nil
	}
	if k.leads() && len(k.voters()) > 0 && !lost {
		if err := k.handOn(ctx); err == nil {
			return nil
		}
	}
	if k.fullSince.IsZero() {
		k.fullSince = time.Now()
	}
	err := k.makeRoom(ctx)
	if err != nil {
		k.backoff = min(max(2*k.backoff, k.tempo.look), 60*k.tempo.look)
		k.pause = time.Now().Add(k.backoff)
	}
	return err
}

// goesAfter reports whether another of the members with an alarm goes first.
func (k *spaceKeeper) goesAfter(who []uint64) bool {
	leader := uint64(k.etcd.Server.Leader())
	first := slices.IndexFunc(who, func(id uint64) bool { return id != leader })
	return first >= 0 && who[first] != k.id()
}

// makeRoom compacts, compresses and ends this member's alarm, if that has made room.
func (k *spaceKeeper) makeRoom(ctx context.Context) error {
	if err := k.compact(ctx); err != nil {
		return err
	}
	if err := k.compress(); err != nil {
		return err
	}
	b := k.etcd.Server.Backend()
	if limit := k.quota + reserve(k.quota); b.Size() >= limit-reserve(k.quota)/4 {
		return fmt.Errorf("make room in the store: %s are in use of %s, and there is no history any more that could go", inMiB(b.SizeInUse()), inMiB(limit))
	}
	k.backoff = 0
	return k.disarm(ctx, k.id())
}

func (k *spaceKeeper) disarm(ctx context.Context, member uint64) error {
	ctx, cancel := context.WithTimeout(ctx, k.tempo.patience)
	defer cancel()
	_, err := k.etcd.Server.Alarm(ctx, &etcdserverpb.AlarmRequest{
		Action: etcdserverpb.AlarmRequest_DEACTIVATE, Alarm: etcdserverpb.AlarmType_NOSPACE, MemberID: member,
	})
	if err != nil {
		return fmt.Errorf("end the alarm of the store: %w", err)
	}
	k.s.counts.alarms.Add(1)
	k.s.log.Info("the store takes writes again, as far as this member is concerned", "member", member)
	return nil
}
