// Package shared is the backend that keeps volumes in one directory that all nodes see, such as a mount of NFS. A volume
// moves without being copied, and its bytes outlive its node; so it is the fence beside the bytes that keeps a node out
// which lost the volume and does not know it.
//
// What lies where:
//
//	ROOT/…                     as package dir keeps it: volumes/<id>/data and volume.json, incoming, trash
//	ROOT/volumes/<id>/fence.N  a fence that was seen, with the mark of the node that did; the highest N counts
//	ROOT/mobyfs-shared         names this directory, so that an empty mount point is not taken for it
//	LOCAL/<id>/                where this node shows the volume: a mount of its data while it is attached
//	LOCAL/.shared              the name of the directory that this node has used
//	LOCAL/.mark                what it writes into its fences
//
// Fences only ever grow, though several nodes write them at once and none can lock the others out: each is a file of its
// own, made before the highest is looked for. Of two nodes that attach, the one with the lower fence finds the other's
// file, or was done before that was made.
package shared

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/backend"
	"github.com/mobyfs/mobyfs/backend/dir"
	"github.com/mobyfs/mobyfs/internal/durable"
)

// Backend keeps volumes in a shared directory. It needs to be root, to mount.
type Backend struct {
	root  string // the shared directory
	local string

	mu sync.Mutex
	in *dir.Backend // nil until root has been there
}

var _ backend.Shared = (*Backend)(nil)

// Open names the shared directory, and one of this node's own that becomes the place where volumes are shown. The shared
// one need not be there yet: until it is, every method says so (CodeUnavailable) and volumes of other backends go on.
func Open(root, local string) (*Backend, error) {
	if !filepath.IsAbs(root) || !filepath.IsAbs(local) {
		return nil, mobyfs.Errorf(mobyfs.CodeInvalid, "the shared directory %q must be an absolute path", root)
	}
	if err := durable.Mkdir(local, 0o700); err != nil {
		return nil, fmt.Errorf("make the place where shared volumes are shown: %w", err)
	}
	return &Backend{root: root, local: local}, nil
}

// open opens what keeps the bytes, once the shared directory is there and is the one that this node has used.
func (b *Backend) open() (*dir.Backend, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.recognise(); err != nil {
		return nil, mobyfs.Errorf(mobyfs.CodeUnavailable, "the shared directory %s is not there: %w", b.root, err).
			WithHint("mount it on this host, then try again")
	}
	if b.in != nil {
		return b.in, nil
	}
	in, err := dir.OpenBeside(b.root)
	if err == nil {
		b.in = in
	}
	return in, err
}

// recognise compares the name in the shared directory with the one that this node remembers. The first node to come
// gives the name.
func (b *Backend) recognise() error {
	known, err := os.ReadFile(b.remembered())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	name, err := os.ReadFile(b.marker())
	if errors.Is(err, fs.ErrNotExist) && len(known) == 0 {
		name, err = b.christen()
	}
	switch {
	case err != nil:
		return err
	case len(known) == 0:
		return durable.WriteFile("shared.remember", b.remembered(), name, 0o600)
	case string(known) != string(name):
		return fmt.Errorf("it is another one than before: %s says %.40q, not %.40q", b.marker(), name, known)
	}
	return nil
}

// christen names a shared directory that has no name. Of two nodes that do so at once, one wins.
func (b *Backend) christen() ([]byte, error) {
	if _, err := os.Stat(b.root); err != nil {
		return nil, err
	}
	mine := b.marker() + "." + rand.Text()
	if err := durable.WriteFile("shared.name", mine, []byte(rand.Text()), 0o600); err != nil {
		return nil, err
	}
	defer func() { _ = os.Remove(mine) }()
	if err := os.Link(mine, b.marker()); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	if err := durable.SyncDir(b.root); err != nil {
		return nil, err
	}
	return os.ReadFile(b.marker())
}

func (b *Backend) marker() string     { return filepath.Join(b.root, "mobyfs-shared") }
func (b *Backend) remembered() string { return filepath.Join(b.local, ".shared") }

// Name is the word for this backend in VolumeSpec.Backend.
func (b *Backend) Name() string { return mobyfs.SharedBackend }

// Path is where this node shows the volume while it is attached.
func (b *Backend) Path(id mobyfs.VolumeID) string { return filepath.Join(b.local, string(id)) }

// Bytes is where the bytes lie in the shared directory.
func (b *Backend) Bytes(id mobyfs.VolumeID) string { return dir.PathBelow(b.root, id) }

// Create makes an empty volume that all nodes see.
func (b *Backend) Create(ctx context.Context, id mobyfs.VolumeID, spec mobyfs.VolumeSpec) error {
	if err := dir.CheckVolume(id); err != nil {
		return err
	}
	if spec.Backend != b.Name() {
		return mobyfs.Errorf(mobyfs.CodeInvalid, "volume %s wants backend %q; this is %q", id, spec.Backend, b.Name())
	}
	in, err := b.open()
	if err != nil {
		return err
	}
	spec.Backend = in.Name()
	if err := in.Create(ctx, id, spec); err != nil {
		return err
	}
	return b.have(id)
}

// Attach raises the fence beside the bytes and then mounts them at Path, to be read and written.
func (b *Backend) Attach(ctx context.Context, id mobyfs.VolumeID, fence mobyfs.Fence) (string, error) {
	in, err := b.pass(id, fence, "attach")
	if err != nil {
		return "", err
	}
	if _, err := in.Attach(ctx, id, fence); err != nil {
		return "", err
	}
	if err := b.have(id); err != nil {
		return "", err
	}
	if err := b.show(id); err != nil {
		return "", fmt.Errorf("attach volume %s: %w", id, err)
	}
	// Another node may have raised the fence since: then this one was too late, and nothing has been written yet.
	if err := b.checkFence(id, fence, "attach"); err != nil {
		return "", errors.Join(err, b.hide(id))
	}
	return b.Path(id), nil
}

// Grow notes the size. It is a promise that placement keeps: nothing bounds a volume in a shared directory.
func (b *Backend) Grow(ctx context.Context, id mobyfs.VolumeID, bytes int64) error {
	in, err := b.open()
	if err != nil {
		return err
	}
	return in.Grow(ctx, id, bytes)
}

// Detach takes the volume from Path. What containers have mounted stays with them.
func (b *Backend) Detach(_ context.Context, id mobyfs.VolumeID) error {
	if err := dir.CheckVolume(id); err != nil {
		return err
	}
	return b.hide(id)
}

// Leave takes the volume from Path and forgets that this node had it.
func (b *Backend) Leave(_ context.Context, id mobyfs.VolumeID) error {
	if err := dir.CheckVolume(id); err != nil {
		return err
	}
	return b.leave(id)
}

// Export opens the volume for reading; only a higher fence attaches it again, on whichever node.
func (b *Backend) Export(ctx context.Context, id mobyfs.VolumeID, fence mobyfs.Fence) (string, func(), error) {
	in, err := b.pass(id, fence, "export")
	if err != nil {
		return "", nil, err
	}
	return in.Export(ctx, id, fence)
}

// Stage makes an empty directory for what a migration from another backend brings.
func (b *Backend) Stage(ctx context.Context, id mobyfs.VolumeID, m mobyfs.MigrationID, spec mobyfs.VolumeSpec) (string, error) {
	in, err := b.open()
	if err != nil {
		return "", err
	}
	return in.Stage(ctx, id, m, spec)
}

// Seal notes that what was staged is complete.
func (b *Backend) Seal(ctx context.Context, m mobyfs.MigrationID, receipt mobyfs.Receipt) error {
	in, err := b.open()
	if err != nil {
		return err
	}
	return in.Seal(ctx, m, receipt)
}

// Adopt makes the sealed bytes the volume. Killed before its fence lies beside them as a file, it stands in volume.json.
func (b *Backend) Adopt(ctx context.Context, id mobyfs.VolumeID, m mobyfs.MigrationID, fence mobyfs.Fence) error {
	in, err := b.open()
	if err != nil {
		return err
	}
	if err := dir.CheckVolume(id); err != nil {
		return err
	}
	if err := b.checkFence(id, fence, "adopt"); err != nil && mobyfs.CodeOf(err) != mobyfs.CodeNotFound {
		return err
	}
	if err := in.Adopt(ctx, id, m, fence); err != nil {
		return err
	}
	if err := b.raise(id, fence, "adopt"); err != nil {
		return err
	}
	return b.have(id)
}

// Discard removes what a migration staged.
func (b *Backend) Discard(ctx context.Context, m mobyfs.MigrationID) error {
	in, err := b.open()
	if err != nil {
		return err
	}
	return in.Discard(ctx, m)
}

// Remove puts the volume into the trash of the shared directory.
func (b *Backend) Remove(ctx context.Context, id mobyfs.VolumeID, fence mobyfs.Fence) error {
	in, err := b.pass(id, fence, "remove")
	if mobyfs.CodeOf(err) == mobyfs.CodeNotFound {
		return b.leave(id)
	}
	if err != nil {
		return err
	}
	if err := in.Remove(ctx, id, fence); err != nil {
		return err
	}
	return b.leave(id)
}

// Purge empties the trash of the shared directory. Several nodes may do so at once.
func (b *Backend) Purge(ctx context.Context, before time.Time) error {
	in, err := b.open()
	if err != nil {
		return err
	}
	return in.Purge(ctx, before)
}

// List tells which volumes this node has, not which all nodes have. If the shared directory is not there or does not
// answer soon, their fences are not known (0): an agent must not wait for another machine to answer Docker.
func (b *Backend) List(ctx context.Context) ([]backend.Held, []backend.Staged, error) {
	entries, err := os.ReadDir(b.local)
	if err != nil {
		return nil, nil, fmt.Errorf("list the shared volumes of this node: %w", err)
	}
	there, unreached := within(ctx, listFor, b.look)
	var held []backend.Held
	for _, e := range entries {
		id := mobyfs.VolumeID(e.Name())
		v, seen := there.volumes[id]
		if !strings.HasPrefix(e.Name(), ".") && (seen || unreached != nil) {
			held = append(held, backend.Held{ID: id, Fence: v.Fence})
		}
	}
	return held, there.staged, nil
}

// How long the shared directory may take to answer List, and to answer Survey, for which nobody waits.
const (
	listFor   = 2 * time.Second
	surveyFor = 2 * time.Minute
)

// Survey lists all volumes in the shared directory. Who raised a fence last saw it last.
func (b *Backend) Survey(ctx context.Context) ([]backend.Seen, error) {
	if _, err := os.Lstat(b.remembered()); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return within(ctx, surveyFor, b.survey)
}

func (b *Backend) survey(ctx context.Context) ([]backend.Seen, error) {
	mark, err := b.mark()
	if err != nil {
		return nil, err
	}
	there, err := b.look(ctx)
	if err != nil {
		return nil, err
	}
	var all []backend.Seen
	for id, v := range there.volumes {
		last, err := b.raisedLast(id, mark)
		switch {
		case errors.Is(err, fs.ErrNotExist) && b.gone(id): // it was removed meanwhile
		case err != nil:
			return nil, fmt.Errorf("look who used volume %s last: %w", id, err)
		default:
			all = append(all, backend.Seen{Held: v, Last: last})
		}
	}
	return all, nil
}

func (b *Backend) gone(id mobyfs.VolumeID) bool {
	_, err := os.Lstat(b.volume(id))
	return errors.Is(err, fs.ErrNotExist)
}

// within does not wait longer than it may for the shared directory to answer.
func within[T any](ctx context.Context, wait time.Duration, look func(context.Context) (T, error)) (T, error) {
	type answer struct {
		found T
		err   error
	}
	answers := make(chan answer, 1)
	go func() {
		found, err := look(ctx)
		answers <- answer{found, err}
	}()
	select {
	case a := <-answers:
		return a.found, a.err
	case <-time.After(wait):
		var none T
		return none, mobyfs.Errorf(mobyfs.CodeUnavailable, "the shared directory has not answered for %v", wait).
			WithHint("check the server that it is mounted from, then try again")
	}
}

// contents are what lies in the shared directory.
type contents struct {
	volumes map[mobyfs.VolumeID]backend.Held
	staged  []backend.Staged
}

// look reads what lies in the shared directory, for as long as that takes.
func (b *Backend) look(ctx context.Context) (contents, error) {
	c := contents{volumes: map[mobyfs.VolumeID]backend.Held{}}
	in, err := b.open()
	if err != nil {
		return c, err
	}
	held, staged, err := in.List(ctx)
	for _, h := range held {
		highest, _ := b.highest(h.ID)
		h.Fence = max(h.Fence, highest)
		c.volumes[h.ID] = h
	}
	c.staged = staged
	return c, err
}

// Usage tells what a volume takes in the shared directory.
func (b *Backend) Usage(ctx context.Context, id mobyfs.VolumeID) (backend.Usage, error) {
	in, err := b.open()
	if err != nil {
		return backend.Usage{}, err
	}
	return in.Usage(ctx, id)
}

// Capacity is that of the shared directory, which all nodes fill together.
func (b *Backend) Capacity(ctx context.Context) (mobyfs.Capacity, error) {
	in, err := b.open()
	if err != nil {
		return mobyfs.Capacity{}, err
	}
	return in.Capacity(ctx)
}
