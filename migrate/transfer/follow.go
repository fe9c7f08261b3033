package transfer

import (
	"context"
	"sync"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/dirfd"
	"github.com/mobyfs/mobyfs/internal/tracing"
	"github.com/mobyfs/mobyfs/migrate/bundle"
)

var _ mobyfs.LivePeer = (*Client)(nil)

// Follow opens a live session. See mobyfs.LivePeer. The session ends with Close, when ctx does, or when that of a round does.
// Where an earlier session of the same migration ended, it goes on: resume.go.
func (c *Client) Follow(ctx context.Context, from mobyfs.From, into string, o mobyfs.FollowOptions) (mobyfs.Follower, error) {
	f := &follower{ctx: ctx, o: o, p: &pull{c: c, from: from}}
	if err := f.start(into); err != nil {
		return nil, f.failed(ctx, err)
	}
	return f, nil
}

// follower is the destination's end of a live session.
type follower struct {
	ctx     context.Context // of the session
	o       mobyfs.FollowOptions
	p       *pull
	m       *mirror
	root    int
	held    bool      // an earlier session left something, and the source was not told of it yet
	first   *incoming // a frame that was read too early
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

func (f *follower) start(into string) (err error) {
	ctx := f.ctx
	if f.root, f.held, err = openStaged(into, f.o, f.p.from.Migration); err != nil {
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
	if f.p.bundle.Version() < bundle.Protocol2 {
		return mobyfs.Errorf(mobyfs.CodeInvalid, "it can't be followed: it knows protocol 1 only").
			WithHint("run the same version of mobyfs on both nodes")
	}
	if err := f.p.bundle.Limit(f.o.BytesPerSecond); err != nil {
		return err
	}
	h := hello{liveProtocol, f.p.from.Ticket}
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
	var there plan
	if f.held {
		if there, err = survey(ctx, f.root, func() error { return nil }); err != nil {
			return err
		}
	}
	return checkSpace(f.root, f.plan, there)
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
	if err := f.ask(ctx, last); err != nil {
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
		proving, span := tracing.Continue(ctx, "digest")
		receipt, err = f.m.settleLast(proving, end.digest)
		tracing.End(span, err)
		receipt.Freeze, receipt.Progress.TotalBytes = end.freeze, f.plan.bytes
		receipt.Progress.Round, receipt.Progress.Feed = f.number, end.feed
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

// ask asks for a round.
func (f *follower) ask(ctx context.Context, last bool) error {
	what := byte(roundNext)
	if last {
		what = roundLast
	}
	if f.held {
		f.held = false
		if asked, err := f.goOn(ctx); err != nil || asked {
			return err
		}
	}
	return f.p.say(ctx, frameRound, []byte{what})
}

// nextFrame is the next frame of a round.
func (f *follower) nextFrame() (incoming, error) {
	if in := f.first; in != nil {
		f.first = nil
		return *in, nil
	}
	return f.p.next(f.m.ctx)
}

// stream passes the frames of a round on until its end.
func (f *follower) stream(ctx context.Context) (roundEnd, error) {
	for {
		in, err := f.nextFrame()
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
	if spent := came.Sub(begin) - end.looked - end.paused; spent > 0 && (r.Bytes >= minRateBytes || p.rate == 0 || p.compared) {
		p.rate = max(1, int64(float64(r.Bytes)/spent.Seconds()))
		p.compared = r.Number == 0 && f.m.kept.Load() > 0
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
	now.Files, now.Bytes = f.m.files.Load(), f.m.bytes.Load()
	now.TotalBytes = max(now.Bytes, f.plan.bytes-f.m.kept.Load())
	f.o.Progress(now)
}
