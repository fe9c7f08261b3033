package agent

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/tracing"
)

// A migration is one trace. It begins where somebody wants the volume elsewhere: in an operator's command, or in a Mount.
// Control writes the trace into the migration's record, and whatever an agent does for a migration it does in the trace of
// the record: so it does not matter which life of the agent does it. What is done for a Mount alone is in the Mount's
// trace. Heartbeats, and what an agent does of its own accord, are in none.

// trace begins the span of a call of Docker's. end has to be called once.
func (a *Agent) trace(ctx context.Context, call, name string) (_ context.Context, end func(error)) {
	ctx, span := tracing.Begin(tracing.With(ctx, a.Tracer), call, attribute.String("volume", name), attribute.String("node", a.Node))
	return ctx, func(err error) { tracing.End(span, err) }
}

// trace begins the span of a step, in the trace of what it is done for. Under mu.
func (w *worker) trace(ctx context.Context, s step, v view) (context.Context, trace.Span) {
	parent := ""
	if m := migrationOf(s, v); m != nil {
		parent = m.Traceparent
	} else if wt := w.longest(); wt != nil {
		parent = wt.trace
	}
	about := []attribute.KeyValue{attribute.String("volume", w.name(v.record)), attribute.String("node", w.agent.Node), attribute.String("why", s.why)}
	if s.migration != "" {
		about = append(about, attribute.String("migration", string(s.migration)))
	}
	return tracing.Continue(tracing.Resume(ctx, parent), "step "+string(s.task), about...)
}

// migrationOf is the migration that a step is done for, as the record tells of it, or nil.
func migrationOf(s step, v view) *mobyfs.Migration {
	r := v.record
	switch {
	case r == nil:
		return nil
	case s.task == vacate && r.LastMove != nil && r.LastMove.ID == r.Arrived && r.LastMove.From == v.me:
		return r.LastMove
	case s.migration != "" && r.Migration != nil && r.Migration.ID == s.migration:
		return r.Migration
	case s.migration != "" && r.LastMove != nil && r.LastMove.ID == s.migration:
		return r.LastMove
	}
	return nil
}

// longest is who has waited longest, nil if nobody waits. Under mu.
func (w *worker) longest() (first *waiter) {
	for wt := range w.waiters {
		if first == nil || wt.since.Before(first.since) {
			first = wt
		}
	}
	return first
}

// pullOf brings the bytes of a migration, as a span that tells how many they were.
func (w *worker) pullOf(ctx context.Context, from mobyfs.From, dir string, goesOn bool) (_ mobyfs.Receipt, err error) {
	ctx, span := tracing.Call(ctx, "pull", attribute.String("from", from.Node))
	began := time.Now()
	defer func() {
		w.agent.metrics.phase("pull", began, err)
		w.mu.Lock()
		p := w.move.progress
		w.mu.Unlock()
		span.SetAttributes(attribute.Int64("bytes", p.Bytes), attribute.Int64("files", p.Files))
		tracing.End(span, err)
	}()
	if goesOn {
		return w.takeUp(ctx, from, dir)
	}
	return w.agent.Peer.Pull(ctx, from, dir, w.progressed)
}

// phase begins a phase of a migration, as a span and for the metrics. end has to be called once.
func (w *worker) phase(ctx context.Context, name string) (_ context.Context, end func(error)) {
	ctx, span := tracing.Continue(ctx, name)
	began := time.Now()
	return ctx, func(err error) {
		w.agent.metrics.phase(name, began, err)
		tracing.End(span, err)
	}
}

// serving begins the span of a pull that is served from here, in the trace of its migration.
func (a *Agent) serving(ctx context.Context, t mobyfs.Ticket) (context.Context, trace.Span) {
	record, _ := a.catalogue.record(t.Volume)
	name := string(t.Volume)
	if record != nil {
		name = record.Name
	}
	return tracing.Continue(tracing.Resume(tracing.With(ctx, a.Tracer), t.Traceparent), "serve", attribute.String("volume", name),
		attribute.String("node", a.Node), attribute.String("to", t.To), attribute.String("migration", string(t.Migration)))
}
