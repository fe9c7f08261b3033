package transfer

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/dirfd"
)

var _ mobyfs.LivePeer = (*Client)(nil)

// Follow opens a live session. See mobyfs.LivePeer. The session ends with Close, when ctx does, or when that of a round does.
// Of what an earlier session of the same migration left nothing is used: it is removed first.
func (c *Client) Follow(ctx context.Context, from mobyfs.From, into string, o mobyfs.FollowOptions) (mobyfs.Follower, error) {
	f := &follower{o: o, p: &pull{c: c, from: from}}
	if err := f.start(ctx, into); err != nil {
		return nil, f.failed(ctx, err)
	}
	return f, nil
}

// follower is the destination's end of a live session.
type follower struct {
	o       mobyfs.FollowOptions
	p       *pull
	m       *mirror
	root    int
	hangUp  func()
	stop    func() // signs of life
	plan    plan
	luggage []byte
	number  int
	broken  bool

	mu      sync.Mutex
	predict prediction
	now     mobyfs.Progress
}

func (f *follower) failed(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		err = broken(ctx, "stopped", err)
	}
	return mobyfs.Errorf(mobyfs.CodeOf(err), "follow %s: %w", f.p.from.Node, err)
}

func (f *follower) start(ctx context.Context, into string) (err error) {
	if err = takeUp(into, f.o.Journal, f.p.from.Migration); err != nil {
		return err
	}
	if f.root, err = openEmpty(into); err != nil {
		return err
	}
	if f.hangUp, err = f.p.dial(ctx); err != nil {
		dirfd.Close(f.root)
		return err
	}
	f.m = newMirror(ctx, f.root, &f.p.pool)
	f.stop = every(min(aliveEvery, f.p.c.idleTime()/3), func() { _ = f.p.w.send(frameAlive, nil) })
	if err = f.greet(ctx); err != nil {
		_ = f.p.w.send(frameError, encodeError(err))
		_ = f.Close()
	}
	return err
}

// greet says what is wanted and learns what will come.
func (f *follower) greet(ctx context.Context) error {
	if err := f.p.bundle.Limit(f.o.BytesPerSecond); err != nil {
		return err
	}
	h := hello{uint64(f.p.bundle.Version()), f.p.from.Ticket}
	if err := f.p.say(ctx, frameFollow, h.encode()); err != nil {
		return err
	}
	in, err := f.p.next(ctx)
	if err == nil && in.typ != frameOffered {
		err = corrupt("a frame of type %d came first", in.typ)
	}
	if err != nil {
		return err
	}
	f.luggage = append([]byte(nil), in.buf.b...)
	if in, err = f.p.next(ctx); err == nil && in.typ != framePlan {
		err = corrupt("a frame of type %d instead of the plan", in.typ)
	}
	if err != nil {
		return err
	}
	if f.plan, err = decodePlan(in.buf.b); err != nil {
		return err
	}
	return checkSpace(f.root, f.plan)
}

// Luggage implements mobyfs.Follower.
func (f *follower) Luggage() []byte { return f.luggage }

// Limit implements mobyfs.Follower.
func (f *follower) Limit(bytesPerSecond int64) {
	_ = f.p.bundle.Limit(bytesPerSecond) // fails if the session is broken, which the next round tells
}

// Predict implements mobyfs.Follower.
func (f *follower) Predict() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.predict.pause(time.Now())
}

// Close implements mobyfs.Follower.
func (f *follower) Close() error {
	if f.hangUp != nil {
		f.stop()
		f.hangUp()
		f.m.close()
		dirfd.Close(f.root)
		f.hangUp = nil
	}
	return nil
}

// Round implements mobyfs.Follower.
func (f *follower) Round(ctx context.Context) (mobyfs.Round, error) {
	r, _, err := f.round(ctx, false)
	return r, err
}

// Freeze implements mobyfs.Follower.
func (f *follower) Freeze(ctx context.Context) (mobyfs.Receipt, error) {
	if f.number == 0 {
		if _, err := f.Round(ctx); err != nil {
			return mobyfs.Receipt{}, err
		}
	}
	_, receipt, err := f.round(ctx, true)
	return receipt, err
}

func (f *follower) round(ctx context.Context, last bool) (mobyfs.Round, mobyfs.Receipt, error) {
	if f.broken || f.hangUp == nil {
		return mobyfs.Round{}, mobyfs.Receipt{}, f.failed(ctx, mobyfs.Errorf(mobyfs.CodeUnavailable, "the session is over"))
	}
	stop := context.AfterFunc(ctx, f.p.bundle.Break)
	defer stop()
	stopReports := every(progressEvery, f.report)
	round, receipt, err := f.take(ctx, last)
	stopReports()
	if err != nil {
		f.broken = true
		if err = f.m.cause(err); ctx.Err() == nil {
			_ = f.p.w.send(frameError, encodeError(err)) // so that the source need not wait to thaw
		}
		return mobyfs.Round{}, mobyfs.Receipt{}, f.failed(ctx, err)
	}
	f.report()
	return round, receipt, nil
}

// take asks for a round and takes it in.
func (f *follower) take(ctx context.Context, last bool) (mobyfs.Round, mobyfs.Receipt, error) {
	begin, files, bytes := time.Now(), f.m.files.Load(), f.m.bytes.Load()
	ask := []byte{0}
	if last {
		ask[0] = 1
	}
	if err := f.p.say(ctx, frameRound, ask); err != nil {
		return mobyfs.Round{}, mobyfs.Receipt{}, err
	}
	end, err := f.stream(ctx)
	if err == nil && end.last != last {
		err = corrupt("the end of another round")
	}
	if err == nil {
		err = f.m.complete()
	}
	if err != nil {
		return mobyfs.Round{}, mobyfs.Receipt{}, err
	}
	came := time.Now()
	var receipt mobyfs.Receipt
	if last {
		receipt, err = f.m.settleLast(ctx, end.digest)
		receipt.Freeze, receipt.Progress.TotalBytes = end.freeze, f.plan.bytes
	} else {
		err = f.m.settle()
	}
	if err != nil {
		return mobyfs.Round{}, mobyfs.Receipt{}, err
	}
	if last {
		_ = f.p.w.send(frameDone, nil) // the source may have gone meanwhile; all that it had is here
	}
	r := mobyfs.Round{
		Number: f.number, Files: f.m.files.Load() - files, Bytes: f.m.bytes.Load() - bytes, Took: time.Since(begin), Feed: end.feed,
	}
	f.number++
	f.learn(&r, end, begin, came)
	return r, receipt, nil
}

// stream passes the frames of a round on until its end.
func (f *follower) stream(ctx context.Context) (roundEnd, error) {
	for {
		in, err := f.p.next(f.m.ctx)
		if err != nil {
			return roundEnd{}, err
		}
		switch in.typ {
		case frameSteps:
			err = f.m.steps(in.buf)
		case framePiece:
			err = f.m.piece(in.buf)
		case framePieceEnd:
			err = f.m.pieceEnd(in.buf.b)
			f.p.pool.release(in.buf)
		case frameRoundEnd:
			return decodeRoundEnd(in.buf.b)
		default:
			err = corrupt("a frame of type %d in a round", in.typ)
		}
		if err == nil {
			err = ctxErr(ctx)
		}
		if err != nil {
			return roundEnd{}, err
		}
	}
}

// minRateBytes is how much must come for a rate that means anything.
const minRateBytes = 1 << 20

// learn takes the measures of a round for the next prediction, and completes the round with them.
func (f *follower) learn(r *mobyfs.Round, end roundEnd, begin, came time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := &f.predict
	if spent := came.Sub(begin) - end.looked - end.paused; spent > 0 && (r.Bytes >= minRateBytes || p.rate == 0) {
		p.rate = max(1, int64(float64(r.Bytes)/spent.Seconds()))
	}
	if end.since > 0 && r.Number > 0 {
		p.dirty = int64(float64(r.Bytes) / end.since.Seconds())
	} else {
		p.dirty = p.rate // nothing is known: as much may change as came
	}
	p.looked, p.tail, p.since = end.looked, time.Since(came), begin
	r.Rate, r.DirtyRate = p.rate, p.dirty
	f.now = mobyfs.Progress{Round: f.number, Rate: p.rate, DirtyRate: p.dirty, Feed: end.feed}
}

func (f *follower) report() {
	if f.o.Progress == nil {
		return
	}
	f.mu.Lock()
	now := f.now
	now.PredictedPause = f.predict.pause(time.Now())
	f.mu.Unlock()
	now.Files, now.Bytes, now.TotalBytes = f.m.files.Load(), f.m.bytes.Load(), f.plan.bytes
	f.o.Progress(now)
}

// takeUp removes what an earlier session left in the directory, if the journal says that it was of this migration, and notes that
// this one begins. Killed in between, it is begun anew.
func takeUp(into, journal string, m mobyfs.MigrationID) error {
	if journal == "" {
		return nil
	}
	noted, err := os.ReadFile(journal)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fault("read what was noted of the migration", err)
	}
	if string(noted) != string(m) {
		return fault("note the migration", os.WriteFile(journal, []byte(m), 0o600))
	}
	entries, err := os.ReadDir(into)
	for _, e := range entries {
		if err == nil {
			err = os.RemoveAll(filepath.Join(into, e.Name()))
		}
	}
	return fault("empty "+into, err)
}
