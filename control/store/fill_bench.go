//go:build bench

package store

import (
	"context"
	"iter"

	"github.com/mobyfs/mobyfs"
)

// fillOps is how many keys a transaction of Fill writes.
const fillOps = 500

// Fill writes nodes and volumes that are not there yet, many in one transaction and without a look at what is there.
// It is for benchmarks.
func (s *Store) Fill(ctx context.Context, nodes iter.Seq[mobyfs.Node], volumes iter.Seq[mobyfs.Volume]) error {
	writes := map[string]write{}
	flush := func(least int) error {
		if len(writes) < least || len(writes) == 0 {
			return nil
		}
		_, _, err := s.engine.commit(ctx, nil, writes)
		writes = map[string]write{}
		return err
	}
	for n := range nodes {
		raw, err := encode(nil, n)
		if err != nil {
			return err
		}
		writes[Nodes.key(n.Name)] = write{raw: raw}
		if err := flush(fillOps); err != nil {
			return err
		}
	}
	for v := range volumes {
		raw, err := encode(nil, v)
		if err != nil {
			return err
		}
		writes[volumeKey(v.ID)], writes[nameKey(v.Name)] = write{raw: raw}, write{raw: []byte(v.ID)}
		if err := flush(fillOps); err != nil {
			return err
		}
	}
	return flush(0)
}
