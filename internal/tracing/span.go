package tracing

import (
	"context"
	"strings"

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

// Tracer is the tracer that ctx has, or nil.
func Tracer(ctx context.Context) trace.Tracer {
	tracer, _ := ctx.Value(tracerKey{}).(trace.Tracer)
	return tracer
}

// Begin begins a span: in the trace that ctx is in, or else as the first of a new one. End has to be called once.
func Begin(ctx context.Context, name string, about ...attribute.KeyValue) (context.Context, trace.Span) {
	kind := trace.SpanKindInternal
	if trace.SpanContextFromContext(ctx).IsRemote() {
		kind = trace.SpanKindServer
	}
	return begin(ctx, kind, name, about)
}

func begin(ctx context.Context, kind trace.SpanKind, name string, about []attribute.KeyValue) (context.Context, trace.Span) {
	tracer := Tracer(ctx)
	if tracer == nil {
		return ctx, trace.SpanFromContext(context.Background()) // one that records nothing
	}
	return tracer.Start(ctx, name, trace.WithAttributes(about...), trace.WithSpanKind(kind))
}

// Continue is Begin for work that is of interest only as a part of something: outside of every trace it records nothing.
func Continue(ctx context.Context, name string, about ...attribute.KeyValue) (context.Context, trace.Span) {
	if !trace.SpanContextFromContext(ctx).IsValid() {
		return ctx, trace.SpanFromContext(context.Background())
	}
	return Begin(ctx, name, about...)
}

// Call is Continue for a call to another program.
func Call(ctx context.Context, name string, about ...attribute.KeyValue) (context.Context, trace.Span) {
	if !trace.SpanContextFromContext(ctx).IsValid() {
		return ctx, trace.SpanFromContext(context.Background())
	}
	return begin(ctx, trace.SpanKindClient, name, about)
}

// End ends a span, and says how if it ended in an error.
func End(span trace.Span, err error) {
	if err != nil {
		text := strings.ToValidUTF8(err.Error(), "?")
		span.SetAttributes(attribute.String("code", string(mobyfs.CodeOf(err))))
		span.SetStatus(codes.Error, strings.ToValidUTF8(text[:min(len(text), maxText)], ""))
	}
	span.End()
}
