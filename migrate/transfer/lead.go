package transfer

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/mobyfs/mobyfs"
)

// The source's end of a live session: the conversation.

// maxRounds is how many rounds a session may have. More are no move.
const maxRounds = 10_000

// lead sends the tree in rounds, as the client asks for them.
func (p *pullee) lead(ctx context.Context, root int, o *Offered) (receipt mobyfs.Receipt, err error) {
	luggage, err := offeredFrame(o)
	if err != nil {
		return receipt, err
	}
	asked := make(chan asking)
	done := make(chan struct{})
	ending, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	p.conn.AwaitReads(p.s.idleTime())
	wg.Go(func() {
		if err := p.hear(ending, asked, done); err != nil {
			p.cancel(err)
		}
	})
	stopSigns := every(min(aliveEvery, p.s.idleTime()/3), func() { _ = p.w.send(frameAlive, nil) })
	defer func() {
		stopSigns()
		cancel()
		p.conn.AwaitReads(time.Nanosecond) // ends hear
		wg.Wait()
	}()
	if err := p.w.send(frameOffered, luggage); err != nil {
		return receipt, broken(ctx, "write", err)
	}
	s, stop := startSender(ctx, root, p.w)
	defer func() {
		if e := stop(); e != nil && err != nil && ctx.Err() == nil && mobyfs.CodeOf(err) == mobyfs.CodeUnavailable {
			err = e
		}
	}()
	l := &leader{sender: s, find: newChangeFinder(root)}
	if o.Feed != nil {
		l.feed = o.Feed(o.Dir)
		defer func() {
			if err := l.feed.Close(); err != nil {
				p.s.log().Warn("end what tells of changes in a volume", "err", err)
			}
		}()
	}
	if err := l.look(); err != nil {
		return receipt, err
	}
	if err := p.w.send(framePlan, l.find.count.encode()); err != nil {
		return receipt, broken(ctx, "write", err)
	}
	return p.rounds(ctx, l, o, asked, done)
}

// rounds answers what the client asks until the last round has arrived there.
func (p *pullee) rounds(ctx context.Context, l *leader, o *Offered, asked <-chan asking, done <-chan struct{}) (receipt mobyfs.Receipt, err error) {
	frozen := false
	defer func() {
		if frozen && err != nil && o.Unfreeze != nil {
			o.Unfreeze(context.WithoutCancel(ctx), err.Error())
		}
	}()
	for n := range maxRounds {
		last, err := p.await(ctx, l, asked)
		if err == nil && last && n == 0 {
			err = corrupt("the first round can't be the last")
		}
		if err != nil {
			return receipt, err
		}
		end := roundEnd{last: last}
		if !last && o.Live && o.Round != nil {
			if err := o.Round(ctx, n); err != nil {
				return receipt, err
			}
		}
		if last {
			begin := time.Now()
			if o.Live {
				if end.freeze, err = o.Freeze(ctx); err != nil {
					return receipt, err
				}
				frozen = true
			}
			l.frozen, end.paused = true, time.Since(begin)
		}
		if err := l.answer(&end); err != nil {
			return receipt, err
		}
		if !last {
			continue
		}
		receipt = mobyfs.Receipt{Digest: end.digest, Freeze: end.freeze, Progress: mobyfs.Progress{
			Files: l.tree.files, Bytes: l.tree.bytes, TotalBytes: l.tree.bytes,
		}}
		select {
		case <-done:
			return receipt, nil
		case <-ctx.Done():
			return receipt, context.Cause(ctx)
		}
	}
	return receipt, mobyfs.Errorf(mobyfs.CodeInvalid, "the session has had %d rounds", maxRounds)
}

// asking is what the client asks for.
type asking struct {
	what byte
	held *held // what the client holds; nil if it was not asked, or has told
}

// await waits until the client asks for a round. If something is there of an earlier session, it is told of that first.
func (p *pullee) await(ctx context.Context, l *leader, asked <-chan asking) (last bool, err error) {
	for {
		select {
		case a := <-asked:
			switch {
			case a.what == roundGoesOn:
				if err := p.w.send(frameTell, nil); err != nil {
					return false, broken(ctx, "write", err)
				}
				continue
			case a.held != nil && a.held.top != nil:
				return a.what == roundLast, l.goOn(a.held)
			}
			return a.what == roundLast, nil
		case <-ctx.Done():
			return false, context.Cause(ctx)
		}
	}
}

// goOn begins with what the destination holds instead of nothing.
func (l *leader) goOn(h *held) (err error) {
	if l.find, err = h.finder(l.root); err != nil {
		return err
	}
	return l.look()
}

// answer sends a round and its end.
func (l *leader) answer(end *roundEnd) error {
	if !l.fresh {
		if err := l.look(); err != nil {
			return err
		}
	}
	if err := l.round(); err != nil {
		return err
	}
	end.looked, end.feed = l.looked, l.used
	if !l.last.IsZero() {
		end.since = l.began.Sub(l.last)
	}
	if end.last {
		end.digest = digestKnown(l.find.top).digest()
	}
	return l.put(outgoing{typ: frameRoundEnd, head: end.encode()})
}

// hear passes on what the client says until the session ends.
func (p *pullee) hear(ctx context.Context, asked chan<- asking, done chan<- struct{}) error {
	buf := &buffer{}
	last, first := false, true
	var h *held
	for {
		t, err := readFrame(p.conn, buf)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, io.EOF):
			return mobyfs.Errorf(mobyfs.CodeUnavailable, "%s hung up", p.peer.Name)
		case err != nil:
			return mobyfs.Errorf(mobyfs.CodeUnavailable, "hear from %s: %w", p.peer.Name, err)
		case t == frameRound && len(buf.b) == 1 && !last:
			a := asking{what: buf.b[0], held: h}
			if h = nil; a.what == roundGoesOn {
				if !first {
					return corrupt("%s goes on in the middle", p.peer.Name)
				}
				h = &held{}
			}
			last, first = a.what == roundLast, false
			select {
			case asked <- a:
			case <-ctx.Done():
				return nil
			}
		case t == frameHeld && h != nil:
			if err := h.take(buf.b); err != nil {
				return err
			}
		case t == frameDone && last:
			close(done)
			return nil
		case t == frameAlive:
		case t == frameError:
			return decodeError(buf.b)
		default:
			return corrupt("a frame of type %d from %s", t, p.peer.Name)
		}
	}
}
