package step

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/moby/sys/mountinfo"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/discovery"
	"github.com/mobyfs/mobyfs/internal/durable"
)

// Here reports whether anything of ours is on the host.
func (f Facts) Here() bool { return f.Installed != nil || f.Exists[path.Dir(DistDir)] }

// Owns reports whether bootstrap put the path there.
func (f Facts) Owns(p string) bool {
	return f.Installed != nil && slices.Contains(f.Installed.Paths, p)
}

// ownUnits lists the units that are ours, those that must stop first in front.
func (f Facts) ownUnits() []string {
	var units []string
	for _, u := range []string{SocketUnit, AgentUnit, WatchdogUnit, ControlUnit} {
		if f.Owns(path.Join(UnitDir, u)) {
			units = append(units, u)
		}
	}
	return units
}

// runtimeUnits lists those of ours that are not part of the boot. They stop before all others.
func (f Facts) runtimeUnits() []string {
	if f.Units[KeptUnit].Active == "active" {
		return []string{KeptUnit}
	}
	return nil
}

// stop stops the units and takes them out of the boot.
type stop struct{}

func (stop) Name() string { return "stop" }

func (stop) Check(f Facts, _ Desired) []Change {
	var changes []Change
	for _, u := range append(f.runtimeUnits(), f.ownUnits()...) {
		if a := f.Units[u].Active; a != "" && a != "inactive" {
			changes = append(changes, Change{Delete, "stop " + u, ""})
		}
		if f.Wants[u] {
			changes = append(changes, Change{Delete, "disable " + u, ""})
		}
	}
	return changes
}

func (stop) Apply(ctx context.Context, r *Run) error {
	if err := mayGo(r.Facts, r.Desired); err != nil {
		return err
	}
	units := r.Facts.ownUnits()
	if err := r.Systemd.Disable(ctx, units); err != nil {
		return err
	}
	for _, u := range append(r.Facts.runtimeUnits(), units...) {
		if err := r.stopUnit(ctx, u); err != nil {
			return err
		}
		delete(r.Facts.Wants, u)
	}
	if err := os.Remove(r.path(StartsPath)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// mayGo refuses to take a host down that has volumes, unless that is wanted, or whose volumes are in use.
func mayGo(f Facts, d Desired) error {
	switch {
	case f.VolumesInUse > 0:
		return mobyfs.Errorf(mobyfs.CodeInUse, "containers on %s use %d volumes", d.Node, f.VolumesInUse).WithHint("stop those containers first")
	case f.Volumes > 0 && !d.Purge:
		return mobyfs.Errorf(mobyfs.CodeInUse, "the bytes of %d volumes are on %s", f.Volumes, d.Node).WithHint("move them away first, or purge them")
	}
	return nil
}

// filesGone removes units, environment files, links, and what Docker finds the driver by: all but the sockets
// at which a stub answers.
type filesGone struct{}

func (filesGone) Name() string { return "files" }

// left lists those of our files that are still there.
func (filesGone) left(f Facts) []string {
	var left []string
	if f.Installed == nil {
		return nil
	}
	for _, p := range f.Installed.Paths {
		_, file := f.Files[p]
		target, link := f.Links[p]
		ours := link && (target == "" || strings.HasPrefix(target, DistDir+"/"))
		if file || ours || slices.Contains(sockets(), p) && f.Exists[p] && !f.leftToStub(p) {
			left = append(left, p)
		}
	}
	for _, dir := range []string{discovery.EtcDir, path.Dir(discovery.EtcDir), EnvDir} {
		if f.Owns(dir) && f.Exists[dir] {
			left = append(left, dir)
		}
	}
	return left
}

func (s filesGone) Check(f Facts, _ Desired) []Change {
	var changes []Change
	for _, p := range s.left(f) {
		changes = append(changes, Change{Delete, p, ""})
	}
	return changes
}

func (s filesGone) Apply(ctx context.Context, r *Run) error {
	units := false
	for _, p := range s.left(r.Facts) {
		if p == EnvDir || isPluginDir(p) {
			if err := removeEmpty(r.path(p)); err != nil {
				return err
			}
		} else if err := durable.Remove("step.remove", r.path(p)); err != nil {
			return err
		}
		units = units || path.Dir(p) == UnitDir || p == KeptUnitPath
		delete(r.Facts.Files, p)
		delete(r.Facts.Links, p)
		delete(r.Facts.Exists, p)
	}
	if !units {
		return nil
	}
	return r.Systemd.Reload(ctx)
}

// removeEmpty removes a directory, unless somebody else has put something into it.
func removeEmpty(dir string) error {
	err := os.Remove(dir)
	if left, readErr := os.ReadDir(dir); errors.Is(err, fs.ErrNotExist) || readErr == nil && len(left) > 0 {
		return nil
	}
	return err
}

// programsGone removes the programs, also those that an upload left behind.
type programsGone struct{}

func (programsGone) Name() string { return "program" }

func (programsGone) Check(f Facts, _ Desired) []Change {
	if dir := path.Dir(DistDir); f.Exists[dir] {
		return []Change{{Delete, dir, ""}}
	}
	return nil
}

func (programsGone) Apply(_ context.Context, r *Run) error {
	dir := path.Dir(DistDir)
	if err := os.RemoveAll(r.path(dir)); err != nil {
		return err
	}
	delete(r.Facts.Exists, dir)
	return nil
}

// stateGone removes the state of agent and control plane; the journal goes last.
type stateGone struct{}

func (stateGone) Name() string { return "state" }

func (stateGone) left(f Facts) []string {
	var left []string
	for _, dir := range []string{ControlRoot, AgentRoot} {
		if f.Exists[dir] && f.Owns(dir) {
			left = append(left, dir)
		}
	}
	return left
}

func (s stateGone) Check(f Facts, d Desired) []Change {
	var changes []Change
	for _, dir := range s.left(f) {
		c := Change{Delete, dir, ""}
		if dir == AgentRoot && f.Volumes > 0 {
			c.Why = fmt.Sprintf("with the bytes of its volumes: %d", f.Volumes)
		}
		changes = append(changes, c)
	}
	return changes
}

func (s stateGone) Apply(_ context.Context, r *Run) error {
	if err := mayGo(r.Facts, r.Desired); err != nil {
		return err
	}
	for _, dir := range s.left(r.Facts) {
		if err := r.nothingMounted(dir); err != nil {
			return err
		}
		if err := r.empty(dir); err != nil {
			return err
		}
		delete(r.Facts.Exists, dir)
	}
	r.Facts.Installed, r.Facts.Volumes = nil, 0
	return nil
}

// nothingMounted refuses to delete through a mount: what is below it may be somebody's data.
func (r *Run) nothingMounted(dir string) error {
	below, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		return !strings.HasPrefix(m.Mountpoint, r.path(dir)+"/"), false
	})
	if err == nil && len(below) > 0 {
		err = fmt.Errorf("remove %s: something is mounted at %s", dir, below[0].Mountpoint)
	}
	return err
}

// empty removes a directory; our journal in it goes when all else is gone. The root of a file system of its own can't
// be removed: it is left as empty and as open as a new one.
func (r *Run) empty(dir string) error {
	entries, err := os.ReadDir(r.path(dir))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if p := path.Join(dir, e.Name()); p != JournalPath && e.Name() != "lost+found" {
			if err := os.RemoveAll(filepath.Join(r.path(dir), e.Name())); err != nil {
				return err
			}
		}
	}
	if dir == AgentRoot {
		if err := durable.Remove("step.journalgone", r.path(JournalPath)); err != nil {
			return err
		}
	}
	err = os.Remove(r.path(dir))
	if errors.Is(err, syscall.EBUSY) {
		return os.Chmod(r.path(dir), 0o755)
	}
	return err
}
