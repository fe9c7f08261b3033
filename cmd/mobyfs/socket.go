package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"golang.org/x/sys/unix"

	"github.com/mobyfs/mobyfs"
)

// pluginSocket is where Docker calls: the socket that systemd holds, so that calls wait there while mobyfs restarts,
// or one made at path. Its name is never taken away: Docker would look for 15 s for a driver whose socket is gone, and
// an old process that ends must not take it from a new one.
func pluginSocket(path string) (l net.Listener, at string, err error) {
	held, err := activation.Listeners()
	if err != nil {
		return nil, "", fmt.Errorf("take over the socket from systemd: %w", err)
	}
	for _, l := range held {
		if u, ok := l.(*net.UnixListener); ok {
			u.SetUnlinkOnClose(false)
			return u, u.Addr().String(), nil
		}
	}
	l, err = listenUnix(path)
	return l, path, err
}

// listenUnix listens at path, for root only, in place of a socket that nobody answers at any more.
func listenUnix(path string) (net.Listener, error) {
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		c.Close()
		return nil, mobyfs.Errorf(mobyfs.CodeExists, "another program answers at %s", path).
			WithHint("stop it first: systemctl stop mobyfs.socket mobyfs")
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	hidden := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".new") // it gets its name once it is private
	if err := os.Remove(hidden); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: hidden, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen for Docker at %s: %w", path, err)
	}
	l.SetUnlinkOnClose(false)
	if err = os.Chmod(hidden, 0o600); err == nil {
		err = os.Rename(hidden, path)
	}
	if err != nil {
		_ = l.Close()
		return nil, fmt.Errorf("listen for Docker at %s: %w", path, err)
	}
	return l, nil
}

// lockRoot keeps a second mobyfs off the same directory. The lock ends with the process, however that ends.
func lockRoot(root string) (*os.File, error) {
	if err := os.MkdirAll(root, 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(root, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		owner := make([]byte, 32)
		n, _ := f.ReadAt(owner, 0)
		f.Close()
		return nil, mobyfs.Errorf(mobyfs.CodeExists, "another mobyfs (process %s) has %s", strings.TrimSpace(string(owner[:n])), root).
			WithHint("stop that one first: systemctl stop mobyfs")
	}
	if err == nil {
		err = f.Truncate(0)
	}
	if err == nil {
		_, err = f.WriteAt([]byte(fmt.Sprintln(os.Getpid())), 0)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", root, err)
	}
	return f, nil
}
