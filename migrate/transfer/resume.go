package transfer

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/dirfd"
	"github.com/mobyfs/mobyfs/internal/durable"
	"github.com/mobyfs/mobyfs/internal/failpoint"
)

// A live session that goes on where an earlier one of its migration ended: the destination's end.
//
// Of the earlier one nothing is remembered but whose remains these are. What lies there is read, each name and each byte, as the disk
// gives it; that is the manifest from then on, and the source is told of it and sends what its own tree has otherwise. So it does not
// matter where the earlier session was cut, or what a power cut left of it.

// openStaged opens the directory that the tree will be. It is empty, or holds what an earlier session of the migration left: the
// journal says so, or the caller knows. What another migration left is CodeInvalid, and stays as it is.
func openStaged(into string, o mobyfs.FollowOptions, m mobyfs.MigrationID) (root int, held bool, err error) {
	root, err = dirfd.OpenRoot(into)
	if err != nil {
		return -1, false, fault("open "+into, err)
	}
	entries, err := dirfd.List(root, make([]byte, 4<<10))
	if err == nil && len(entries) > 0 && !o.TakeUp {
		err = mayTakeUp(o.Journal, m, entries[0].Name)
	}
	if err == nil {
		err = note(o.Journal, m)
	}
	if err == nil {
		err = bare(root)
	}
	if err != nil {
		dirfd.Close(root)
		return -1, false, fault("prepare "+into, err)
	}
	return root, len(entries) > 0, nil
}

// mayTakeUp checks that the journal is this migration's. One that is torn is: it lies where this migration has its own, and more than
// whose it is need not be known.
func mayTakeUp(journal string, m mobyfs.MigrationID, holds string) error {
	whose := "which is of no migration that is known"
	if journal != "" {
		noted, err := os.ReadFile(journal)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fault("read what was noted of the migration", err)
		}
		id, whole := strings.CutSuffix(string(noted), "\n")
		if err == nil && (!whole || id == string(m)) {
			return nil
		}
		if err == nil {
			whose = "which migration " + id + " left there"
		}
	}
	return mobyfs.Errorf(mobyfs.CodeInvalid, "it is not empty: it holds %q, %s", holds, whose).
		WithHint("abort that migration, which removes it, or give another directory")
}

// note writes into the journal that what the directory will hold is of the migration, before the first of it is there.
func note(journal string, m mobyfs.MigrationID) error {
	if journal == "" {
		return nil
	}
	line := []byte(string(m) + "\n")
	if noted, err := os.ReadFile(journal); err == nil && slices.Equal(noted, line) {
		return nil
	}
	return fault("note the migration", durable.WriteFile("transfer.follow.note", journal, line, 0o600))
}

// goOn asks for the first round as one that goes on where an earlier session ended, and tells the source what is here. asked says that
// the source has begun the round: it knows no way to go on, and all begins anew.
func (f *follower) goOn(ctx context.Context) (asked bool, err error) {
	if err := f.p.say(ctx, frameRound, []byte{roundGoesOn}); err != nil {
		return false, err
	}
	in, err := f.p.next(f.m.ctx)
	if err != nil {
		return false, err
	}
	if in.typ != frameTell {
		f.first = &in
		return true, f.beginAnew(ctx)
	}
	f.p.pool.release(in.buf)
	err = f.m.recall()
	failpoint.Reach("transfer.recalled")
	if err != nil || f.m.weight() > maxHeld { // what can't be read, or told, is brought again
		if err := ctxErr(ctx); err != nil {
			return false, err
		}
		return false, f.beginAnew(ctx)
	}
	return false, f.m.tell(func(frame []byte) error { return f.p.say(ctx, frameHeld, frame) })
}

// beginAnew removes what an earlier session left.
func (f *follower) beginAnew(ctx context.Context) error {
	f.m.close()
	f.m = newMirror(f.ctx, f.root, &f.p.pool)
	again, err := dirfd.Open(f.root, ".") // the list of root itself was read to its end
	if err != nil {
		return fault("open what an earlier session left", err)
	}
	defer dirfd.Close(again)
	entries, err := dirfd.List(again, make([]byte, 64<<10))
	for _, e := range entries {
		if err == nil {
			err = ctxErr(ctx)
		}
		if err == nil {
			err = os.RemoveAll(procPath(f.root, e.Name))
		}
	}
	return fault("remove what an earlier session left", err)
}

// recall makes the manifest of what lies in the tree, of which nothing is known yet.
func (m *mirror) recall() error {
	if err := writeOut(m.root); err != nil { // so that the disk is read, and not what the kernel holds
		return err
	}
	r := &recalling{m: m, links: map[inodeKey]*inode{}}
	err := scan(m.ctx, m.root, wantMeta, r.visit)
	if e := m.drain(); e != nil {
		err = e
	}
	return err
}

// recalling takes in the items of a scan of what lies in the tree.
type recalling struct {
	m     *mirror
	stack []*inode
	links map[inodeKey]*inode // what has several names
}

func (r *recalling) visit(it *item) error {
	if it.leave {
		r.stack = r.stack[:len(r.stack)-1]
		return nil
	}
	if len(r.stack) == 0 {
		top := r.m.nodes[0]
		top.body = string(it.appendBody(nil))
		r.stack = append(r.stack, top)
		return nil
	}
	at := spot{r.stack[len(r.stack)-1], it.name}
	key := inodeKey{it.dev, it.ino}
	if n := r.links[key]; n != nil {
		r.again(n, at)
		return nil
	}
	n := &inode{id: uint64(len(r.m.nodes)), kind: it.kind, body: string(it.appendBody(nil)), links: 1, at: at}
	r.m.nodes = append(r.m.nodes, n)
	at.dir.dir.add(at.name, n)
	switch {
	case n.kind == kindDir:
		n.dir = &listing{}
		r.stack = append(r.stack, n)
		return nil
	case it.nlink > 1:
		r.links[key] = n
	}
	if n.kind != kindFile {
		return nil
	}
	return r.m.recallContent(n, it)
}

// again notes one more name of what was seen.
func (r *recalling) again(n *inode, at spot) {
	at.dir.dir.add(at.name, n)
	n.links++
	if n.more == nil {
		n.more = map[spot]bool{}
	}
	n.more[at] = true
}

// recallContent has a helper read a file.
func (m *mirror) recallContent(n *inode, it *item) error {
	n.chunks, n.sum = []chunkRecord{}, sumOfChunks(nil)
	if it.size == 0 {
		return nil
	}
	fd, err := it.openFile()
	if err != nil {
		return entryError(it.dir, it.name, err)
	}
	size := it.size
	err = m.do(func() error {
		defer dirfd.Close(fd)
		return fault("read "+n.at.path(), m.sumContent(fd, n, size))
	})
	if err != nil {
		dirfd.Close(fd)
	}
	return err
}

// sumContent makes the sums of a file.
func (m *mirror) sumContent(fd int, n *inode, size int64) error {
	_ = unix.Fadvise(fd, 0, 0, unix.FADV_DONTNEED) // a hint
	buf := m.pool.get()
	defer m.pool.release(buf)
	for c := newChunks(fd, size); ; {
		index, length, segs, err := c.next()
		if err == io.EOF {
			n.sum = sumOfChunks(n.chunks)
			return nil
		}
		if err == nil {
			buf.b = slices.Grow(buf.b[:0], length)[:length]
			err = c.read(index, buf.b, segs)
		}
		if err == nil {
			err = ctxErr(m.ctx)
		}
		if err != nil {
			return err
		}
		blocks := sumBlocks(buf.b)
		n.setChunk(index, sumOfBlocks(blocks))
		m.blocks.keep(n, index, blocks)
		m.kept.Add(dataIn(segs))
	}
}

// syncEvery is how much content is synced at once: a power cut costs that, and as much again that came meanwhile.
const syncEvery = 32 << 20

// wrote counts content that came, and now and then has it synced. It waits if the sync before has not ended by then.
func (m *mirror) wrote(n int64) {
	m.bytes.Add(n)
	if m.unsynced.Add(n) < syncEvery {
		return
	}
	m.syncing.Lock()
	came := m.unsynced.Load()
	if came < syncEvery { // another helper was first
		m.syncing.Unlock()
		return
	}
	m.unsynced.Add(-came)
	m.wg.Go(func() { // a helper calls wrote, so close waits for this too
		defer m.syncing.Unlock()
		if err := writeOut(m.root); err != nil {
			m.cancel(err) // the next sync would not tell of it again
		}
		failpoint.Reach("transfer.synced")
	})
}
