package store

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/mobyfs/mobyfs"
)

// Tx is one try of an Update. What it reads is what etcd holds, and is checked again when it commits.
type Tx struct {
	ctx    context.Context
	s      *Store
	reads  map[string]entry
	writes map[string][]byte // nil deletes
	notes  []func(rev int64) // called after the commit
}

// entry is the value at a key. Its revision is 0 if there is none.
type entry struct {
	raw []byte
	rev int64
}

// Update runs fn and commits what it wrote in one transaction, in which nothing that fn read has changed. If
// something has, fn runs again; so it must do nothing that can't be done twice. An error of fn ends it and nothing
// is written. CodeUnavailable means that the store did not answer: it is unknown whether the change is there.
func (s *Store) Update(ctx context.Context, fn func(tx *Tx) error) error {
	for {
		tx := &Tx{ctx: ctx, s: s, reads: map[string]entry{}, writes: map[string][]byte{}}
		if err := fn(tx); err != nil {
			return err
		}
		done, err := tx.commit()
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

// commit reports false if something that was read has changed since.
func (tx *Tx) commit() (bool, error) {
	if len(tx.writes) == 0 && len(tx.reads) < 2 {
		return true, nil // one read is of one moment by itself
	}
	var unchanged []clientv3.Cmp
	for key, e := range tx.reads {
		unchanged = append(unchanged, clientv3.Compare(clientv3.ModRevision(key), "=", e.rev))
	}
	var ops []clientv3.Op
	for key, raw := range tx.writes {
		if raw == nil {
			ops = append(ops, clientv3.OpDelete(key))
		} else {
			ops = append(ops, clientv3.OpPut(key, string(raw)))
		}
	}
	resp, err := tx.s.client.Txn(tx.ctx).If(unchanged...).Then(ops...).Commit()
	if err != nil || !resp.Succeeded {
		return false, err
	}
	rev := resp.Header.Revision
	for _, note := range tx.notes {
		note(rev)
	}
	for key, raw := range tx.writes {
		tx.s.learn(key, raw, rev)
	}
	return true, nil
}

// get reads a key, at first from etcd and then as it was.
func (tx *Tx) get(key string) (entry, error) {
	if e, ok := tx.reads[key]; ok {
		return e, nil
	}
	resp, err := tx.s.client.Get(tx.ctx, key)
	if err != nil {
		return entry{}, unavailable("read the store", err)
	}
	var e entry
	if len(resp.Kvs) == 1 {
		e = entry{resp.Kvs[0].Value, resp.Kvs[0].ModRevision}
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
	v, err := decodeVolume(id, e.raw, e.rev)
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
	old, err := tx.get(volumeKey(v.ID))
	if err != nil {
		return err
	}
	record := *v
	record.Revision = 0
	raw, err := encode(old.raw, record)
	if err != nil {
		return fmt.Errorf("encode volume %s: %w", v.ID, err)
	}
	tx.writes[volumeKey(v.ID)] = raw
	tx.notes = append(tx.notes, func(rev int64) { v.Revision = rev })
	if old.rev != 0 {
		before, err := decodeVolume(v.ID, old.raw, old.rev)
		if err != nil || before.State == v.State || v.State != mobyfs.VolumeRemoving {
			return err // the name stays whose it is
		}
	}
	return tx.putName(*v)
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
		tx.writes[nameKey(v.Name)] = nil
	case !removing && e.rev == 0:
		tx.writes[nameKey(v.Name)] = []byte(v.ID)
	case !removing && holder != v.ID:
		return mobyfs.Errorf(mobyfs.CodeExists, "the name %q belongs to another volume", v.Name)
	}
	return nil
}

// DeleteVolume deletes the record of a volume in VolumeRemoving.
func (tx *Tx) DeleteVolume(id mobyfs.VolumeID) error {
	_, err := tx.get(volumeKey(id))
	tx.writes[volumeKey(id)] = nil
	return err
}

// Node reads the record of a node. CodeNotFound if there is none.
func (tx *Tx) Node(name string) (mobyfs.Node, error) {
	e, err := tx.get(nodeKey(name))
	if err != nil {
		return mobyfs.Node{}, err
	}
	if e.rev == 0 {
		return mobyfs.Node{}, mobyfs.Errorf(mobyfs.CodeNotFound, "there is no node %q", name)
	}
	n, err := decodeNode(name, e.raw)
	if err != nil {
		return mobyfs.Node{}, mobyfs.Errorf(mobyfs.CodeCorrupt, "node %s: %w", name, err)
	}
	return n, nil
}

// PutNode writes the record of a node.
func (tx *Tx) PutNode(n mobyfs.Node) error {
	old, err := tx.get(nodeKey(n.Name))
	if err != nil {
		return err
	}
	raw, err := encode(old.raw, n)
	if err != nil {
		return fmt.Errorf("encode node %s: %w", n.Name, err)
	}
	tx.writes[nodeKey(n.Name)] = raw
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
			tx.writes[clusterKey] = raw
			return err
		}
		var c cluster
		if err := json.Unmarshal(e.raw, &c); err != nil {
			return fmt.Errorf("read the store's record of its cluster: %w", err)
		}
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
