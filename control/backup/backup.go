// Package backup makes one sealed file of all that the store of a cluster holds at one revision, and a store of such a
// file.
//
// A file begins with a line of JSON, its Header, for whoever has no key. What follows is sealed (internal/seal) under that
// line, so that a header in front of another backup opens nothing: a stream of records, compressed, and at its end how
// many there are. What was cut, changed or exchanged anywhere is noticed before anything is put in its place.
package backup

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/control/store"
	"github.com/mobyfs/mobyfs/internal/seal"
)

// Header is what can be known of a backup without its key.
type Header struct {
	Format  int       `json:"mobyfs_backup"` // formatNow
	ID      string    `json:"id"`            // a ULID, lower case: backups sort by time
	Cluster string    `json:"cluster"`
	MadeAt  time.Time `json:"made_at"`
	Schema  int       `json:"schema"` // of its records
	Epoch   uint32    `json:"epoch"`  // of the newest fences in it
	Key     string    `json:"key"`    // which key opens it
}

// formatNow is the version of the file's format.
const formatNow = 1

// Bounds of what a file may hold.
const (
	maxHeader = 4 << 10 // bytes
	maxKey    = 1 << 10
	maxRaw    = 2 << 20  // etcd takes less in one record
	maxWindow = 32 << 20 // of the compression
)

// end is what lies behind the last record.
type end struct {
	Records  int64 `json:"records"`
	Revision int64 `json:"revision"` // at which the records are those of the store
}

// Summary is what a backup turned out to hold.
type Summary struct {
	Header
	Records  int64
	Revision int64
}

// place is under what the content is sealed.
func place(header []byte) string { return "backup " + string(bytes.TrimSpace(header)) }

// Write makes a backup of the store. What it wrote is worth nothing unless it returns nil.
func Write(ctx context.Context, w io.Writer, s *store.Store, key *seal.Key, h Header) (Summary, error) {
	h.Format, h.Schema, h.Epoch, h.Key = formatNow, store.Schema, s.Epoch(), key.ID()
	head, err := json.Marshal(h)
	if err != nil {
		return Summary{}, err
	}
	if _, err := w.Write(append(head, '\n')); err != nil {
		return Summary{}, fmt.Errorf("write the backup: %w", err)
	}
	sealing, err := key.Writer(w, place(head))
	if err != nil {
		return Summary{}, err
	}
	packing, err := zstd.NewWriter(sealing, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(maxWindow/8))
	if err != nil {
		return Summary{}, err
	}
	total := end{}
	total.Revision, err = s.Dump(ctx, func(r store.Record) error {
		total.Records++
		return writeRecord(packing, r)
	})
	if err == nil {
		err = writeEnd(packing, total)
	}
	if err = errors.Join(err, packing.Close()); err != nil {
		return Summary{}, fmt.Errorf("write the backup: %w", err)
	}
	if err := sealing.Close(); err != nil {
		return Summary{}, fmt.Errorf("write the backup: %w", err)
	}
	return Summary{h, total.Records, total.Revision}, nil
}

// writeRecord writes the lengths of key and value, the revision, the key and the value. No key is empty.
func writeRecord(w io.Writer, r store.Record) error {
	b := binary.AppendUvarint(nil, uint64(len(r.Key)))
	b = binary.AppendUvarint(b, uint64(len(r.Raw)))
	b = binary.AppendUvarint(b, uint64(r.Revision))
	b = append(append(b, r.Key...), r.Raw...)
	_, err := w.Write(b)
	return err
}

// writeEnd writes a record without a key.
func writeEnd(w io.Writer, e end) error {
	raw, err := json.Marshal(e)
	if err != nil {
		return err
	}
	return writeRecord(w, store.Record{Raw: raw})
}

// Reader reads a backup once, from its beginning to its end.
type Reader struct {
	Header
	from   *bufio.Reader
	head   []byte
	closed func()
	at     end
	whole  bool
}

// Open reads the header.
func Open(r io.Reader) (*Reader, error) {
	from := bufio.NewReaderSize(r, maxHeader)
	head, err := from.ReadSlice('\n')
	if err != nil {
		return nil, notOne()
	}
	b := &Reader{from: from, head: bytes.Clone(head), closed: func() {}}
	if json.Unmarshal(head, &b.Header) != nil || b.Format == 0 || b.Cluster == "" || b.ID == "" {
		return nil, notOne()
	}
	if b.Format > formatNow || b.Schema > store.Schema {
		return nil, mobyfs.Errorf(mobyfs.CodeInvalid, "the backup %s was made by a newer mobyfs: format %d, records of version %d", b.ID, b.Format, b.Schema).
			WithHint("install the mobyfs-control that made it, or a newer one")
	}
	return b, nil
}

func notOne() error {
	return mobyfs.Errorf(mobyfs.CodeInvalid, "this is no backup of a cluster").WithHint("give a file that mobyctl control backup wrote")
}

// Close gives back what reading took.
func (b *Reader) Close() { b.closed() }

// Records yields all records, once. An error ends them: CodeDenied if the key is not the backup's, CodeCorrupt if the
// backup is not what was written. Until it has yielded the last one without an error nothing of it may count.
func (b *Reader) Records(key *seal.Key) iter.Seq2[store.Record, error] {
	return func(yield func(store.Record, error) bool) {
		from, err := b.unseal(key)
		for err == nil {
			var r store.Record
			if r, err = readRecord(from); err != nil {
				break
			}
			if r.Key == "" {
				err = b.finish(from, r.Raw)
				break
			}
			b.at.Records++
			if !yield(r, nil) {
				return
			}
		}
		if err != nil {
			yield(store.Record{}, b.wrong(err))
		}
	}
}

// Summary tells what was read, and whether that is the whole.
func (b *Reader) Summary() (Summary, bool) {
	return Summary{b.Header, b.at.Records, b.at.Revision}, b.whole
}

func (b *Reader) unseal(key *seal.Key) (*bufio.Reader, error) {
	opened, err := key.Reader(b.from, place(b.head))
	if err != nil {
		return nil, err
	}
	unpacked, err := zstd.NewReader(opened, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
	if err != nil {
		return nil, err
	}
	b.closed = unpacked.Close
	return bufio.NewReaderSize(unpacked, 1<<20), nil
}

func readRecord(from *bufio.Reader) (store.Record, error) {
	var sizes [3]uint64
	for i := range sizes {
		n, err := binary.ReadUvarint(from)
		if err != nil {
			return store.Record{}, err
		}
		sizes[i] = n
	}
	if sizes[0] > maxKey || sizes[1] > maxRaw || sizes[2] > 1<<62 {
		return store.Record{}, errors.New("a record is larger than any that is written")
	}
	text := make([]byte, sizes[0]+sizes[1])
	if _, err := io.ReadFull(from, text); err != nil {
		return store.Record{}, err
	}
	return store.Record{Key: string(text[:sizes[0]]), Raw: text[sizes[0]:], Revision: int64(sizes[2])}, nil
}

// finish checks that all records came and that nothing follows.
func (b *Reader) finish(from *bufio.Reader, raw []byte) error {
	var e end
	if err := json.Unmarshal(raw, &e); err != nil {
		return err
	}
	if e.Records != b.at.Records {
		return fmt.Errorf("it has %d records where %d were written", b.at.Records, e.Records)
	}
	if _, err := from.ReadByte(); err != io.EOF {
		return errors.Join(errors.New("something follows its end"), err)
	}
	b.at, b.whole = e, true
	return nil
}

// wrong puts into words why a backup can't be read.
func (b *Reader) wrong(err error) error {
	if errors.Is(err, seal.ErrKey) {
		return mobyfs.Errorf(mobyfs.CodeDenied, "the backup %s of cluster %q was sealed with key %.40s, which is not in the file of keys", b.ID, b.Cluster, b.Key).
			WithHint("give the file that mobyfs-control backup key printed on a control host of that cluster")
	}
	return mobyfs.Errorf(mobyfs.CodeCorrupt, "the backup %s of cluster %q is not what was written: %w", b.ID, b.Cluster, err).
		WithHint("take another copy of it, or another backup: mobyfs backup ls on the nodes")
}
