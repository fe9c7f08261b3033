package main

import (
	"fmt"
	"io"
	"sort"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/api"
)

func newVolumeCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: "volume", Short: "Create, list, inspect, change, move and remove volumes"}
	cmd.AddCommand(newVolumeCreateCommand(a), newVolumeLsCommand(a), newVolumeInspectCommand(a),
		newVolumeRmCommand(a), newVolumeUndeleteCommand(a), newVolumeMoveCommand(a), newVolumeTakeoverCommand(a), newVolumeSettleCommand(a), newVolumeResizeCommand(a), newVolumeSetCommand(a))
	return cmd
}

func newVolumeCreateCommand(a *app) *cobra.Command {
	var node, size, takeover string
	var spec mobyfs.VolumeSpec
	var dryRun, explain bool
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Create a volume and wait until it is ready",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := mobyfs.CheckVolumeName(args[0]); err != nil {
				return err
			}
			spec.Takeover = mobyfs.Takeover(takeover)
			if size != "" {
				bytes, err := mobyfs.ParseSize(size)
				if err != nil {
					return err
				}
				spec.SizeBytes = bytes
			}
			if dryRun || explain {
				return a.explain(cmd, api.PlacementQuestion{Spec: spec, Node: node})
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			v, err := c.CreateVolume(cmd.Context(), args[0], spec, node)
			if err != nil {
				return err
			}
			v, err = follow(cmd.Context(), c, v, func(v mobyfs.Volume) bool { return v.State == mobyfs.VolumeReady })
			if err != nil {
				return err
			}
			return a.print(v, func(w io.Writer) { fmt.Fprintf(w, "%s created on %s\n", v.Name, v.Node) })
		},
	}
	cmd.Flags().StringVar(&node, "node", "", "the node to create it on (default: the ready one with most room)")
	cmd.Flags().StringVar(&spec.Backend, "backend", "", "dir, a directory on one node; loop, a file system of its own; shared, in a directory that all nodes see (default: the class's, or dir)")
	cmd.Flags().StringVar(&takeover, "takeover", "", "who may take it from a node that is silent: never, manual or auto (default: the class's, or never)")
	cmd.Flags().StringVar(&spec.Class, "class", "", "what it has in common with others: one of those that mobyctl class ls lists")
	cmd.Flags().StringVar(&size, "size", "", "space to count on, and of backend loop the most that fits: 10G or 10GiB (powers of 1024), 10GB (powers of 1000), or bytes")
	cmd.Flags().StringVar(&spec.Filesystem, "fs", "", "of backend loop: ext4 or xfs (default ext4)")
	cmd.Flags().StringVar(&spec.Mode, "mode", "", "of its root directory when it is made, in octal (default 0755)")
	cmd.Flags().IntVar(&spec.UID, "uid", 0, "who owns its root directory when it is made")
	cmd.Flags().IntVar(&spec.GID, "gid", 0, "the group of its root directory when it is made")
	cmd.Flags().StringToStringVar(&spec.Labels, "label", nil, "labels, key=value")
	addPlacement(cmd, &spec)
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "create nothing; tell where it would go, and why")
	cmd.Flags().BoolVar(&explain, "explain", false, "the same")
	return cmd
}

func newVolumeLsCommand(a *app) *cobra.Command {
	var deleted bool
	cmd := &cobra.Command{
		Use:   "ls",
		Short: "List all volumes of the cluster",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			if deleted {
				return a.listRemoved(cmd.Context(), c)
			}
			volumes, err := c.Volumes(cmd.Context())
			if err != nil {
				return err
			}
			sort.Slice(volumes, func(i, j int) bool { return volumes[i].Name < volumes[j].Name })
			return a.print(volumes, func(w io.Writer) { printVolumes(w, volumes) })
		},
	}
	cmd.Flags().BoolVar(&deleted, "deleted", false, "those that were removed and can be brought back, the last one first")
	return cmd
}

func printVolumes(w io.Writer, volumes []mobyfs.Volume) {
	tw := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(tw, "VOLUME\tSTATE\tNODE\tUSED\tCREATED")
	for _, v := range volumes {
		where := v.Node
		if v.Migration != nil {
			where = v.Migration.From + " → " + v.Migration.To
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\n", v.Name, v.Condition(), where,
			humanize.IBytes(uint64(v.UsedBytes)), v.CreatedAt.Local().Format(time.DateTime))
	}
	_ = tw.Flush()
}

func newVolumeInspectCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "inspect NAME",
		Short: "Show one volume",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			v, err := c.Volume(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return a.print(v, func(w io.Writer) { printVolume(w, v) })
		},
	}
}

func printVolume(w io.Writer, v mobyfs.Volume) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(key, format string, args ...any) { fmt.Fprintf(tw, "%s\t%s\n", key, fmt.Sprintf(format, args...)) }
	row("volume", "%s (%s)", v.Name, v.ID)
	row("state", "%s", v.Condition())
	row("node", "%s", v.Node)
	if by, used := v.InUse(); used {
		row("in use", "%s since %s", by, v.Lease.Since.Local().Format(time.DateTime))
	}
	if v.Spec.Class != "" {
		row("class", "%s", v.Spec.Class)
	}
	row("backend", "%s", v.Spec.WithDefaults().Backend)
	if v.Spec.Takeover != "" {
		row("takeover", "%s", v.Spec.Takeover)
	}
	if v.Spec.SizeBytes > 0 {
		row("size", "%s", humanize.IBytes(uint64(v.Spec.SizeBytes)))
	}
	if v.Spec.Zone != "" {
		row("zone", "%s", v.Spec.Zone)
	}
	if v.Spec.Apart != "" {
		row("apart", "%s", v.Spec.Apart)
	}
	if len(v.Spec.NodeLabels) > 0 {
		row("node labels", "%s", shownLabels(v.Spec.NodeLabels))
	}
	if len(v.Spec.Tolerations) > 0 {
		row("tolerations", "%s", strings.Join(v.Spec.Tolerations, ", "))
	}
	row("used", "%s", humanize.IBytes(uint64(v.UsedBytes)))
	row("created", "%s", v.CreatedAt.Local().Format(time.DateTime))
	row("fence", "%d", v.Fence)
	if m := v.Migration; m != nil {
		row("moving", "%s → %s, %s", m.From, m.To, howFar(*m))
		if m.Live {
			row("", "aims at a pause of %v; %s", m.Options.LongestPause(), shownOptions(m.Options))
		}
		if m.Progress.Feed != "" {
			row("", "changes are told by %s", m.Progress.Feed)
		}
	}
	if m := v.LastMove; m != nil {
		row("last move", "%s → %s %s %s", m.From, m.To, m.State, m.EndedAt.Local().Format(time.DateTime))
		if m.Reason != "" {
			row("", "%s", m.Reason)
		}
		if m.Live && m.State == mobyfs.MigrationCommitted {
			row("", "%s", liveReport(*m))
		}
		if m.Trouble != "" {
			row("", "%s", m.Trouble)
		}
	}
	_ = tw.Flush()
}

func newVolumeRmCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "rm NAME…",
		Short: "Remove volumes that nobody uses",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			for _, name := range args {
				if err := c.RemoveVolume(cmd.Context(), name); err != nil {
					return err
				}
			}
			return a.print(args, func(w io.Writer) {
				for _, name := range args {
					fmt.Fprintln(w, name, "removed")
				}
			})
		},
	}
}

func progress(p mobyfs.Progress) string {
	if p.TotalBytes > p.Bytes {
		return fmt.Sprintf("%d files, %s of %s", p.Files, humanize.IBytes(uint64(p.Bytes)), humanize.IBytes(uint64(p.TotalBytes)))
	}
	return fmt.Sprintf("%d files, %s", p.Files, humanize.IBytes(uint64(p.Bytes)))
}
