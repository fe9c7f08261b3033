package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// lockFile takes a lock that ends with the process, waiting for whoever has it until ctx ends. The file exists
// only as long as someone has or wants the lock; unlock removes it, and its directory if that is empty.
func lockFile(ctx context.Context, path string) (unlock func(), err error) {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return nil, err
		}
		f, err := tryLock(path)
		if err == nil {
			return func() { release(f, path) }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for another mobyctl that has %s: %w", path, context.Cause(ctx))
		case <-tick.C:
		}
	}
}

// tryLock returns the locked file, or EWOULDBLOCK. A file that was removed while this process waited for it locks
// nothing and counts as EWOULDBLOCK too.
func tryLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil, err
	}
	mine, err1 := f.Stat()
	named, err2 := os.Stat(path)
	if err1 != nil || err2 != nil || !os.SameFile(mine, named) {
		f.Close()
		return nil, syscall.EWOULDBLOCK
	}
	return f, nil
}

func release(f *os.File, path string) {
	_ = os.Remove(path)
	f.Close()
	_ = os.Remove(filepath.Dir(path)) // refused unless it is empty
}
