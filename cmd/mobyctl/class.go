package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/mobyfs/mobyfs"
)

func newClassCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: "class", Short: "Show the classes that volumes may be made from (cluster.yaml defines them)"}
	cmd.AddCommand(&cobra.Command{
		Use:   "ls",
		Short: "List the classes",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			cluster, err := c.Cluster(cmd.Context())
			if err != nil {
				return err
			}
			classes := append([]mobyfs.VolumeClass{}, cluster.Classes...) // [] and not null
			return a.print(classes, func(w io.Writer) { printClasses(w, classes) })
		},
	})
	return cmd
}

func printClasses(w io.Writer, classes []mobyfs.VolumeClass) {
	tw := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(tw, "CLASS\tBACKEND\tSIZE\tLABELS")
	for _, c := range classes {
		size := "-"
		if c.SizeBytes > 0 {
			size = humanize.IBytes(uint64(c.SizeBytes))
		}
		var labels []string
		for _, k := range slices.Sorted(maps.Keys(c.Labels)) {
			labels = append(labels, k+"="+c.Labels[k])
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\n", c.Name, cmp.Or(c.Backend, mobyfs.DefaultBackend), size, cmp.Or(strings.Join(labels, ","), "-"))
	}
	_ = tw.Flush()
}
