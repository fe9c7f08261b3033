package agent

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/backend"
	"github.com/mobyfs/mobyfs/internal/durable"
	"github.com/mobyfs/mobyfs/internal/failpoint"
)

// A live migration, as its destination leads it: rounds bring what changes until what is left is so little that the pause
// is short enough; the containers are made anew, not started; the source freezes and the last of it comes; then it goes on
// as every migration does. Killed anywhere before the seal, the next try follows again into what is staged, and the journal
// of the stream says what need not come again. Killed after it, the next try commits, if the source has not taken the freeze
// back since.

// askEvery is how often a move that waits for an operator brings what has changed.
const askEvery = 3 * time.Second

// journalOf is the file of the stream's journal of a migration.
func (a *Agent) journalOf(m mobyfs.MigrationID) string {
	return filepath.Join(a.Root, "state", "follow-"+string(m))
}

// dropJournal removes the stream's journal of a migration. It goes before the bytes that it tells of.
func (w *worker) dropJournal(m mobyfs.MigrationID) error {
	path := w.agent.journalOf(m)
	if _, err := os.Lstat(path); os.IsNotExist(err) {
		return nil
	}
	return durable.Remove("agent.follow.forget", path)
}

// stageLive is where a live migration's bytes go: what is there of an earlier try stays.
func (w *worker) stageLive(ctx context.Context, b backend.Backend, m mobyfs.MigrationID, spec mobyfs.VolumeSpec) (string, error) {
	live, ok := b.(backend.Live)
	if !ok {
		return "", mobyfs.Errorf(mobyfs.CodeInvalid, "volumes of backend %s can't be moved while they are used", b.Name()).
			WithHint("stop the containers, then move it without --live")
	}
	dir, err := live.Reopen(ctx, w.id, m)
	if mobyfs.CodeOf(err) != mobyfs.CodeNotFound {
		return dir, err
	}
	if err := w.dropJournal(m); err != nil {
		return "", err
	}
	return b.Stage(ctx, w.id, m, spec)
}

// follower is the destination's end of a live migration.
type follower struct {
	w    *worker
	m    mobyfs.MigrationID
	peer mobyfs.Follower
	last mobyfs.Round
	asks bool
	bps  int64
}

// follow brings a volume that is in use and returns once its source has frozen it and all of it is here.
func (w *worker) follow(ctx context.Context, from mobyfs.From, dir string, m mobyfs.MigrationID) (mobyfs.Receipt, error) {
	peer, ok := w.agent.Peer.(mobyfs.LivePeer)
	if !ok {
		return mobyfs.Receipt{}, mobyfs.Errorf(mobyfs.CodeInvalid, "%s can't follow volumes that are in use", w.agent.Node)
	}
	f := &follower{w: w, m: m}
	f.bps = f.options().BytesPerSecond
	var err error
	f.peer, err = peer.Follow(ctx, from, dir, mobyfs.FollowOptions{BytesPerSecond: f.bps, Journal: w.agent.journalOf(m), Progress: f.progressed})
	if err != nil {
		return mobyfs.Receipt{}, err
	}
	defer func() { _ = f.peer.Close() }()
	bags, err := w.openLuggage(ctx, f.peer.Luggage(), f.options())
	if err != nil {
		return mobyfs.Receipt{}, err
	}
	if err := f.rounds(ctx); err != nil {
		return mobyfs.Receipt{}, err
	}
	for _, p := range bags {
		failpoint.Reach("agent.luggage.before")
		c, err := w.agent.Docker.Make(ctx, p, m)
		if err != nil {
			return mobyfs.Receipt{}, refusedIfSo(err)
		}
		failpoint.Reach("agent.luggage.after")
		w.log.Info("made a container anew, which starts once the volume is here", "container", c.Name, "migration", m)
	}
	w.setFrozen(time.Now())
	failpoint.Reach("agent.follow.freeze")
	return f.peer.Freeze(ctx)
}

// refusedIfSo makes an error of dockerd one that won't heal by itself.
func refusedIfSo(err error) error {
	if mobyfs.CodeOf(err) == mobyfs.CodeInternal {
		return mobyfs.Errorf(mobyfs.CodeInvalid, "%w", err)
	}
	return err
}

// options are what was asked for, as last told: they may change while it runs.
func (f *follower) options() mobyfs.MoveOptions {
	if r, _ := f.w.agent.catalogue.record(f.w.id); r != nil && r.Migration != nil && r.Migration.ID == f.m {
		return r.Migration.Options
	}
	return mobyfs.MoveOptions{}
}

// rounds brings what changes until the pause would be short enough, or is to be had as it is.
func (f *follower) rounds(ctx context.Context) error {
	for before := time.Duration(0); ; {
		if o := f.options(); o.BytesPerSecond != f.bps {
			f.bps = o.BytesPerSecond
			f.peer.Limit(f.bps)
		}
		began := time.Now()
		r, err := f.peer.Round(ctx)
		f.w.agent.metrics.phase("round", began, err)
		if err != nil {
			return err
		}
		f.last = r
		o, pause := f.options(), f.peer.Predict()
		f.w.log.Debug("a round came", "migration", f.m, "attempt", r.Number, "files", r.Files, "bytes", r.Bytes, "took", r.Took)
		switch {
		case o.Enough(r.Number, before, pause), o.OnBusy == mobyfs.BusyFreeze && r.Number+1 >= o.Rounds():
			f.ask(false)
			return nil
		case !o.Asks(r.Number):
			f.ask(false)
			before = pause
			continue
		}
		f.ask(true)
		select {
		case <-time.After(askEvery):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// ask shows whether the move waits for an operator.
func (f *follower) ask(yes bool) {
	if yes && !f.asks {
		f.w.log.Warn("containers change the volume faster than it can be brought; an operator has to decide", "migration", f.m,
			"hint", fmt.Sprintf("the pause would be %v: allow it with --max-pause, or move it with --on-busy freeze or throttle", f.peer.Predict().Round(time.Millisecond)))
	}
	f.w.mu.Lock()
	f.asks = yes
	p := f.w.move.progress
	f.w.mu.Unlock()
	f.progressed(p)
}

// progressed notes how far the session has come.
func (f *follower) progressed(p mobyfs.Progress) {
	f.w.mu.Lock()
	p.Asks = f.asks
	f.w.mu.Unlock()
	f.w.progressed(p)
}

func (w *worker) setFrozen(at time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.move.frozen = at
}
