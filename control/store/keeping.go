package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"

	"github.com/mobyfs/mobyfs"
)

// tempo is how often the space of a store is looked after.
type tempo struct {
	look     time.Duration // between two looks
	low      time.Duration // between two compactions while room is low
	full     time.Duration // and while there is none
	patience time.Duration // with a member that is to go first and does not
	tell     time.Duration // between two records of how it is, if nothing has changed
	turn     time.Duration // how long a turn lasts that nobody renews
}

var atEase = tempo{
	look: time.Second, low: 5 * time.Minute, full: 10 * time.Second, patience: 30 * time.Second, tell: 10 * time.Minute, turn: time.Minute,
}

// spaceKeeper looks after the space of this process's member: it compacts, compresses its file when its turn comes, and
// ends etcd's alarm, all by itself and again and again until there is room. All that it does may be cut off at any point:
// the next look goes on from what it sees.
type spaceKeeper struct {
	s       *Store
	etcd    *embed.Etcd
	client  *clientv3.Client
	me      string
	quota   int64
	ballast ballast
	tempo   tempo

	told      Space     // what the store has on this member
	compacted time.Time // when this member compacted last
	shrunk    time.Time // and when it compressed its file last
	waiting   time.Time // since when it wants to compress its file
	alarms    []uint64  // members with an alarm, as they were when it last changed
	alarmedAt time.Time // and when that was
	fullSince time.Time // since when this member has an alarm, until that is told
	backoff   time.Duration
	pause     time.Time // until then an alarm that could not be ended is left alone
}

func (s *Store) newSpaceKeeper(cfg Config) *spaceKeeper {
	k := &spaceKeeper{
		s: s, etcd: s.etcd, client: s.client, me: cfg.Self.name(), quota: cfg.Quota,
		ballast: ballast{filepath.Join(cfg.Root, "etcd")}, tempo: cfg.tempo,
	}
	if k.tempo == (tempo{}) {
		k.tempo = atEase
	}
	return k
}

// keepSpaceUntil keeps the space until ctx ends.
func (k *spaceKeeper) keepSpaceUntil(ctx context.Context) {
	tick := time.NewTicker(k.tempo.look)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-k.s.done:
			return
		case <-tick.C:
		}
		if err := k.step(ctx); err != nil && ctx.Err() == nil {
			k.s.log.Warn("the space of the store could not be looked after", "err", err)
		}
	}
}

func (k *spaceKeeper) step(ctx context.Context) error {
	ctx = MakingRoom(ctx)
	space, err := k.look()
	if space.Alarm {
		return errors.Join(err, k.endAlarm(ctx))
	}
	if space.InUse*100 > space.Quota*lowPercent && k.leads() {
		err = errors.Join(err, k.compactInTime(ctx, space))
	}
	return errors.Join(err, k.tell(ctx, space), k.compressInTurn(ctx, space))
}

// look sees how much room there is.
func (k *spaceKeeper) look() (Space, error) {
	disk, err := k.ballast.trim()
	space := k.s.spaceOf(Space{Member: k.me, Level: k.s.noted().Level, Quota: k.quota, Disk: disk, At: k.s.now().UTC()})
	k.note(space)
	return space, err
}

// note makes known how much room there is.
func (k *spaceKeeper) note(space Space) {
	before := k.s.noted().Level
	k.s.space.Store(&space)
	if space.Level == before {
		return
	}
	if before != "" || space.Level != SpaceEnough {
		k.s.log.Info("the room of the store has changed", "level", string(space.Level), "cause", space.Cause)
	}
	select {
	case k.s.levelled <- struct{}{}:
	default:
	}
}

// spaceOf completes what is known by how etcd is at this moment.
func (s *Store) spaceOf(space Space) Space {
	b := s.etcd.Server.Backend()
	space.Size, space.InUse, space.Alarm = b.Size(), b.SizeInUse(), len(alarmed(s.etcd)) > 0
	return space.judge()
}

// alarmed are the members that have said that their space is used up, in the order of their IDs.
func alarmed(etcd *embed.Etcd) []uint64 {
	var ids []uint64
	for _, a := range etcd.Server.Alarms() {
		if a.Alarm == etcdserverpb.AlarmType_NOSPACE {
			ids = append(ids, a.MemberID)
		}
	}
	slices.Sort(ids)
	return ids
}

func (k *spaceKeeper) id() uint64 { return uint64(k.etcd.Server.MemberID()) }

func (k *spaceKeeper) leads() bool { return k.etcd.Server.Leader() == k.etcd.Server.MemberID() }

// voters are the other members that could lead.
func (k *spaceKeeper) voters() []uint64 {
	var ids []uint64
	for _, m := range k.etcd.Server.Cluster().Members() {
		if id := uint64(m.ID); id != k.id() && !m.IsLearner {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// tell writes the record of how much room this member has, with an event if the level has changed.
func (k *spaceKeeper) tell(ctx context.Context, space Space) error {
	grown := max(space.InUse-k.told.InUse, k.told.InUse-space.InUse, space.Size-k.told.Size, k.told.Size-space.Size)
	changed := space.Level != k.told.Level || space.Worth != k.told.Worth || grown > max(space.Quota/50, 1<<20)
	ctx, cancel := context.WithTimeout(ctx, k.tempo.patience)
	defer cancel()
	if k.fullSince.IsZero() && !changed && space.At.Sub(k.told.At).Abs() < k.tempo.tell {
		return nil
	}
	err := k.s.Update(ctx, func(tx *Tx) error {
		before, err := Spaces.Get(tx, k.me)
		if err != nil && mobyfs.CodeOf(err) != mobyfs.CodeNotFound {
			return err
		}
		if err := Spaces.Put(tx, k.me, space); err != nil {
			return err
		}
		if !k.fullSince.IsZero() {
			return tx.Record(mobyfs.Event{Text: fmt.Sprintf("the store took no writes for %s, for %s was full; control has made room",
				time.Since(k.fullSince).Round(time.Millisecond), space.Member)})
		}
		if cmp.Or(before.Level, SpaceEnough) == space.Level {
			return nil
		}
		return tx.Record(mobyfs.Event{Text: levelText(space)})
	})
	if err == nil {
		k.told, k.fullSince = space, time.Time{}
	}
	return err
}

func levelText(space Space) string {
	switch space.Level {
	case SpaceLow:
		return fmt.Sprintf("room of the store is low on %s: %s", space.Member, space.Cause)
	case SpaceFull:
		return fmt.Sprintf("the store is full on %s: %s; control makes room", space.Member, space.Cause)
	default:
		return fmt.Sprintf("the store has room again on %s", space.Member)
	}
}

// compactInTime deletes the history, unless that was done a moment ago.
func (k *spaceKeeper) compactInTime(ctx context.Context, space Space) error {
	every := k.tempo.low
	if space.Level == SpaceFull { // which lasts until clearly less than the quota is in use
		every = k.tempo.full
	}
	if time.Since(k.compacted) < every {
		return nil
	}
	return k.compact(ctx)
}

// compact deletes all history up to now, and returns when this member has freed its pages.
func (k *spaceKeeper) compact(ctx context.Context) error {
	k.compacted = time.Now()
	_, err := k.client.Compact(ctx, k.etcd.Server.KV().Rev(), clientv3.WithCompactPhysical())
	if err != nil && !errors.Is(err, rpctypes.ErrCompacted) {
		return fmt.Errorf("compact the store: %w", err)
	}
	k.s.counts.compactions.Add(1)
	return nil
}

// spaceCounts is what keeping the space has taken.
type spaceCounts struct {
	compactions  atomic.Int64
	compressions atomic.Int64
	compressed   atomic.Int64 // nanoseconds in all
	alarms       atomic.Int64 // that were ended
}
