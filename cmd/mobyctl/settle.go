package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/mobyfs/mobyfs"
)

func newVolumeSettleCommand(a *app) *cobra.Command {
	var use, drop string
	cmd := &cobra.Command{
		Use:   "settle NAME --use NODE | --drop NODE",
		Short: "After a restore of control: say which bytes of a volume count, where two nodes have some",
		Long: `After control was restored from a backup, two nodes may have bytes of one volume. The newer ones are the volume's; the
others stay untouched where they are (mobyctl volume inspect: kept). --drop gives those up: the node puts them into its
trash. --use makes them the volume's, and keeps the present ones instead.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := mobyfs.CheckVolumeName(args[0]); err != nil {
				return err
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			v, err := c.SettleVolume(cmd.Context(), args[0], use, drop)
			if err != nil {
				return err
			}
			return a.print(v, func(w io.Writer) { fmt.Fprintf(w, "%s is on %s\n", v.Name, v.Node) })
		},
	}
	cmd.Flags().StringVar(&use, "use", "", "the node whose kept bytes shall be the volume's")
	cmd.Flags().StringVar(&drop, "drop", "", "the node whose kept bytes are given up")
	return cmd
}
