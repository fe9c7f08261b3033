package agent

import (
	"context"
	"encoding/json"
	"strings"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/failpoint"
)

// Containers that move along are made at the destination before the source freezes, and started once the volume is there.
// dockerd itself is the journal: a label says for which migration a container was made, and one that never ran is to be
// started if that was committed, and removed if not. So a crash between any two steps leaves nothing behind.

// openLuggage reads what the source told of its containers, and is an error if one of them could not be made here.
func (w *worker) openLuggage(ctx context.Context, text []byte, o mobyfs.MoveOptions) ([]Packed, error) {
	if !o.WithContainers || len(text) == 0 {
		return nil, nil
	}
	var bags luggage
	if err := json.Unmarshal(text, &bags); err != nil {
		return nil, mobyfs.Errorf(mobyfs.CodeCorrupt, "read what the source tells of its containers: %w", err)
	}
	if len(bags.Containers) > 0 && w.agent.Docker == nil {
		return nil, mobyfs.Errorf(mobyfs.CodeInvalid, "%s does not ask dockerd, so no container can be made there", w.agent.Node).
			WithHint("start mobyfs with --docker, or move the volume without --with-containers")
	}
	var ours []Packed
	for _, p := range bags.Containers {
		if p.Runner != "" {
			w.log.Warn("a container is not made anew here; who made it does that", "container", p.Name, "who", p.Runner)
			w.addTrouble("container " + p.Name + " was not made anew: " + p.Runner + " runs it, and has to start it there")
			continue
		}
		if err := w.agent.Docker.Check(ctx, p); err != nil {
			return nil, err
		}
		ours = append(ours, p)
	}
	return ours, nil
}

// addTrouble notes what the operator is told once the move is done.
func (w *worker) addTrouble(text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !strings.Contains(w.move.trouble, text) {
		w.move.trouble = strings.TrimPrefix(w.move.trouble+"; "+text, "; ")
	}
}

// arrived is what is done once a live migration's bytes are the volume here: containers start, and control is told.
type arrived struct {
	volume    mobyfs.Volume
	migration mobyfs.MigrationID
	frozen    time.Time
	trouble   string
}

// arrive starts the containers that were made for a migration which was committed, and tells control how it went. It does
// so beside the worker, for a container that starts mounts the volume, which the worker has to see to.
func (a *Agent) arrive(ctx context.Context, came arrived) {
	report := mobyfs.MoveReport{Trouble: came.trouble}
	made, err := a.madeFor(ctx, came.migration)
	if err != nil {
		a.Log.Error("look for containers that moved along; it is done when dockerd is reached anew", "migration", came.migration, "err", err)
		if came.frozen.IsZero() {
			return // who looks again tells
		}
		report.Trouble = strings.TrimPrefix(report.Trouble+"; "+err.Error(), "; ")
	}
	for _, c := range made {
		failpoint.Reach("agent.luggage.start.before")
		err := a.Docker.Start(ctx, c.ID)
		failpoint.Reach("agent.luggage.start.after")
		if ctx.Err() != nil {
			return // the next life does it
		}
		if err != nil {
			a.Log.Error("start a container that moved along", "volume", came.volume.Name, "container", c.Name, "migration", came.migration, "err", err,
				"hint", "docker start "+c.Name+", or mobyctl volume move --undo "+came.volume.Name)
			report.Trouble = strings.TrimPrefix(report.Trouble+"; container "+c.Name+" does not start: "+err.Error(), "; ")
			continue
		}
		report.Containers = append(report.Containers, c.Name)
		a.Log.Info("a container that moved along runs", "volume", came.volume.Name, "container", c.Name, "migration", came.migration)
	}
	if !came.frozen.IsZero() { // by this life: a guess is no measurement
		report.Pause = max(time.Since(came.frozen), 1)
	}
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if err := a.Control.Moved(call, came.volume.ID, came.migration, report); err != nil {
		a.Log.Warn("tell control how a move went", "volume", came.volume.Name, "migration", came.migration, "err", err)
	}
}

// madeFor lists the containers that were made for a migration and have not run yet.
func (a *Agent) madeFor(ctx context.Context, m mobyfs.MigrationID) ([]Made, error) {
	if a.Docker == nil {
		return nil, nil
	}
	all, err := a.Docker.Made(ctx)
	var ours []Made
	for _, c := range all {
		if c.Migration == m {
			ours = append(ours, c)
		}
	}
	return ours, err
}

// unpack removes the containers that were made for a migration which came to nothing.
func (a *Agent) unpack(ctx context.Context, m mobyfs.MigrationID) error {
	made, err := a.madeFor(ctx, m)
	for _, c := range made {
		if err = a.Docker.Remove(ctx, c.ID); err != nil {
			break
		}
		a.Log.Info("removed a container that was made for a migration which came to nothing", "container", c.Name, "migration", m)
	}
	return err
}

// findLuggage takes up what an earlier life made. It leaves alone what can't be told yet: it is called again.
func (a *Agent) findLuggage(ctx context.Context) {
	made, err := a.Docker.Made(ctx)
	if err != nil {
		a.Log.Warn("ask dockerd for containers that were made for migrations", "err", err)
		return
	}
	seen := map[mobyfs.MigrationID]bool{}
	for _, c := range made {
		v, ok := a.catalogue.named(c.Volume)
		if !ok || seen[c.Migration] {
			continue
		}
		seen[c.Migration] = true
		_, told := a.catalogue.record(v.ID)
		w := a.worker(v.ID)
		w.mu.Lock()
		here, goesOn := w.bytes, w.arriving == c.Migration || w.move.migration == c.Migration && w.move.stop != nil
		w.mu.Unlock()
		switch {
		case !told || goesOn || v.Migration != nil && v.Migration.ID == c.Migration:
		case v.Arrived == c.Migration && v.Node == a.Node && here:
			a.arrive(ctx, arrived{volume: v, migration: c.Migration})
		case v.Arrived != c.Migration || v.Node != a.Node:
			if err := a.unpack(ctx, c.Migration); err != nil {
				a.Log.Warn("remove a container that was made for a migration", "container", c.Name, "err", err)
			}
		}
	}
}
