package step

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"github.com/mobyfs/mobyfs/internal/durable"
)

// programs points /usr/bin/<name> at the program with the desired content, which the upload has put in its place.
type programs struct{}

func (programs) Name() string { return "program" }

func (programs) Check(f Facts, d Desired) []Change {
	var changes []Change
	for _, p := range d.Programs {
		link, there := f.Links[path.Join(BinDir, p.Name)]
		switch {
		case !there:
			changes = append(changes, Change{Add, p.Name + " " + Short(p.SHA256), ""})
		case link != Dist(p.SHA256, p.Name) || !f.HasProgram(p):
			changes = append(changes, Change{Modify, p.Name + " " + Short(p.SHA256), "was " + Short(path.Base(path.Dir(link)))})
		}
	}
	return changes
}

func (programs) Apply(_ context.Context, r *Run) error {
	keep := map[string]bool{}
	for _, p := range r.Desired.Programs {
		target, link := Dist(p.SHA256, p.Name), path.Join(BinDir, p.Name)
		keep[p.SHA256] = true
		if before := r.Facts.Links[link]; before != "" && before != target {
			keep[path.Base(path.Dir(before))] = true // the way back
		}
		if err := r.link(target, link); err != nil {
			return fmt.Errorf("install %s: %w", p.Name, err)
		}
	}
	return r.prune(keep)
}

// link makes the program at target durable and lets link point at it, in one step.
func (r *Run) link(target, link string) error {
	if info, err := os.Stat(r.path(target)); err != nil {
		return err
	} else if info.Mode()&0o111 == 0 {
		return fmt.Errorf("%s can't be run: its mode is %v", target, info.Mode())
	}
	for _, dir := range []string{path.Dir(target), DistDir, path.Dir(DistDir)} {
		if err := durable.SyncDir(r.path(dir)); err != nil {
			return err
		}
	}
	if r.Facts.Links[link] == target {
		return nil
	}
	temp := r.path(link) + ".mobyfs-new"
	if err := os.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(target, temp); err != nil {
		return err
	}
	if err := durable.Rename("step.link", temp, r.path(link)); err != nil {
		return err
	}
	r.Facts.Links[link] = target
	return nil
}

// prune removes programs other than those to keep, and what uploads that were cut left behind.
func (r *Run) prune(keep map[string]bool) error {
	dirs, err := os.ReadDir(r.path(DistDir))
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		if !keep[dir.Name()] {
			if err := os.RemoveAll(filepath.Join(r.path(DistDir), dir.Name())); err != nil {
				return err
			}
			continue
		}
		cut, err := filepath.Glob(filepath.Join(r.path(DistDir), dir.Name(), ".*.part"))
		if err != nil {
			return err
		}
		for _, f := range cut {
			if err := os.Remove(f); err != nil {
				return err
			}
		}
	}
	return nil
}

// Short is the start of a digest, for people.
func Short(digest string) string {
	if len(digest) > 12 {
		return digest[:12]
	}
	return digest
}
