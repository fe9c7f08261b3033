package agent

import (
	"log/slog"
	"maps"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/durable"
)

// freezesName is the file that the journal of freezes is kept in.
const freezesName = "freezes.json"

// hold says that what uses a volume was stopped for a migration, or is about to be. It stands in the journal from before
// control is told of the freeze until nothing is left of it, so whoever finds it after a crash asks control first: a
// migration that was committed must never see its containers go on here.
type hold struct {
	Migration mobyfs.MigrationID `json:"migration"`
	Name      string             `json:"name"`             // of the volume
	Freeze    int                `json:"freeze,omitempty"` // its number; 0 before control's answer is known
	Lease     mobyfs.Fence       `json:"lease,omitempty"`  // that was relied on
	To        string             `json:"to"`
	Since     time.Time          `json:"since"`
	// Over says that no commit can come any more and nothing is frozen; containers that were stopped are being started.
	Over       bool   `json:"over,omitempty"`
	Containers []held `json:"containers,omitempty"`

	session *liveOffer // in which it was frozen; nil after a restart
}

// held is a container in a hold.
type held struct {
	ID     string   `json:"id"`
	Name   string   `json:"name"`
	First  int      `json:"first,omitempty"`  // PID of its first process
	Was    stopping `json:"was,omitempty"`    // how it was stopped, or is about to be
	Remove bool     `json:"remove,omitempty"` // once committed: it is made anew at the destination
}

// stopping is what was done to a container.
type stopping string

const (
	leftAlone stopping = ""        // somebody else had paused it
	paused    stopping = "paused"  // in the middle of what it did
	stopped   stopping = "stopped" // with its own signal
)

// freezes is the journal.
type freezes struct{ journal[*hold] }

// openFreezes loads the journal. If it can't be read control is asked all the same, for its record says that the volume is
// frozen; only who was stopped is not known.
func openFreezes(path string, log *slog.Logger) *freezes {
	f := &freezes{journal[*hold]{doing: "write down what is frozen", write: func(all map[mobyfs.VolumeID]*hold) error {
		return durable.WriteJSON("agent.freezes", path, all, 0o600)
	}}}
	f.load(path, log, "the journal of freezes can't be read; containers that are paused stay so", "docker unpause those that are to go on")
	maps.DeleteFunc(f.all, func(_ mobyfs.VolumeID, h *hold) bool { return h == nil })
	return f
}

// set writes down what is held of a volume, nil for nothing. On error it is as it was.
func (f *freezes) set(id mobyfs.VolumeID, h *hold) error { return f.journal.set(id, h, h == nil) }

// holds is what the journal says.
func (f *freezes) holds() map[mobyfs.VolumeID]*hold {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.all)
}
