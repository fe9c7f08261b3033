// Package freeport finds TCP ports for programs that tests start, and that others do not get in the meantime.
package freeport

import (
	"fmt"
	"io"
	"net"
	"testing"
)

// At is 127.0.0.1 with a port that is free. For 60 s the kernel gives it to nobody who asks for any port, be it to listen
// or to connect from: a port that was merely closed may be somebody's connection by the time that a program has started
// that is to listen there. Who names it gets it, as a listener of Go does.
func At(t testing.TB) string {
	t.Helper()
	at, err := take()
	if err != nil {
		t.Fatalf("find a free port: %v", err)
	}
	return at
}

// take leaves behind a connection of the port that this side has closed first. The kernel keeps such a port (TIME_WAIT),
// and lets only those in who say that they know (SO_REUSEADDR).
func take() (at string, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	at = l.Addr().String()
	far, err := net.Dial("tcp", at)
	if err != nil {
		return "", err
	}
	defer far.Close()
	near, err := l.Accept()
	if err != nil {
		return "", err
	}
	if err := near.Close(); err != nil {
		return "", err
	}
	if _, err := far.Read(make([]byte, 1)); err != io.EOF {
		return "", fmt.Errorf("the end of a connection was told as %w", err)
	}
	return at, nil
}
