// Package hosttest is an SSH server for tests: it runs commands in the test's own machine and has the faults of
// real ones.
package hosttest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/crypto/ssh"
)

// Server is one host. Its fields may be changed while no connection is open.
type Server struct {
	Host string // it listens at
	Port int

	Authorized []ssh.PublicKey
	Env        []string // of commands, after the test's own
	// Run replaces the shell that runs commands, if not nil. It returns the exit status.
	Run func(command string, stdin io.Reader, stdout, stderr io.Writer) int

	Drop     atomic.Int32 // how many connections are closed at once, as MaxStartups does
	Refuse   atomic.Bool  // "Not allowed at this time"
	Silent   atomic.Bool  // takes connections and says nothing
	Frozen   atomic.Bool  // hears nothing more, on connections that are open too
	CutAfter atomic.Int64 // bytes received from the client, after which its connection is cut; 0 is never
	Starts   atomic.Int32 // connections so far
	Execs    atomic.Int32 // commands so far

	listener net.Listener
	mu       sync.Mutex
	keys     []ssh.Signer
	conns    map[net.Conn]bool
	stop     chan struct{}
	done     sync.WaitGroup
}

// Start listens on a port of its own until the test ends. It has one ed25519 key.
func Start(t *testing.T, authorized ...ssh.PublicKey) *Server {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{Authorized: authorized, listener: l, conns: map[net.Conn]bool{}, stop: make(chan struct{})}
	addr := l.Addr().(*net.TCPAddr)
	s.Host, s.Port = addr.IP.String(), addr.Port
	s.SetKeys(Key(t))
	s.done.Go(s.serve)
	t.Cleanup(func() {
		l.Close()
		close(s.stop)
		s.Cut()
		s.done.Wait()
	})
	return s
}

// Key makes an ed25519 key.
func Key(t *testing.T) ssh.Signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	return signer(t, key, err)
}

// ECDSAKey makes a key of another type.
func ECDSAKey(t *testing.T) ssh.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	return signer(t, key, err)
}

func signer(t *testing.T, key crypto.Signer, err error) ssh.Signer {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewSignerFromSigner(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// WriteKey makes an ed25519 key, writes it to a file, encrypted if passphrase is not empty, and returns its public
// half.
func WriteKey(t *testing.T, file, passphrase string) ssh.PublicKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	var block *pem.Block
	if passphrase == "" {
		block, err = ssh.MarshalPrivateKey(key, "")
	} else {
		block, err = ssh.MarshalPrivateKeyWithPassphrase(key, "", []byte(passphrase))
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	return signer(t, key, nil).PublicKey()
}

// SetKeys replaces the host's keys.
func (s *Server) SetKeys(keys ...ssh.Signer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keys = keys
}

// Fingerprint is that of the host's first key.
func (s *Server) Fingerprint() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return ssh.FingerprintSHA256(s.keys[0].PublicKey())
}

// Cut breaks all connections that are open.
func (s *Server) Cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		c.Close()
	}
}

func (s *Server) serve() {
	for {
		conn, err := s.listener.Accept()
		if err != nil {
			return
		}
		s.Starts.Add(1)
		if s.Drop.Add(-1) >= 0 {
			conn.Close()
			continue
		}
		s.mu.Lock()
		s.conns[conn] = true
		s.mu.Unlock()
		s.done.Go(func() {
			defer func() {
				conn.Close()
				s.mu.Lock()
				delete(s.conns, conn)
				s.mu.Unlock()
			}()
			s.talk(conn)
		})
	}
}

func (s *Server) talk(conn net.Conn) {
	switch {
	case s.Refuse.Load():
		fmt.Fprint(conn, "Not allowed at this time\r\n")
		return
	case s.Silent.Load():
		_, _ = io.Copy(io.Discard, conn)
		return
	}
	config := &ssh.ServerConfig{PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		for _, a := range s.Authorized {
			if string(a.Marshal()) == string(key.Marshal()) {
				return nil, nil
			}
		}
		return nil, fmt.Errorf("key %s is not allowed", ssh.FingerprintSHA256(key))
	}}
	s.mu.Lock()
	for _, k := range s.keys {
		config.AddHostKey(k)
	}
	s.mu.Unlock()
	_, channels, requests, err := ssh.NewServerConn(&cutter{Conn: conn, server: s}, config)
	if err != nil {
		return
	}
	go ssh.DiscardRequests(requests)
	var sessions sync.WaitGroup
	for c := range channels {
		if c.ChannelType() != "session" {
			_ = c.Reject(ssh.UnknownChannelType, "sessions only")
			continue
		}
		channel, asked, err := c.Accept()
		if err != nil {
			continue
		}
		sessions.Go(func() { s.session(channel, asked) })
	}
	sessions.Wait()
}

func (s *Server) session(channel ssh.Channel, asked <-chan *ssh.Request) {
	defer func() { _ = channel.Close() }()
	for r := range asked {
		if r.Type != "exec" {
			_ = r.Reply(false, nil)
			continue
		}
		var command struct{ Text string }
		if err := ssh.Unmarshal(r.Payload, &command); err != nil {
			_ = r.Reply(false, nil)
			continue
		}
		s.Execs.Add(1)
		_ = r.Reply(true, nil)
		run := s.Run
		if run == nil {
			run = s.Shell
		}
		status := run(command.Text, channel, channel, channel.Stderr())
		_, _ = channel.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{uint32(status)}))
		return
	}
}

// Shell runs a command with sh. As with sshd, all that a command hears of the end of the connection is the end of
// its stdin.
func (s *Server) Shell(command string, stdin io.Reader, stdout, stderr io.Writer) int {
	cmd := exec.Command("/bin/sh", "-c", command)
	cmd.Env = append(os.Environ(), s.Env...)
	cmd.Stdout, cmd.Stderr = stdout, stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return 255
	}
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(stderr, err)
		return 127
	}
	go func() {
		_, _ = io.Copy(in, stdin)
		in.Close()
	}()
	err = cmd.Wait()
	if exit, ok := err.(*exec.ExitError); ok {
		return exit.ExitCode()
	}
	return 0
}

// cutter cuts the connection after so many bytes from the client.
type cutter struct {
	net.Conn
	server *Server
	n      int64
}

func (c *cutter) Read(p []byte) (int, error) {
	limit := c.server.CutAfter.Load()
	if limit > 0 && c.n >= limit {
		c.Conn.Close()
		return 0, io.ErrUnexpectedEOF
	}
	if limit > 0 && int64(len(p)) > limit-c.n {
		p = p[:limit-c.n]
	}
	n, err := c.Conn.Read(p)
	if c.server.Frozen.Load() {
		<-c.server.stop
	}
	c.n += int64(n)
	return n, err
}

// Known is a known_hosts line for the server.
func (s *Server) Known(key ssh.PublicKey) string {
	return fmt.Sprintf("[%s]:%d %s\n", s.Host, s.Port, strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))))
}
