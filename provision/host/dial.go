package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"
)

// Dialer opens connections to hosts. It is polite to sshd, whose defences drop or ban who starts too many
// connections at once: at most PerEndpoint at one address and Total altogether are being started at any time.
type Dialer struct {
	Home       string   // the user's; ~/.ssh is there
	ConfigFile string   // instead of ~/.ssh/config; "none" is no configuration
	KnownHosts []string // instead of what the configuration says; new keys go to the first
	SSH        string   // the ssh program that reads the configuration; found in PATH if empty

	// Password asks for the password that the user's sudo wants on a host. Nil if sudo must do without.
	Password func(ctx context.Context, user, host string) (string, error)

	DialTimeout      time.Duration // until the connection stands
	HandshakeTimeout time.Duration // until the login is done
	KeepAlive        time.Duration // between signs of life; the connection is lost after four without
	Pause            time.Duration // before a start that sshd dropped is tried again
	PerEndpoint      int
	Total            int

	mu        sync.Mutex
	agents    map[string][]ssh.Signer
	endpoints map[string]chan struct{}
	total     chan struct{}
	passwords passwords
}

// NewDialer returns a Dialer for the user who runs the program.
func NewDialer() (*Dialer, error) {
	home, err := os.UserHomeDir()
	if err != nil {
		return nil, err
	}
	d := &Dialer{
		Home:             home,
		DialTimeout:      10 * time.Second,
		HandshakeTimeout: 15 * time.Second,
		KeepAlive:        15 * time.Second,
		Pause:            time.Second,
		PerEndpoint:      8,
		Total:            64,
		agents:           map[string][]ssh.Signer{},
		endpoints:        map[string]chan struct{}{},
	}
	d.total = make(chan struct{}, d.Total)
	return d, nil
}

// Dial connects and logs in. The host's key is checked before anything else is said.
func (d *Dialer) Dial(ctx context.Context, t Target) (*Host, error) {
	s, err := d.settings(ctx, t)
	if err != nil {
		return nil, err
	}
	ring, err := d.keys(t, s)
	if err != nil {
		return nil, err
	}
	if len(ring.signers) == 0 {
		return nil, AuthRefused.Problem(t.Name, "there is no key to log in with as %s", s.user).
			WithDetail(ring.skipped...).WithFix("ssh-add a key that %s accepts, or name one by identityFile", t.Name)
	}
	client, err := d.start(ctx, t, s, ring)
	if err != nil {
		return nil, err
	}
	h := &Host{Target: t, User: s.user, Address: s.host, client: client, dialer: d, stop: make(chan struct{})}
	go h.keepAlive(d.KeepAlive, 4*d.KeepAlive)
	return h, nil
}

// start tries again what sshd drops before it has said a word (its MaxStartups), and a pinned host with every
// type of key.
func (d *Dialer) start(ctx context.Context, t Target, s settings, ring *keyring) (*ssh.Client, error) {
	g, err := d.newGuard(t, s)
	if err != nil {
		return nil, err
	}
	release, err := d.place(ctx, fmt.Sprintf("%s:%d", s.host, s.port))
	if err != nil {
		return nil, err
	}
	defer release()
	drops := 0
	for _, algorithms := range g.algorithms() {
	again:
		client, err := d.connect(ctx, t, s, ring, g, algorithms)
		var problem *Problem
		switch {
		case err == nil:
			return client, nil
		case errors.Is(err, errDropped) && drops < 3:
			drops++
			pause := time.Duration(float64(d.Pause) * float64(drops) * (0.5 + rand.Float64()))
			select {
			case <-time.After(pause):
				goto again
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
		case errors.As(err, &problem) && problem.Of(HostKeyPin):
			continue // perhaps another type of its keys is the pinned one
		case g.problem != nil && g.problem.Of(HostKeyPin) && errors.Is(err, errNoAlgorithm):
			return nil, g.problem // it has no further type
		default:
			return nil, err
		}
	}
	return nil, g.problem
}

// place waits until a connection may be started.
func (d *Dialer) place(ctx context.Context, endpoint string) (release func(), err error) {
	d.mu.Lock()
	one, ok := d.endpoints[endpoint]
	if !ok {
		one = make(chan struct{}, d.PerEndpoint)
		d.endpoints[endpoint] = one
	}
	d.mu.Unlock()
	for i, c := range []chan struct{}{one, d.total} {
		select {
		case c <- struct{}{}:
		case <-ctx.Done():
			if i == 1 {
				<-one
			}
			return nil, context.Cause(ctx)
		}
	}
	return func() { <-d.total; <-one }, nil
}

var (
	errDropped     = errors.New("the connection was closed before sshd said a word")
	errNoAlgorithm = errors.New("the host has no key of that type")
)

// connect makes one attempt.
func (d *Dialer) connect(ctx context.Context, t Target, s settings, ring *keyring, g *guard, algorithms []string) (*ssh.Client, error) {
	raw, err := d.open(ctx, t, s)
	if err != nil {
		return nil, err
	}
	conn := &listening{Conn: raw}
	late := time.AfterFunc(d.HandshakeTimeout, func() {
		conn.late.Store(true)
		conn.Close()
	})
	defer late.Stop()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	c, channels, requests, err := ssh.NewClientConn(conn, g.name, &ssh.ClientConfig{
		User:              s.user,
		Auth:              []ssh.AuthMethod{ssh.PublicKeys(ring.signers...)},
		HostKeyCallback:   g.check,
		HostKeyAlgorithms: algorithms,
		ClientVersion:     "SSH-2.0-mobyctl",
	})
	if err == nil {
		return ssh.NewClient(c, channels, requests), nil
	}
	conn.Close()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return nil, d.explain(t, s, ring, g, conn, err)
}

// explain turns the reason why a login failed into a Problem.
func (d *Dialer) explain(t Target, s settings, ring *keyring, g *guard, conn *listening, err error) error {
	heard, endpoint := conn.heard(), net.JoinHostPort(s.host, fmt.Sprint(s.port))
	var said string
	if p, ok := conn.Conn.(*proxy); ok {
		said = p.said()
	}
	switch text := err.Error(); {
	case g.problem != nil && !g.problem.Of(HostKeyPin), g.problem != nil && strings.Contains(text, g.problem.Text):
		return g.problem
	case strings.Contains(text, "no common algorithm for host key"):
		if g.problem != nil {
			return errNoAlgorithm
		}
		return HostKeyChanged.Problem(t.Name, "%s has no key of the types that known_hosts has: %w", endpoint, err)
	case strings.Contains(string(heard), "Not allowed at this time"):
		return Busy.Problem(t.Name, "%s answers \"Not allowed at this time\"; OpenSSH does so after failed logins from this address", endpoint)
	case conn.late.Load():
		return Unreachable.Problem(t.Name, "%s takes connections, but does not let us log in within %v", endpoint, d.HandshakeTimeout)
	case len(heard) == 0:
		return &dropped{Unreachable.Problem(t.Name, "%s closed the connection at once: %w", endpoint, err).WithDetail(said)}
	case !bytes.Contains(heard, []byte("SSH-")):
		return Unreachable.Problem(t.Name, "%s is no SSH server", endpoint).WithFix("check the address and the port of sshd")
	case strings.Contains(text, "unable to authenticate"), strings.Contains(strings.ToLower(text), "too many authentication failures"):
		return AuthRefused.Problem(t.Name, "%s accepts none of these keys for %s", t.Name, s.user).
			WithDetail(ring.tried...).WithDetail(ring.skipped...).
			WithFix("add one of the keys to ~/.ssh/authorized_keys of %s there, or name another user or identityFile", s.user)
	default:
		return Unreachable.Problem(t.Name, "log in at %s: %w", endpoint, err).WithDetail(said)
	}
}

// dropped is the Problem of a connection that ended without a word; trying again may help.
type dropped struct{ *Problem }

func (d *dropped) Is(target error) bool { return target == errDropped }
func (d *dropped) Unwrap() error        { return d.Problem }

// open makes the connection that SSH then runs over.
func (d *Dialer) open(ctx context.Context, t Target, s settings) (net.Conn, error) {
	if s.proxy != nil {
		return startProxy(t, s)
	}
	endpoint := net.JoinHostPort(s.host, fmt.Sprint(s.port))
	conn, err := (&net.Dialer{Timeout: d.DialTimeout}).DialContext(ctx, "tcp", endpoint)
	if err == nil {
		return conn, nil
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	var dns *net.DNSError
	var op *net.OpError
	switch {
	case errors.As(err, &dns):
		return nil, Unreachable.Problem(t.Name, "the name %q is not known: %w", s.host, dns).WithFix("check the address in cluster.yaml")
	case errors.Is(err, syscall.ECONNREFUSED):
		return nil, Unreachable.Problem(t.Name, "%s refuses connections", endpoint).
			WithFix("check that sshd runs on %s and listens on port %d", t.Name, s.port)
	case errors.As(err, &op) && op.Timeout():
		return nil, Unreachable.Problem(t.Name, "%s does not answer within %v", endpoint, d.DialTimeout).
			WithFix("check the address, that the host is up, and firewalls on the way")
	default:
		return nil, Unreachable.Problem(t.Name, "connect to %s: %w", endpoint, err)
	}
}
