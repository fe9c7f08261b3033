package store

import "context"

// shifted is an engine whose revisions are told with base added. A store that was restored began its own revisions anew;
// told so, each is higher than any that the store before it ever told, and nobody takes a new record for an old one.
type shifted struct {
	engine
	base int64
}

// shift begins to tell revisions as the record of the cluster says. It comes before anything else reads the store.
func (s *Store) shift(ctx context.Context) error {
	c, err := readCluster(ctx, s.engine)
	if err == nil && c.Base > 0 {
		s.engine = shifted{s.engine, c.Base}
	}
	return err
}

func (h shifted) out(rev int64) int64 {
	if rev == 0 {
		return 0 // there is none
	}
	return rev + h.base
}

func (h shifted) in(rev int64) int64 { return max(rev-h.base, 0) }

func (h shifted) get(ctx context.Context, key string) (entry, error) {
	e, err := h.engine.get(ctx, key)
	e.rev = h.out(e.rev)
	return e, err
}

func (h shifted) read(ctx context.Context, prefix string, since int64, each func(key string, e entry)) (int64, error) {
	rev, err := h.engine.read(ctx, prefix, h.in(since), func(key string, e entry) {
		e.rev = h.out(e.rev)
		each(key, e)
	})
	return h.out(rev), err
}

func (h shifted) commit(ctx context.Context, reads map[string]int64, writes map[string]write) (int64, bool, error) {
	own := make(map[string]int64, len(reads))
	for key, rev := range reads {
		own[key] = h.in(rev)
	}
	rev, done, err := h.engine.commit(ctx, own, writes)
	return h.out(rev), done, err
}

func (h shifted) watch(ctx context.Context, prefix string, from int64, each func(changes []change)) error {
	return h.engine.watch(ctx, prefix, max(h.in(from), 1), func(changes []change) {
		for i := range changes {
			changes[i].rev = h.out(changes[i].rev)
		}
		each(changes)
	})
}
