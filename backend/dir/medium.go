package dir

import (
	"context"
	"os"
	"path/filepath"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/backend"
)

// Medium makes the directories named data in which volumes lie. This package keeps what is around them: fences, the
// steps of a migration, the trash. An entry is the directory that data lies in; it is renamed whole, also while data is
// open. Every method may be repeated after a crash at any point.
type Medium interface {
	// Name is the word for the backend in VolumeSpec.Backend.
	Name() string
	// Check tells what is wrong with a spec that it can't make a volume of, or nil.
	Check(spec mobyfs.VolumeSpec) error
	// Make makes data in an entry that nobody sees yet, empty and closed, with all the room that the spec promises set
	// aside. It tells how large that is.
	Make(ctx context.Context, entry string, spec mobyfs.VolumeSpec) (size int64, err error)
	// Open shows the bytes at data, and sees to it that they are bound to the size where the medium does so; 0 is no
	// bound. It is fine if they are shown already.
	Open(entry string, size int64) error
	// Close ends that. CodeInUse if something on this host still has a file open there.
	Close(entry string) error
	// Grow makes an open volume as large as that, which is no less than it is.
	Grow(ctx context.Context, entry string, bytes int64) error
	// Used is what the volume takes on disk; known is false where its files have to be added up.
	Used(entry string) (u backend.Usage, known bool, err error)
	// Drop deletes what Make made, as far as it is no plain file or directory. Afterwards entry is deleted like any other.
	Drop(entry string) error
}

// plain is the medium of directories that nothing bounds.
type plain struct{}

func (plain) Name() string { return mobyfs.DefaultBackend }

func (plain) Check(mobyfs.VolumeSpec) error { return nil }

func (plain) Make(_ context.Context, entry string, spec mobyfs.VolumeSpec) (int64, error) {
	return spec.SizeBytes, os.Mkdir(filepath.Join(entry, "data"), 0o700)
}

func (plain) Open(string, int64) error { return nil }

func (plain) Close(string) error { return nil }

// Grow does nothing: the size of a plain directory is a promise that placement keeps.
func (plain) Grow(context.Context, string, int64) error { return nil }

func (plain) Used(string) (backend.Usage, bool, error) { return backend.Usage{}, false, nil }

func (plain) Drop(string) error { return nil }
