package store

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/oklog/ulid/v2"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/audit"
	"github.com/mobyfs/mobyfs/internal/durable"
	"github.com/mobyfs/mobyfs/internal/failpoint"
)

// Record is a record as it lies in the store.
type Record struct {
	Key      string
	Raw      []byte
	Revision int64
}

// ofProcesses are the tables whose records speak of processes and of this store, and mean nothing in another one. Tokens
// are among them: one that was used since would let its finder in.
var ofProcesses = []table{Sessions, Requests, Tokens, Copies, Holdings, Inventories, Spaces, Turns, Promises, BackupTurns}

// Schema is the version of the records that this program writes. It restores no backup with a higher one.
const Schema = schema

// Dump calls each with all records of the cluster in the order of their keys, as they are at one revision, which it
// returns. What ends each ends the dump.
func (s *Store) Dump(ctx context.Context, each func(Record) error) (int64, error) {
	reading, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var failed error
	rev, err := s.engine.read(reading, root, 0, func(key string, e entry) {
		if failed != nil || isOfProcesses(key) {
			return
		}
		if failed = each(Record{key, e.raw, e.rev}); failed != nil {
			stop(failed)
		}
	})
	switch {
	case failed != nil:
		return 0, failed
	case err != nil:
		return 0, unavailable("read the store", err)
	}
	return rev, nil
}

// KindOf tells what a key holds, "" if that is no table's record.
func KindOf(key string) (Kind, string) {
	t, id, ok := tableOf(key)
	if !ok {
		return "", ""
	}
	return t.kind(), id
}

func isOfProcesses(key string) bool {
	for _, t := range ofProcesses {
		if _, ok := t.idOf(key); ok {
			return true
		}
	}
	return false
}

// Sizes of the transactions in which a store is filled.
const (
	fillRecords = 500
	fillBytes   = 1 << 20
)

// Restore makes a store of one member in cfg.Root, which has none, of the records of a backup. Its fences and revisions
// are higher than all of the backup; r says so to whoever opens it. When it returns nil the store is whole and on disk.
// Otherwise what it left in Root is worth nothing.
func Restore(ctx context.Context, cfg Config, r Restored, records iter.Seq2[Record, error]) error {
	dir := filepath.Join(cfg.Root, "etcd")
	if err := durable.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("make the directory of the store: %w", err)
	}
	self := cfg.Self
	self.token = "mobyfs-" + r.Backup + "-" + r.At.Format(time.RFC3339Nano) // members of the lost store are none of this one
	server, err := startEtcd(ctx, dir, self, MaxQuota, zap.New(etcdLog{cfg.Log.Handler(), &atomic.Bool{}}))
	if err != nil {
		return err
	}
	defer server.Close()
	client, err := clientv3.New(clientv3.Config{
		Context: ctx, Endpoints: []string{"unix://" + socketIn(dir)}, DialTimeout: startTimeout, Logger: zap.NewNop(),
	})
	if err != nil {
		return fmt.Errorf("connect to the store: %w", err)
	}
	return errors.Join(fill(ctx, etcdEngine{client: client}, r, records), client.Close())
}

// RestoreMemory is Restore into memory that holds nothing.
func RestoreMemory(ctx context.Context, m *Memory, r Restored, records iter.Seq2[Record, error]) error {
	return fill(ctx, m, r, records)
}

// fill writes the records into an engine that has none, the cluster's own last.
func fill(ctx context.Context, e engine, r Restored, records iter.Seq2[Record, error]) error {
	f := filling{batch: map[string]write{}}
	for rec, err := range records {
		if err == nil {
			err = f.take(ctx, e, rec)
		}
		if err != nil {
			return err
		}
	}
	if f.cluster == nil {
		return mobyfs.Errorf(mobyfs.CodeCorrupt, "the backup does not say whose it is").WithHint("restore another one")
	}
	var c cluster
	if err := json.Unmarshal(f.cluster, &c); err != nil {
		return mobyfs.Errorf(mobyfs.CodeCorrupt, "read whose backup it is: %w", err).WithHint("restore another one")
	}
	if err := c.restored(r, f.newest); err != nil {
		return err
	}
	raw, err := encode(f.cluster, c)
	if err != nil {
		return err
	}
	f.batch[clusterKey] = write{raw: raw}
	event := mobyfs.Event{
		At: r.At, ID: strings.ToLower(ulid.MustNew(ulid.Timestamp(r.At), rand.Reader).String()),
		Text: "control restored from backup " + r.Backup + " of " + r.MadeAt.UTC().Format(time.RFC3339),
	}
	if raw, err = json.Marshal(event); err != nil {
		return err
	}
	f.batch[Events.key(event.ID)] = write{raw: raw}
	return f.flush(ctx, e)
}

// restored makes the record of a cluster that of one which begins anew from a backup.
func (c *cluster) restored(r Restored, newest int64) error {
	if c.Schema > schema {
		return mobyfs.Errorf(mobyfs.CodeInvalid, "the backup has records of version %d, this program knows %d", c.Schema, schema).
			WithHint("install the mobyfs-control that wrote them, or a newer one")
	}
	if c.Epoch >= mobyfs.MaxEpoch {
		return mobyfs.Errorf(mobyfs.CodeInvalid, "the cluster was restored %d times, as often as there are epochs", c.Epoch).
			WithHint("make a new cluster")
	}
	c.Before = c.Epoch
	c.Epoch++
	c.Base = max(newest, r.At.Unix()<<revisionsPerSecond)
	c.History = r.Backup + "@" + r.At.UTC().Format(time.RFC3339Nano)
	c.Restored = &r
	return nil
}

// revisionsPerSecond, as bits, is more than a store ever makes. So a restore whose clock is right begins above what the
// store before it told, also if that was restored from the same backup.
const revisionsPerSecond = 20

// filling is how far a store is filled.
type filling struct {
	batch   map[string]write
	bytes   int
	cluster []byte // its record
	newest  int64  // revision of the backup's records
	sealed  int64  // revision up to which the events are part of the audit trail's segments
}

func (f *filling) take(ctx context.Context, e engine, r Record) error {
	f.newest = max(f.newest, r.Revision)
	switch t, id, _ := tableOf(r.Key); {
	case r.Key == clusterKey:
		f.cluster = r.Raw
		return nil
	case t == nil:
	case t.kind() == KindSegment && id == SegmentHead:
		var head audit.Segment
		if err := json.Unmarshal(r.Raw, &head); err != nil {
			return mobyfs.Errorf(mobyfs.CodeCorrupt, "read the head of the audit trail: %w", err).WithHint("restore another backup")
		}
		f.sealed = head.To
		f.batch[Segments.key(SegmentFloor)] = write{raw: r.Raw} // the events up to it are left out
	case t.kind() == KindSegment && id != SegmentFloor:
		return nil // it names events by the revisions of the lost store
	case t.kind() == KindEvent && r.Revision <= f.sealed, isOfProcesses(r.Key):
		return nil
	}
	f.batch[r.Key] = write{raw: r.Raw}
	if f.bytes += len(r.Key) + len(r.Raw); len(f.batch) < fillRecords && f.bytes < fillBytes {
		return nil
	}
	return f.flush(ctx, e)
}

func (f *filling) flush(ctx context.Context, e engine) error {
	if err := failpoint.Fail("store.fill.before"); err != nil {
		return err
	}
	if _, _, err := e.commit(ctx, nil, f.batch); err != nil {
		return fmt.Errorf("fill the store: %w", err)
	}
	failpoint.Reach("store.fill.after")
	clear(f.batch)
	f.bytes = 0
	return nil
}
