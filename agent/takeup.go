package agent

import (
	"context"
	"os"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/backend"
)

// A cold migration whose link was cut, or whose agent was killed, goes on with what has arrived: the next try follows the source, which
// stands still, into what is staged, and proves both equal. A try that failed in any other way begins anew. Killed anywhere, the next
// try finds what is staged, and asks the same again.

// stage is where a migration's bytes go, and whether an earlier try has brought some that are to be gone on with.
func (w *worker) stage(ctx context.Context, b backend.Backend, m mobyfs.MigrationID, v view) (dir string, goesOn bool, err error) {
	if v.record.Migration.Live {
		dir, err = w.stageLive(ctx, b, m, v.record.Spec)
		return dir, false, err
	}
	if live, ok := b.(backend.Live); ok && w.wasCut(m, v) {
		if dir, err := live.Reopen(ctx, w.id, m); err == nil {
			if there, err := os.ReadDir(dir); err == nil {
				return dir, len(there) > 0, nil
			}
		}
	}
	dir, err = b.Stage(ctx, w.id, m, v.record.Spec)
	return dir, false, err
}

// wasCut reports whether what is staged of a migration is what came before the source could not be reached any more.
func (w *worker) wasCut(m mobyfs.MigrationID, v view) bool {
	if _, ok := w.agent.Peer.(mobyfs.LivePeer); !ok {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for code := range w.move.fails {
		if code != mobyfs.CodeUnavailable {
			return false
		}
	}
	for _, s := range v.staged {
		if s.Migration == m && s.Receipt == nil {
			return true
		}
	}
	return false
}

// takeUp brings what an earlier try of a cold migration has not.
func (w *worker) takeUp(ctx context.Context, from mobyfs.From, dir string) (mobyfs.Receipt, error) {
	f, err := w.agent.Peer.(mobyfs.LivePeer).Follow(ctx, from, dir, mobyfs.FollowOptions{TakeUp: true, Progress: w.progressed})
	if err != nil {
		return mobyfs.Receipt{}, err
	}
	defer func() { _ = f.Close() }()
	return f.Freeze(ctx) // of what stands still nothing is frozen; it brings and proves all
}
