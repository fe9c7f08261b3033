package transfer

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"io"
	"strings"

	"github.com/zeebo/blake3"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/dirfd"
)

// Digest reads a tree and tells its digest: equal for two trees if and only if they have the same names, kinds,
// owners, modes, times of change, carried attributes, hard links, targets, devices and content. Where the holes of
// a file are makes no difference. Progress counts what has one, as a pull does. The digest is made as another one was, such as that of a
// receipt: by the name that it begins with, as protocol.md defines it; if it has none, as that of a pull.
//
// A tree that changes meanwhile is CodeInUse.
func Digest(ctx context.Context, dir, as string) (string, mobyfs.Progress, error) {
	root, err := dirfd.OpenRoot(dir)
	if err != nil {
		return "", mobyfs.Progress{}, fault("open "+dir, err)
	}
	defer dirfd.Close(root)
	t := newTree(pullDigest)
	if strings.HasPrefix(as, liveDigest.name) {
		t = newTree(liveDigest)
	}
	buf := make([]byte, chunkSize)
	err = scan(ctx, root, wantMeta, func(it *item) error {
		var s sum
		if t.needsContent(it) {
			fd, err := it.openFile()
			if err != nil {
				return entryError(it.dir, it.name, err)
			}
			defer dirfd.Close(fd)
			if s, err = t.sumContent(ctx, it, fd, buf); err != nil {
				return entryError(it.dir, it.name, err)
			}
		}
		t.add(it, s)
		return nil
	})
	if err != nil {
		return "", mobyfs.Progress{}, err
	}
	return t.digest(), mobyfs.Progress{Files: t.files, Bytes: t.bytes, TotalBytes: t.bytes}, nil
}

// sumContent reads an open file and tells its sum. It fails if the file is not as it was when it was visited.
func (t *tree) sumContent(ctx context.Context, it *item, fd int, buf []byte) (sum, error) {
	var whole contentSum
	c := newChunks(fd, it.size)
	for {
		index, n, segs, err := c.next()
		if err == io.EOF {
			return whole.sum(), unchanged(fd, it.stamp)
		}
		if err == nil {
			err = c.read(index, buf[:n], segs)
		}
		if err == nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return sum{}, err
		}
		t.bytes += dataIn(segs)
		whole.add(index, t.chunk(buf[:n]))
	}
}

func dataIn(segs []segment) (n int64) {
	for _, s := range segs {
		n += int64(s.len)
	}
	return n
}

// definition says how a digest is made.
type definition struct {
	name  string
	chunk func([]byte) sum // of a content
}

var (
	pullDigest = definition{"mfs1-", sumChunk}
	liveDigest = definition{"mfs2-", func(b []byte) sum { return sumOfBlocks(sumBlocks(b)) }}
)

// tree makes the digest of a tree from the items of a scan.
type tree struct {
	definition
	h       *blake3.Hasher
	buf     []byte              // waits to be hashed
	rec     []byte              // the last entry, encoded
	links   map[[2]uint64]int64 // device and inode to number, of entries with several names
	entries int64               // so far; the root's number is 0
	files   int64               // entries that are no directories
	bytes   int64               // of content, holes not counted
}

func newTree(d definition) *tree {
	return &tree{definition: d, h: blake3.New(), links: map[[2]uint64]int64{}}
}

// isLink reports whether an item is a second name of one that was added.
func (t *tree) isLink(it *item) (number int64, is bool) {
	if it.nlink < 2 || it.kind == kindDir {
		return 0, false
	}
	number, is = t.links[[2]uint64{it.dev, it.ino}]
	return number, is
}

// needsContent reports whether an item is a file whose content the scan left to the visitor.
func (t *tree) needsContent(it *item) bool {
	if it.leave || it.kind != kindFile || it.inline {
		return false
	}
	_, link := t.isLink(it)
	return !link
}

// add takes in an item, with the sum of its content if it is a file, and returns its encoding, which is valid until
// the next call, nil for the end of a directory. An item that is one more name of another turns into kindLink.
func (t *tree) add(it *item, s sum) []byte {
	if it.leave {
		t.leave()
		return nil
	}
	if number, is := t.isLink(it); is {
		it.meta = meta{kind: kindLink, name: it.name, link: uint64(number)}
	} else if it.nlink > 1 && it.kind != kindDir {
		t.links[[2]uint64{it.dev, it.ino}] = t.entries
	}
	if it.inline && it.kind == kindFile {
		t.bytes += it.size
	}
	t.rec = it.meta.appendTo(t.rec[:0])
	t.addRecord(it.kind, t.rec, s)
	return t.rec
}

// addRecord takes in an encoded entry.
func (t *tree) addRecord(k kind, rec []byte, s sum) {
	t.entries++
	if k != kindDir {
		t.files++
	}
	t.buf = binary.AppendUvarint(t.buf, uint64(len(rec)))
	t.buf = append(t.buf, rec...)
	if k == kindFile {
		t.buf = append(t.buf, s[:]...)
	}
	t.drain(64 << 10)
}

// leave takes in the end of a directory.
func (t *tree) leave() { t.buf = append(t.buf, 0) }

func (t *tree) drain(above int) {
	if len(t.buf) > above {
		_, _ = t.h.Write(t.buf) // it can't fail
		t.buf = t.buf[:0]
	}
}

// digest ends it.
func (t *tree) digest() string {
	t.drain(0)
	return t.name + hex.EncodeToString(t.h.Sum(nil))
}
