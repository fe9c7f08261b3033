package freeport

import (
	"context"
	"errors"
	"net"
	"strconv"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// among lets the kernel choose a socket's port from this one alone.
func among(t *testing.T, port int) func(network, address string, c syscall.RawConn) error {
	return func(_, _ string, c syscall.RawConn) error {
		var err error
		if ctl := c.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_LOCAL_PORT_RANGE, port<<16|port)
		}); ctl != nil {
			return ctl
		}
		return err
	}
}

// TestThePortIsKept: nobody who asks for any port gets it, who asks for this one does.
func TestThePortIsKept(t *testing.T) {
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	listens := func(port int, at string) error {
		l, err := (&net.ListenConfig{Control: among(t, port)}).Listen(context.Background(), "tcp", at)
		if err == nil {
			l.Close()
		}
		return err
	}
	connects := func(port int) error {
		c, err := (&net.Dialer{Control: among(t, port)}).Dial("tcp", server.Addr().String())
		if err == nil {
			c.Close()
		}
		return err
	}

	at := At(t)
	_, text, _ := net.SplitHostPort(at)
	port, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	if err := listens(port, "127.0.0.1:0"); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("somebody who listens at any port: %v, want %v", err, unix.EADDRINUSE)
	}
	if err := connects(port); !errors.Is(err, unix.EADDRNOTAVAIL) {
		t.Errorf("somebody who connects from any port: %v, want %v", err, unix.EADDRNOTAVAIL)
	}
	if err := listens(port, at); err != nil {
		t.Errorf("who asks for the port itself: %v", err)
	}

	// One that was merely closed is anybody's.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := l.Addr().(*net.TCPAddr).Port
	l.Close()
	if err := connects(closed); err != nil {
		t.Errorf("a port that was closed: %v", err)
	}
}
