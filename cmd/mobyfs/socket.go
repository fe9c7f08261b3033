package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"golang.org/x/sys/unix"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/discovery"
)

// door is a socket at which Docker calls.
type door struct {
	net.Listener
	endpoint discovery.Endpoint
}

// kept is the name that systemd gives the sockets of mobyfs-kept.socket. Those of mobyfs.socket have the scheme of
// their endpoint for a name.
const kept = "kept"

// openDoors opens where Docker calls: the sockets that systemd holds, so that calls wait there while mobyfs restarts,
// or one made for the endpoint. Their names are never taken away: Docker would look for 15 s for a driver whose socket
// is gone, and an old process that ends must not take it from a new one. The first is not a kept one.
func openDoors(s settings) ([]door, error) {
	held, err := activation.ListenersWithNames()
	if err != nil {
		return nil, fmt.Errorf("take over the sockets from systemd: %w", err)
	}
	if len(held) == 0 {
		l, err := listen(s.endpoint)
		if err != nil {
			return nil, err
		}
		d, err := doorFor(s.endpoint.Scheme(), l, s)
		d.endpoint = s.endpoint
		return []door{d}, err
	}
	var doors []door
	for name, listeners := range held {
		for _, l := range listeners {
			d, err := doorFor(name, l, s)
			if err != nil {
				return nil, err
			}
			if name == kept {
				doors = append(doors, d)
			} else {
				doors = append([]door{d}, doors...)
			}
		}
	}
	return doors, nil
}

// doorFor lets in at a socket whom its endpoint lets in. Whether callers show certificates is never guessed: a TCP
// socket of which that is not known is an error.
func doorFor(name string, l net.Listener, s settings) (door, error) {
	if u, ok := l.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(false)
		return door{u, discovery.Endpoint("unix://" + u.Addr().String())}, nil
	}
	at := func(scheme string) discovery.Endpoint { return discovery.Endpoint(scheme + "://" + l.Addr().String()) }
	secret := name == "https" || name == kept && slices.Contains(keptEndpoints(s.kept), at("https"))
	plain := name == "tcp" || name == kept && slices.Contains(keptEndpoints(s.kept), at("tcp"))
	switch {
	case secret:
		return door{tls.NewListener(l, dockerTLS(s)), at("https")}, nil
	case plain:
		return door{l, at("tcp")}, nil
	default:
		return door{}, mobyfs.Errorf(mobyfs.CodeInvalid, "systemd holds %s under the name %q, which tells not whom to let in", l.Addr(), name).
			WithHint("run mobyctl bootstrap again")
	}
}

// dockerTLS reads the node's certificate at each handshake. While it can't be read Docker is refused at once, instead of
// waiting for somebody to take its call.
func dockerTLS(s settings) *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		config, err := s.files().DockerTLS(s.dockerd(), s.dockerFiles())
		if err != nil {
			return nil, err
		}
		return config.GetConfigForClient(hello)
	}}
}

// keptEndpoints reads which endpoints of before are served until dockerd ends; none if the file is not there.
func keptEndpoints(path string) []discovery.Endpoint {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	var all []discovery.Endpoint
	for line := range strings.FieldsSeq(string(text)) {
		all = append(all, discovery.Endpoint(line))
	}
	return all
}

// listen opens the endpoint where systemd holds no socket for it.
func listen(e discovery.Endpoint) (net.Listener, error) {
	if p := e.Path(); p != "" {
		return listenUnix(p)
	}
	_, address := e.Listen()
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen for Docker at %s: %w", e, err)
	}
	return l, nil
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
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", root, err)
	}
	if err := f.Truncate(0); err == nil { // the number is for people; a full disk has no room for it
		_, _ = f.WriteAt([]byte(fmt.Sprintln(os.Getpid())), 0)
	}
	return f, nil
}
