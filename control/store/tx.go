package store

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/failpoint"
)

// Tx is one try of an Update. What it reads is checked again when it commits, so it may be a little old: the first try
// reads what is at hand, and counts only if it commits a change. Any other reads what the engine holds. What the
// transaction has written it reads as it has written it.
type Tx struct {
	ctx    context.Context
	s      *Store
	first  bool
	peeked bool // something that was read may be old
	reads  map[string]entry
	writes map[string]write
	notes  []func(rev int64) // called after the commit

	comparing bool // records of volumes may be changed in the time after a restore
}

// Update runs fn and commits what it wrote in one transaction, in which nothing that fn read has changed. If
// something has, fn runs again, and also if it refused or wrote nothing by what might be old; so it must do nothing that
// can't be done twice. An error of fn ends it and nothing is written. ErrNoLease if something was to be written with a
// lease that has ended. CodeUnavailable means that the store did not answer: it is unknown whether the change is there.
func (s *Store) Update(ctx context.Context, fn func(tx *Tx) error) error {
	for first := true; ; first = false {
		tx := &Tx{ctx: ctx, s: s, first: first, reads: map[string]entry{}, writes: map[string]write{}}
		err := fn(tx)
		if tx.peeked && (err != nil || len(tx.writes) == 0) {
			continue // what nobody checks must not be decided by what is at hand
		}
		if err != nil {
			return err
		}
		done, err := tx.commit()
		if errors.Is(err, ErrNoLease) || mobyfs.CodeOf(err) == mobyfs.CodeUnavailable {
			return err
		}
		if errors.Is(err, errFull) {
			return full(s.Space())
		}
		if err != nil {
			return unavailable("write to the store", err)
		}
		if done {
			return nil
		}
	}
}

func unavailable(what string, err error) error {
	return mobyfs.Errorf(mobyfs.CodeUnavailable, "%s: %w", what, err).
		WithHint("try again; if it persists, look into the journal of mobyfs-control")
}

// Context is that of the Update: it says who asks.
func (tx *Tx) Context() context.Context { return tx.ctx }

// commit reports false if something that was read has changed since.
func (tx *Tx) commit() (bool, error) {
	if len(tx.writes) == 0 && len(tx.reads) < 2 {
		return true, nil // one read is of one moment by itself
	}
	if err := tx.hasRoom(); err != nil {
		return false, err
	}
	unchanged := make(map[string]int64, len(tx.reads))
	for key, e := range tx.reads {
		unchanged[key] = e.rev
	}
	if err := failpoint.Fail("store.commit.before"); err != nil {
		return false, err
	}
	rev, done, err := tx.s.engine.commit(tx.ctx, unchanged, tx.writes)
	if err == nil && done {
		err = failpoint.Fail("store.commit.after")
	}
	if err != nil || !done {
		return false, err
	}
	for _, note := range tx.notes {
		note(rev)
	}
	tx.s.learn(tx.writes, rev)
	return true, nil
}

// pending is the revision of what the transaction itself has written: nobody else knows it.
const pending int64 = -1

// get reads a key as it will be if the transaction commits now: what it has written itself is there already.
func (tx *Tx) get(key string) (entry, error) {
	w, ok := tx.writes[key]
	switch {
	case !ok:
		return tx.stored(key)
	case w.raw == nil:
		return entry{}, nil
	default:
		return entry{raw: w.raw, rev: pending}, nil
	}
}

// revision is that of what is read, as records tell it: of what the transaction has written, that of what was there.
func (tx *Tx) revision(key string, e entry) int64 {
	if e.rev == pending {
		return tx.reads[key].rev
	}
	return e.rev
}

// stored reads a key as the store has it, and again as it was.
func (tx *Tx) stored(key string) (entry, error) {
	if e, ok := tx.reads[key]; ok {
		return e, nil
	}
	if tx.first {
		if e, ok := tx.s.engine.peek(key); ok {
			tx.peeked, tx.reads[key] = true, e
			return e, nil
		}
	}
	e, err := tx.s.engine.get(tx.ctx, key)
	if err != nil {
		return entry{}, unavailable("read the store", err)
	}
	tx.reads[key] = e
	return e, nil
}

// Volume reads the record of a volume. CodeNotFound if there is none, CodeCorrupt if it can't be read.
func (tx *Tx) Volume(id mobyfs.VolumeID) (mobyfs.Volume, error) {
	e, err := tx.get(volumeKey(id))
	if err != nil {
		return mobyfs.Volume{}, err
	}
	if e.rev == 0 {
		return mobyfs.Volume{}, mobyfs.Errorf(mobyfs.CodeNotFound, "there is no volume with the ID %.40q", id).
			WithHint("mobyctl volume ls lists all")
	}
	if known, _ := tx.s.volumeAt(id, e.rev); known != nil {
		return copyOf(known), nil
	}
	v, err := Volumes.decode(string(id), e.raw, tx.revision(volumeKey(id), e))
	if err != nil {
		return mobyfs.Volume{}, mobyfs.Errorf(mobyfs.CodeCorrupt, "volume %s: %w", id, err).
			WithHint("a newer mobyfs-control may have written it; its bytes on the nodes are untouched")
	}
	return v, nil
}

// VolumeNamed reads the record of the volume that has the name now, in whatever case it is written. CodeNotFound
// if there is none.
func (tx *Tx) VolumeNamed(name string) (mobyfs.Volume, error) {
	e, err := tx.get(nameKey(name))
	if err != nil {
		return mobyfs.Volume{}, err
	}
	if e.rev == 0 {
		return mobyfs.Volume{}, mobyfs.Errorf(mobyfs.CodeNotFound, "there is no volume %q", name)
	}
	return tx.Volume(mobyfs.VolumeID(e.raw))
}

// PutVolume writes the record of a volume and sets v.Revision when it is written. The name belongs to the volume
// until its state is VolumeRemoving. A volume that is new must have been looked for by its name before.
func (tx *Tx) PutVolume(v *mobyfs.Volume) error {
	if err := tx.mayDecide(); err != nil {
		return err
	}
	old, err := tx.get(volumeKey(v.ID))
	if err != nil {
		return err
	}
	before, wholeBefore := tx.s.volumeAt(v.ID, old.rev)
	if before == nil && old.rev != 0 {
		decoded, err := Volumes.decode(string(v.ID), old.raw, tx.revision(volumeKey(v.ID), old))
		if err != nil {
			return err
		}
		before = &decoded
	}
	record := copyOf(v)
	record.Revision = 0
	raw, whole, err := encodeOver(old.raw, wholeBefore, record)
	if err != nil {
		return fmt.Errorf("encode volume %s: %w", v.ID, err)
	}
	tx.writes[volumeKey(v.ID)] = write{raw: raw, volume: &record, whole: whole}
	tx.notes = append(tx.notes, func(rev int64) { v.Revision = rev })
	if before != nil && (before.State == v.State || v.State != mobyfs.VolumeRemoving) {
		return nil // the name stays whose it is
	}
	return tx.putName(*v)
}

// copyOf is a record of its own: it shares nothing with v that can be written to.
func copyOf(v *mobyfs.Volume) mobyfs.Volume {
	c := *v
	c.Spec.Labels, c.Spec.NodeLabels = maps.Clone(v.Spec.Labels), maps.Clone(v.Spec.NodeLabels)
	c.Spec.Tolerations = slices.Clone(v.Spec.Tolerations)
	if v.Lease != nil {
		lease := *v.Lease
		lease.Users = slices.Clone(lease.Users)
		c.Lease = &lease
	}
	c.Migration, c.LastMove = copyOfMove(v.Migration), copyOfMove(v.LastMove)
	if v.Aside != nil {
		aside := *v.Aside
		c.Aside = &aside
	}
	if v.Undeletion != nil {
		u := *v.Undeletion
		c.Undeletion = &u
	}
	c.Kept = slices.Clone(v.Kept)
	return c
}

func copyOfMove(m *mobyfs.Migration) *mobyfs.Migration {
	if m == nil {
		return nil
	}
	c := *m
	c.Containers = slices.Clone(m.Containers)
	return &c
}

// putName makes the name of a volume point to it, or frees it.
func (tx *Tx) putName(v mobyfs.Volume) error {
	e, err := tx.get(nameKey(v.Name))
	if err != nil {
		return err
	}
	holder := mobyfs.VolumeID(e.raw)
	removing := v.State == mobyfs.VolumeRemoving
	switch {
	case removing && holder == v.ID:
		tx.writes[nameKey(v.Name)] = write{}
	case !removing && e.rev == 0:
		tx.writes[nameKey(v.Name)] = write{raw: []byte(v.ID)}
	case !removing && holder != v.ID:
		return mobyfs.Errorf(mobyfs.CodeExists, "the name %q belongs to another volume", v.Name)
	}
	return nil
}

// DeleteVolume deletes the record of a volume in VolumeRemoving.
func (tx *Tx) DeleteVolume(id mobyfs.VolumeID) error {
	if err := tx.mayDecide(); err != nil {
		return err
	}
	return Volumes.Delete(tx, string(id))
}

// Node reads the record of a node. CodeNotFound if there is none.
func (tx *Tx) Node(name string) (mobyfs.Node, error) { return Nodes.Get(tx, name) }

// PutNode writes the record of a node.
func (tx *Tx) PutNode(n mobyfs.Node) error {
	n.Revision = 0 // it is where the record lies
	return Nodes.Put(tx, n.Name, n)
}

// RevisedNode is PutNode that sets n.Revision when it is written.
func (tx *Tx) RevisedNode(n *mobyfs.Node) error {
	tx.notes = append(tx.notes, func(rev int64) { n.Revision = rev })
	return tx.PutNode(*n)
}

// Record writes an event in the transaction: it is told if and only if the change is there. It completes the event with
// an ID, the time, and who asked, as ctx says; the revision is that of the change.
func (tx *Tx) Record(e mobyfs.Event) error {
	e.At = tx.s.now().UTC()
	e.ID = strings.ToLower(ulid.MustNew(ulid.Timestamp(e.At), rand.Reader).String())
	e.Actor = mobyfs.ActorOf(tx.ctx)
	raw, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("encode an event: %w", err)
	}
	tx.writes[Events.key(e.ID)] = write{raw: raw}
	return nil
}

// adoptCluster checks that the store belongs to the cluster, or makes it the cluster's if it is new.
func (s *Store) adoptCluster(ctx context.Context, name string, now time.Time) error {
	return s.Update(ctx, func(tx *Tx) error {
		e, err := tx.get(clusterKey)
		if err != nil {
			return err
		}
		if e.rev == 0 {
			raw, err := json.Marshal(cluster{Name: name, Schema: schema, Since: now.UTC().Format(time.RFC3339)})
			tx.writes[clusterKey] = write{raw: raw}
			return err
		}
		c, err := tx.cluster()
		if err != nil {
			return err
		}
		s.cluster.hear(e.raw, e.rev)
		switch {
		case c.Name != name:
			return mobyfs.Errorf(mobyfs.CodeInvalid, "the store belongs to cluster %q, not to %q", c.Name, name).
				WithHint("set the right cluster, or give this one a root of its own")
		case c.Schema > schema:
			return mobyfs.Errorf(mobyfs.CodeInvalid, "the store has records of version %d, this program knows %d", c.Schema, schema).
				WithHint("install the mobyfs-control that wrote them, or a newer one")
		}
		return nil
	})
}
