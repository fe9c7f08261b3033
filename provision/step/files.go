package step

import (
	"context"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"github.com/mobyfs/mobyfs/internal/durable"
)

// files writes the environment files and the units.
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
	return changes
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
	return nil
}
