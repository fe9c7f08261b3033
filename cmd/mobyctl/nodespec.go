package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/api"
)

func newNodeInspectCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "inspect NODE",
		Short: "Show one node",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			n, err := c.Node(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return a.print(n, func(w io.Writer) { printNode(w, n) })
		},
	}
}

func printNode(w io.Writer, n mobyfs.Node) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(key, format string, args ...any) { fmt.Fprintf(tw, "%s\t%s\n", key, fmt.Sprintf(format, args...)) }
	row("node", "%s", n.Name)
	row("state", "%s", nodeState(n))
	row("availability", "%s", n.Use())
	if n.Operation != "" {
		row("operation", "%s", n.Operation)
	}
	row("address", "%s", n.Address)
	row("version", "%s", n.Version)
	row("zone", "%s", cmp.Or(n.Zone, "-"))
	row("rack", "%s", cmp.Or(n.Rack, "-"))
	row("labels", "%s", shownLabels(n.Labels))
	row("taints", "%s", shownTaints(n.Taints))
	if set := n.Undescribed(); len(set) > 0 {
		row("set here", "%s, as cluster.yaml says", strings.Join(set, ", "))
	}
	row("backends", "%s", cmp.Or(strings.Join(n.Backends, ", "), "-"))
	row("volumes", "%d", n.Volumes)
	row("free", "%s of %s", humanize.IBytes(uint64(n.Capacity.FreeBytes)), humanize.IBytes(uint64(n.Capacity.TotalBytes)))
	row("joined", "%s", n.JoinedAt.Local().Format(time.DateTime))
	_ = tw.Flush()
}

func shownLabels(labels map[string]string) string {
	var all []string
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		all = append(all, k+"="+labels[k])
	}
	return cmp.Or(strings.Join(all, ", "), "-")
}

func shownTaints(taints []mobyfs.Taint) string {
	var all []string
	for _, t := range taints {
		all = append(all, t.String())
	}
	return cmp.Or(strings.Join(all, ", "), "-")
}

func newNodeLabelCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "label NODE KEY=VALUE… KEY-…",
		Short: "Give a node labels, which volumes may ask for, or take them away",
		Args:  cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			labels, err := parseLabels(args[1:])
			if err != nil {
				return err
			}
			return a.patchNode(cmd.Context(), args[0], api.NodePatch{Labels: labels}, func(w io.Writer, n mobyfs.Node) {
				fmt.Fprintf(w, "%s has the labels %s\n", n.Name, shownLabels(n.Labels))
			})
		},
	}
}

// parseLabels reads KEY=VALUE, which gives a label, and KEY-, which takes it away.
func parseLabels(args []string) (map[string]*string, error) {
	labels := map[string]*string{}
	for _, arg := range args {
		key, value, given := strings.Cut(arg, "=")
		away := !given && strings.HasSuffix(arg, "-")
		if !given && !away {
			return nil, mobyfs.Errorf(mobyfs.CodeInvalid, "%q neither gives a label nor takes one away", arg).
				WithHint("write KEY=VALUE to give one, KEY- to take it away")
		}
		if away {
			labels[strings.TrimSuffix(arg, "-")] = nil
			continue
		}
		labels[key] = &value
	}
	return labels, nil
}

func newNodeSetCommand(a *app) *cobra.Command {
	var zone, rack string
	cmd := &cobra.Command{
		Use:   "set NODE",
		Short: "Say in which zone and rack a node is; nodes of one zone can fail together",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var patch api.NodePatch
			if cmd.Flags().Changed("zone") {
				patch.Zone = &zone
			}
			if cmd.Flags().Changed("rack") {
				patch.Rack = &rack
			}
			if patch.Zone == nil && patch.Rack == nil {
				return mobyfs.Errorf(mobyfs.CodeInvalid, "nothing is to be set").WithHint("give --zone or --rack; empty takes it away")
			}
			return a.patchNode(cmd.Context(), args[0], patch, func(w io.Writer, n mobyfs.Node) {
				fmt.Fprintf(w, "%s is in zone %s, rack %s\n", n.Name, cmp.Or(n.Zone, "-"), cmp.Or(n.Rack, "-"))
			})
		},
	}
	cmd.Flags().StringVar(&zone, "zone", "", "the zone; empty takes it away")
	cmd.Flags().StringVar(&rack, "rack", "", "the rack; empty takes it away")
	return cmd
}

func (a *app) patchNode(ctx context.Context, node string, patch api.NodePatch, text func(io.Writer, mobyfs.Node)) error {
	c, err := a.client()
	if err != nil {
		return err
	}
	n, err := c.PatchNode(ctx, node, patch)
	if err != nil {
		return err
	}
	return a.print(n, func(w io.Writer) { text(w, n) })
}

func newNodeTaintCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "taint NODE KEY[=VALUE][:EFFECT]… KEY[:EFFECT]-…",
		Short: "Keep volumes away from a node unless they tolerate it, or end that",
		Long: `Keep volumes away from a node unless they tolerate it: a taint with the effect no-place lets no others be placed there,
one with prefer-not only if no other node can take them. Volumes that are there stay. KEY- takes the taints of a key away.`,
		Args: cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			n, err := changeTaints(cmd.Context(), c, args[0], args[1:])
			if err != nil {
				return err
			}
			return a.print(n, func(w io.Writer) { fmt.Fprintf(w, "%s has the taints %s\n", n.Name, shownTaints(n.Taints)) })
		},
	}
}

// tainter is what of a client changes taints.
type tainter interface {
	Node(ctx context.Context, name string) (mobyfs.Node, error)
	PatchNode(ctx context.Context, name string, patch api.NodePatch) (mobyfs.Node, error)
}

// taintTries is how often a change of taints is tried while others change the node.
const taintTries = 5

// changeTaints changes the taints of a node as it is, so that two who do so at once lose nothing.
func changeTaints(ctx context.Context, c tainter, node string, args []string) (mobyfs.Node, error) {
	for try := 1; ; try++ {
		n, err := c.Node(ctx, node)
		if err != nil {
			return n, err
		}
		taints, err := tainted(n.Taints, args)
		if err != nil {
			return n, err
		}
		n, err = c.PatchNode(mobyfs.WithMatch(ctx, n.Revision), node, api.NodePatch{Taints: &taints})
		if mobyfs.CodeOf(err) != mobyfs.CodeChanged || try == taintTries {
			return n, err
		}
	}
}

// tainted is what becomes of taints by the words of a command.
func tainted(taints []mobyfs.Taint, args []string) ([]mobyfs.Taint, error) {
	after := append([]mobyfs.Taint{}, taints...)
	for _, arg := range args {
		away, ends := strings.CutSuffix(arg, "-")
		t, err := mobyfs.ParseTaint(away)
		if err != nil {
			return nil, err
		}
		_, _, effect := strings.Cut(away, ":")
		after = slices.DeleteFunc(after, func(has mobyfs.Taint) bool {
			return has.Key == t.Key && (has.Effect == t.Effect || ends && !effect)
		})
		if !ends {
			after = append(after, t)
		}
	}
	return after, nil
}

func newNodeCordonCommand(a *app, cordon bool) *cobra.Command {
	use, short, done := "uncordon NODE…", "Let nodes get volumes again", "may get volumes"
	if cordon {
		use, short, done = "cordon NODE…", "Let nodes get no volumes; those that are there stay", "gets no volumes"
	}
	return &cobra.Command{
		Use: use, Short: short, Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			var all []mobyfs.Node
			for _, name := range args {
				n, err := c.CordonNode(cmd.Context(), name, cordon)
				if err != nil {
					return err
				}
				all = append(all, n)
			}
			return a.print(all, func(w io.Writer) {
				for _, n := range all {
					fmt.Fprintln(w, n.Name, done)
				}
			})
		},
	}
}
