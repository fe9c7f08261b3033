package agent

import (
	"context"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/failpoint"
)

// moments names the moments before and after each call that changes something at control. Killed before, nothing was
// decided; killed after, it was and this node does not know it. The same call again answers both.
type moments struct{ mobyfs.Control }

func (m moments) CreateVolume(ctx context.Context, name string, spec mobyfs.VolumeSpec, node string) (mobyfs.Volume, error) {
	failpoint.Reach("agent.ask-create.before")
	v, err := m.Control.CreateVolume(ctx, name, spec, node)
	failpoint.Reach("agent.ask-create.after")
	return v, err
}

func (m moments) Created(ctx context.Context, id mobyfs.VolumeID) (mobyfs.Volume, error) {
	failpoint.Reach("agent.created.before")
	v, err := m.Control.Created(ctx, id)
	failpoint.Reach("agent.created.after")
	return v, err
}

func (m moments) RemoveVolume(ctx context.Context, name string) error {
	failpoint.Reach("agent.ask-remove.before")
	err := m.Control.RemoveVolume(ctx, name)
	failpoint.Reach("agent.ask-remove.after")
	return err
}

func (m moments) Removed(ctx context.Context, id mobyfs.VolumeID) error {
	failpoint.Reach("agent.removed.before")
	err := m.Control.Removed(ctx, id)
	failpoint.Reach("agent.removed.after")
	return err
}

func (m moments) Claim(ctx context.Context, id mobyfs.VolumeID) (mobyfs.Grant, error) {
	failpoint.Reach("agent.claim.before")
	g, err := m.Control.Claim(ctx, id)
	failpoint.Reach("agent.claim.after")
	return g, err
}

func (m moments) Release(ctx context.Context, id mobyfs.VolumeID, fence mobyfs.Fence) error {
	failpoint.Reach("agent.release.before")
	err := m.Control.Release(ctx, id, fence)
	failpoint.Reach("agent.release.after")
	return err
}

func (m moments) Accept(ctx context.Context, id mobyfs.VolumeID, migration mobyfs.MigrationID) (mobyfs.Grant, error) {
	failpoint.Reach("agent.accept.before")
	g, err := m.Control.Accept(ctx, id, migration)
	failpoint.Reach("agent.accept.after")
	return g, err
}

func (m moments) Commit(ctx context.Context, id mobyfs.VolumeID, migration mobyfs.MigrationID, receipt mobyfs.Receipt) (mobyfs.Grant, error) {
	failpoint.Reach("agent.commit.before")
	g, err := m.Control.Commit(ctx, id, migration, receipt)
	failpoint.Reach("agent.commit.after")
	return g, err
}

func (m moments) Abort(ctx context.Context, id mobyfs.VolumeID, migration mobyfs.MigrationID, reason string) error {
	failpoint.Reach("agent.abort.before")
	err := m.Control.Abort(ctx, id, migration, reason)
	failpoint.Reach("agent.abort.after")
	return err
}

func (m moments) Freeze(ctx context.Context, id mobyfs.VolumeID, migration mobyfs.MigrationID) (mobyfs.Volume, error) {
	failpoint.Reach("agent.freeze.before")
	v, err := m.Control.Freeze(ctx, id, migration)
	failpoint.Reach("agent.freeze.after")
	return v, err
}

func (m moments) Thaw(ctx context.Context, id mobyfs.VolumeID, migration mobyfs.MigrationID, freeze int, reason string) (mobyfs.Volume, error) {
	failpoint.Reach("agent.thaw.before")
	v, err := m.Control.Thaw(ctx, id, migration, freeze, reason)
	failpoint.Reach("agent.thaw.after")
	return v, err
}

func (m moments) Moved(ctx context.Context, id mobyfs.VolumeID, migration mobyfs.MigrationID, report mobyfs.MoveReport) error {
	failpoint.Reach("agent.moved.before")
	err := m.Control.Moved(ctx, id, migration, report)
	failpoint.Reach("agent.moved.after")
	return err
}

func (m moments) Report(ctx context.Context, r mobyfs.Report) (mobyfs.Session, error) {
	failpoint.Reach("agent.report.before")
	s, err := m.Control.Report(ctx, r)
	failpoint.Reach("agent.report.after")
	return s, err
}
