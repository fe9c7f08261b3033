package main

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/net/netutil"
	"golang.org/x/sys/unix"
)

const (
	// maxCallers is how many calls are answered at once; more wait in the socket until one has ended. Docker makes one
	// for each container that starts or stops, and none takes longer than two minutes.
	maxCallers = 1024
	// strangersEvery is how often strangers are told of in the log at most.
	strangersEvery = time.Second
)

// guarded lets in at a socket whom the driver serves, and maxCallers at once. At a unix socket that is root, and the user
// that this program runs as, whatever the modes of the socket and its directory have become. Who calls is what the
// kernel says of the process that connected, in this program's user namespace: root of a container in a namespace of
// its own is none. Nothing that a stranger sends is read; he is told why.
func guarded(l net.Listener, log *slog.Logger) net.Listener {
	if _, local := l.Addr().(*net.UnixAddr); local {
		l = &rootOnly{Listener: l, log: log}
	}
	return netutil.LimitListener(l, maxCallers)
}

type rootOnly struct {
	net.Listener
	log *slog.Logger

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

// turnAway answers without having read anything. The answer fits into the buffer of any socket, so nobody is waited for.
func (g *rootOnly) turnAway(conn net.Conn, caller *unix.Ucred, why error) {
	text := "who calls could not be told: mobyfs serves root alone"
	if why == nil {
		text = fmt.Sprintf("user %d may not call mobyfs: it serves root alone – use docker, or sudo", caller.Uid)
	}
	body, err := json.Marshal(map[string]string{"Err": text})
	if err == nil {
		err = conn.SetWriteDeadline(time.Now().Add(time.Second))
	}
	if err == nil {
		_, err = fmt.Fprintf(conn, "HTTP/1.1 403 Forbidden\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(body), body)
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
	log.Warn("turned a stranger away at the driver's socket", "err", why, "unanswered", unanswered)
	g.told, g.left = time.Now(), 0
}
