package feed

import (
	"cmp"
	"context"
	"log/slog"
	"sync"
)

// Feeds arms feeds, and shares what watches a file system among all trees that lie on it. Its methods may be called at once.
type Feeds struct {
	log *slog.Logger

	mu       sync.Mutex
	trackers map[uint64]*tracker // by device
}

// New returns Feeds that watch nothing yet.
func New(log *slog.Logger) *Feeds {
	return &Feeds{log: log, trackers: map[uint64]*tracker{}}
}

// Options say what a feed may use.
type Options struct {
	// Scratch is a directory on the tree's file system, outside of the tree. Where the kernel takes no program that notes
	// written blocks, clones of big files lie there while a feed is armed, without names. "" keeps them in the tree, where no
	// name shows them either but quotas count them.
	Scratch string
	// PIDs lists the processes that may have files of the tree open: writes through mappings and those of asynchronous I/O
	// are told by nobody. nil stands for all processes of the host.
	PIDs func() ([]int, error)

	eventsOnly bool // tests of what is left where nothing finds ranges
	clonesOnly bool // tests of what is left where no program can be loaded into the kernel
}

// bigFile is the size from which a file's changes are told as ranges, where that is possible.
const bigFile = 1 << 20

// Arm begins to watch the tree at dir with the best feed that works there, and tells why it is that one. It never fails: where
// nothing else works the feed says each time that everything is to be compared. An armed feed keeps the tree's file
// system mounted until it is closed.
func (f *Feeds) Arm(dir string, o Options) (Feed, string) {
	t, why, err := f.armTree(dir, o)
	if err != nil {
		why = "nothing tells what changed here: " + err.Error()
		f.log.Info("all of a directory will be compared", "path", dir, "cause", why)
		return rescan{why}, why
	}
	f.log.Info("changes in a directory are told", "path", dir, "cause", why)
	return t, why
}

// rescan knows nothing.
type rescan struct{ why string }

func (rescan) Name() string { return "rescan" }
func (r rescan) Changes(ctx context.Context) (Set, error) {
	return Set{All: true, Why: r.why}, context.Cause(ctx)
}
func (r rescan) Last(ctx context.Context) (Set, error) { return r.Changes(ctx) }
func (rescan) Close() error                            { return nil }

// all is a Set that vouches for nothing.
func all(why string) Set { return Set{All: true, Why: cmp.Or(why, "unknown")} }
