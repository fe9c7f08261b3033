package transfer

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"sync"

	"github.com/zeebo/xxh3"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/dirfd"
)

// copyBuffer is how much one end of a copy may be ahead of the other.
const copyBuffer = 256 << 10

// Copy fills the empty directory into with the tree in from, both on this node, as Pull does it from another one: what has
// arrived was read back, and has the digest of what was read. Nothing is written below from. A tree that changes before Copy
// returns is CodeInUse, one in which another file system is mounted CodeInvalid, one without room for it CodeNoSpace.
func Copy(ctx context.Context, from, into string, progress func(mobyfs.Progress)) (mobyfs.Receipt, error) {
	receipt, err := copyBetween(ctx, from, into, progress)
	if err != nil {
		return mobyfs.Receipt{}, mobyfs.Errorf(mobyfs.CodeOf(err), "copy %s: %w", from, err).WithHint("%s", mobyfs.HintOf(err))
	}
	return receipt, nil
}

func copyBetween(ctx context.Context, from, into string, progress func(mobyfs.Progress)) (receipt mobyfs.Receipt, err error) {
	src, err := dirfd.OpenRoot(from)
	if err != nil {
		return receipt, mobyfs.Errorf(mobyfs.CodeInvalid, "open it: %w", err).
			WithHint("give the path of a directory, with no symbolic link at its end")
	}
	defer dirfd.Close(src)
	root, err := openEmpty(into)
	if err != nil {
		return receipt, err
	}
	defer dirfd.Close(root)
	before, pl, err := stillness(ctx, src)
	if err == nil {
		err = checkSpace(root, pl, plan{})
	}
	if err == nil {
		receipt, err = pour(ctx, src, root, pl, progress)
	}
	if err != nil {
		return receipt, err
	}
	after, _, err := stillness(ctx, src)
	if err == nil && after != before {
		err = mobyfs.Errorf(mobyfs.CodeInUse, "something in it changed meanwhile").WithHint("stop whatever writes into %s", from)
	}
	return receipt, err
}

// pour sends one tree and receives it as the other, in this process.
func pour(ctx context.Context, src, root int, pl plan, progress func(mobyfs.Progress)) (mobyfs.Receipt, error) {
	ctx, cancel := context.WithCancel(ctx)
	out, in := io.Pipe()
	ahead := bufio.NewWriterSize(in, copyBuffer)
	w := &frameWriter{w: ahead, flush: ahead.Flush}
	p := &pull{conn: out, w: deaf(), report: progress, frames: make(chan incoming, 4)}
	var ends sync.WaitGroup
	ends.Go(func() {
		defer func() { _ = in.Close() }()
		if _, err := send(ctx, src, w); err != nil {
			_ = w.send(frameError, encodeError(err)) // the other end has hung up if this fails, and knows why
		}
	})
	ends.Go(func() { p.read(ctx) })
	defer ends.Wait()
	defer func() { _ = out.Close() }()
	defer cancel()
	return p.receive(ctx, root, pl)
}

// deaf takes what a receiver says where no sender listens.
func deaf() *frameWriter {
	return &frameWriter{w: io.Discard, flush: func() error { return nil }}
}

// stillness is a sum of when all that is in a tree has changed last: it is the same as long as nothing does. It counts the
// tree as well. A mount in it is CodeInvalid.
func stillness(ctx context.Context, root int) (xxh3.Uint128, plan, error) {
	sum, count := xxh3.New(), newCounter()
	var device uint64
	err := scan(ctx, root, wantStat, func(it *item) error {
		switch {
		case it.leave:
			return nil
		case it.path() == "": // the tree itself, which comes first
			device = it.dev
		case it.dev != device:
			return mobyfs.Errorf(mobyfs.CodeInvalid, "another file system is mounted at %q", it.path()).
				WithHint("copy that one by itself, or unmount it there")
		}
		count.add(it)
		_, err := fmt.Fprintln(sum, it.path(), it.kind, it.ino, it.stamp)
		return err
	})
	return sum.Sum128(), count.plan, err
}
