package main

import (
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/tracing"
)

// beginTrace makes what the command asks of control one trace, which endTrace ends. It does nothing unless the standard
// variables of OpenTelemetry name a collector.
func (a *app) beginTrace(cmd *cobra.Command) {
	log := slog.New(slog.NewTextHandler(a.stderr, nil))
	tracer, stop, err := tracing.Open(cmd.Context(), tracing.Program{Service: "mobyctl", Version: version}, log)
	if err != nil { // the variables may be meant for other programs
		log.Warn("the command is not recorded as a trace", "err", err, "hint", mobyfs.HintOf(err))
	}
	ctx, span := tracing.Begin(tracing.With(cmd.Context(), tracer), cmd.CommandPath())
	cmd.SetContext(ctx)
	a.endTrace = func(err error) {
		tracing.End(span, err)
		stop()
	}
}
