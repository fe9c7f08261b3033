package main

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/api"
)

func newVolumeUndeleteCommand(a *app) *cobra.Command {
	var as string
	cmd := &cobra.Command{
		Use:   "undelete NAME",
		Short: "Bring back the volume that was removed last under a name",
		Long: `Bring back the volume that was removed last under a name, with its bytes. They lie in the trash of its node for as long as
volumes.trash in cluster.yaml says (1h if it does not), or until that node's disk runs short of space. The command waits until they
are in place.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			v, err := c.UndeleteVolume(cmd.Context(), args[0], as)
			if err != nil {
				return err
			}
			v, err = follow(cmd.Context(), c, v, func(v mobyfs.Volume) bool { return !v.Returning() })
			if mobyfs.CodeOf(err) == mobyfs.CodeNotFound {
				return mobyfs.Errorf(mobyfs.CodeNotFound, "undelete volume %q: the trash of %s does not have it any more", args[0], v.Node).
					WithHint("bring it back from a backup")
			}
			if err != nil {
				return err
			}
			return a.print(v, func(w io.Writer) { fmt.Fprintf(w, "%s is back on %s\n", v.Name, v.Node) })
		},
	}
	cmd.Flags().StringVar(&as, "as", "", "another name for it, where its own is taken")
	return cmd
}

func (a *app) listRemoved(ctx context.Context, c *api.Client) error {
	removed, err := c.RemovedVolumes(ctx)
	if err != nil {
		return err
	}
	return a.print(removed, func(w io.Writer) {
		tw := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
		fmt.Fprintln(tw, "VOLUME\tNODE\tUSED\tREMOVED\tKEPT UNTIL")
		for _, t := range removed {
			fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\n", t.Volume.Name, t.Volume.Node, humanize.IBytes(uint64(max(0, t.Volume.UsedBytes))),
				t.RemovedAt.Local().Format(time.DateTime), t.Until.Local().Format(time.DateTime))
		}
		_ = tw.Flush()
	})
}
