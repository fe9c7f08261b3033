package tracing

import (
	"context"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/trace"
)

const ofSomebody = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

func TestParentComesBackAsItWasTold(t *testing.T) {
	ctx := Resume(t.Context(), ofSomebody)
	if got := Parent(ctx); got != ofSomebody {
		t.Errorf("got %q, want %q", got, ofSomebody)
	}
	if !trace.SpanContextFromContext(ctx).IsRemote() {
		t.Error("the span of another program passes for one of this program")
	}
}

func TestWithoutATraceThereIsNoParent(t *testing.T) {
	if got := Parent(context.Background()); got != "" {
		t.Errorf("got %q, want nothing", got)
	}
}

// What stands in a record was written by whoever called, and may be anything.
func TestParentThatCanNotBeReadChangesNothing(t *testing.T) {
	for _, bad := range []string{
		"", "00", "00-00000000000000000000000000000000-b7ad6b7169203331-01", "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
		"ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
		ofSomebody + "-more", ofSomebody + "\r\nX-Evil: 1", strings.Repeat("0", 1<<20),
	} {
		ctx := Resume(Resume(t.Context(), ofSomebody), bad)
		if got := Parent(ctx); got != ofSomebody {
			t.Errorf("%.80q: got %q, want the trace of before", bad, got)
		}
	}
}
