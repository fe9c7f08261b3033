package agent

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/backend"
	"github.com/mobyfs/mobyfs/internal/mountns"
	"github.com/mobyfs/mobyfs/migrate/transfer"
)

// A volume may begin as a copy of what is in a directory of this host (VolumeSpec.From), such as a volume of Docker's own.
// The directory is only read, and stays. Killed anywhere, there is no half volume: the copy is staged as what a migration
// brings is, and becomes the volume in one step once it is proven.

// checkSource tells early what is wrong with a directory that a new volume is to be a copy of, or nil.
func (a *Agent) checkSource(ctx context.Context, name, from string) error {
	if _, err := a.Control.Volume(ctx, name); mobyfs.CodeOf(err) != mobyfs.CodeNotFound {
		return nil // it is not new, or control will say what is wrong
	}
	info, err := os.Lstat(from)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return mobyfs.Errorf(mobyfs.CodeInvalid, "there is no %s on %s", from, a.Node).
			WithHint("give from= the path of a directory as %s sees it", a.Node)
	case err != nil:
		return mobyfs.Errorf(mobyfs.CodeInvalid, "look at %s: %w", from, err)
	case !info.IsDir():
		return mobyfs.Errorf(mobyfs.CodeInvalid, "%s is no directory", from).WithHint("give from= the path of a directory, with no symbolic link at its end")
	}
	resolved, err := filepath.EvalSymlinks(from)
	if err != nil {
		return mobyfs.Errorf(mobyfs.CodeInvalid, "look at %s: %w", from, err)
	}
	root, err := filepath.EvalSymlinks(a.Root)
	if err != nil {
		return err
	}
	if mountns.Within(resolved, root) || mountns.Within(root, resolved) {
		return mobyfs.Errorf(mobyfs.CodeInvalid, "volumes are kept in %s, which can't be copied into one", a.Root).
			WithHint("to copy a volume, mount both in a container")
	}
	users, err := a.users(from)
	if err != nil {
		return err
	}
	users = slices.DeleteFunc(users, func(u mountns.User) bool { return u.Command == mountns.Ended })
	if len(users) > 0 {
		return mobyfs.Errorf(mobyfs.CodeInUse, "%s is in use by %s", from, users[0]).
			WithHint("stop the containers that use it, then run it again")
	}
	return nil
}

// begin makes the bytes of a new volume: none, or a copy. Of a volume that is one they are here only once all of them are.
func (w *worker) begin(ctx context.Context, b backend.Backend, v view) error {
	switch spec := v.record.Spec; {
	case spec.From == "":
		return b.Create(ctx, w.id, spec)
	case v.bytes:
		return nil
	}
	m := w.id.Copying()
	sealed := func(s backend.Staged) bool { return s.Migration == m && s.Receipt != nil }
	if !slices.ContainsFunc(v.staged, sealed) {
		if err := w.copyFrom(ctx, b, m, v); err != nil {
			return err
		}
	}
	err := b.Adopt(ctx, w.id, m, v.record.Fence)
	w.agent.metrics.fence("adopt", err)
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.unstage(m)
	w.seen = v.record.Fence
	return nil
}

// copied notes how far the copying has come.
func (w *worker) copied(p mobyfs.Progress) {
	w.mu.Lock()
	w.filled.note(p)
	w.mu.Unlock()
	w.agent.reporter.kick()
}

// copyFrom stages what is in the directory, and seals it. It ends early when the volume is removed.
func (w *worker) copyFrom(ctx context.Context, b backend.Backend, m mobyfs.MigrationID, v view) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	w.mu.Lock()
	w.filling, w.filled = stop, arrival{}
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		w.filling = nil
		w.mu.Unlock()
	}()
	r := v.record
	dir, err := b.Stage(ctx, w.id, m, r.Spec)
	if err != nil {
		return err
	}
	w.setStaged(b, backend.Staged{Migration: m, Volume: w.id, SizeBytes: v.size()})
	w.log.Info("copying", "volume", r.Name, "from", r.Spec.From)
	receipt, err := transfer.Copy(ctx, r.Spec.From, dir, w.copied)
	if err == nil {
		err = b.Seal(ctx, m, receipt)
	}
	if mobyfs.CodeOf(err) == mobyfs.CodeNoSpace {
		err = mobyfs.Errorf(mobyfs.CodeNoSpace, "%w", err).
			WithHint("make room on %s; or remove volume %s, which begins anew then, and give it a larger size", w.agent.Node, r.Name)
	}
	if err != nil {
		return err
	}
	w.setStaged(b, backend.Staged{Migration: m, Volume: w.id, Receipt: &receipt, SizeBytes: v.size()})
	w.log.Info("copied", "volume", r.Name, "from", r.Spec.From, "files", receipt.Progress.Files, "bytes", receipt.Progress.Bytes)
	return nil
}
