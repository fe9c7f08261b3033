package agent

import (
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/durable"
)

// ledgerName is the file that the ledger is kept in.
const ledgerName = "mounts.json"

// ledger is what this node has promised: which leases it holds, and which uses of each volume Docker was told
// succeeded. Changes are made in memory at once and are on disk when flush returns.
type ledger struct {
	begun   time.Time // this life; uses of the one before may have been counted a moment earlier
	mu      sync.Mutex
	entries map[mobyfs.VolumeID]*entry
	version uint64
	saver   saver
}

// entry is what is promised about one volume.
type entry struct {
	Name string `json:"name"` // under which the uses were counted
	// Lease is the fence of a lease that is held. It stands here from before the first use is answered until
	// before it is given back, so as long as it does the volume may be used without asking.
	Lease mobyfs.Fence `json:"lease,omitempty"`
	// Releasing is the fence of a lease that is being given back, with an outcome that is not known yet. No new
	// lease is asked for before it is: a release that arrives late must not take away a newer lease.
	Releasing mobyfs.Fence `json:"releasing,omitempty"`
	// Alone says that Lease was not given by control, which was away: the newest fence known here stands for it.
	Alone bool `json:"alone,omitempty"`
	// Uses counts by Docker's ID of a mount.
	Uses map[string]int `json:"uses,omitempty"`

	doubt map[string]time.Time // uses that the kernel has to confirm from then on
	last  time.Time            // when a use was counted last, in this life
	seen  time.Time            // when a use was counted, or the kernel or dockerd showed one, last
}

// openLedger loads the ledger. Of the uses in it only the kernel can say, after the time given, whether they live.
func openLedger(path string, log *slog.Logger, doubtFrom time.Time) *ledger {
	l := &ledger{begun: time.Now(), entries: map[mobyfs.VolumeID]*entry{}}
	l.saver.state = l.copy
	l.saver.write = func(data any) error { return durable.WriteJSON("agent.mounts", path, data, 0o600) }
	err := durable.ReadJSON(path, &l.entries)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		// Nothing is lost for good: a lease leaves this node only when the kernel shows no user.
		log.Error("the counts of mounts can't be read; they begin anew, and the kernel says what is in use", "err", err)
		_ = os.Rename(path, path+".unreadable")
		l.entries = map[mobyfs.VolumeID]*entry{}
	}
	for id, e := range l.entries {
		if e == nil {
			delete(l.entries, id)
			continue
		}
		e.doubt = map[string]time.Time{}
		for use := range e.Uses {
			e.doubt[use] = doubtFrom
		}
	}
	return l
}

// copy is the state as it goes to disk.
func (l *ledger) copy() (any, uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	entries := make(map[mobyfs.VolumeID]entry, len(l.entries))
	for id, e := range l.entries {
		c := *e
		c.Uses = maps.Clone(e.Uses)
		entries[id] = c
	}
	return entries, l.version
}

// flush returns once all changes made before are on disk.
func (l *ledger) flush() error {
	l.mu.Lock()
	version := l.version
	l.mu.Unlock()
	if err := l.saver.upTo(version); err != nil {
		return mobyfs.Errorf(mobyfs.CodeInternal, "write down who uses what: %w", err).
			WithHint("check the disk of this host")
	}
	return nil
}

// change changes the entry of a volume, which it makes if need be and drops once it says nothing.
func (l *ledger) change(id mobyfs.VolumeID, f func(*entry)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.entries[id]
	if e == nil {
		e = &entry{Uses: map[string]int{}, doubt: map[string]time.Time{}}
		l.entries[id] = e
	}
	if e.Uses == nil {
		e.Uses = map[string]int{}
	}
	f(e)
	e.Alone = e.Alone && e.Lease != 0
	if e.Lease == 0 && e.Releasing == 0 && len(e.Uses) == 0 {
		delete(l.entries, id)
	}
	l.version++
}

// take counts a use under the lease. An ID that was only believed counts once from now on.
func (l *ledger) take(id mobyfs.VolumeID, name, use string, lease mobyfs.Fence) {
	l.change(id, func(e *entry) {
		e.Name, e.Lease, e.last = name, lease, time.Now()
		e.seen = e.last
		if _, doubtful := e.doubt[use]; doubtful {
			delete(e.doubt, use)
			e.Uses[use] = 1
			return
		}
		e.Uses[use]++
	})
}

// give takes one use back. One that is not counted is fine.
func (l *ledger) give(id mobyfs.VolumeID, use string) {
	l.change(id, func(e *entry) {
		if e.Uses[use] > 1 {
			e.Uses[use]--
			return
		}
		delete(e.Uses, use)
		delete(e.doubt, use)
	})
}

// holder finds the volume of that name in which a use is counted.
func (l *ledger) holder(name, use string) (mobyfs.VolumeID, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, e := range l.entries {
		if e.Name == name && e.Uses[use] > 0 {
			return id, true
		}
	}
	return "", false
}

// standing is what an entry says, for decisions.
type standing struct {
	lease, releasing mobyfs.Fence
	uses             int // IDs counted
	alone            bool
	last             time.Time
}

func (l *ledger) standing(id mobyfs.VolumeID) standing {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.entries[id]
	if e == nil {
		return standing{}
	}
	return standing{e.Lease, e.Releasing, len(e.Uses), e.Alone, e.last}
}

// quiet is how long no use of the volume was counted, as far as this life can tell.
func (l *ledger) quiet(id mobyfs.VolumeID) time.Duration {
	if last := l.standing(id).last; last.After(l.begun) {
		return time.Since(last)
	}
	return time.Since(l.begun)
}

// volumes lists the volumes that the ledger says something about.
func (l *ledger) volumes() []mobyfs.VolumeID {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Sorted(maps.Keys(l.entries))
}

// newLife is told that dockerd begins anew: what it counted before is at most one use for each ID, and has to be
// confirmed by the kernel from then on.
func (l *ledger) newLife(from time.Time) {
	for _, id := range l.volumes() {
		l.change(id, func(e *entry) {
			for use := range e.Uses {
				e.Uses[use] = 1
				e.doubt[use] = from
			}
		})
	}
}

// doubtful lists the volumes with uses that the kernel has to confirm by now.
func (l *ledger) doubtful(now time.Time) []mobyfs.VolumeID {
	l.mu.Lock()
	defer l.mu.Unlock()
	var ids []mobyfs.VolumeID
	for id, e := range l.entries {
		for use, from := range e.doubt {
			if e.Uses[use] > 0 && !now.Before(from) {
				ids = append(ids, id)
				break
			}
		}
	}
	return ids
}

// dropDoubtful forgets the uses that should have been confirmed by now, and tells how many there were.
func (l *ledger) dropDoubtful(id mobyfs.VolumeID, now time.Time) (dropped int) {
	l.change(id, func(e *entry) {
		for use, from := range e.doubt {
			if !now.Before(from) {
				delete(e.Uses, use)
				delete(e.doubt, use)
				dropped++
			}
		}
	})
	return dropped
}

// unseen lists the volumes with uses of which neither the kernel nor dockerd has shown one since a time.
func (l *ledger) unseen(since time.Time) []mobyfs.VolumeID {
	l.mu.Lock()
	defer l.mu.Unlock()
	var ids []mobyfs.VolumeID
	for id, e := range l.entries {
		if len(e.Uses) > len(e.doubt) && e.seen.Before(since) {
			ids = append(ids, id)
		}
	}
	return ids
}

// see notes that a use of the volume was shown.
func (l *ledger) see(id mobyfs.VolumeID, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e := l.entries[id]; e != nil {
		e.seen = now
	}
}

// dropUnseen forgets all uses of a volume if none was counted or shown since a time, and tells how many there were.
func (l *ledger) dropUnseen(id mobyfs.VolumeID, since time.Time) (dropped int) {
	l.change(id, func(e *entry) {
		if e.seen.Before(since) {
			dropped = len(e.Uses)
			clear(e.Uses)
			clear(e.doubt)
		}
	})
	return dropped
}
