package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/api"
	"github.com/mobyfs/mobyfs/internal/freeport"
	"github.com/mobyfs/mobyfs/internal/pki"
	"github.com/mobyfs/mobyfs/internal/seal"
)

// seat is one of several controls of a cluster, a real process each.
type seat struct {
	program
	name          string
	address, peer string // host:port
	cmd           *exec.Cmd
	words         words // of all its processes
}

// trio is three controls that keep one store.
type trio struct {
	t     *testing.T
	seats []*seat
}

// newTrio starts three controls as it is done by hand: the first alone, and the others join it.
func newTrio(t *testing.T) *trio {
	t.Helper()
	p := build(t)
	c := &trio{t: t}
	for i := range 3 {
		name := fmt.Sprintf("h%d", i+1)
		s := &seat{program: p, name: name, address: freeport.At(t), peer: freeport.At(t)}
		s.root = filepath.Join(filepath.Dir(p.root), name)
		c.seats = append(c.seats, s)
	}
	first := c.seats[0]
	first.mustRun("", "init", "--name", "h1")
	first.up("")
	var pairs []string
	for _, s := range c.seats[1:] {
		for _, role := range []string{pki.RoleControl, pki.RolePeer} {
			csr := s.mustRun("", "request", "--role", role)
			s.mustRun(first.mustRun(csr, "sign", "--role", role, "--name", s.name), "certify", "--role", role)
		}
		pairs = append(pairs, s.name, "https://"+s.peer)
	}
	join := first.mustRun("", append([]string{"member", "add"}, pairs...)...)
	if again := first.mustRun("", append([]string{"member", "add"}, pairs...)...); again != join {
		t.Errorf("asked again it tells %q, not %q", again, join)
	}
	kek, err := os.ReadFile(seal.PathIn(first.root))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range c.seats[1:] {
		if err := os.WriteFile(seal.PathIn(s.root), kek, 0o600); err != nil {
			t.Fatal(err)
		}
		s.launch(strings.TrimSpace(join))
	}
	for _, s := range c.seats {
		c.eventually(s.name+" votes and answers", 60*time.Second, func(ctx context.Context) error {
			_, err := c.operator(s).Cluster(ctx)
			return err
		})
	}
	return c
}

// launch starts the process and does not wait for it.
func (s *seat) launch(join string) {
	s.t.Helper()
	cmd := s.startCommand("--join", join)
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.cmd = cmd
	s.t.Cleanup(func() {
		s.kill()
		if s.t.Failed() {
			s.t.Logf("the last words of %s:\n%s", s.name, s.words.last())
		}
	})
}

// startCommand is the program as systemd starts it. What it says is kept.
func (s *seat) startCommand(more ...string) *exec.Cmd {
	args := []string{"start", "--name", s.name, "--listen", s.address, "--peer-listen", s.peer, "--peer-url", "https://" + s.peer}
	cmd := s.command(append(args, more...)...)
	cmd.Stderr = &s.words
	return cmd
}

// words are what a program has said, of which the last are kept.
type words struct {
	mu   sync.Mutex
	said []byte
}

const keptWords = 8 << 10

func (w *words) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.said = append(w.said, p...)
	w.said = w.said[max(0, len(w.said)-keptWords):]
	return len(p), nil
}

func (w *words) last() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return string(w.said)
}

// up is launch, and waits until the API answers.
func (s *seat) up(join string) {
	s.t.Helper()
	s.launch(join)
	for deadline := time.Now().Add(2 * time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if _, _, code := s.run("", "member", "ls"); code == 0 {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("%s did not start", s.name)
		}
	}
}

// kill ends the process as a power cut would.
func (s *seat) kill() {
	if s.cmd != nil {
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait()
		s.cmd = nil
	}
}

func (c *trio) addresses() []string {
	var all []string
	for _, s := range c.seats {
		all = append(all, s.address)
	}
	return all
}

// client speaks to those controls.
func (c *trio) client(role, name string, to ...string) *api.Client {
	c.t.Helper()
	cl := c.seats[0].client(role, name, to[0])
	files := pki.FilesIn(c.t.TempDir(), name)
	csr, err := files.NewRequest()
	if err != nil {
		c.t.Fatal(err)
	}
	cert, ca, err := pki.SplitAnswer([]byte(c.seats[0].mustRun(string(csr), "sign", "--role", role, "--name", name)))
	if err != nil {
		c.t.Fatal(err)
	}
	if err := files.Install(cert, ca); err != nil {
		c.t.Fatal(err)
	}
	tlsConfig, err := files.ClientTLS(pki.RoleControl, "control")
	if err != nil {
		c.t.Fatal(err)
	}
	cl.Redirect(to, tlsConfig)
	return cl
}

func (c *trio) operator(s *seat) *api.Client { return c.client(pki.RoleOperator, "ana", s.address) }

func (c *trio) eventually(what string, limit time.Duration, is func(context.Context) error) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), limit)
	defer cancel()
	err := is(ctx)
	for ; err != nil && ctx.Err() == nil; err = is(ctx) {
		time.Sleep(20 * time.Millisecond)
	}
	if err != nil {
		c.t.Fatalf("after %v not yet: %s: %v", limit, what, err)
	}
}

// leader is the control whose member leads the store.
func (c *trio) leader() *seat {
	c.t.Helper()
	var leader *seat
	c.eventually("the store has a leader", 30*time.Second, func(context.Context) error {
		for _, s := range c.seats {
			out, _, code := s.run("", "member", "ls")
			if code != 0 { // all must agree
				return fmt.Errorf("%s can't tell", s.name)
			}
			for line := range strings.Lines(out) {
				if f := strings.Fields(line); len(f) > 1 && f[1] == "leader" {
					leader = c.seats[slices.IndexFunc(c.seats, func(s *seat) bool { return s.name == f[0] })]
				}
			}
		}
		if leader == nil {
			return fmt.Errorf("nobody leads")
		}
		return nil
	})
	return leader
}

var hasRoom = mobyfs.Report{Address: "n1:8080", Capacity: mobyfs.Capacity{TotalBytes: 1 << 40, FreeBytes: 1 << 40}}

// killLeaders kills the leader again and again, and measures each time how long no change is acknowledged.
func killLeaders(t *testing.T, rounds int) []time.Duration {
	c := newTrio(t)
	n1 := c.client(pki.RoleNode, "n1", c.addresses()...)
	if _, err := n1.Report(t.Context(), hasRoom); err != nil {
		t.Fatal(err)
	}
	acknowledged := map[mobyfs.VolumeID]string{}
	create := func(ctx context.Context, name string) error {
		v, err := n1.CreateVolume(ctx, name, mobyfs.VolumeSpec{}, "n1")
		if err == nil {
			acknowledged[v.ID] = name
		}
		return err
	}
	var gaps []time.Duration
	for round := range rounds {
		c.eventually("a volume before the kill", 30*time.Second, func(ctx context.Context) error { return create(ctx, fmt.Sprintf("before-%d", round)) })
		victim := c.leader()
		victim.kill()
		began := time.Now()
		c.eventually("a volume after the kill", 60*time.Second, func(ctx context.Context) error { return create(ctx, fmt.Sprintf("after-%d", round)) })
		gaps = append(gaps, time.Since(began))
		victim.up("")
	}
	for _, s := range c.seats { // each knows each
		c.eventually(s.name+" knows all volumes", 30*time.Second, func(ctx context.Context) error {
			all, err := c.operator(s).Volumes(ctx)
			if err == nil && len(all) != len(acknowledged) {
				err = fmt.Errorf("it knows %d, %d were acknowledged", len(all), len(acknowledged))
			}
			return err
		})
	}
	slices.Sort(gaps)
	t.Logf("%d leaders killed, %d volumes acknowledged, 0 lost; from kill to the next acknowledged change: p50 %v, p99 %v, max %v", len(gaps), len(acknowledged),
		gaps[len(gaps)/2].Round(time.Millisecond), gaps[(len(gaps)*99-1)/100].Round(time.Millisecond), gaps[len(gaps)-1].Round(time.Millisecond))
	return gaps
}

func TestKilledLeaderCostsSecondsAndNoAnswer(t *testing.T) {
	if gaps := killLeaders(t, 3); gaps[len(gaps)-1] > 15*time.Second {
		t.Errorf("the longest gap is %v", gaps[len(gaps)-1])
	}
}

func TestMemberIsReplacedByHand(t *testing.T) {
	c := newTrio(t)
	h1, h3 := c.seats[0], c.seats[2]
	h3.kill()
	if _, errs, code := h1.run("", "member", "rm"); code != 1 || errs == "" {
		t.Errorf("without a name: exit code %d, %q", code, errs)
	}
	if _, errs, code := h1.run("", "member", "add", "h4"); code != 1 || !strings.Contains(errs, "has no URL") {
		t.Errorf("without a URL: exit code %d, %q", code, errs)
	}
	if _, errs, code := h3.run("", "member", "ls"); code != 1 || !strings.Contains(errs, "hint:") {
		t.Errorf("where none runs: exit code %d, %q", code, errs)
	}
	h1.mustRun("", "member", "rm", "h3")
	h1.mustRun("", "member", "rm", "h3") // killed after the first: success
	h4 := &seat{program: h3.program, name: "h4", address: freeport.At(t), peer: freeport.At(t)}
	h4.root = filepath.Join(filepath.Dir(h3.root), "h4")
	for _, role := range []string{pki.RoleControl, pki.RolePeer} {
		h4.mustRun(h1.mustRun(h4.mustRun("", "request", "--role", role), "sign", "--role", role, "--name", "h4"), "certify", "--role", role)
	}
	h4.launch(strings.TrimSpace(h1.mustRun("", "member", "add", "h4", "https://"+h4.peer)))
	c.eventually("h4 votes and answers", 60*time.Second, func(ctx context.Context) error {
		_, err := c.operator(h4).Cluster(ctx)
		return err
	})
	if out := h4.mustRun("", "member", "ls"); strings.Contains(out, "h3") || strings.Count(out, "voter")+strings.Count(out, "leader") != 3 {
		t.Errorf("the members are now:\n%s", out)
	}
}

// TestControlThatLostItsDataBeginsNoStoreOfItsOwn: also the first one, that once began alone.
func TestControlThatLostItsDataBeginsNoStoreOfItsOwn(t *testing.T) {
	c := newTrio(t)
	for _, s := range []*seat{c.seats[0], c.seats[2]} {
		s.kill()
		data := filepath.Join(s.root, "etcd", "data")
		if err := os.Rename(data, data+".lost"); err != nil {
			t.Fatal(err)
		}
		join, err := os.ReadFile(filepath.Join(c.seats[0].root, "join"))
		if err != nil {
			t.Fatal(err)
		}
		args := []string{"start", "--name", s.name, "--listen", s.address, "--peer-listen", s.peer, "--peer-url", "https://" + s.peer}
		if s.name != "h1" {
			args = append(args, "--join", strings.TrimSpace(string(join)))
		}
		_, errs, code := s.run("", args...)
		if code != 1 || !strings.Contains(errs, "its data is not here") || !strings.Contains(errs, "member rm "+s.name) {
			t.Errorf("%s: exit code %d, %q", s.name, code, errs)
		}
		if err := os.RemoveAll(data); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(data+".lost", data); err != nil {
			t.Fatal(err)
		}
		s.up("")
	}
}
