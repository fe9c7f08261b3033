package store

import (
	"context"
	"errors"
	"time"

	"github.com/mobyfs/mobyfs/internal/failpoint"
)

// Grant makes a lease, which ends by itself once it was not renewed for ttl (whole seconds). Records that were written
// with it by Table.PutLeased are deleted then.
func (s *Store) Grant(ctx context.Context, ttl time.Duration) (Lease, error) {
	failpoint.Reach("store.grant.before")
	l, err := s.engine.grant(ctx, ttl)
	failpoint.Reach("store.grant.after")
	if errors.Is(err, errFull) {
		return 0, full(s.Space())
	}
	if err != nil {
		return 0, unavailable("make a lease in the store", err)
	}
	return l, nil
}

// Renew begins the lease's time anew. ErrNoLease if it has ended. It writes nothing to disk.
func (s *Store) Renew(ctx context.Context, l Lease) error {
	failpoint.Reach("store.renew.before")
	err := s.engine.renew(ctx, l)
	failpoint.Reach("store.renew.after")
	if err == nil || err == ErrNoLease {
		return err
	}
	return unavailable("renew a lease in the store", err)
}

// Revoke ends a lease. One that has ended already is success.
func (s *Store) Revoke(ctx context.Context, l Lease) error {
	failpoint.Reach("store.revoke.before")
	err := s.engine.revoke(ctx, l)
	failpoint.Reach("store.revoke.after")
	if err != nil {
		return unavailable("end a lease in the store", err)
	}
	return nil
}
