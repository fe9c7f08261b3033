// Package caller says who calls at a unix socket, as the kernel knows it, and keeps everybody out but root.
package caller

import (
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// strangersEvery is how often strangers are told of in the log at most.
const strangersEvery = time.Second

// RootOnly lets in at a unix socket root, and the user that this program runs as, whatever the modes of the socket and its
// directory have become. Who calls is what the kernel says of the process that connected, in this program's user
// namespace: root of a container in a namespace of its own is none. Nothing that a stranger sends is read; refuse, if it
// is not nil, writes why to the connection, which is closed then.
func RootOnly(l net.Listener, log *slog.Logger, refuse func(conn net.Conn, why string) error) net.Listener {
	return &rootOnly{Listener: l, log: log, refuse: refuse}
}

type rootOnly struct {
	net.Listener
	log    *slog.Logger
	refuse func(conn net.Conn, why string) error

	mu   sync.Mutex
	told time.Time
	left int // strangers since then
}

// Accept implements net.Listener.
func (g *rootOnly) Accept() (net.Conn, error) {
	for {
		conn, err := g.Listener.Accept()
		if err != nil {
			return nil, err
		}
		caller, err := peerOf(conn)
		if err == nil && (caller.Uid == 0 || int(caller.Uid) == os.Geteuid()) {
			return conn, nil
		}
		g.turnAway(conn, caller, err)
	}
}

// peerOf asks the kernel which process connected.
func peerOf(conn net.Conn) (*unix.Ucred, error) {
	local, ok := conn.(*net.UnixConn)
	if !ok {
		return nil, fmt.Errorf("%T is no connection of a unix socket", conn)
	}
	raw, err := local.SyscallConn()
	if err != nil {
		return nil, err
	}
	var caller *unix.Ucred
	var optErr error
	if err := raw.Control(func(fd uintptr) { caller, optErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return nil, err
	}
	return caller, optErr
}

// turnAway answers without having read anything. A short answer fits into the buffer of any socket, so nobody is waited for.
func (g *rootOnly) turnAway(conn net.Conn, caller *unix.Ucred, why error) {
	text := "who calls could not be told: mobyfs serves root alone"
	if why == nil {
		text = fmt.Sprintf("user %d may not call mobyfs: it serves root alone", caller.Uid)
	}
	err := conn.SetWriteDeadline(time.Now().Add(time.Second))
	if err == nil && g.refuse != nil {
		err = g.refuse(conn, text)
	}
	_ = conn.Close()
	g.tell(caller, why, err)
}

// tell notes a stranger in the log, of many in a second only one.
func (g *rootOnly) tell(caller *unix.Ucred, why, unanswered error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.left++; time.Since(g.told) < strangersEvery {
		return
	}
	log := g.log.With("calls", g.left)
	if caller != nil {
		log = log.With("uid", caller.Uid, "pid", caller.Pid)
	}
	log.Warn("turned a stranger away at a socket", "address", g.Addr().String(), "err", why, "unanswered", unanswered)
	g.told, g.left = time.Now(), 0
}
