package main

import (
	"cmp"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/mobyfs/mobyfs"
)

func newNodeCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: "node", Short: "Show the hosts of the cluster, and say what they may be used for"}
	cmd.AddCommand(&cobra.Command{
		Use:   "ls",
		Short: "List the nodes",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			nodes, err := c.Nodes(cmd.Context())
			if err != nil {
				return err
			}
			return a.print(nodes, func(w io.Writer) { printNodes(w, nodes) })
		},
	})
	cmd.AddCommand(newNodeInspectCommand(a), newNodeSetCommand(a), newNodeLabelCommand(a), newNodeTaintCommand(a),
		newNodeCordonCommand(a, true), newNodeCordonCommand(a, false))
	cmd.AddCommand(newNodeDrainCommand(a), newNodeEvictCommand(a), newNodeForgetCommand(a), newNodeUpgradeCommand(a))
	return cmd
}

func printNodes(w io.Writer, nodes []mobyfs.Node) {
	tw := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(tw, "NODE\tSTATE\tAVAILABILITY\tZONE\tADDRESS\tVOLUMES\tFREE\tVERSION")
	for _, n := range nodes {
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%d\t%s of %s\t%s\n", n.Name, nodeState(n), n.Use(), cmp.Or(n.Zone, "-"), n.Address, n.Volumes,
			humanize.IBytes(uint64(n.Capacity.FreeBytes)), humanize.IBytes(uint64(n.Capacity.TotalBytes)), n.Version)
	}
	_ = tw.Flush()
}

func nodeState(n mobyfs.Node) string {
	if n.Ready {
		return "ready"
	}
	return "silent since " + n.LastSeenAt.Local().Format(time.TimeOnly)
}
