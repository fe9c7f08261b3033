// Package dir is the backend that keeps each volume in a plain directory. It works on any file system. Other backends
// that keep one thing a volume on a disk of this node are a Medium in the place of plain directories.
//
// What lies where, below the root:
//
//	volumes/<id>/data/                the volume's bytes; what containers see
//	volumes/<id>/volume.json          the highest fence seen, and the size
//	incoming/<migration>/data/        what a migration brings
//	incoming/<migration>/staged.json  of which volume, and the receipt once it is sealed
//	trash/<id>.<unix ns>/             volumes that were removed, until Purge
//	*/.*                              worth nothing: half-made or half-deleted, cleared away on sight
//
// Each of these directories appears and goes by one rename, complete. Within a directory the one file that changes
// is replaced atomically, and always before the rename that depends on it. So after a crash at any point each
// method finds an old state or a new one and can be repeated.
package dir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/backend"
	"github.com/mobyfs/mobyfs/internal/durable"
)

// Backend keeps volumes below one root directory. It needs to be root to keep what containers write.
type Backend struct {
	root   string
	medium Medium

	mu   sync.Mutex
	uses map[mobyfs.VolumeID]*use
}

// use is what goes on with one volume in this life.
type use struct {
	mu       sync.Mutex // held while the volume is opened and closed
	readers  int        // exports and shows that were not released yet
	attached bool
}

var _ backend.Live = (*Backend)(nil)

// Open makes the root and what belongs in it where they are missing, and clears away what a crash left half-made.
func Open(root string) (*Backend, error) { return OpenOn(root, plain{}) }

// OpenOn is Open with volumes on a medium.
func OpenOn(root string, m Medium) (*Backend, error) {
	b, err := openBeside(root, m)
	if err != nil {
		return nil, err
	}
	for _, sub := range []string{b.volumes(), b.incoming()} {
		if err := b.clearHalfMade(sub); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// OpenBeside is Open of a root that other processes have open too: what is half-made stays, for one of them may be at it.
func OpenBeside(root string) (*Backend, error) { return openBeside(root, plain{}) }

func openBeside(root string, m Medium) (*Backend, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return nil, err
	}
	b := &Backend{root: root, medium: m, uses: map[mobyfs.VolumeID]*use{}}
	if err := os.MkdirAll(root, 0o700); err != nil {
		return nil, fault("make the backend's root", err)
	}
	for _, sub := range []string{b.volumes(), b.incoming(), b.trash()} {
		if err := durable.Mkdir(sub, 0o700); err != nil {
			return nil, fault("make the backend's root", err)
		}
	}
	return b, durable.SyncDir(filepath.Dir(root))
}

// Name is the word for this backend in VolumeSpec.Backend.
func (b *Backend) Name() string { return b.medium.Name() }

// Path is where the volume's bytes lie. Those of a plain directory lie there whether attached or not.
func (b *Backend) Path(id mobyfs.VolumeID) string { return PathBelow(b.root, id) }

// PathBelow is Path of the backend that has the root, without opening it.
func PathBelow(root string, id mobyfs.VolumeID) string {
	return filepath.Join(root, "volumes", string(id), "data")
}

// Capacity is what the file system under the root has. Space that only the superuser may fill does not count as
// free.
func (b *Backend) Capacity(context.Context) (mobyfs.Capacity, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(b.root, &st); err != nil {
		return mobyfs.Capacity{}, fmt.Errorf("ask for the space under %s: %w", b.root, err)
	}
	return mobyfs.Capacity{
		TotalBytes: int64(st.Blocks) * st.Frsize,
		FreeBytes:  int64(st.Bavail) * st.Frsize,

		TotalInodes: int64(st.Files),
		FreeInodes:  int64(st.Ffree),
	}, nil
}

func (b *Backend) volumes() string  { return filepath.Join(b.root, "volumes") }
func (b *Backend) incoming() string { return filepath.Join(b.root, "incoming") }
func (b *Backend) trash() string    { return filepath.Join(b.root, "trash") }

func (b *Backend) volume(id mobyfs.VolumeID) string { return filepath.Join(b.volumes(), string(id)) }

func (b *Backend) staged(m mobyfs.MigrationID) string { return filepath.Join(b.incoming(), string(m)) }

// element is what an ID must look like to become part of a path: one plain element, with no dot, because dots
// divide the names in the trash and mark what is half-made.
var element = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$`)

// CheckVolume tells what is wrong with an ID that can't become part of a path, or nil.
func CheckVolume(id mobyfs.VolumeID) error {
	if !element.MatchString(string(id)) {
		return mobyfs.Errorf(mobyfs.CodeInvalid, "%.80q can't be the ID of a volume", string(id))
	}
	return nil
}

func checkMigration(m mobyfs.MigrationID) error {
	if !element.MatchString(string(m)) {
		return mobyfs.Errorf(mobyfs.CodeInvalid, "%.80q can't be the ID of a migration", string(m))
	}
	return nil
}

// half is the name under which a directory is made before one rename shows it complete.
func half(path string) string {
	return filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".new")
}

// newHalf makes the directory half(path) with an empty data directory in it, as spec says. What an earlier try left
// there goes; that never held any bytes of a volume. Nor does a try that fails keep any room.
func (b *Backend) newHalf(ctx context.Context, path string, spec mobyfs.VolumeSpec) (at string, size int64, err error) {
	h := half(path)
	if err := b.removeHalf(h); err != nil {
		return "", 0, err
	}
	if err := os.Mkdir(h, 0o700); err != nil {
		return "", 0, err
	}
	if size, err = b.fillHalf(ctx, h, spec); err != nil {
		return "", 0, errors.Join(err, b.removeHalf(h))
	}
	return h, size, nil
}

func (b *Backend) fillHalf(ctx context.Context, h string, spec mobyfs.VolumeSpec) (int64, error) {
	mode, err := spec.RootMode()
	if err != nil {
		return 0, err
	}
	size, err := b.medium.Make(ctx, h, spec)
	if err != nil {
		return 0, err
	}
	if err := b.medium.Open(h, size); err != nil {
		return 0, err
	}
	data := filepath.Join(h, "data")
	err = errors.Join(os.Chown(data, spec.UID, spec.GID), os.Chmod(data, mode), durable.SyncDir(data)) // whatever the umask is
	return size, errors.Join(err, b.medium.Close(h))
}

// removeHalf removes a half-made directory. It refuses one whose data is not empty, which can't happen.
func (b *Backend) removeHalf(path string) error {
	if _, err := os.Lstat(path); isNone(err) {
		return nil
	}
	if err := b.medium.Close(path); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(path, "data")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := b.medium.Drop(path); err != nil {
		return err
	}
	return os.RemoveAll(path)
}

func (b *Backend) clearHalfMade(parent string) error {
	entries, err := os.ReadDir(parent)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			if err := b.removeHalf(filepath.Join(parent, e.Name())); err != nil {
				return fmt.Errorf("clear away the half-made %s: %w", e.Name(), err)
			}
			continue
		}
		halfWritten, err := filepath.Glob(filepath.Join(parent, e.Name(), ".*.json*"))
		if err != nil {
			return err
		}
		for _, path := range halfWritten {
			if err := os.Remove(path); err != nil {
				return err
			}
		}
	}
	return nil
}

// exists reports whether a directory is at path. Something else there is an error.
func exists(path string) (bool, error) {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err == nil && !info.IsDir() {
		err = mobyfs.Errorf(mobyfs.CodeCorrupt, "%s is no directory", path)
	}
	return err == nil, err
}

// fault gives an error of the operating system its code.
func fault(doing string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return mobyfs.Errorf(mobyfs.CodeNoSpace, "%s: %w", doing, err).
			WithHint("make room on the file system that holds mobyfs' volumes")
	default:
		return fmt.Errorf("%s: %w", doing, err)
	}
}
