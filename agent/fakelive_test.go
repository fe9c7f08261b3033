package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/mountns"
	"github.com/mobyfs/mobyfs/internal/pki"
	"github.com/mobyfs/mobyfs/migrate/transfer"
)

// box is a container of a dockerd that a test plays. Its dockerd outlives the agent.
type box struct {
	name, volume       string
	state              string // created, running, paused, exited
	policy             string
	autoRemove, killed bool
	other, runner      string // another volume that it has mounted; who made it
	migration          mobyfs.MigrationID
	killedFrozen       bool
	cpu                CPU // used by its writing, as a test says
}

// put adds a container that runs, or is paused by somebody.
func (c *containers) put(b box) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.boxes == nil {
		c.boxes = map[string]*box{}
	}
	c.boxes[b.name] = &b
	c.save()
}

func (c *containers) box(id string) (*box, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	b := c.boxes[strings.TrimPrefix(id, "id-")]
	if b == nil {
		return nil, &dockerError{404, "No such container"}
	}
	return b, nil
}

// state is how a container is, "" if there is none.
func (c *containers) state(name string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if b := c.boxes[name]; b != nil {
		return b.state
	}
	return ""
}

func (c *containers) change(id, what string, f func(b *box) error) error {
	if c.break_ != nil {
		if err := c.break_(what, id); err != nil {
			return err
		}
	}
	b, err := c.box(id)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.did = append(c.did, what+" "+id)
	defer c.save()
	return f(b)
}

func (c *containers) Occupants(_ context.Context, volume string) ([]Occupant, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var found []Occupant
	for name, b := range c.boxes {
		if b.volume == volume && (b.state == "running" || b.state == "paused") {
			found = append(found, Occupant{Container: Container{"id-" + name, name}, PID: 4711, Paused: b.state == "paused", Mounts: 1, AutoRemove: b.autoRemove, Restart: b.policy})
		}
	}
	slices.SortFunc(found, func(x, y Occupant) int { return strings.Compare(x.Name, y.Name) })
	return found, nil
}

func (c *containers) Pause(_ context.Context, id string) error {
	return c.change(id, "pause", func(b *box) error {
		if b.state != "running" {
			return &dockerError{409, "it is " + b.state}
		}
		if b.cpu.Limits.processors() < 0.3 { // of control groups of version 1
			return &dockerError{500, "unable to freeze"}
		}
		b.state = "paused"
		return nil
	})
}

func (c *containers) Unpause(_ context.Context, id string) error {
	err := c.change(id, "unpause", func(b *box) error {
		if b.killed {
			return fmt.Errorf("%s was killed, and goes on", id)
		}
		if b.state == "paused" {
			b.state = "running"
		}
		return nil
	})
	if isStatus(err, 404) {
		return nil
	}
	return err
}

func (c *containers) Stop(_ context.Context, id string) error {
	return c.change(id, "stop", func(b *box) error { b.state = "exited"; return nil })
}

func (c *containers) Kill(_ context.Context, id string) (policy string, err error) {
	err = c.change(id, "kill", func(b *box) error {
		b.killedFrozen = b.state == "paused"
		policy, b.policy, b.state, b.killed = b.policy, "", "exited", true
		return nil
	})
	if isStatus(err, 404) {
		return "", nil
	}
	return policy, err
}

func (c *containers) Remove(_ context.Context, id string) error {
	err := c.change(id, "remove", func(b *box) error {
		if b.state == "running" || b.state == "paused" {
			return fmt.Errorf("%s is %s", id, b.state)
		}
		delete(c.boxes, b.name)
		return nil
	})
	if isStatus(err, 404) {
		return nil
	}
	return err
}

func (c *containers) CPU(_ context.Context, id string) (cpu CPU, err error) {
	b, err := c.box(id)
	if err != nil {
		return cpu, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return b.cpu, nil
}

func (c *containers) LimitCPU(_ context.Context, id string, l CPULimits) error {
	return c.change(id, "limit", func(b *box) error {
		if b.cpu.Limits = l; l == (CPULimits{}) {
			b.cpu.Limits = CPULimits{Period: cpuPeriod, Quota: -1}
		}
		return nil
	})
}

func (c *containers) Pack(_ context.Context, id, volume string) (p Packed, err error) {
	err = c.change(id, "pack", func(b *box) error {
		p = Packed{Name: b.name, ID: id, Volume: volume, Body: json.RawMessage(`{}`), Runner: b.runner}
		if b.other != "" {
			p.Others = []string{b.other}
		}
		return nil
	})
	return p, err
}

func (c *containers) Check(_ context.Context, p Packed) error {
	c.note("check " + p.ID)
	if len(p.Others) > 0 {
		return mobyfs.Errorf(mobyfs.CodeInvalid, "container %s can't be made anew here: it has also mounted %s", p.Name, p.Others[0])
	}
	return nil
}

func (c *containers) Make(_ context.Context, p Packed, m mobyfs.MigrationID) (Container, error) {
	c.note("make " + p.ID)
	c.put(box{name: p.Name, volume: p.Volume, state: "created", migration: m})
	return Container{"id-" + p.Name, p.Name}, nil
}

func (c *containers) Made(context.Context) ([]Made, error) {
	if c.break_ != nil {
		if err := c.break_("list", ""); err != nil {
			return nil, err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var made []Made
	for name, b := range c.boxes {
		if b.state == "created" && b.migration != "" {
			made = append(made, Made{Container{"id-" + name, name}, b.migration, b.volume})
		}
	}
	return made, nil
}

func (k *kernel) Strangers(dir string, _ []string, _ bool) ([]mountns.User, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.strangers, nil
}

func (k *kernel) End(c Container, _ int) error { return nil }

func (k *kernel) Sync(string) error { return nil }

// runIn is a container on a node that uses the volume, from now on.
func (n *node) runIn(name, volume string) string {
	n.rig.t.Helper()
	path := n.mount(volume, name)
	n.docker.put(box{name: name, volume: volume, state: "running", policy: "always"})
	return path
}

// starts makes dockerd of the node start containers as it does: the volume is mounted first.
func (n *node) starts() {
	n.docker.mu.Lock()
	defer n.docker.mu.Unlock()
	n.docker.begins = func(b *box) error {
		for n.peers.Load() == nil { // dockerd waits for a driver that is just starting
			time.Sleep(time.Millisecond)
		}
		_, err := n.peers.Load().Mount(context.Background(), b.volume, b.name)
		return err
	}
}

// Follow is a session with the source's agent, in this process.
func (p *peer) Follow(ctx context.Context, from mobyfs.From, into string, options mobyfs.FollowOptions) (mobyfs.Follower, error) {
	me := pki.Identity{Cluster: "shop", Role: pki.RoleNode, Name: p.name}
	o, err := p.rig.nodes[from.Node].peers.Load().Offer(ctx, me, from.Ticket)
	if err != nil {
		return nil, err
	}
	if !o.Live {
		o.Release()
		if !options.TakeUp {
			return nil, mobyfs.Errorf(mobyfs.CodeInvalid, "it is not live")
		}
		return &coldFollower{peer: p, from: from, into: into, progress: options.Progress}, nil
	}
	return &fakeFollower{peer: p, offered: o, into: into}, nil
}

// coldFollower goes on with a cold move.
type coldFollower struct {
	*peer
	from     mobyfs.From
	into     string
	progress func(mobyfs.Progress)
}

func (f *coldFollower) Freeze(ctx context.Context) (mobyfs.Receipt, error) {
	if f.rig.goesOn != nil {
		if err := f.rig.goesOn(f.into); err != nil {
			return mobyfs.Receipt{}, err
		}
	}
	return f.Pull(ctx, f.from, f.into, f.progress)
}

func (f *coldFollower) Round(context.Context) (mobyfs.Round, error) { return mobyfs.Round{}, nil }
func (f *coldFollower) Predict() time.Duration                      { return 0 }
func (f *coldFollower) Limit(int64)                                 {}
func (f *coldFollower) Luggage() []byte                             { return nil }
func (f *coldFollower) Close() error                                { return nil }

type fakeFollower struct {
	*peer
	offered transfer.Offered
	into    string
	rounds  int
	froze   bool
	proven  bool
}

// step lets a test look at, hold up, or break a step of a session.
func (f *fakeFollower) step(ctx context.Context, name string) error {
	if f.rig.session == nil {
		return nil
	}
	return f.rig.session(ctx, f.name, name)
}

func (f *fakeFollower) Round(ctx context.Context) (mobyfs.Round, error) {
	if err := f.step(ctx, "round"); err != nil {
		return mobyfs.Round{}, err
	}
	if err := f.offered.Round(ctx, f.rounds); err != nil {
		return mobyfs.Round{}, err
	}
	f.rounds++
	return mobyfs.Round{Number: f.rounds - 1, Feed: "rescan"}, copyFlat(f.offered.Dir, f.into)
}

func (f *fakeFollower) Freeze(ctx context.Context) (mobyfs.Receipt, error) {
	if err := f.step(ctx, "freeze"); err != nil {
		return mobyfs.Receipt{}, err
	}
	n, err := f.offered.Freeze(ctx)
	if err != nil {
		return mobyfs.Receipt{}, err
	}
	f.froze = true
	if err := f.step(ctx, "frozen"); err != nil {
		return mobyfs.Receipt{}, err
	}
	if err := copyFlat(f.offered.Dir, f.into); err != nil {
		return mobyfs.Receipt{}, err
	}
	f.proven = true
	return mobyfs.Receipt{Digest: digest(f.rig.t, f.into), Freeze: n}, f.step(ctx, "proven")
}

func (f *fakeFollower) Predict() time.Duration { return f.rig.pause }
func (f *fakeFollower) Limit(int64)            {}
func (f *fakeFollower) Luggage() []byte        { return f.offered.Luggage }

func (f *fakeFollower) Close() error {
	if f.froze && !f.proven {
		f.offered.Unfreeze(context.Background(), "the connection was lost")
	}
	f.offered.Release()
	return nil
}

// copyFlat makes a flat tree as another one is.
func copyFlat(from, into string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(into, d.Name()), data, 0o600)
	})
}

// is waits until ok, for a minute at most.
func is(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 600 {
		if ok() {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Fatalf("after a minute it is not so: %s", what)
}

// breakOnce breaks the first session while the volume is frozen, and has the container write before the second one.
func breakOnce(source *node, write func(), broke *bool) func(context.Context, string, string) error {
	return func(_ context.Context, _, step string) error {
		switch {
		case step == "frozen" && !*broke:
			*broke = true
			return mobyfs.Errorf(mobyfs.CodeUnavailable, "connection reset")
		case step == "round" && *broke && source.docker.state("db") == "running":
			write()
		}
		return nil
	}
}

// breakAlways breaks each session while the volume is frozen.
func breakAlways(_ context.Context, _, step string) error {
	if step == "frozen" {
		return mobyfs.Errorf(mobyfs.CodeUnavailable, "connection reset")
	}
	return nil
}
