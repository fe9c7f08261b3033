// Package host is one host over SSH: it connects as the user's own ssh would, checks the host's key always, becomes
// root, and runs commands. What can be wrong with a host, and the way out of it, stands in problem.go.
package host

import (
	"context"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"
)

// Target says how a host is reached. An empty field is left to the user's SSH configuration.
type Target struct {
	Name         string // for messages
	Address      string // name, address, or Host of ~/.ssh/config
	Port         int
	User         string
	IdentityFile string
	KnownHosts   string // file of known keys, instead of those that the SSH configuration names
	HostKey      string // "SHA256:…" pins the key; known_hosts is not asked then
	HostKeys     HostKeyPolicy
	Sudo         SudoPolicy
}

// HostKeyPolicy says what happens to a host whose key is not known. A key that differs from the known one is
// refused under every policy.
type HostKeyPolicy string

const (
	// HostKeysAsk refuses with an UnknownKey, which the caller may show to a person and then Trust.
	HostKeysAsk HostKeyPolicy = "ask"
	// HostKeysStrict refuses.
	HostKeysStrict HostKeyPolicy = "strict"
	// HostKeysAcceptNew trusts it, and remembers it in known_hosts.
	HostKeysAcceptNew HostKeyPolicy = "accept-new"
	// HostKeysPinned refuses every host without Target.HostKey.
	HostKeysPinned HostKeyPolicy = "pinned"
)

// SudoPolicy says how a user other than root becomes root.
type SudoPolicy string

const (
	// SudoAuto tries sudo without a password, then with one if Dialer.Password gives it.
	SudoAuto SudoPolicy = "auto"
	// SudoWithPassword is SudoAuto where the caller has made sure that there is a Dialer.Password.
	SudoWithPassword SudoPolicy = "password"
	// SudoNever demands that the user is root.
	SudoNever SudoPolicy = "never"
)

// Host is an open connection. Its methods may be used at once. Errors are *Problem, or *ExitError of a command.
type Host struct {
	Target  Target
	User    string // in effect
	Address string // in effect: the name or address that is dialled, without port
	client  *ssh.Client
	dialer  *Dialer
	become  become
	execs   atomic.Int64
	lost    atomic.Bool
	stop    chan struct{}
}

// Close ends the connection and with it all commands.
func (h *Host) Close() {
	close(h.stop)
	_ = h.client.Close() // whatever it says, the connection is gone
}

// Execs tells how many commands were run over this connection.
func (h *Host) Execs() int { return int(h.execs.Load()) }

// keepAlive closes the connection once the host has not answered for a minute.
func (h *Host) keepAlive(every, limit time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-h.stop:
			return
		case <-tick.C:
		}
		dead := time.AfterFunc(limit, func() {
			h.lost.Store(true)
			_ = h.client.Close()
		})
		_, _, err := h.client.SendRequest("keepalive@openssh.com", true, nil)
		dead.Stop()
		if err != nil {
			return
		}
	}
}

// Grace is how long a cancelled command has to end by itself after its stdin was closed.
const Grace = 2 * time.Second

// wait returns when done delivers or ctx ends; in the second case it calls end and gives the command Grace.
func wait(ctx context.Context, done <-chan error, end func()) error {
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	end()
	var late error
	select {
	case late = <-done:
	case <-time.After(Grace):
	}
	_ = late // it was cancelled; how it ended then is of no interest
	return context.Cause(ctx)
}
