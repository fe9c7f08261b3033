package main

import (
	"context"
	"log/slog"
	"path/filepath"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	"github.com/mobyfs/mobyfs/agent/watchdog"
	"github.com/mobyfs/mobyfs/internal/boottime"
)

func newWatchdogCommand(lookup func(key string) string) *cobra.Command {
	var s settings
	cmd := &cobra.Command{
		Use:   "watchdog",
		Short: "End all writing to volumes of takeover auto when this node can't reach control in time",
		Long: `End all writing to volumes of takeover auto when this node can't reach control in time: their mounts become
read-only, and what writes to them is killed. It is a process of its own, so that an agent that hangs can't keep anybody
writing. Where no directory is shared (MOBYFS_SHARED) there are no such volumes, and it ends at once.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil))
			if s.shared == "" {
				log.Info("no directory is shared; there is nothing to guard")
				return nil
			}
			return guard(cmd.Context(), s, log)
		},
	}
	s.bind(cmd.Flags(), lookup)
	return cmd
}

// guard runs the watchdog until ctx ends. systemd hears from it at each look, and starts another if it does not.
func guard(ctx context.Context, s settings, log *slog.Logger) error {
	w := watchdog.Watchdog{Socket: s.watchdogSocket(), State: filepath.Join(s.run, "watchdog", "guarded.json"), Clock: boottime.Now,
		Alive: func() { tellSystemd(daemon.SdNotifyWatchdog, log) }, Log: log}
	tellSystemd(daemon.SdNotifyReady, log)
	return w.Run(ctx)
}

// watchdogSocket is where the agent calls the watchdog. Its directory is root's alone.
func (s *settings) watchdogSocket() string { return filepath.Join(s.run, "watchdog", "sock") }
