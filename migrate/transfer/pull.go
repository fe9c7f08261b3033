package transfer

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/dustin/go-humanize"
	"golang.org/x/sys/unix"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/tracing"
)

// The client's conversation with a server, once they are connected.

// read reads frames until the last one or an error.
func (p *pull) read(ctx context.Context) {
	for {
		f := incoming{buf: p.pool.get()}
		f.typ, f.err = readFrame(p.conn, f.buf)
		if f.err == nil && f.typ == frameAlive {
			p.pool.release(f.buf)
			continue
		}
		select {
		case p.frames <- f:
		case <-ctx.Done():
			return
		}
		if f.err != nil || f.typ == frameTrailer || f.typ == frameError {
			return
		}
	}
}

// next returns the next frame that says something. What the server says went wrong there is an error here.
func (p *pull) next(ctx context.Context) (incoming, error) {
	for {
		var f incoming
		select {
		case f = <-p.frames:
		case <-ctx.Done():
			return f, context.Cause(ctx)
		}
		switch {
		case f.err == io.EOF || errors.Is(f.err, io.ErrUnexpectedEOF):
			return f, mobyfs.Errorf(mobyfs.CodeUnavailable, "the stream broke off")
		case f.err != nil:
			return f, p.refused(ctx, "read the stream", f.err)
		case f.typ == frameError:
			return f, decodeError(f.buf.b)
		case f.typ != frameAlive:
			return f, nil
		}
		p.pool.release(f.buf)
	}
}

// say sends a frame. If that fails, what the server said last tells more than the connection does.
func (p *pull) say(ctx context.Context, t frameType, payload []byte) error {
	err := p.w.send(t, payload)
	if err == nil {
		return nil
	}
	if _, last := p.next(ctx); last != nil {
		return last
	}
	return broken(ctx, "write", err)
}

// talk leads the conversation: hello, plan, go, the tree, done.
func (p *pull) talk(ctx context.Context, root int) (mobyfs.Receipt, error) {
	if err := p.say(ctx, frameHello, hello{uint64(p.bundle.Version()), p.from.Ticket}.encode()); err != nil {
		return mobyfs.Receipt{}, err
	}
	f, err := p.next(ctx)
	if err == nil && f.typ != framePlan {
		err = corrupt("a frame of type %d came first", f.typ)
	}
	if err != nil {
		return mobyfs.Receipt{}, err
	}
	pl, err := decodePlan(f.buf.b)
	if err == nil {
		err = checkSpace(root, pl, plan{})
	}
	if err == nil {
		err = p.say(ctx, frameGo, nil)
	}
	if err != nil {
		return mobyfs.Receipt{}, err
	}
	return p.receive(ctx, root, pl)
}

// receive takes in the tree and proves that it is the one that was sent.
func (p *pull) receive(ctx context.Context, root int, pl plan) (mobyfs.Receipt, error) {
	r := newReceiver(ctx, root, pl, &p.pool)
	report := func() {
		if p.report != nil {
			p.report(r.progress())
		}
	}
	stopReports := every(progressEvery, report)
	digest, err := p.take(r)
	err = r.finish(err)
	stopReports()
	if err != nil {
		return mobyfs.Receipt{}, err
	}
	report()
	stopSigns := every(aliveEvery, func() { _ = p.w.send(frameAlive, nil) })
	ctx, span := tracing.Continue(ctx, "digest")
	receipt, err := r.verify(ctx, digest)
	tracing.End(span, err)
	stopSigns()
	if err == nil {
		_ = p.w.send(frameDone, nil) // the source may have gone meanwhile; all that it had is here
	}
	return receipt, err
}

// take passes the frames of the tree on to r until the trailer, whose digest it returns.
func (p *pull) take(r *receiver) (digest string, err error) {
	for {
		f, err := p.next(r.ctx)
		if err != nil {
			return "", err
		}
		switch f.typ {
		case frameBatch:
			err = r.batch(f.buf)
		case frameChunk:
			err = r.chunk(f.buf)
		case frameFileEnd:
			err = r.fileEnd(f.buf.b)
			p.pool.release(f.buf)
		case frameTrailer:
			d := decoder{b: f.buf.b}
			digest = d.string(200)
			return digest, r.complete(d.end(nil))
		default:
			err = corrupt("a frame of type %d in the middle", f.typ)
		}
		if err != nil {
			return "", err
		}
	}
}

// every calls do again and again until stop is called, and not after it has returned.
func every(d time.Duration, do func()) (stop func()) {
	end := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		t := time.NewTicker(d)
		defer t.Stop()
		for {
			select {
			case <-t.C:
				do()
			case <-end:
				return
			}
		}
	})
	return func() { close(end); wg.Wait() }
}

// checkSpace compares what will come with what is free on the file system of an open directory, and what is taken by what is there of it.
func checkSpace(root int, pl, there plan) error {
	var st unix.Statfs_t
	if err := unix.Fstatfs(root, &st); err != nil {
		return fault("ask for the free space", err)
	}
	free := int64(st.Bavail)*st.Bsize + there.space
	if pl.space > free {
		return mobyfs.Errorf(mobyfs.CodeNoSpace, "the volume takes %s on disk, here %s are free",
			humanize.IBytes(uint64(pl.space)), humanize.IBytes(uint64(free))).
			WithHint("make room on this node, or move the volume to another one")
	}
	if room := int64(st.Ffree) + there.entries; st.Files > 0 && pl.entries > room {
		return mobyfs.Errorf(mobyfs.CodeNoSpace, "the volume has %d files and directories, here is room for %d (inodes)",
			pl.entries, room).WithHint("make room on this node, or move the volume to another one")
	}
	return nil
}
