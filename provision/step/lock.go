package step

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// Lock is the right to change a host. The kernel takes it back when the process ends, however it ends, so it can't
// go stale.
type Lock struct {
	file *os.File
	path string
}

// Holder is who has the lock.
type Holder struct {
	By    string    `json:"by"`
	PID   int       `json:"pid"`
	Since time.Time `json:"since"`
}

// LockedError tells who is at work.
type LockedError struct{ Holder Holder }

func (e *LockedError) Error() string {
	return fmt.Sprintf("%s is at work here since %s (process %d)", e.Holder.By, e.Holder.Since.Local().Format(time.TimeOnly), e.Holder.PID)
}

// TakeLock takes the lock or returns a *LockedError.
func TakeLock(root, by string) (*Lock, error) {
	path := root + LockPath
	for {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return nil, err
		}
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
		if errors.Is(err, fs.ErrNotExist) { // its holder removed the directory just now
			continue
		}
		if err != nil {
			return nil, err
		}
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if errors.Is(err, syscall.EWOULDBLOCK) {
			defer f.Close()
			locked := &LockedError{}
			if text, err := io.ReadAll(f); err != nil || json.Unmarshal(text, &locked.Holder) != nil {
				locked.Holder.By = "someone"
			}
			return nil, locked
		}
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		if !same(f, path) { // its holder removed it after we had opened it
			f.Close()
			continue
		}
		l := &Lock{f, path}
		return l, l.sign(by)
	}
}

func same(f *os.File, path string) bool {
	a, err := f.Stat()
	if err != nil {
		return false
	}
	b, err := os.Stat(path)
	return err == nil && os.SameFile(a, b)
}

func (l *Lock) sign(by string) error {
	text, err := json.Marshal(Holder{By: by, PID: os.Getpid(), Since: time.Now()})
	if err != nil {
		return err
	}
	if err := l.file.Truncate(0); err != nil {
		return err
	}
	_, err = l.file.WriteAt(append(text, '\n'), 0)
	return err
}

// Release gives the lock back and leaves nothing behind.
func (l *Lock) Release() error {
	err := os.Remove(l.path)
	if dirErr := os.Remove(filepath.Dir(l.path)); dirErr != nil && !errors.Is(dirErr, syscall.ENOTEMPTY) {
		err = errors.Join(err, dirErr)
	}
	return errors.Join(err, l.file.Close())
}
