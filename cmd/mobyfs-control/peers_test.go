package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/api"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// unit starts a control again whenever it ends, as systemd does, and counts that.
type unit struct {
	seat   *seat
	away   *atomic.Int64 // units whose control does not run
	starts int
	failed []string // ends that were no success

	mu     sync.Mutex
	cmd    *exec.Cmd
	wanted bool
	ended  chan struct{}
}

// watch takes a control over that runs.
func (s *seat) watch(away *atomic.Int64) *unit {
	u := &unit{seat: s, away: away, cmd: s.cmd, wanted: true, ended: make(chan struct{})}
	s.cmd = nil // it is the unit's from now on
	go u.keep()
	s.t.Cleanup(u.stop)
	return u
}

func (u *unit) keep() {
	defer close(u.ended)
	for {
		err := u.cmd.Wait()
		u.away.Add(1)
		time.Sleep(500 * time.Millisecond) // RestartSec
		u.mu.Lock()
		if !u.wanted {
			u.mu.Unlock()
			return
		}
		u.starts++
		if err != nil {
			u.failed = append(u.failed, err.Error())
		}
		s := u.seat
		u.cmd = s.startCommand()
		err = u.cmd.Start()
		u.mu.Unlock()
		if err != nil {
			u.failed = append(u.failed, err.Error())
			return
		}
		u.away.Add(-1)
	}
}

func (u *unit) stop() {
	u.mu.Lock()
	u.wanted = false
	_ = u.cmd.Process.Kill()
	u.mu.Unlock()
	<-u.ended
}

// follower is a node, or a person, that follows a rotation.
type follower struct {
	*api.Client
	files pki.Files
}

func (c *trio) follower(role, name string) follower {
	c.t.Helper()
	f := follower{c.client(role, name, c.addresses()...), pki.FilesIn(c.t.TempDir(), name)}
	csr, err := f.files.NewRequest()
	if err != nil {
		c.t.Fatal(err)
	}
	cert, ca, err := pki.SplitAnswer([]byte(c.seats[0].mustRun(string(csr), "sign", "--role", role, "--name", name)))
	if err == nil {
		err = f.files.Install(cert, ca)
	}
	if err != nil {
		c.t.Fatal(err)
	}
	config, err := f.files.ClientTLS(pki.RoleControl, "control")
	if err != nil {
		c.t.Fatal(err)
	}
	f.Redirect(c.addresses(), config)
	return f
}

// follow does what the phase asks of a node or a person.
func (f follower) follow(ctx context.Context) error {
	b, err := f.Bundle(ctx)
	if err == nil {
		err = f.files.SetRoots([]byte(b.Roots))
	}
	if err != nil {
		return err
	}
	if _, issuer, err := f.files.Held(); err != nil || issuer == b.Issuing {
		return err
	}
	r, err := f.files.Renew()
	if err != nil {
		return err
	}
	cert, err := f.Renew(ctx, r.Renewal)
	if err != nil {
		return err
	}
	return r.Install([]byte(cert.Chain), []byte(cert.Roots))
}

func (f follower) tell(ctx context.Context) error {
	trust, issuer, err := f.files.Held()
	if err != nil {
		return err
	}
	r := hasRoom
	r.Held = &mobyfs.Held{Trust: trust, Issuer: issuer}
	_, err = f.Report(ctx, r)
	return err
}

// speaksAsPeer shows a certificate at the port for peers, and returns why it was refused.
func speaksAsPeer(address string, cert tls.Certificate) error {
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 10 * time.Second}, "tcp", address, &tls.Config{
		InsecureSkipVerify: true, Certificates: []tls.Certificate{cert},
	})
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	if _, err := fmt.Fprint(conn, "GET /version HTTP/1.0\r\n\r\n"); err != nil {
		return err
	}
	_, err = conn.Read(make([]byte, 1)) // in TLS 1.3 a server's no comes now
	return err
}

// TestPeersGetAnotherIntermediateWithoutAFailedWrite: the root is replaced, and with it what the members of the store
// trust among themselves, while somebody writes all the time. Controls begin anew one after the other. Afterwards the
// old intermediate opens nothing, and the store lives on when it loses its leader.
func TestPeersGetAnotherIntermediateWithoutAFailedWrite(t *testing.T) {
	c := newTrio(t)
	n1, ana := c.follower(pki.RoleNode, "n1"), c.follower(pki.RoleOperator, "ana")
	if err := n1.tell(t.Context()); err != nil {
		t.Fatal(err)
	}
	before := map[string][]byte{}
	for _, s := range c.seats {
		before[s.name], _ = os.ReadFile(pki.PeerFiles(s.root + "/pki").CA)
	}
	stolen, err := tls.LoadX509KeyPair(pki.PeerFiles(c.seats[1].root+"/pki").Cert, pki.PeerFiles(c.seats[1].root+"/pki").Key)
	if err != nil {
		t.Fatal(err)
	}
	if err := speaksAsPeer(c.seats[0].peer, stolen); err != nil {
		t.Fatalf("before the rotation: %v", err)
	}
	var away, most atomic.Int64
	var units []*unit
	for _, s := range c.seats {
		units = append(units, s.watch(&away))
	}

	writing, enough := context.WithCancel(t.Context())
	var written int
	var longest time.Duration
	var failed []error
	var wrote sync.WaitGroup
	wrote.Go(func() {
		for writing.Err() == nil {
			began := time.Now()
			call, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			_, err := n1.CreateVolume(call, fmt.Sprintf("v%d", written), mobyfs.VolumeSpec{}, "n1")
			cancel()
			if err != nil {
				failed = append(failed, err)
			}
			written++
			longest = max(longest, time.Since(began))
			most.Store(max(most.Load(), away.Load()))
			time.Sleep(10 * time.Millisecond)
		}
	})
	if _, err := ana.Rotate(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	for _, phase := range []mobyfs.RotationPhase{mobyfs.RotationAdd, mobyfs.RotationIssue, mobyfs.RotationRetire} {
		c.eventually("all controls have done their part in "+string(phase), 2*time.Minute, func(ctx context.Context) error {
			r, err := ana.Rotation(ctx)
			if err == nil && (r.Phase != phase || len(r.Lacking) != 1 || r.Lacking[0].Who != "node/n1") {
				err = fmt.Errorf("the phase is %q and lacks %v", r.Phase, r.Lacking)
			}
			return err
		})
		c.eventually("the node follows in "+string(phase), time.Minute, func(ctx context.Context) error {
			for _, f := range []follower{ana, n1} {
				if err := f.follow(ctx); err != nil {
					return err
				}
			}
			return n1.tell(ctx)
		})
	}
	c.eventually("the rotation is over", time.Minute, func(ctx context.Context) error {
		r, err := ana.Rotation(ctx)
		if err == nil && r.Phase != mobyfs.RotationNone {
			err = fmt.Errorf("the phase is %q and lacks %v", r.Phase, r.Lacking)
		}
		return err
	})
	enough()
	wrote.Wait()
	t.Logf("%d writes, %d failed, the longest took %v; at most %d controls were away at once", written, len(failed), longest.Round(time.Millisecond), most.Load())
	for _, err := range failed {
		t.Errorf("a write failed: %v", err)
	}
	if most.Load() > 1 {
		t.Error("two controls were away at once")
	}
	for i, s := range c.seats {
		units[i].mu.Lock()
		if units[i].starts != 2 || len(units[i].failed) != 0 {
			t.Errorf("%s was started again %d times, want 2: %v", s.name, units[i].starts, units[i].failed)
		}
		units[i].mu.Unlock()
		files := pki.PeerFiles(s.root + "/pki")
		trusted, err := os.ReadFile(files.CA)
		if err != nil || len(pki.Roots(trusted)) != 1 || bytes.Equal(trusted, before[s.name]) {
			t.Errorf("%s trusts %d intermediates of peers: %v", s.name, len(pki.Roots(trusted)), err)
		}
		if err := speaksAsPeer(s.peer, stolen); err == nil {
			t.Errorf("%s lets in a peer of the old intermediate", s.name)
		}
		now, err := tls.LoadX509KeyPair(files.Cert, files.Key)
		if err == nil {
			err = speaksAsPeer(c.seats[(i+1)%3].peer, now)
		}
		if err != nil {
			t.Errorf("the peer %s: %v", s.name, err)
		}
	}
	if err := c.leaderUnit(units).kill(); err != nil {
		t.Fatal(err)
	}
	c.eventually("a write after the leader was lost", time.Minute, func(ctx context.Context) error {
		_, err := n1.CreateVolume(ctx, "after", mobyfs.VolumeSpec{}, "n1")
		return err
	})
}

// kill ends the control as a power cut would; it is started again.
func (u *unit) kill() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.cmd.Process.Kill()
}

func (c *trio) leaderUnit(units []*unit) *unit {
	leader := c.leader()
	for _, u := range units {
		if u.seat == leader {
			return u
		}
	}
	c.t.Fatal("nobody leads")
	return nil
}
