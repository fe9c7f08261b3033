package agent

import (
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"slices"
	"sync"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/durable"
)

// journal is a file that says what was begun with some volumes and has to be ended, also by the next life.
type journal[T any] struct {
	doing string                                // what set does, for errors
	write func(all map[mobyfs.VolumeID]T) error // replaces the file, durably

	mu  sync.Mutex
	all map[mobyfs.VolumeID]T
}

// load reads the file. If it can't be read it is put aside, and the log says what that means and what is to be done.
func (j *journal[T]) load(path string, log *slog.Logger, unreadable, hint string) {
	if err := durable.ReadJSON(path, &j.all); err != nil && !errors.Is(err, fs.ErrNotExist) {
		log.Error(unreadable, "err", err, "hint", hint)
		_ = os.Rename(path, path+".unreadable")
		j.all = nil
	}
	if j.all == nil {
		j.all = map[mobyfs.VolumeID]T{}
	}
}

// set writes down what is true of a volume, or that there is nothing any more. On error it is as it was.
func (j *journal[T]) set(id mobyfs.VolumeID, v T, nothing bool) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	next := maps.Clone(j.all)
	if next[id] = v; nothing {
		delete(next, id)
	}
	if err := j.write(next); err != nil {
		return mobyfs.Errorf(mobyfs.CodeInternal, "%s: %w", j.doing, err).WithHint("check the disk of this host")
	}
	j.all = next
	return nil
}

// of is what the journal says of a volume.
func (j *journal[T]) of(id mobyfs.VolumeID) T {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.all[id]
}

// volumes are those that the journal says something of.
func (j *journal[T]) volumes() []mobyfs.VolumeID {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Collect(maps.Keys(j.all))
}
