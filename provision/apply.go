package provision

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mobyfs/mobyfs/provision/host"
	"github.com/mobyfs/mobyfs/provision/step"
)

// Outcome is how it went, host by host.
type Outcome struct {
	Changed   []string        `json:"changed"`
	Unchanged []string        `json:"unchanged"`
	Failed    []*host.Problem `json:"failed"`
	Took      time.Duration   `json:"took_ns"`

	mu sync.Mutex
}

func (o *Outcome) note(name string, changed bool, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	var p *host.Problem
	switch {
	case errors.As(err, &p):
		o.Failed = append(o.Failed, p)
	case err != nil:
		o.Failed = append(o.Failed, host.StepFailed.Problem(name, "%w", err))
	case changed:
		o.Changed = append(o.Changed, name)
	default:
		o.Unchanged = append(o.Unchanged, name)
	}
}

func (o *Outcome) finish(began time.Time) *Outcome {
	slices.Sort(o.Changed)
	slices.Sort(o.Unchanged)
	slices.SortFunc(o.Failed, func(a, b *host.Problem) int { return strings.Compare(a.Host, b.Host) })
	o.Took = time.Since(began)
	return o
}

// Apply changes what the plan tells. A host that fails does not stop the others; only without the control plane
// nothing is begun on them. Hosts that are as desired are not touched. Of several control hosts the one with the
// authority comes first; those that join it begin at once after it, and those that run already one after the other.
func (p *Plan) Apply(ctx context.Context) *Outcome {
	if p.Absent {
		return p.remove(ctx)
	}
	began, out := time.Now(), &Outcome{}
	ready := newGate()
	g, _ := p.in.group(ctx)
	g.SetLimit(-1) // of which only so many work, see slots
	slots := make(chan struct{}, first(p.in.Parallel, 32))
	g.Go(func() error {
		changed, err := p.install(ctx, p.control, ready)
		ready.open(err)
		out.note(p.control.Name, changed, err)
		return nil
	})
	joined := newGate()
	g.Go(func() error {
		err := ready.wait(ctx)
		if err == nil {
			if err = p.changeMembers(ctx); err != nil {
				out.note(p.control.Name, false, err)
			}
		}
		joined.open(err)
		return nil
	})
	for _, h := range p.Hosts {
		if h == p.control {
			continue
		}
		g.Go(func() error {
			if len(h.Changes) > 0 {
				begin := ready
				if h.desired.Control {
					begin = joined
				}
				if err := begin.wait(ctx); err != nil && ctx.Err() != nil {
					out.note(h.Name, false, host.Stopped.Problem(h.Name, "%w", err))
					return nil
				} else if err != nil {
					out.note(h.Name, false, host.ControlDown.Problem(h.Name, "%w", err))
					return nil
				}
				switch {
				case h.desired.Control && h.facts.Member:
					p.members.restarted.Lock()
					defer p.members.restarted.Unlock()
				case h.desired.Control: // two that join may need each other
					h.desired.Join = p.members.join
				default:
					slots <- struct{}{}
					defer func() { <-slots }()
				}
			}
			changed, err := p.install(ctx, h, nil)
			out.note(h.Name, changed, err)
			return nil
		})
	}
	var operator error
	if p.Operator != "" {
		g.Go(func() error {
			if ready.wait(ctx) == nil {
				operator = p.enrolOperator(ctx)
			}
			return nil
		})
	}
	_ = g.Wait()
	if operator != nil {
		out.note(p.control.Name, false, host.NotSigned.Problem(p.control.Name, "get a certificate for mobyctl: %w", operator))
	}
	return out.finish(began)
}

// install brings one host to where it shall be. ready, if not nil, is opened once the control plane runs there.
func (p *Plan) install(ctx context.Context, h *HostPlan, ready *gate) (changed bool, err error) {
	if len(h.Changes) == 0 {
		return false, nil
	}
	began := time.Now()
	err = p.push(ctx, h, func(e step.Event) {
		if e.Step == "control" && (e.State == step.StateChanged || e.State == step.StateUnchanged) && ready != nil {
			ready.open(nil)
		}
	})
	if err != nil {
		return false, err
	}
	p.in.say(h.Name, step.Event{Step: "host", State: step.StateDone, TookMS: time.Since(began).Milliseconds()})
	return true, nil
}

// gate lets waiters through once, or turns them away.
type gate struct {
	once sync.Once
	done chan struct{}
	err  error
}

func newGate() *gate { return &gate{done: make(chan struct{})} }

func (g *gate) open(err error) {
	g.once.Do(func() {
		g.err = err
		close(g.done)
	})
}

func (g *gate) wait(ctx context.Context) error {
	select {
	case <-g.done:
		return g.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
