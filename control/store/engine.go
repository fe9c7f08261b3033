package store

import (
	"context"
	"errors"
	"time"

	"github.com/mobyfs/mobyfs"
)

// engine keeps the records: etcd, or memory for a simulation. All methods may be called at once. An error other than
// those named here means that the engine did not answer, and that it is unknown whether a change took effect.
type engine interface {
	// get reads a key. Its revision is 0 if there is none.
	get(ctx context.Context, key string) (entry, error)
	// peek reads a key as it was a moment ago, without a look at what others do meanwhile. It reports false if only get
	// can tell. It is quick and changes nothing.
	peek(key string) (entry, bool)
	// read calls each with every record below the prefix that has changed since a revision, all of them for 0, as
	// they are at one moment, whose revision it returns. They come in the order of their keys.
	read(ctx context.Context, prefix string, since int64, each func(key string, e entry)) (int64, error)
	// commit writes all if nothing in reads has another revision by now, and reports false otherwise. ErrNoLease if it
	// should write with a lease that has ended. errFull if the engine takes no more; the change may be there all the same.
	commit(ctx context.Context, reads map[string]int64, writes map[string]write) (rev int64, done bool, err error)
	// watch calls each with all changes below the prefix from a revision on, in order and complete, until ctx ends or
	// the engine can't tell any more. errCompacted if the engine does not hold that revision's changes any more.
	watch(ctx context.Context, prefix string, from int64, each func(changes []change)) error
	// grant makes a lease that ends by itself once it was not renewed for ttl, which is rounded up to seconds.
	grant(ctx context.Context, ttl time.Duration) (Lease, error)
	// renew begins the lease's time anew. ErrNoLease if it has ended.
	renew(ctx context.Context, l Lease) error
	// revoke ends a lease. One that has ended already is success.
	revoke(ctx context.Context, l Lease) error
}

var errCompacted = errors.New("the changes since then are not kept any more")

// ErrNoLease says that a lease has ended: it can't be renewed, and nothing can be written with it.
var ErrNoLease = errors.New("the lease has ended")

// Lease names a lease of the engine: a record that was written with it is deleted when it ends.
type Lease int64

// entry is the value at a key. Its revision is 0 if there is none.
type entry struct {
	raw []byte
	rev int64
}

// write is what becomes of a key.
type write struct {
	raw    []byte         // nil deletes
	lease  Lease          // 0 for none
	volume *mobyfs.Volume // what raw says, nil if that is to be read in raw; nobody writes to it any more
	whole  bool           // see known
}

// change is what became of a key.
type change struct {
	key string
	raw []byte // nil if it was deleted
	rev int64
}
