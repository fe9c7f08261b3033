package store

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/mobyfs/mobyfs"
)

// Kind names a kind of records.
type Kind string

// Table is where the records of one kind lie: below a prefix, each at its ID, as JSON. A new kind of record is a
// variable of this type and a line in tables.
//
// Members of a record that this program does not know survive its rewriting. A record that can't be read is told by
// Store.Unreadable and is in nobody's way.
type Table[T any] struct {
	Kind    Kind
	prefix  string                                 // below root, with its slash
	sharded bool                                   // spread by a hash of the ID, for kinds of which there are many
	passing bool                                   // not kept in memory and not told to subscribers
	check   func(id string, v *T, rev int64) error // refuses what can't be the record of id, and completes it; nil for none
}

// table is what the cache needs of a Table.
type table interface {
	kind() Kind
	root() string
	kept() bool
	key(id string) string
	idOf(key string) (string, bool)
	decodeAny(id string, raw []byte, rev int64) (any, error)
}

func (t Table[T]) kind() Kind   { return t.Kind }
func (t Table[T]) root() string { return root + t.prefix }
func (t Table[T]) kept() bool   { return !t.passing }

func (t Table[T]) key(id string) string {
	if !t.sharded {
		return root + t.prefix + id
	}
	const digits = "0123456789abcdef"
	shard := shardOf(id)
	return root + t.prefix + digits[shard>>4:shard>>4+1] + digits[shard&15:shard&15+1] + "/" + id
}

// shardOf is the last byte of the FNV-1a hash of an ID, in 32 bits.
func shardOf(id string) uint8 {
	h := uint32(2166136261)
	for i := range len(id) {
		h = (h ^ uint32(id[i])) * 16777619
	}
	return uint8(h)
}

func (t Table[T]) idOf(key string) (string, bool) {
	id, ok := strings.CutPrefix(key, root)
	if ok {
		id, ok = strings.CutPrefix(id, t.prefix)
	}
	if ok && t.sharded {
		_, id, ok = strings.Cut(id, "/")
	}
	return id, ok && id != ""
}

func (t Table[T]) decode(id string, raw []byte, rev int64) (T, error) {
	v, err := t.decodeNew(id, raw, rev)
	return *v, err
}

func (t Table[T]) decodeAny(id string, raw []byte, rev int64) (any, error) {
	return t.decodeNew(id, raw, rev)
}

func (t Table[T]) decodeNew(id string, raw []byte, rev int64) (*T, error) {
	v := new(T)
	if err := json.Unmarshal(raw, v); err != nil {
		return v, fmt.Errorf("decode the record: %w", err)
	}
	if t.check == nil {
		return v, nil
	}
	return v, t.check(id, v, rev)
}

// Get reads a record. CodeNotFound if there is none, CodeCorrupt if it can't be read.
func (t Table[T]) Get(tx *Tx, id string) (T, error) {
	var v T
	e, err := tx.get(t.key(id))
	if err != nil {
		return v, err
	}
	if e.rev == 0 {
		return v, mobyfs.Errorf(mobyfs.CodeNotFound, "there is no %s %.40q", t.Kind, id)
	}
	if v, err = t.decode(id, e.raw, tx.revision(t.key(id), e)); err != nil {
		return v, mobyfs.Errorf(mobyfs.CodeCorrupt, "%s %s: %w", t.Kind, id, err).
			WithHint("a newer mobyfs-control may have written it")
	}
	return v, nil
}

// Put writes a record in place of the one that is there.
func (t Table[T]) Put(tx *Tx, id string, v T) error { return t.PutLeased(tx, id, v, 0) }

// PutLeased is Put of a record that is deleted when the lease ends.
func (t Table[T]) PutLeased(tx *Tx, id string, v T, lease Lease) error {
	old, err := tx.get(t.key(id))
	if err != nil {
		return err
	}
	raw, err := encode(old.raw, v)
	if err != nil {
		return fmt.Errorf("encode %s %s: %w", t.Kind, id, err)
	}
	tx.writes[t.key(id)] = write{raw: raw, lease: lease}
	return nil
}

// Delete deletes a record. That there is none is success.
func (t Table[T]) Delete(tx *Tx, id string) error {
	_, err := tx.stored(t.key(id))
	tx.writes[t.key(id)] = write{}
	return err
}

// Revision tells at which revision a record was written last, 0 if there is none in the store. What the transaction has
// written has no revision yet.
func (t Table[T]) Revision(tx *Tx, id string) (int64, error) {
	e, err := tx.stored(t.key(id))
	return e.rev, err
}

// In tells of one record as this process knows it. It is for tables that are kept in memory.
func (t Table[T]) In(v View, id string) (T, bool) {
	p, ok := v.c.records[t.Kind][id].record.(*T)
	if !ok {
		var none T
		return none, false
	}
	return *p, true
}

// All yields all records that this process knows, in no order, with their IDs.
func (t Table[T]) All(v View) func(yield func(string, T) bool) {
	return func(yield func(string, T) bool) {
		for id, k := range v.c.records[t.Kind] {
			if !yield(id, *k.record.(*T)) {
				return
			}
		}
	}
}

// Count tells how many records this process knows.
func (t Table[T]) Count(v View) int { return len(v.c.records[t.Kind]) }

// Read reads all records that can be read from the store itself, as they are at one moment, by their IDs.
func (t Table[T]) Read(ctx context.Context, s *Store) (map[string]T, error) {
	all := map[string]T{}
	_, err := s.engine.read(ctx, t.root(), 0, func(key string, e entry) {
		if id, ok := t.idOf(key); ok {
			if v, err := t.decode(id, e.raw, e.rev); err == nil {
				all[id] = v
			}
		}
	})
	if err != nil {
		return nil, unavailable("read the records of kind "+string(t.Kind), err)
	}
	return all, nil
}

// Ref names a record.
func (t Table[T]) Ref(id string) Ref { return Ref{t.Kind, id} }
