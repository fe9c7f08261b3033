package store

import (
	"context"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
)

// watchForeignUntil looks at the room of an etcd that somebody else runs, until ctx ends. It changes nothing there but the
// record of what it saw: compaction, compression and alarms are the business of who runs it.
func (s *Store) watchForeignUntil(ctx context.Context, cfg Config) {
	pace := cfg.tempo
	if pace == (tempo{}) {
		pace = atEase
	}
	k := &spaceKeeper{s: s, me: cfg.Self.name(), tempo: pace}
	tick := time.NewTicker(10 * pace.look)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.done:
			return
		case <-tick.C:
		}
		space, err := s.foreignSpace(ctx, k.me)
		if err == nil {
			k.note(space)
			err = k.tell(MakingRoom(ctx), space)
		}
		if err != nil && ctx.Err() == nil {
			s.log.Debug("the room of etcd could not be looked at", "err", err)
		}
	}
}

// foreignSpace is the room of the fullest of the members that are known.
func (s *Store) foreignSpace(ctx context.Context, me string) (Space, error) {
	ctx, cancel := context.WithTimeout(ctx, foreignTimeout)
	defer cancel()
	fullest := Space{Member: me, Level: s.noted().Level, At: s.now().UTC()}
	alarms, err := s.client.AlarmList(ctx)
	if err != nil {
		return Space{}, err
	}
	for _, a := range alarms.Alarms {
		fullest.Alarm = fullest.Alarm || a.Alarm == etcdserverpb.AlarmType_NOSPACE
	}
	for _, at := range s.client.Endpoints() {
		status, err := s.client.Status(ctx, at)
		if err == nil && status.DbSizeInUse > fullest.InUse { // one that does not answer is told of by the others
			fullest.Size, fullest.InUse, fullest.Quota = status.DbSize, status.DbSizeInUse, status.DbSizeQuota
		}
	}
	return fullest.judge(), nil
}
