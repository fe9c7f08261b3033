package dir

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/durable"
)

// trashed is an entry of the trash. Its id is a volume's, or "." and a migration's for staged bytes that nobody
// wants any more.
type trashed struct {
	path string
	id   string
	at   time.Time
}

// trashName is a free name in the trash, of the present time.
func (b *Backend) trashName(id string) string {
	for at := time.Now().UnixNano(); ; at++ {
		path := filepath.Join(b.trash(), id+"."+strconv.FormatInt(at, 10))
		if _, err := os.Lstat(path); isNone(err) {
			return path
		}
	}
}

// inTrash lists the trash. Names that no method of this package gives are left out, and so left alone.
func (b *Backend) inTrash() ([]trashed, error) {
	entries, err := os.ReadDir(b.trash())
	if err != nil {
		return nil, fmt.Errorf("list the trash: %w", err)
	}
	var all []trashed
	for _, e := range entries {
		dot := strings.LastIndexByte(e.Name(), '.')
		if dot < 1 {
			continue
		}
		ns, err := strconv.ParseInt(e.Name()[dot+1:], 10, 64)
		if err != nil {
			continue
		}
		all = append(all, trashed{filepath.Join(b.trash(), e.Name()), e.Name()[:dot], time.Unix(0, ns)})
	}
	return all, nil
}

// Purge deletes volumes that were put into the trash before a time, and discarded bytes of migrations at any time.
// An entry that can't be deleted does not keep the others. When ctx ends, the rest stays for the next Purge.
func (b *Backend) Purge(ctx context.Context, before time.Time) error {
	return b.deleteTrash(ctx, func(e trashed) bool {
		return strings.HasPrefix(e.id, ".") || e.at.Before(before)
	})
}

// deleteDiscarded deletes the discarded bytes of one migration.
func (b *Backend) deleteDiscarded(ctx context.Context, m mobyfs.MigrationID) error {
	return b.deleteTrash(ctx, func(e trashed) bool { return e.id == "."+string(m) })
}

func (b *Backend) deleteTrash(ctx context.Context, doomed func(trashed) bool) error {
	entries, err := b.inTrash()
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if !doomed(e) {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := b.deleteEntry(ctx, e); err != nil {
			errs = append(errs, fmt.Errorf("delete %s: %w", e.path, err))
		}
	}
	return errors.Join(errs...)
}

// deleteEntry deletes an entry of the trash, closed first: nothing that is mounted in it is emptied. A volume gets the name of
// what nobody wants any more before anything of it is deleted: half of it must not come back.
func (b *Backend) deleteEntry(ctx context.Context, e trashed) error {
	path := e.path
	if err := b.medium.Close(path); err != nil {
		return err
	}
	if !strings.HasPrefix(e.id, ".") {
		path = b.trashName(".purged-" + e.id)
		if err := durable.Rename("dir.purge", e.path, path); err != nil {
			return err
		}
	}
	if err := b.medium.Drop(path); err != nil {
		return err
	}
	return deleteTree(ctx, path)
}
