package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/mobyfs/mobyfs"
)

func newVolumeTakeoverCommand(a *app) *cobra.Command {
	var to, reason string
	cmd := &cobra.Command{
		Use:   "takeover NAME --to NODE --reason TEXT",
		Short: "Give a volume whose node is silent to another node",
		Long: `Give a volume whose node is silent to another node. That is possible where all nodes see its bytes (backend shared)
and its takeover is manual or auto, once the node has been silent long enough to be sure that control is done with it.
With takeover manual nothing stops the containers of the silent node: see to it that it is off, then take over.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := mobyfs.CheckVolumeName(args[0]); err != nil {
				return err
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			v, err := c.TakeOver(cmd.Context(), args[0], to, reason)
			if err != nil {
				return err
			}
			return a.print(v, func(w io.Writer) { fmt.Fprintf(w, "%s is on %s now\n", v.Name, v.Node) })
		},
	}
	cmd.Flags().StringVar(&to, "to", "", "the node that shall have it")
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the record")
	_ = cmd.MarkFlagRequired("to")
	_ = cmd.MarkFlagRequired("reason")
	return cmd
}
