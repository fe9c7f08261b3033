package api

import (
	"context"
	"net/http"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/mobyfs/mobyfs/internal/tracing"
)

// traceHeader carries the trace that a call is a part of, as W3C Trace Context has it. One that can't be read is as none.
const traceHeader = "Traceparent"

// trace begins the span of a call that is being answered. A call that changes something is of interest by itself; one
// that only asks, and a heartbeat, is so as a part of something.
func (c call) trace(ctx context.Context) (context.Context, trace.Span) {
	begin := tracing.Begin
	if c.method == http.MethodGet || c.id == report.id {
		begin = tracing.Continue
	}
	return begin(ctx, c.id, attribute.String("caller", caller(ctx).String()))
}
