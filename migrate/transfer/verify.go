package transfer

import (
	"context"
	"fmt"

	"github.com/zeebo/xxh3"
	"golang.org/x/sys/unix"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/dirfd"
)

// verify reads back names and metadata of the tree that was received, adds the sums of the contents that were read
// back already, and compares all with what was sent. Meanwhile it makes the tree durable.
func (r *receiver) verify(ctx context.Context, digest string) (mobyfs.Receipt, error) {
	synced, err := syncInBackground(r.root)
	if err != nil {
		return mobyfs.Receipt{}, err
	}
	receipt, err := r.readBack(ctx, digest)
	if e := ended(ctx, synced); err == nil {
		err = e
	}
	if err != nil {
		return mobyfs.Receipt{}, err
	}
	return receipt, nil
}

// ended waits for a sync, so that nothing holds the file system open any more; whatever failed meanwhile, the tree is to be
// discarded next. A sync can't be stopped, but need not be waited for once ctx has ended.
func ended(ctx context.Context, synced <-chan error) error {
	select {
	case err := <-synced:
		return fault("sync the file system", err)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// syncInBackground makes the file system of an open directory durable. An error of writing anything to its disk since
// the directory was opened counts.
func syncInBackground(dir int) (<-chan error, error) {
	own, err := unix.FcntlInt(uintptr(dir), unix.F_DUPFD_CLOEXEC, 0) // it may outlive the caller's
	if err != nil {
		return nil, fault("sync the file system", err)
	}
	synced := make(chan error, 1)
	go func() {
		defer dirfd.Close(own)
		synced <- unix.Syncfs(own)
	}()
	return synced, nil
}

func (r *receiver) readBack(ctx context.Context, digest string) (mobyfs.Receipt, error) {
	t := newTree(pullDigest)
	err := scan(ctx, r.root, wantMeta, func(it *item) error {
		var content sum
		number := int(t.entries)
		if !it.leave && number < len(r.expect) && it.kind == kindFile {
			content = *r.sums.at(number)
		}
		rec := t.add(it, content)
		if !it.leave && (number >= len(r.expect) || xxh3.Hash(rec) != r.expect[number]) {
			return differs(fmt.Sprintf("%q has other metadata than what was sent", it.path()))
		}
		return nil
	})
	if err != nil {
		return mobyfs.Receipt{}, err
	}
	got := t.digest()
	if t.entries != int64(len(r.expect)) || got != digest {
		return mobyfs.Receipt{}, differs(fmt.Sprintf("the digest is %s, that of the source is %s", got, digest))
	}
	return mobyfs.Receipt{Digest: got, Progress: r.progress()}, nil
}

func differs(what string) error {
	return mobyfs.Errorf(mobyfs.CodeCorrupt, "what was read back is not what was sent: %s", what).
		WithHint("the file system here may not be able to keep it: it needs times in nanoseconds, extended attributes and ACLs")
}

// progress tells what was written and read back so far.
func (r *receiver) progress() mobyfs.Progress {
	return mobyfs.Progress{Files: r.files.Load(), Bytes: r.bytes.Load(), TotalBytes: r.plan.bytes}
}
