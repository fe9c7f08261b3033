package transfer

import (
	"context"

	"github.com/mobyfs/mobyfs/migrate/feed"
)

// Offered is a tree that a node may have.
type Offered struct {
	Dir     string
	Release func() // called once, when the peer has it all or is gone

	// Live says that Dir is in use, and that only a live session may have it. Otherwise it must not change until it is
	// released, and what follows is not used.
	Live bool
	// Round is called before each round but the last, 0 for the first. On error the session ends. It may be nil.
	Round func(ctx context.Context, n int) error
	// Freeze returns once nothing can write into Dir any more and all that was written is on the disk. It returns the number of the
	// freeze. It is called once at most; on error nothing is frozen.
	Freeze func(ctx context.Context) (freeze int, err error)
	// Unfreeze is called after a Freeze that succeeded if the session ends in any other way than that the peer has proven to
	// have it all. Writing may go on once control has agreed.
	Unfreeze func(ctx context.Context, reason string)
	// Luggage is what this node's agent tells the peer's: maxLuggage at most.
	Luggage []byte
	// Feed begins to tell what changes in dir, before the tree is listed. If it is nil the tree is compared anew each time.
	Feed func(dir string) feed.Feed
}
