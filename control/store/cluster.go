package store

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/mobyfs/mobyfs"
)

// Restored tells of a restore whose outcome the nodes have yet to complete: what the backup did not know of.
type Restored struct {
	Backup string    `json:"backup"`  // its ID
	MadeAt time.Time `json:"made_at"` // the backup
	At     time.Time `json:"at"`
	// Without names the nodes that are not waited for, as an operator said.
	Without []string `json:"without,omitempty"`
}

// clusterNow is what this process knows of the cluster's record.
type clusterNow struct {
	mu sync.RWMutex
	c  cluster
	at int64 // revision
}

// hear takes over the record as it is at a revision.
func (n *clusterNow) hear(raw []byte, rev int64) {
	var c cluster
	if json.Unmarshal(raw, &c) != nil {
		return // what can't be read changes nothing
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if rev > n.at {
		n.c, n.at = c, rev
	}
}

// noteCluster takes over a change, if it is of the cluster's record.
func (s *Store) noteCluster(key string, raw []byte, rev int64) {
	if key == clusterKey && raw != nil {
		s.cluster.hear(raw, rev)
	}
}

func (n *clusterNow) get() cluster {
	n.mu.RLock()
	defer n.mu.RUnlock()
	return n.c
}

// Epoch is that of all fences to be given out. Only a restore raises it, and what nodes tell after one.
func (s *Store) Epoch() uint32 { return s.cluster.get().Epoch }

// EpochBefore is the epoch of the backup that this store began with: a higher one is of decisions since.
func (s *Store) EpochBefore() uint32 { return s.cluster.get().Before }

// History names the restore that this store began with, "" for none. It never changes.
func (s *Store) History() string { return s.cluster.get().History }

// Restored tells of the restore that the nodes have yet to complete, nil if there is none. It is known before the store
// is open; that it is over each process learns in a moment.
func (s *Store) Restored() *Restored { return s.cluster.get().Restored }

// Comparing lets the transaction change records of volumes although a restore has yet to be completed: it makes them
// agree with what nodes hold.
func (tx *Tx) Comparing() { tx.comparing = true }

// mayDecide refuses to change records of volumes, whoever wants it and why, before they agree with what nodes hold.
func (tx *Tx) mayDecide() error {
	if tx.comparing || tx.s.Restored() == nil {
		return nil
	}
	return mobyfs.Errorf(mobyfs.CodeUnavailable, "control was restored from a backup and decides nothing yet").
		WithHint("mobyctl control status tells what it waits for")
}

// Restored is Store.Restored, as the transaction will make sure.
func (tx *Tx) Restored() (*Restored, error) {
	c, err := tx.cluster()
	return c.Restored, err
}

// Converged ends what Restored tells of. To repeat it is fine.
func (tx *Tx) Converged() error {
	c, err := tx.cluster()
	if err != nil || c.Restored == nil {
		return err
	}
	c.Restored = nil
	return tx.putCluster(c)
}

// GoWithout adds nodes that are not waited for.
func (tx *Tx) GoWithout(nodes []string) error {
	c, err := tx.cluster()
	if err != nil || c.Restored == nil {
		return err
	}
	c.Restored.Without = append(c.Restored.Without, nodes...)
	return tx.putCluster(c)
}

// RaiseEpoch makes the epoch higher than one that was given out before the restore.
func (tx *Tx) RaiseEpoch(above uint32) error {
	c, err := tx.cluster()
	if err != nil || c.Epoch > above {
		return err
	}
	if above >= mobyfs.MaxEpoch {
		return mobyfs.Errorf(mobyfs.CodeInvalid, "there is no epoch above %d", above).WithHint("evict the node that tells of it")
	}
	c.Epoch = above + 1
	return tx.putCluster(c)
}

// cluster reads the record of the cluster.
func (tx *Tx) cluster() (c cluster, err error) {
	e, err := tx.get(clusterKey)
	if err != nil {
		return c, err
	}
	return parseCluster(e.raw)
}

func parseCluster(raw []byte) (c cluster, err error) {
	if err := json.Unmarshal(raw, &c); err != nil {
		return c, fmt.Errorf("read the store's record of its cluster: %w", err)
	}
	return c, nil
}

// readCluster reads the record of the cluster from an engine, the zero one if there is none.
func readCluster(ctx context.Context, e engine) (cluster, error) {
	found, err := e.get(ctx, clusterKey)
	if err != nil {
		return cluster{}, unavailable("read the store", err)
	}
	if found.rev == 0 {
		return cluster{}, nil
	}
	return parseCluster(found.raw)
}

func (tx *Tx) putCluster(c cluster) error {
	e, err := tx.get(clusterKey)
	if err != nil {
		return err
	}
	raw, err := encode(e.raw, c)
	tx.writes[clusterKey] = write{raw: raw}
	return err
}
