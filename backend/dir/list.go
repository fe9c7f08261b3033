package dir

import (
	"context"
	"fmt"
	"os"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/backend"
)

// List tells what lies here. A volume whose record can't be read is listed with fence 0 (its bytes are here, and
// every other method says what is wrong), and so are staged bytes without a record, as of no volume and unsealed.
func (b *Backend) List(ctx context.Context) ([]backend.Held, []backend.Staged, error) {
	var held []backend.Held
	var staged []backend.Staged
	err := each(ctx, b.volumes(), func(name string) error {
		r, err := b.load(mobyfs.VolumeID(name))
		if code := mobyfs.CodeOf(err); code == mobyfs.CodeNotFound {
			return nil // it went meanwhile
		} else if err != nil && code != mobyfs.CodeCorrupt {
			return err
		} else if err != nil {
			r.Fence, r.Size = 0, 0
		}
		held = append(held, backend.Held{ID: mobyfs.VolumeID(name), Fence: r.Fence, SizeBytes: r.Size})
		return nil
	})
	if err != nil {
		return nil, nil, fmt.Errorf("list the volumes here: %w", err)
	}
	err = each(ctx, b.incoming(), func(name string) error {
		s, err := b.loadStaged(mobyfs.MigrationID(name))
		if code := mobyfs.CodeOf(err); code == mobyfs.CodeNotFound {
			return nil
		} else if err != nil && code != mobyfs.CodeCorrupt {
			return err
		} else if err != nil {
			s = staging{}
		}
		staged = append(staged, backend.Staged{Migration: mobyfs.MigrationID(name), Volume: s.Volume, Receipt: s.Receipt, SizeBytes: s.Size})
		return nil
	})
	if err != nil {
		return nil, nil, fmt.Errorf("list what is staged here: %w", err)
	}
	return held, staged, nil
}

// each calls do with the names in a directory that can be IDs.
func each(ctx context.Context, dir string, do func(name string) error) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !element.MatchString(e.Name()) {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := do(e.Name()); err != nil {
			return err
		}
	}
	return nil
}
