package main

import (
	"cmp"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/api"
)

// addPlacement defines the flags that say on which nodes a volume may be.
func addPlacement(cmd *cobra.Command, spec *mobyfs.VolumeSpec) {
	cmd.Flags().StringVar(&spec.Zone, "zone", "", "only on nodes of this zone")
	cmd.Flags().StringVar(&spec.Apart, "apart", "", "a group, of which no node has two volumes")
	cmd.Flags().StringToStringVar(&spec.NodeLabels, "node-label", nil, "only on nodes with these labels, key=value")
	cmd.Flags().StringSliceVar(&spec.Tolerations, "toleration", nil, "taints of nodes that do not keep it away: KEY or KEY=VALUE")
}

// explain prints where a volume would go, and why.
func (a *app) explain(cmd *cobra.Command, q api.PlacementQuestion) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	p, err := c.ExplainPlacement(cmd.Context(), q)
	if err != nil {
		return err
	}
	return a.print(p, func(w io.Writer) { printPlacement(w, p, "created") })
}

func printPlacement(w io.Writer, p api.Placement, done string) {
	tw := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(tw, "NODE\tFITS\tSCORE\tWHY")
	for _, v := range p.Verdicts {
		fits, score := "no", "-"
		if v.Fits {
			fits, score = "yes", fmt.Sprintf("%.1f", v.Score)
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\n", v.Node, fits, score, v.Reason)
	}
	_ = tw.Flush()
	fmt.Fprintf(w, "it would go to %s; nothing was %s\n", cmp.Or(p.Node, "no node"), done)
}
