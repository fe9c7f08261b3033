// Package durable changes files so that a crash leaves the old state or the new one, and nothing between.
//
// Each change has a name, its moment; a test can kill the program just before or just after it (see failpoint).
package durable

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"

	"github.com/mobyfs/mobyfs/internal/failpoint"
)

// WriteFile replaces the file at path; its permissions are perm, whatever the umask and those of the old file are.
// When it returns nil, the content survives a power cut. A crash may leave a file of the name .<base><digits>
// beside it.
func WriteFile(moment, path string, data []byte, perm fs.FileMode) error {
	if err := failpoint.Fail(moment + ".before"); err != nil {
		return err
	}
	if err := replace(path, data, perm); err != nil {
		return err
	}
	if err := SyncDir(filepath.Dir(path)); err != nil {
		return err
	}
	failpoint.Reach(moment + ".after")
	return nil
}

func replace(path string, data []byte, perm fs.FileMode) error {
	f, err := renameio.NewPendingFile(path, renameio.WithTempDir(filepath.Dir(path)),
		renameio.WithPermissions(perm), renameio.WithStaticPermissions(perm))
	if err != nil {
		return err
	}
	if _, err = f.Write(data); err == nil {
		err = f.CloseAtomicallyReplace()
	}
	return errors.Join(err, f.Cleanup())
}

// WriteJSON is WriteFile of v as JSON.
func WriteJSON(moment, path string, v any, perm fs.FileMode) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return WriteFile(moment, path, append(data, '\n'), perm)
}

// ReadJSON fills v from the file at path. A file that is not there is fs.ErrNotExist; one that does not decode is
// an error that names it.
func ReadJSON(path string, v any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("decode %s: %w", path, err)
	}
	return nil
}

// Rename moves from to to and makes both directories durable. A file at to is replaced; a directory at to is an
// error.
func Rename(moment, from, to string) error {
	if err := failpoint.Fail(moment + ".before"); err != nil {
		return err
	}
	if err := os.Rename(from, to); err != nil {
		return err
	}
	if err := SyncDir(filepath.Dir(to)); err != nil {
		return err
	}
	if filepath.Dir(from) != filepath.Dir(to) {
		if err := SyncDir(filepath.Dir(from)); err != nil {
			return err
		}
	}
	failpoint.Reach(moment + ".after")
	return nil
}

// Mkdir makes a directory and makes its name durable. A directory that is there already is fine and keeps its
// permissions.
func Mkdir(path string, perm fs.FileMode) error {
	err := os.Mkdir(path, perm)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return SyncDir(filepath.Dir(path))
}

// Remove removes a file. One that is not there is fine.
func Remove(moment, path string) error {
	if err := failpoint.Fail(moment + ".before"); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := SyncDir(filepath.Dir(path)); err != nil {
		return err
	}
	failpoint.Reach(moment + ".after")
	return nil
}

// SyncDir makes the names in a directory durable.
func SyncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
