package provision

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/mobyfs/mobyfs/internal/pki"
	"github.com/mobyfs/mobyfs/provision/host"
	"github.com/mobyfs/mobyfs/provision/step"
)

// Installer sets a fleet up and takes it down again.
type Installer struct {
	Fleet        Fleet
	Dialer       *host.Dialer
	Programs     *Programs
	Operator     pki.Files // of who uses mobyctl here; made if it is not there
	OperatorName string
	By           string // who asks, for the locks on hosts

	// Trust is asked once about all host keys that are not known. Nil refuses them.
	Trust func(ctx context.Context, keys []*host.UnknownKey) (bool, error)
	// Say is told what goes on, one event at a time.
	Say func(step.Event)
	// Parallel is how many hosts are worked on at once; 32 if 0.
	Parallel int

	mu sync.Mutex
}

func (in *Installer) say(host string, e step.Event) {
	in.mu.Lock()
	defer in.mu.Unlock()
	e.Host = host
	if e.Time.IsZero() {
		e.Time = time.Now().UTC()
	}
	in.Say(e)
}

func (in *Installer) group(ctx context.Context) (*errgroup.Group, context.Context) {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(first(in.Parallel, 32))
	return g, ctx
}

// Preflight is what was found on the hosts before anything was changed on any of them.
type Preflight struct {
	Problems []*host.Problem `json:"problems"`
}

func (p *Preflight) Error() string {
	if len(p.Problems) == 1 {
		return "1 problem stands in the way; nothing was changed on any host"
	}
	return fmt.Sprintf("%d problems stand in the way; nothing was changed on any host", len(p.Problems))
}

// seen is a host that was looked at.
type seen struct {
	target host.Target
	conn   *host.Host
	facts  step.Facts
}

// look connects to hosts and gathers their facts. It returns the hosts in the order of targets; if any could not be
// looked at, all connections are closed and the error is a *Preflight.
func (in *Installer) look(ctx context.Context, targets []host.Target) ([]*seen, error) {
	hosts := make([]*seen, len(targets))
	problems := in.lookAtEach(ctx, targets, hosts)
	if unknown := unknownKeys(problems); len(unknown) > 0 && in.Trust != nil && ctx.Err() == nil {
		trusted, err := in.Trust(ctx, unknown)
		if err == nil && trusted {
			if err = in.Dialer.Trust(unknown...); err == nil {
				problems = in.lookAtEach(ctx, targets, hosts)
			}
		}
		if err != nil {
			closeAll(hosts)
			return nil, err
		}
	}
	if ctx.Err() != nil {
		closeAll(hosts)
		return nil, context.Cause(ctx)
	}
	var found []*host.Problem
	for i, err := range problems {
		var p *host.Problem
		switch {
		case err == nil:
		case errors.As(err, &p):
			found = append(found, p)
		default:
			found = append(found, host.Facts.Problem(targets[i].Name, "%w", err))
		}
	}
	if len(found) > 0 {
		closeAll(hosts)
		return nil, &Preflight{found}
	}
	return hosts, nil
}

// lookAtEach fills the places in hosts that are empty. It returns an error for each host that stays so.
func (in *Installer) lookAtEach(ctx context.Context, targets []host.Target, hosts []*seen) []error {
	problems := make([]error, len(targets))
	g, _ := in.group(ctx)
	for i, t := range targets {
		if hosts[i] != nil {
			continue
		}
		g.Go(func() error {
			hosts[i], problems[i] = in.lookAt(ctx, t)
			return nil
		})
	}
	_ = g.Wait()
	return problems
}

// factsLimit bounds the time that a host may take to tell its facts.
const factsLimit = time.Minute

func (in *Installer) lookAt(ctx context.Context, t host.Target) (*seen, error) {
	in.say(t.Name, step.Event{Step: "connect", State: step.StateRunning})
	conn, err := in.Dialer.Dial(ctx, t)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, factsLimit, fmt.Errorf("the host told nothing for %v", factsLimit))
	defer cancel()
	var ports []string
	for _, p := range in.ports() {
		ports = append(ports, itoa(p))
	}
	out, err := conn.Script(ctx, step.FactsScript, ports...)
	if err == nil {
		var facts step.Facts
		if facts, err = step.ParseFacts(out); err == nil {
			return &seen{t, conn, facts}, nil
		}
	}
	conn.Close()
	var p *host.Problem
	if errors.As(err, &p) {
		return nil, err
	}
	return nil, host.Facts.Problem(t.Name, "look at the host: %w", err)
}

func unknownKeys(problems []error) []*host.UnknownKey {
	var keys []*host.UnknownKey
	for _, err := range problems {
		var p *host.Problem
		var k *host.UnknownKey
		if errors.As(err, &p) && p.Of(host.HostKeyUnknown) && errors.As(err, &k) && k.MayBeTrusted() {
			keys = append(keys, k)
		}
	}
	return keys
}

func closeAll(hosts []*seen) {
	for _, s := range hosts {
		if s != nil {
			s.conn.Close()
		}
	}
}
