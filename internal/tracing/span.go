package tracing

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/mobyfs/mobyfs"
)

// maxText is how much of an error's text a span keeps, in bytes.
const maxText = 500

type tracerKey struct{}

// With makes Begin and Continue in ctx record spans with the tracer. A nil tracer records none.
func With(ctx context.Context, tracer trace.Tracer) context.Context {
	if tracer == nil {
		return ctx
	}
	return context.WithValue(ctx, tracerKey{}, tracer)
}

// Begin begins a span: in the trace that ctx is in, or else as the first of a new one. End has to be called once.
func Begin(ctx context.Context, name string, about ...attribute.KeyValue) (context.Context, trace.Span) {
	tracer, ok := ctx.Value(tracerKey{}).(trace.Tracer)
	if !ok {
		return ctx, trace.SpanFromContext(context.Background()) // one that records nothing
	}
	return tracer.Start(ctx, name, trace.WithAttributes(about...))
}

// Continue is Begin for work that is of interest only as a part of something: outside of every trace it records nothing.
func Continue(ctx context.Context, name string, about ...attribute.KeyValue) (context.Context, trace.Span) {
	if !trace.SpanContextFromContext(ctx).IsValid() {
		return ctx, trace.SpanFromContext(context.Background())
	}
	return Begin(ctx, name, about...)
}

// End ends a span, and says how if it ended in an error.
func End(span trace.Span, err error) {
	if err != nil {
		text := err.Error()
		span.SetAttributes(attribute.String("code", string(mobyfs.CodeOf(err))))
		span.SetStatus(codes.Error, text[:min(len(text), maxText)])
	}
	span.End()
}
