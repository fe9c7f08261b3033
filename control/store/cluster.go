package store

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/mobyfs/mobyfs"
)

// Restored tells of a restore whose outcome the nodes have yet to complete: what the backup did not know of.
type Restored struct {
	Backup string    `json:"backup"`  // its ID
	MadeAt time.Time `json:"made_at"` // the backup
	At     time.Time `json:"at"`
}

// Epoch is that of all fences to be given out. It stays while the store is open.
func (s *Store) Epoch() uint32 { return s.epoch.Load() }

// Restored tells of the restore that the nodes have yet to complete, nil if there is none.
func (s *Store) Restored(ctx context.Context) (r *Restored, err error) {
	err = s.Update(ctx, func(tx *Tx) error {
		c, err := tx.cluster()
		r = c.Restored
		return err
	})
	return r, err
}

// Converged ends what Restored tells of, with an event. To repeat it is fine.
func (s *Store) Converged(ctx context.Context, said string) error {
	return s.Update(ctx, func(tx *Tx) error {
		c, err := tx.cluster()
		if err != nil || c.Restored == nil {
			return err
		}
		c.Restored = nil
		if err := tx.putCluster(c); err != nil {
			return err
		}
		return tx.Record(mobyfs.Event{Text: said})
	})
}

// cluster reads the record of the cluster.
func (tx *Tx) cluster() (c cluster, err error) {
	e, err := tx.get(clusterKey)
	if err != nil {
		return c, err
	}
	if err := json.Unmarshal(e.raw, &c); err != nil {
		return c, fmt.Errorf("read the store's record of its cluster: %w", err)
	}
	return c, nil
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
