// Package tracing says which trace a piece of work belongs to, in one line that a record can hold: the traceparent of
// W3C Trace Context. So work that is put down on one host and taken up on another, or by a later life of a program, is
// one trace.
//
// A trace goes through every program, whether or not that program records spans: one that records none passes on what
// it was given.
package tracing

import (
	"context"

	"go.opentelemetry.io/otel/propagation"
)

// header is the one field of W3C Trace Context that is carried. The other, tracestate, is for vendors and may be long.
const header = "traceparent"

// Parent is the traceparent of the span that ctx is in, or "" if it is in none. It is 55 bytes of ASCII.
func Parent(ctx context.Context) string {
	carrier := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, carrier)
	return carrier[header]
}

// Resume puts ctx into the trace that parent names, as Parent told it: spans begun in it are children of that one. With
// a parent that is empty or can't be read, ctx stays as it is.
func Resume(ctx context.Context, parent string) context.Context {
	return propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{header: parent})
}
