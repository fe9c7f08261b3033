package chaos

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/control/store"
	"github.com/mobyfs/mobyfs/internal/pki"
	"github.com/mobyfs/mobyfs/test/chaos/network"
)

// fault is a kind of what goes wrong. do lets it go wrong and returns what makes it good again, nil for nothing. An
// error says that it did not go wrong; then it is not counted.
type fault struct {
	kind   string
	weight int
	do     func(ctx context.Context, l *lane) (undo func(), err error)
}

// longFaults befall nodes for so long that what they have is given to others.
func longFaults() []fault {
	return []fault{
		{"long partition of a node", 3, func(_ context.Context, l *lane) (func(), error) { return l.away(unplug) }},
		{"long pause of an agent", 3, func(_ context.Context, l *lane) (func(), error) {
			return l.away(func(_ *lane, x *agent) (func(), error) { return hold(&x.machine) })
		}},
		{"agent killed for long", 2, func(_ context.Context, l *lane) (func(), error) {
			return l.away(func(_ *lane, x *agent) (func(), error) {
				x.halt(unix.SIGKILL)
				return x.process.start, nil
			})
		}},
		{"power loss of a node", 2, func(_ context.Context, l *lane) (func(), error) { return l.away(powerLoss) }},
	}
}

// away lets something happen to a node that uses a volume which may be given to another, and waits until that may happen.
func (l *lane) away(what func(*lane, *agent) (func(), error)) (func(), error) {
	x := l.agent()
	x.away.Store(true)
	undo, err := what(l, x)
	l.on = x.node
	if err != nil {
		x.away.Store(false)
		return nil, err
	}
	return func() {
		undo()
		x.away.Store(false)
	}, nil
}

// unplug pulls a node's cable.
func unplug(_ *lane, x *agent) (func(), error) {
	x.host.Pull(true)
	return func() { x.host.Pull(false) }, nil
}

// powerLoss ends everything on a node, containers too, and lets it boot again. Meanwhile an operator, who knows that
// nobody writes there, gives to others what control does not give away by itself.
func powerLoss(l *lane, x *agent) (func(), error) {
	x.boots.Add(1)
	err := x.host.PowerOff()
	x.halt(unix.SIGKILL)
	x.watchdog.halt(unix.SIGKILL)
	ctx, enough := context.WithCancel(context.Background())
	rescued := make(chan struct{})
	to := l.agent().node
	go func() {
		defer close(rescued)
		l.n.rescue(ctx, x.node, to)
	}()
	return func() {
		enough()
		<-rescued
		booted := l.n.stubborn("boot of "+x.node, func() error {
			if err := os.RemoveAll(x.run()); err != nil {
				return err
			}
			return x.host.Boot(l.c.bins.container(), "init")
		})
		if booted {
			x.begin()
		}
	}, err
}

// stubborn does, for 20 s at the most, what another fault may keep from being done: a disk that is full, a program that is about to
// begin anew. It reports whether it came to be done, and notes it otherwise.
func (n *nemesis) stubborn(what string, do func() error) bool {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	var err error
	done := until(ctx, func() bool { err = do(); return err == nil })
	if !done {
		n.note(what + ": " + err.Error())
	}
	return done
}

// rescue takes over, until ctx ends, what is on a silent node and may be taken over by a person alone.
func (n *nemesis) rescue(ctx context.Context, from, to string) {
	for pause(ctx, overdue); ctx.Err() == nil; pause(ctx, 300*time.Millisecond) {
		call, cancel := context.WithTimeout(ctx, 5*time.Second)
		all, _ := n.operator.Volumes(call)
		for _, v := range all {
			if v.Node == from && v.Spec.Takeover == mobyfs.TakeoverManual && v.State == mobyfs.VolumeReady {
				_, _ = n.operator.TakeOver(call, v.Name, to, "power loss")
			}
		}
		cancel()
	}
}

// controlFaults befall the control plane, one at a time.
func controlFaults() []fault {
	return []fault{
		{"kill -9 of one control", 5, func(_ context.Context, l *lane) (func(), error) { return nil, l.control().signal(unix.SIGKILL) }},
		{"kill -9 of all controls", 1, killAll},
		{"pause of a control", 3, func(_ context.Context, l *lane) (func(), error) { return hold(&l.control().machine) }},
		{"partition of a control", 4, func(_ context.Context, l *lane) (func(), error) {
			return l.ways(l.control().host, network.Way{Cut: true})
		}},
		{"one-way cut", 4, oneWay},
		{"delay", 2, func(_ context.Context, l *lane) (func(), error) {
			return l.ways(l.control().host, network.Way{Delay: l.between(20, 300)})
		}},
		{"loss", 2, func(_ context.Context, l *lane) (func(), error) {
			return l.ways(l.control().host, network.Way{Loss: 0.02 + 0.2*l.rng.Float64()})
		}},
		{"full disk of a control", 2, func(_ context.Context, l *lane) (func(), error) { return fill(&l.control().machine, "filler") }},
		{"full disk of a control, its ballast gone", 1, fillTwice},
		{"slow disk of a control", 2, func(_ context.Context, l *lane) (func(), error) {
			return throttle(&l.control().machine, 5+l.rng.IntN(60))
		}},
		{"slow commits of a control", 1, func(_ context.Context, l *lane) (func(), error) {
			return arm(&l.control().machine, fmt.Sprintf("store.commit.* stall %v always", l.between(20, 300)))
		}},
		{"store refuses a control", 2, func(_ context.Context, l *lane) (func(), error) {
			return arm(&l.control().machine, []string{"store.commit.before error always", "store.commit.after error always"}[l.rng.IntN(2)])
		}},
		{"clock of a control", 2, func(_ context.Context, l *lane) (func(), error) { return l.jump(&l.control().machine) }},
		{"leader transfer", 3, transfer},
		{"replacement of a control", 1, replace},
		{"record of a newer version", 2, newer},
		{"upgrade of a control", 2, func(_ context.Context, l *lane) (func(), error) { return upgrade(&l.control().machine) }},
	}
}

// agentFaults befall nodes, one at a time.
func agentFaults() []fault {
	return []fault{
		{"kill -9 of an agent", 5, func(_ context.Context, l *lane) (func(), error) { return nil, l.agent().signal(unix.SIGKILL) }},
		{"pause of an agent", 4, func(_ context.Context, l *lane) (func(), error) { return hold(&l.agent().machine) }},
		{"partition of an agent", 4, func(_ context.Context, l *lane) (func(), error) {
			return l.ways(l.agent().host, network.Way{Cut: true})
		}},
		{"rate limit of an agent", 2, func(_ context.Context, l *lane) (func(), error) {
			return l.ways(l.agent().host, network.Way{Rate: 20_000 + l.rng.IntN(200_000)})
		}},
		{"full disk of an agent", 2, func(_ context.Context, l *lane) (func(), error) { return fill(&l.agent().machine, "filler") }},
		{"slow disk of an agent", 2, func(_ context.Context, l *lane) (func(), error) {
			return arm(&l.agent().machine, fmt.Sprintf("%s stall %v always", []string{"dir.*", "agent.mounts.*"}[l.rng.IntN(2)], l.between(20, 500)))
		}},
		{"disk error of an agent", 2, func(_ context.Context, l *lane) (func(), error) {
			return arm(&l.agent().machine, []string{"dir.*", "agent.mounts.*", "agent.catalogue.*"}[l.rng.IntN(3)]+" error always")
		}},
		{"certificate of an agent expires", 2, expire},
		{"clock of an agent", 2, func(_ context.Context, l *lane) (func(), error) { return l.jump(&l.agent().machine) }},
		{"kill -9 of a watchdog", 2, func(_ context.Context, l *lane) (func(), error) { return nil, l.agent().watchdog.signal(unix.SIGKILL) }},
		{"upgrade of an agent", 2, func(_ context.Context, l *lane) (func(), error) { return upgrade(&l.agent().machine) }},
	}
}

// momentFaults befall a program at a moment of its work.
func momentFaults() []fault {
	return []fault{
		{"killed at a moment", 3, func(ctx context.Context, l *lane) (func(), error) { return l.atMoment(ctx, "") }},
		{"stalled at a moment", 2, func(ctx context.Context, l *lane) (func(), error) {
			return l.atMoment(ctx, fmt.Sprintf("stall %v", l.between(500, 6000)))
		}},
		{"error at a moment", 1, func(ctx context.Context, l *lane) (func(), error) { return l.atMoment(ctx, "error") }},
	}
}

func killAll(_ context.Context, l *lane) (func(), error) {
	var err error
	for _, x := range l.c.controls {
		err = errors.Join(err, x.signal(unix.SIGKILL))
	}
	return nil, err
}

// hold stops a program and lets it go on.
func hold(m *machine) (func(), error) {
	p := m.process
	return func() { _ = p.signal(unix.SIGCONT) }, p.signal(unix.SIGSTOP)
}

// oneWay cuts what one host sends to another, and nothing the other way.
func oneWay(_ context.Context, l *lane) (func(), error) {
	from := l.control().host
	to := l.others(from)
	if l.rng.IntN(2) == 0 {
		from, to = to, from
	}
	l.c.net.Set(from, to, network.Way{Cut: true})
	return func() { l.c.net.Set(from, to, network.Way{}) }, nil
}

// fillTwice takes what control keeps back for that time, too, so that it has to end until there is room.
func fillTwice(ctx context.Context, l *lane) (func(), error) {
	m := &l.control().machine
	undo, err := fill(m, "filler")
	if err != nil {
		return undo, err
	}
	pause(ctx, 2*time.Second) // it gives its ballast up within a second
	again, err := fill(m, "filler-again")
	return func() {
		if again != nil {
			again()
		}
		undo()
	}, err
}

// fill leaves no room on a host's disk.
func fill(m *machine, name string) (func(), error) {
	path := filepath.Join(filepath.Dir(m.root), name)
	f, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		return nil, err
	}
	size := int64(st.Bavail) * st.Bsize
	for err = unix.ENOSPC; errors.Is(err, unix.ENOSPC) && size > 0; size -= 1 << 20 { // the program writes meanwhile
		err = unix.Fallocate(int(f.Fd()), 0, 0, size)
	}
	for at := size; err == nil; at += 4096 {
		if _, err := f.WriteAt(make([]byte, 4096), at); err != nil {
			break
		}
	}
	return func() { _ = os.Remove(path) }, err
}

// arm lets something happen at each of some moments of a program.
func arm(m *machine, line string) (func(), error) {
	if _, err := os.Stat(m.at); err == nil {
		return nil, fmt.Errorf("something is to happen at %s already", m.name)
	}
	err := os.WriteFile(m.at, []byte(line), 0o600)
	return func() { _ = os.Remove(m.at) }, err
}

// holdAt holds a program at a moment. reached returns once somebody is held there, or with an error when ctx ends; release
// lets go whoever is held, and may be called twice.
func holdAt(m *machine, moment string) (reached func(ctx context.Context) error, release func(), err error) {
	undo, err := arm(m, moment+" hold")
	if err != nil {
		return nil, nil, err
	}
	held := m.at + ".held"
	reached = func(ctx context.Context) error {
		if until(ctx, func() bool { _, err := os.Stat(held); return err == nil }) {
			return nil
		}
		return fmt.Errorf("%s was not held at %s: %w", m.name, moment, ctx.Err())
	}
	return reached, func() { undo(); _ = os.Remove(held) }, nil
}

// jump sets the clock of a program to another time.
func (l *lane) jump(m *machine) (func(), error) {
	by := []time.Duration{-24 * time.Hour, -time.Minute, time.Minute, 24 * time.Hour}[l.rng.IntN(4)]
	return func() { _ = os.Remove(m.clock) }, os.WriteFile(m.clock, []byte(by.String()), 0o600)
}

// transfer makes another member the leader of the store.
func transfer(ctx context.Context, l *lane) (func(), error) {
	if len(l.c.controls) < 3 {
		return nil, errors.New("there is one member")
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for _, at := range l.c.controls {
		client, err := l.c.etcd(ctx, at)
		if err != nil {
			continue
		}
		defer func() { _ = client.Close() }()
		status, err := client.Status(ctx, client.Endpoints()[0])
		if err != nil || status.Header.MemberId != status.Leader {
			continue
		}
		members, err := client.MemberList(ctx)
		if err != nil {
			return nil, err
		}
		for _, i := range l.rng.Perm(len(members.Members)) {
			if x := members.Members[i]; x.ID != status.Leader && !x.IsLearner {
				_, err := client.MoveLeader(ctx, x.ID)
				return nil, err
			}
		}
	}
	return nil, errors.New("no leader was found")
}

// replace takes a control out of the store, with its disk, and lets a new one join in its place.
func replace(ctx context.Context, l *lane) (func(), error) {
	if len(l.c.controls) < 3 {
		return nil, errors.New("there is one member")
	}
	x := l.control()
	ctx, cancel := context.WithTimeout(ctx, 40*time.Second)
	defer cancel()
	x.halt(unix.SIGKILL)
	if err := l.c.withStore(ctx, x, func(m *store.Members) error { return m.Remove(ctx, x.name) }); err != nil {
		x.process.start()
		return nil, fmt.Errorf("take %s out: %w", x.name, err)
	}
	return func() {
		if err := l.rejoin(x); err != nil {
			l.n.note("replacement of " + x.name + ": " + err.Error())
		}
	}, nil
}

// rejoin gives a control that was taken out a new disk and lets it join again. It is tried until it succeeds.
func (l *lane) rejoin(x *control) error {
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	if err := os.RemoveAll(filepath.Join(x.root, "etcd")); err != nil {
		return err
	}
	err := l.c.joinMember(ctx, x)
	if err == nil {
		x.process.start()
		err = l.c.await(ctx, []*control{x})
	}
	return err
}

// upgrade ends a program in order and lets the other build begin.
func upgrade(m *machine) (func(), error) {
	m.process.mu.Lock()
	m.build = 1 - m.build
	m.process.mu.Unlock()
	return nil, m.signal(unix.SIGTERM)
}

// expire gives an agent a certificate that ended so long ago that it can't be renewed any more, and later, as an operator would,
// a good one.
func expire(_ context.Context, l *lane) (func(), error) {
	x := l.agent()
	give := func(at time.Time) error {
		if err := l.c.certify(x.files(), pki.RoleNode, x.node, at); err != nil {
			return err
		}
		return x.signal(syscall.SIGHUP)
	}
	return func() {
		l.n.stubborn("good certificate for "+x.node, func() error { return give(time.Now()) })
	}, give(time.Now().Add(-pki.LeafLife - 10*24*time.Hour))
}
