package control

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/dustin/go-humanize"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/api"
	"github.com/mobyfs/mobyfs/control/store"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// A live migration goes on while containers on the source use the volume. The source alone says when they stop and when
// they may go on, the destination alone that the bytes are there, and each of them says so in a transaction on the one
// record: a freeze is taken back or committed, never both. No clock takes part in it.

// maxContainers is how many containers a destination may name that it made anew.
const maxContainers = 100

// longestMeasured bounds what a destination may call a pause: what is longer was no measurement.
const longestMeasured = 7 * 24 * time.Hour

// mayGoLive is nil if the home of a volume has an agent that knows live migrations: another one would take it for a cold
// one, and refuse. Whether the destination has, placement says.
func (c *Control) mayGoLive(tx *store.Tx, v mobyfs.Volume) error {
	n, err := tx.Node(v.Node)
	if mobyfs.CodeOf(err) == mobyfs.CodeNotFound {
		return c.noNode(v.Node)
	}
	if err != nil || n.Live {
		return err
	}
	return mobyfs.Errorf(mobyfs.CodeInvalid, "%s can't be moved while it is used: %s runs mobyfs %s, which does not do that", title(v), n.Name, cmp.Or(n.Version, "of an unknown version")).
		WithHint("upgrade mobyfs on %s, or stop what uses the volume and move it without --live", n.Name)
}

// Freeze implements api.Service.
func (c *Control) Freeze(ctx context.Context, who pki.Identity, id mobyfs.VolumeID, migration mobyfs.MigrationID) (mobyfs.Volume, error) {
	if err := c.allow(who, doFreeze); err != nil {
		return mobyfs.Volume{}, err
	}
	v, err := c.decide(ctx, id, func(v *mobyfs.Volume) (string, error) { return c.freeze(v, who.Name, migration, c.now()) })
	return c.told.volume(v), err
}

// freeze notes that the source stops what uses the volume.
func (c *Control) freeze(v *mobyfs.Volume, node string, id mobyfs.MigrationID, now time.Time) (string, error) {
	m := v.Migration
	if m == nil || m.ID != id {
		return "", ended(*v, id)
	}
	if err := onlySource(m, *v, node); err != nil {
		return "", err
	}
	switch {
	case !m.Live:
		return "", mobyfs.Errorf(mobyfs.CodeInvalid, "the migration of %s from %s to %s is not live: nothing there is to be stopped", title(*v), m.From, m.To).
			WithHint(lookAgain)
	case m.State == mobyfs.MigrationFreezing:
		return "", nil // this one
	}
	m.State, m.FrozenAt = mobyfs.MigrationFreezing, now.UTC()
	m.Freezes++
	c.raise(v)
	return "volume freezes", nil
}

// Thaw implements api.Service.
func (c *Control) Thaw(ctx context.Context, who pki.Identity, id mobyfs.VolumeID, migration mobyfs.MigrationID, freeze int, reason string) (mobyfs.Volume, error) {
	if err := c.allow(who, doThaw); err != nil {
		return mobyfs.Volume{}, err
	}
	reason = cmp.Or(clean(reason, maxReason), "the freeze came to nothing")
	v, err := c.decide(ctx, id, func(v *mobyfs.Volume) (string, error) { return c.thaw(v, who.Name, migration, freeze, reason) })
	return c.told.volume(v), err
}

// thaw takes a freeze back, so that it can't be committed any more. What it answers decides whether the source lets go on
// what it has stopped: nil is for that alone.
func (c *Control) thaw(v *mobyfs.Volume, node string, id mobyfs.MigrationID, freeze int, reason string) (string, error) {
	m := v.Migration
	if m == nil || m.ID != id {
		return "", thawEnded(*v, node, id)
	}
	if err := onlySource(m, *v, node); err != nil {
		return "", err
	}
	switch {
	case freeze < 1 || freeze > m.Freezes:
		return "", mobyfs.Errorf(mobyfs.CodeInvalid, "%s was frozen %d times, never a %dth", title(*v), m.Freezes, freeze).WithHint(lookAgain)
	case m.State != mobyfs.MigrationFreezing:
		return "", nil // thawed before
	case freeze < m.Freezes:
		return "", mobyfs.Errorf(mobyfs.CodeChanged, "%s was frozen again since: freeze %d holds, not %d", title(*v), m.Freezes, freeze).WithHint(lookAgain)
	}
	m.State, m.FrozenAt = mobyfs.MigrationCopying, time.Time{}
	c.raise(v)
	return "volume thaws: " + reason, nil
}

// thawEnded answers the source of a migration that is not under way.
func thawEnded(v mobyfs.Volume, node string, id mobyfs.MigrationID) error {
	last := v.LastMove
	known := last != nil && last.ID == id
	if known {
		if err := onlySource(last, v, node); err != nil {
			return err
		}
	}
	switch {
	case known && last.State == mobyfs.MigrationAborted:
		return nil
	case known, v.Arrived == id, v.Node != node:
		return ended(v, id)
	}
	return mobyfs.Errorf(mobyfs.CodeNotFound, "nothing is known of the migration %.40q of %s", id, title(v)).
		WithHint("the lease in the record tells whether the volume was given away meanwhile")
}

// Moved implements api.Service.
func (c *Control) Moved(ctx context.Context, who pki.Identity, id mobyfs.VolumeID, migration mobyfs.MigrationID, report mobyfs.MoveReport) error {
	if err := c.allow(who, doCommit); err != nil {
		return err
	}
	if report.Pause < 0 || report.Pause > longestMeasured || len(report.Containers) > maxContainers {
		return mobyfs.Errorf(mobyfs.CodeInvalid, "what %s tells of the migration %.40q can't be", who.Name, migration).
			WithHint("install a mobyfs of the cluster's version on %s", who.Name)
	}
	measured := false
	_, err := c.decide(ctx, id, func(v *mobyfs.Volume) (string, error) {
		last := v.LastMove
		measured = false
		if last == nil || last.ID != migration {
			return "", nil // others came after it
		}
		if err := onlyDestination(last, *v, who.Name); err != nil {
			return "", err
		}
		if last.State != mobyfs.MigrationCommitted {
			return "", ended(*v, migration)
		}
		runs := slices.Clone(last.Containers)
		for _, name := range cleanUsers(report.Containers) {
			if !slices.Contains(runs, name) && len(runs) < maxContainers {
				runs = append(runs, name)
			}
		}
		if last.Told() && (last.Pause > 0 || report.Pause == 0) && len(runs) == len(last.Containers) {
			return "", nil // told before
		}
		if !last.Told() {
			last.ToldAt, last.Trouble = c.now().UTC(), clean(report.Trouble, maxReason)
		}
		measured = last.Pause == 0 && report.Pause > 0
		last.Pause, last.Containers = cmp.Or(last.Pause, report.Pause), runs
		return movedText(*last), nil
	})
	if mobyfs.CodeOf(err) == mobyfs.CodeNotFound {
		return nil // the volume was removed since
	}
	if err == nil && measured {
		c.metrics.paused.Observe(report.Pause.Seconds())
	}
	return err
}

// movedText is what an event tells of how a live migration went.
func movedText(m mobyfs.Migration) string {
	text := "volume can be used by what was to move: "
	if m.Pause > 0 {
		text += fmt.Sprintf("it paused for %v", m.Pause.Round(time.Millisecond))
	} else {
		text += fmt.Sprintf("how long it paused is not known, for mobyfs on %s was started anew meanwhile", m.To)
	}
	if m.Trouble != "" {
		text += "; " + m.Trouble
	}
	return text
}

func onlySource(m *mobyfs.Migration, v mobyfs.Volume, node string) error {
	if m.From == node {
		return nil
	}
	return mobyfs.Errorf(mobyfs.CodeDenied, "%s is moving from %s, not from %s", title(v), m.From, node).WithHint(lookAgain)
}

// mayCommit is nil unless the bytes that have come are not those of the freeze that holds. Of a migration that is not live
// there is none: nobody uses the volume.
func mayCommit(m *mobyfs.Migration, v mobyfs.Volume, receipt mobyfs.Receipt) error {
	switch {
	case !m.Live && receipt.Freeze == 0:
		return nil
	case m.Live && m.State == mobyfs.MigrationFreezing && receipt.Freeze == m.Freezes:
		return nil
	case m.Live && receipt.Freeze > 0 && receipt.Freeze <= m.Freezes:
		return mobyfs.Errorf(mobyfs.CodeChanged, "commit the migration of %s: freeze %d of %d was taken back, and containers on %s have gone on since", title(v), receipt.Freeze, m.Freezes, m.From).
			WithHint("bring what has changed since, and freeze it again")
	}
	return mobyfs.Errorf(mobyfs.CodeInvalid, "commit the migration of %s: what has come is not the state of a freeze of %s", title(v), m.From).
		WithHint("install a mobyfs of the cluster's version on %s", m.To)
}

// ChangeMove implements api.Service.
func (c *Control) ChangeMove(ctx context.Context, who pki.Identity, name string, patch api.MovePatch) (mobyfs.Volume, error) {
	if err := c.allow(who, doMove); err != nil {
		return mobyfs.Volume{}, err
	}
	v, err := c.named(ctx, name)
	if err != nil {
		return mobyfs.Volume{}, err
	}
	v, err = c.decideIn(ctx, v.ID, func(tx *store.Tx, v *mobyfs.Volume) (string, error) {
		m := v.Migration
		if m == nil || !m.Live {
			return "", mobyfs.Errorf(mobyfs.CodeNotFound, "no live move of %s is under way, it is on %s", title(*v), v.Node).
				WithHint("to begin one: mobyctl volume move %s --to NODE --live", v.Name)
		}
		options, err := patch.Of(m.Options).Check()
		if err != nil || options == m.Options {
			return "", err
		}
		m.Options = options
		return "options of the migration changed", c.changeRow(tx, m.Operation, options)
	})
	return c.told.volume(v), err
}

// changeRow gives the row of a move other options, for tries to come.
func (c *Control) changeRow(tx *store.Tx, id mobyfs.OperationID, options mobyfs.MoveOptions) error {
	if id == "" {
		return nil
	}
	o, err := store.Operations.Get(tx, string(id))
	if mobyfs.CodeOf(err) == mobyfs.CodeNotFound || err == nil && (o.Phase.Ended() || !o.Known()) {
		return nil
	}
	if err != nil {
		return err
	}
	before := o
	o.Options = options
	return putOperation(tx, before, &o)
}

// UndoMove implements api.Service.
func (c *Control) UndoMove(ctx context.Context, who pki.Identity, name string) (mobyfs.Volume, error) {
	if err := c.allow(who, doMove); err != nil {
		return mobyfs.Volume{}, err
	}
	v, err := c.named(ctx, name)
	if err != nil {
		return mobyfs.Volume{}, err
	}
	v, err = c.decideIn(ctx, v.ID, func(tx *store.Tx, v *mobyfs.Volume) (string, error) {
		if m := v.Migration; m != nil && m.Undoes != "" {
			return "", nil // that is what goes on
		}
		last := v.LastMove
		if last == nil || last.State != mobyfs.MigrationCommitted || v.Arrived != last.ID || v.Migration != nil {
			return "", mobyfs.Errorf(mobyfs.CodeInvalid, "%s did not come to %s by its last move, which could be undone", title(*v), v.Node).
				WithHint("mobyctl volume inspect %s tells of it; mobyctl volume move %s --cancel gives up one that is under way", v.Name, v.Name)
		}
		undo := api.MoveRequest{To: last.From, Live: last.Live || v.Lease != nil}
		if undo.Live {
			undo.Options = last.Options
		}
		decided, err := c.moveAsOperation(tx, v, undo)
		if err == nil && v.Migration != nil {
			v.Migration.Undoes = last.ID
		}
		return decided, err
	})
	return c.told.volume(v), err
}

// startWait is how long an operation waits for what a destination tells after the commit of a live migration.
const startWait = time.Minute

// starting reports whether a live migration was committed and its destination has yet to tell how it went.
func (c *Control) starting(m *mobyfs.Migration) bool {
	return m != nil && m.Live && m.State == mobyfs.MigrationCommitted && !m.Told() && c.now().Sub(m.EndedAt) < startWait
}

// liveStep adds to the row of a live move what its nodes have told of how far it is.
func (c *Control) liveStep(o mobyfs.Operation, m mobyfs.Migration) mobyfs.Operation {
	p := m.Progress
	o.Pull = p
	switch {
	case m.State == mobyfs.MigrationCommitted:
		o.Step = "starting"
	case m.State == mobyfs.MigrationFreezing:
		o.Step = "freezing"
	case p.Asks:
		o.Step, o.Phase, o.Cause = "asking", mobyfs.OperationWaiting, askedFor(o.Name, m)
	case p.Files == 0 && p.Bytes == 0 && p.Round == 0:
		o.Step = "preparing"
	default:
		o.Step = m.RoundText()
	}
	if left := p.TotalBytes - p.Bytes; left > 0 && p.Rate > p.DirtyRate {
		seconds := float64(left) / float64(p.Rate-p.DirtyRate)
		o.ETA = c.now().Add(time.Duration(min(seconds, 1e6) * float64(time.Second))).UTC().Truncate(time.Second)
	}
	return o
}

// askedFor says what a live move waits for that asks.
func askedFor(name string, m mobyfs.Migration) string {
	p := m.Progress
	return fmt.Sprintf("after %d rounds containers change %s a second and %s come: the pause would be %v, longer than %v. To go on: mobyctl volume move %s --on-busy freeze or --max-pause",
		m.Options.Rounds(), humanize.IBytes(uint64(p.DirtyRate)), humanize.IBytes(uint64(p.Rate)), p.PredictedPause.Round(time.Millisecond), m.Options.LongestPause(), name)
}

// longestFrozen is how long the volume that was frozen first of those that are has been so; 0 if none is.
func (c *Control) longestFrozen() (longest time.Duration) {
	c.store.View(func(view store.View) {
		for v := range view.Ordered(store.Moving, store.Place{}) {
			if m := v.Migration; m.State == mobyfs.MigrationFreezing {
				longest = max(longest, c.now().Sub(m.FrozenAt))
			}
		}
	})
	return longest
}
