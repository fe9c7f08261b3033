package tracing

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/attribute"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/tracing/collector"
)

var program = Program{Service: "mobyfs", Instance: "h1", Version: "v1"}

// clean empties what the environment of the test may say.
func clean(t *testing.T) {
	for _, pair := range os.Environ() {
		if name, _, _ := strings.Cut(pair, "="); strings.HasPrefix(name, "OTEL_") {
			t.Setenv(name, "")
		}
	}
}

func TestSpansReachTheCollectorWithWhoRecordedThem(t *testing.T) {
	clean(t)
	c := collector.Open(t)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", c.URL+"/")
	t.Setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-key=a%20b,x-other=2")
	tracer, stop, err := Open(t.Context(), program, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx := With(t.Context(), tracer)
	if _, outside := Continue(ctx, "heartbeat"); outside.IsRecording() {
		t.Error("work outside of every trace began one")
	}
	ctx, first := Begin(Resume(ctx, ofSomebody), "move", attribute.String("volume", "pgdata"))
	_, second := Continue(ctx, "pull")
	End(second, mobyfs.Errorf(mobyfs.CodeNoSpace, "the disk is full"))
	End(first, nil)
	stop()
	spans := c.Spans()
	if len(spans) != 2 || spans[0].Name != "pull" || spans[1].Name != "move" {
		t.Fatalf("got %+v", spans)
	}
	pull, move := spans[0], spans[1]
	if move.Trace != "0af7651916cd43dd8448eb211c80319c" || move.Parent != "b7ad6b7169203331" || pull.Trace != move.Trace || pull.Parent != move.ID {
		t.Errorf("the spans do not hang together: %+v", spans)
	}
	if move.Service != "mobyfs" || move.Instance != "h1" || move.About["volume"] != "pgdata" || move.Failed {
		t.Errorf("got %+v", move)
	}
	if !pull.Failed || pull.About["code"] != string(mobyfs.CodeNoSpace) {
		t.Errorf("the error is not told: %+v", pull)
	}
	if h := c.Header(); h.Get("X-Key") != "a b" || h.Get("X-Other") != "2" {
		t.Errorf("got headers %v", h)
	}
}

func TestWithoutACollectorNothingIsRecordedAndTracesPassThrough(t *testing.T) {
	clean(t)
	for _, off := range []func(){
		func() {},
		func() {
			t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
			t.Setenv("OTEL_SDK_DISABLED", "true")
		},
	} {
		off()
		tracer, stop, err := Open(t.Context(), program, slog.New(slog.DiscardHandler))
		if err != nil || tracer != nil {
			t.Fatalf("got %v, %v", tracer, err)
		}
		ctx, span := Begin(Resume(With(t.Context(), tracer), ofSomebody), "move")
		End(span, errors.New("x"))
		stop()
		if got := Parent(ctx); got != ofSomebody {
			t.Errorf("got %q, want the trace of before", got)
		}
	}
}

func TestCollectorThatIsAwayIsToldOnceAndHoldsNothingUp(t *testing.T) {
	clean(t)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://user:secret@127.0.0.1:1")
	t.Setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "1") // each span is sent by itself
	var said bytes.Buffer
	tracer, stop, err := Open(t.Context(), program, slog.New(slog.NewTextHandler(&said, nil)))
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		_, span := Begin(With(t.Context(), tracer), "move")
		End(span, nil)
	}
	stop()
	if n := strings.Count(said.String(), "spans are lost"); n != 1 {
		t.Errorf("it is said %d times: %s", n, said.String())
	}
	if strings.Contains(said.String(), "secret") {
		t.Errorf("the log holds the password: %s", said.String())
	}
}

func TestBadSettingsOfTheCollectorAreRefusedWithAHint(t *testing.T) {
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string]map[string]string{
		"no address":   {"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4318"},
		"no scheme":    {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "//collector"},
		"grpc":         {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
		"timeout":      {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_EXPORTER_OTLP_TIMEOUT": "10s"},
		"no pair":      {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_EXPORTER_OTLP_HEADERS": "secret"},
		"a bad escape": {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_EXPORTER_OTLP_HEADERS": "k=secret%"},
		"no PEM":       {"OTEL_EXPORTER_OTLP_ENDPOINT": "https://c:4318", "OTEL_EXPORTER_OTLP_CERTIFICATE": empty},
	} {
		_, err := variables(func(key string) string { return bad[key] }).settings()
		if mobyfs.CodeOf(err) != mobyfs.CodeInvalid || mobyfs.HintOf(err) == "" {
			t.Errorf("%s: got %v", name, err)
		} else if strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: the error holds the secret: %v", name, err)
		}
	}
	s, err := variables(func(key string) string {
		return map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318/otlp", "OTEL_EXPORTER_OTLP_TIMEOUT": "1500"}[key]
	}).settings()
	if err != nil || s.url != "http://c:4318/otlp/v1/traces" || s.timeout.Milliseconds() != 1500 {
		t.Errorf("got %+v, %v", s, err)
	}
}
