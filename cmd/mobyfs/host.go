package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/mobyfs/mobyfs/provision/step"
)

// newHostCommand is the installer's hand on the host: mobyctl runs it over SSH. People may run facts and plan too.
func newHostCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "host", Short: "Look at this host and set it up (mobyctl bootstrap runs this over SSH)"}
	cmd.AddCommand(
		&cobra.Command{
			Use:   "facts",
			Short: "Print what is on this host, as JSON",
			Args:  cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				facts, err := step.Gather(cmd.Context(), "")
				if err != nil {
					return err
				}
				return printJSON(cmd.OutOrStdout(), facts)
			},
		},
		newPluginsCommand(),
		&cobra.Command{
			Use:   "plan",
			Short: "Print what apply would change, as JSON; reads what is desired as one line of JSON",
			Args:  cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				desired, err := step.ReadDesired(json.NewDecoder(cmd.InOrStdin()))
				if err != nil {
					return err
				}
				facts, err := step.Gather(cmd.Context(), "", desired.Ports...)
				if err != nil {
					return err
				}
				return printJSON(cmd.OutOrStdout(), step.Plan(facts, desired))
			},
		},
		&cobra.Command{
			Use:   "apply",
			Short: "Make this host what is desired; prints events as lines of JSON, stops when stdin ends",
			Args:  cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error {
				return applyHost(cmd.Context(), cmd.InOrStdin(), cmd.OutOrStdout())
			},
		})
	return cmd
}

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// applyHost is the host's end of mobyctl bootstrap and reset.
func applyHost(ctx context.Context, stdin io.Reader, stdout io.Writer) error {
	if os.Geteuid() != 0 {
		return errors.New("set up this host: it takes root")
	}
	bus, err := step.OpenBus(ctx)
	if err != nil {
		return err
	}
	defer bus.Close()
	return step.Hand{Systemd: bus, Command: step.RunProgram, Probe: step.AskPlugin}.Apply(ctx, stdin, stdout)
}
