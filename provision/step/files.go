package step

import (
	"context"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/mobyfs/mobyfs/internal/discovery"
	"github.com/mobyfs/mobyfs/internal/durable"
)

// files writes the environment files, the units and what tells Docker of the driver.
type files struct{}

func (files) Name() string { return "files" }

func (files) Check(f Facts, d Desired) []Change {
	var changes []Change
	for _, want := range d.Files {
		now, there := f.Files[want.Path]
		switch {
		case !there:
			changes = append(changes, Change{Add, want.Path, ""})
		case now.SHA256 != sum(want.Content):
			changes = append(changes, Change{Modify, want.Path, "its content differs"})
		case now.Mode != want.octal():
			changes = append(changes, Change{Modify, want.Path, fmt.Sprintf("its mode is %s, not %s", now.Mode, want.octal())})
		}
	}
	for _, p := range registered(f, d) {
		changes = append(changes, Change{Delete, p, "Docker is told in another way"})
	}
	return changes
}

// registered lists files of ours that lead Docker elsewhere than is desired. A dockerd that read one already does not
// need it any more.
func registered(f Facts, d Desired) []string {
	var old []string
	for _, p := range []string{discovery.SpecPath, discovery.JSONPath} {
		if _, there := f.Files[p]; there && f.Owns(p) && !slices.Contains(d.plugins(), p) {
			old = append(old, p)
		}
	}
	return old
}

func (f File) octal() string { return fmt.Sprintf("%o", f.Mode) }

func (files) Apply(_ context.Context, r *Run) error {
	for _, want := range r.Desired.Files {
		now := r.Facts.Files[want.Path]
		if now.SHA256 == sum(want.Content) && now.Mode == want.octal() {
			continue
		}
		if err := r.mkdirAll(path.Dir(want.Path), 0o755); err != nil {
			return err
		}
		if err := durable.WriteFile("step.file", r.path(want.Path), []byte(want.Content), fs.FileMode(want.Mode)); err != nil {
			return fmt.Errorf("write %s: %w", want.Path, err)
		}
		r.Facts.Files[want.Path] = FileFact{SHA256: sum(want.Content), Mode: want.octal()}
		if strings.HasPrefix(want.Path, UnitDir+"/") {
			u := r.Facts.Units[path.Base(want.Path)]
			u.NeedReload = true
			r.Facts.Units[path.Base(want.Path)] = u
		}
	}
	for _, p := range registered(r.Facts, r.Desired) {
		if err := durable.Remove("step.unregister", r.path(p)); err != nil {
			return err
		}
		delete(r.Facts.Files, p)
	}
	return nil
}
