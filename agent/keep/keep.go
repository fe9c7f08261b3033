// Package keep keeps copies of the control plane's backups on a node, for the day on which no control is left. They are
// sealed: the node can't read them, and nobody can who has no key of the cluster.
package keep

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/durable"
	"github.com/mobyfs/mobyfs/internal/retain"
)

const (
	ending    = ".mbk"
	maxHeader = 4 << 10 // bytes
)

// MaxBytes is how much space copies take at most, save that the newest is always kept.
const MaxBytes = 2 << 30

// Copies are those on one node. All methods may be called at once.
type Copies struct {
	dir      string
	maxBytes int64
	mu       sync.Mutex // held by whoever changes files
}

// Copy is a backup of which a copy is here, as its first line tells.
type Copy struct {
	ID      string    `json:"id"`
	Cluster string    `json:"cluster"`
	MadeAt  time.Time `json:"made_at"`
	Key     string    `json:"key"` // which key opens it
	Bytes   int64     `json:"bytes"`
}

// In are the copies below the root of a node. It touches nothing.
func In(root string) *Copies { return &Copies{dir: filepath.Join(root, "backups"), maxBytes: MaxBytes} }

func (c *Copies) file(id string) string { return filepath.Join(c.dir, id+ending) }

// IDs names the backups of which copies are here, the newest first.
func (c *Copies) IDs() ([]string, error) {
	files, err := os.ReadDir(c.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list the copies of backups: %w", err)
	}
	ids := []string{}
	for _, f := range files {
		id, ok := strings.CutSuffix(f.Name(), ending)
		if _, is := retain.MadeAt(id); ok && is && f.Type().IsRegular() {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	slices.Reverse(ids)
	return ids, nil
}

// List tells of all copies, the newest first. One whose first line can't be read is told of by its ID.
func (c *Copies) List() ([]Copy, error) {
	ids, err := c.IDs()
	if err != nil {
		return nil, err
	}
	all := []Copy{}
	for _, id := range ids {
		one, err := c.look(c.file(id))
		if errors.Is(err, fs.ErrNotExist) {
			continue // dropped meanwhile
		}
		one.ID = id
		if one.MadeAt.IsZero() {
			one.MadeAt, _ = retain.MadeAt(id)
		}
		all = append(all, one)
	}
	return all, nil
}

func (c *Copies) look(path string) (Copy, error) {
	f, err := os.Open(path)
	if err != nil {
		return Copy{}, err
	}
	defer f.Close()
	var one Copy
	line, err := bufio.NewReaderSize(f, maxHeader).ReadSlice('\n')
	if err == nil {
		err = json.Unmarshal(line, &one)
	}
	if info, statErr := f.Stat(); statErr == nil {
		one.Bytes = info.Size()
	}
	return one, err
}

// Fetch keeps a copy of what get writes, if it is the backup with that ID, and drops those that are not kept any more. The
// copy is there whole or not at all.
func (c *Copies) Fetch(ctx context.Context, id string, get func(ctx context.Context, w io.Writer) error) error {
	if _, ok := retain.MadeAt(id); !ok {
		return mobyfs.Errorf(mobyfs.CodeInvalid, "%.40q is not the ID of a backup", id)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := durable.Mkdir(c.dir, 0o700); err != nil {
		return err
	}
	scratch := filepath.Join(c.dir, "."+id)
	if err := c.write(ctx, scratch, id, get); err != nil {
		return fmt.Errorf("keep a copy of backup %s: %w", id, errors.Join(err, os.Remove(scratch)))
	}
	if err := durable.Rename("keep.copy", scratch, c.file(id)); err != nil {
		return err
	}
	return c.drop()
}

func (c *Copies) write(ctx context.Context, path, id string, get func(ctx context.Context, w io.Writer) error) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	err = get(ctx, f)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if one, err := c.look(path); err != nil || one.ID != id {
		return mobyfs.Errorf(mobyfs.CodeCorrupt, "what came is another thing").WithHint("mobyctl control backup makes another")
	}
	return nil
}

// drop removes what a fetch that was cut short has left, and the copies that are not kept any more.
func (c *Copies) drop() error {
	ids, err := c.IDs()
	if err != nil {
		return err
	}
	gone := retain.Surplus(ids)
	total := int64(0)
	for i, id := range ids {
		if info, err := os.Stat(c.file(id)); err == nil && !slices.Contains(gone, id) {
			if total += info.Size(); total > c.maxBytes && i > 0 {
				gone = append(gone, id)
			}
		}
	}
	for _, id := range gone {
		if err := durable.Remove("keep.drop", c.file(id)); err != nil {
			return err
		}
	}
	left, err := filepath.Glob(filepath.Join(c.dir, ".*"))
	for _, path := range left {
		if _, is := retain.MadeAt(strings.TrimPrefix(filepath.Base(path), ".")); is {
			err = errors.Join(err, durable.Remove("keep.scratch", path))
		}
	}
	return err
}

// Open opens a copy, or the newest one for an empty ID.
func (c *Copies) Open(id string) (*os.File, error) {
	ids, err := c.IDs()
	if err != nil {
		return nil, err
	}
	if id == "" && len(ids) > 0 {
		id = ids[0]
	}
	if !slices.Contains(ids, id) {
		return nil, mobyfs.Errorf(mobyfs.CodeNotFound, "there is no copy of a backup %.40q here", id).
			WithHint("mobyfs backup ls lists those that are here; other nodes may have others")
	}
	return os.Open(c.file(id))
}
