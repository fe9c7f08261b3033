package tracing

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// lastWords is how long a program that ends takes at most to send the spans that it has not sent yet.
const lastWords = 2 * time.Second

// Program is who records spans.
type Program struct {
	Service  string // mobyfs, mobyfs-control or mobyctl
	Instance string // the name of the node or of the control; empty for a program that runs once
	Version  string
}

// Open begins to record what a program does, and returns the tracer for With. Spans are sent to the collector that the
// standard variables of OpenTelemetry name (OTEL_EXPORTER_OTLP_ENDPOINT and its kin); where they name none, the tracer is
// nil and nothing is recorded. A collector that does not answer costs spans and nothing else: they wait in a queue that
// has an end. stop sends what is left and waits 2 s for that at most.
func Open(ctx context.Context, p Program, log *slog.Logger) (tracer trace.Tracer, stop func(), err error) {
	s, err := variables(os.Getenv).settings()
	if err != nil || s.url == "" {
		return nil, func() {}, err
	}
	about := []attribute.KeyValue{attribute.String("service.name", p.Service), attribute.String("service.version", p.Version)}
	if p.Instance != "" {
		about = append(about, attribute.String("service.instance.id", p.Instance), attribute.String("host.name", p.Instance))
	}
	from, err := resource.New(ctx, resource.WithAttributes(about...), resource.WithFromEnv())
	if err != nil {
		return nil, func() {}, fmt.Errorf("read OTEL_RESOURCE_ATTRIBUTES: %w", err)
	}
	exporter, err := otlptrace.New(ctx, &sender{settings: s, log: log})
	if err != nil {
		return nil, func() {}, fmt.Errorf("record traces: %w", err)
	}
	provider := sdk.NewTracerProvider(sdk.WithBatcher(exporter), sdk.WithResource(from))
	log.Debug("traces are recorded", "address", s.shown)
	background := context.WithoutCancel(ctx)
	return provider.Tracer("github.com/mobyfs/mobyfs"), func() {
		ctx, cancel := context.WithTimeout(background, lastWords)
		defer cancel()
		if err := provider.Shutdown(ctx); err != nil {
			log.Debug("send the last spans", "err", err)
		}
	}, nil
}
