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

func newNodeDrainCommand(a *app) *cobra.Command {
	var m moving
	cmd := newNodeOperation(a, "drain NODE", "Move all volumes away from a node",
		`Move all volumes away from a node, two at a time. Volumes that containers use are moved once these have ended: stop them, or
start them on another node, which moves the volume too. With --live they are moved while they are used, see volume move. The node gets no volumes until it is uncordoned. The command follows
the drain and may be ended; the drain goes on.`, func(c *api.Client, ctx context.Context, node, reason string) (mobyfs.Operation, error) {
			how := api.DrainRequest{Reason: reason, Live: m.live || m.withContainers}
			var err error
			if how.Options, err = m.options(); err != nil {
				return mobyfs.Operation{}, err
			}
			return c.Drain(ctx, node, how)
		})
	f := cmd.Flags()
	f.BoolVar(&m.live, "live", false, "move volumes too that containers use")
	f.BoolVar(&m.withContainers, "with-containers", false, "run these containers where their volume goes; implies --live")
	f.StringVar(&m.bwlimit, "bwlimit", "", "the most that each copy takes in a second: 100M")
	f.DurationVar(&m.maxPause, "max-pause", 0, "the longest pause of containers that is aimed at (default 500ms)")
	f.StringVar(&m.onBusy, "on-busy", "", "when containers write too fast: ask, throttle or freeze (default ask)")
	f.StringVar(&m.consistency, "consistency", "", "crash: containers are frozen; clean: they are stopped (default crash)")
	return cmd
}

func newNodeEvictCommand(a *app) *cobra.Command {
	return newNodeOperation(a, "evict NODE", "Shut a node out for good, and give others what can be taken from it",
		`Shut a node out for good: nothing that it says is believed any more, from this moment on. Volumes that all nodes see go to
others, if their takeover is manual or auto, once the node has had time to stop. Those whose bytes are on the node alone stay
its own: mobyctl node forget NODE --data-lost gives them up. Stop its containers first if you can reach it.`, (*api.Client).EvictNode)
}

func newNodeOperation(a *app, use, short, long string, begin func(*api.Client, context.Context, string, string) (mobyfs.Operation, error)) *cobra.Command {
	var reason string
	var detach bool
	var timeout time.Duration
	cmd := &cobra.Command{
		Use: use, Short: short, Long: long, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := mobyfs.CheckNodeName(args[0]); err != nil {
				return err
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			o, err := begin(c, cmd.Context(), args[0], reason)
			if err != nil {
				return err
			}
			if detach {
				return a.print(o, func(w io.Writer) {
					fmt.Fprintf(w, "%s of %s begins: mobyctl operation wait %s\n", o.Kind, o.Node, o.ID)
				})
			}
			return a.followOperation(cmd.Context(), c, o, timeout)
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why, for the record")
	cmd.Flags().BoolVar(&detach, "detach", false, "do not wait for the end")
	cmd.Flags().DurationVar(&timeout, "timeout", 0, "how long to wait; for ever if 0")
	return cmd
}

func newNodeForgetCommand(a *app) *cobra.Command {
	var dataLost bool
	cmd := &cobra.Command{
		Use:   "forget NODE",
		Short: "Delete the record of a node that was drained or evicted",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := mobyfs.CheckNodeName(args[0]); err != nil {
				return err
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			if err := c.ForgetNode(cmd.Context(), args[0], dataLost); err != nil {
				return err
			}
			return a.print(map[string]string{"forgotten": args[0]}, func(w io.Writer) { fmt.Fprintln(w, args[0], "is forgotten") })
		},
	}
	cmd.Flags().BoolVar(&dataLost, "data-lost", false, "give up the volumes whose bytes are on it alone: their records are deleted, their names are free")
	return cmd
}

func newNodeUpgradeCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "upgrade VERSION",
		Short: "Tell which node may be upgraded next, until all have the version",
		Long: `Tell which node may be upgraded to a version next, one after the other, until all have it. The command installs nothing:
whoever does goes by what it tells. A node that does not come back with the version keeps all others waiting.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			o, err := c.UpgradeNodes(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return a.followOperation(cmd.Context(), c, o, 0)
		},
	}
}

func newRebalanceCommand(a *app) *cobra.Command {
	var dryRun, detach bool
	var minGain float64
	cmd := &cobra.Command{
		Use:   "rebalance",
		Short: "Move volumes that nobody uses until the nodes are about equally full",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			if dryRun {
				plan, err := c.PlanRebalance(cmd.Context(), minGain)
				if err != nil {
					return err
				}
				return a.print(plan, func(w io.Writer) { printMoves(w, plan) })
			}
			o, err := c.Rebalance(cmd.Context(), minGain)
			if err != nil {
				return err
			}
			if detach {
				return a.print(o, func(w io.Writer) { fmt.Fprintf(w, "rebalance begins: mobyctl operation wait %s\n", o.ID) })
			}
			return a.followOperation(cmd.Context(), c, o, 0)
		},
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only tell what would be moved")
	cmd.Flags().BoolVar(&detach, "detach", false, "do not wait for the end")
	cmd.Flags().Float64Var(&minGain, "min-gain", 0.05, "how much emptier, of 1, a volume's new node must be than its old one was for a move to be worth it")
	return cmd
}

func printMoves(w io.Writer, plan []mobyfs.PlannedMove) {
	if len(plan) == 0 {
		fmt.Fprintln(w, "no move is worth it")
		return
	}
	tw := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(tw, "VOLUME\tFROM\tTO\tCOPIED\tGAIN")
	for _, m := range plan {
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%.0f %%\n", m.Name, m.From, m.To, humanize.IBytes(uint64(m.Bytes)), 100*m.Gain)
	}
	_ = tw.Flush()
}
