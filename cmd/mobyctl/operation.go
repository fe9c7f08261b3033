package main

import (
	"cmp"
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

func newOperationCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: "operation", Aliases: []string{"op"}, Short: "Follow, cancel and retry what takes longer: moves, drains, evictions"}
	cmd.AddCommand(newOperationLsCommand(a), newOperationWaitCommand(a))
	for _, v := range []struct {
		use, short string
		do         func(*api.Client, context.Context, mobyfs.OperationID) (mobyfs.Operation, error)
	}{
		{"inspect", "Show one operation", (*api.Client).Operation},
		{"cancel", "End an operation and undo what can be undone: what is on its way stays where it was", (*api.Client).CancelOperation},
		{"retry", "Try an operation again that failed or was cancelled, or one that waits at once", (*api.Client).RetryOperation},
		{"pause", "Let an operation begin nothing more; what is under way goes on", func(c *api.Client, ctx context.Context, id mobyfs.OperationID) (mobyfs.Operation, error) {
			return c.PauseOperation(ctx, id, true)
		}},
		{"resume", "Let an operation go on that was paused", func(c *api.Client, ctx context.Context, id mobyfs.OperationID) (mobyfs.Operation, error) {
			return c.PauseOperation(ctx, id, false)
		}},
	} {
		cmd.AddCommand(&cobra.Command{Use: v.use + " ID", Short: v.short, Args: cobra.ExactArgs(1), RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			o, err := v.do(c, cmd.Context(), mobyfs.OperationID(args[0]))
			if err != nil {
				return err
			}
			return a.print(o, func(w io.Writer) { printOperation(w, o) })
		}})
	}
	return cmd
}

func newOperationLsCommand(a *app) *cobra.Command {
	var q api.OperationQuery
	var all bool
	cmd := &cobra.Command{
		Use:   "ls",
		Short: "List the operations that go on; with --all those too that ended in the last day",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			q.Active = !all && q.Phase == ""
			list := []mobyfs.Operation{}
			for {
				page, err := c.Operations(cmd.Context(), q)
				if err != nil {
					return err
				}
				list = append(list, page.Operations...)
				if q.Cursor = page.Next; q.Cursor == "" {
					break
				}
			}
			return a.print(list, func(w io.Writer) { printOperations(w, list) })
		},
	}
	f := cmd.Flags()
	f.BoolVar(&all, "all", false, "those too that have ended")
	f.StringVar(&q.Kind, "kind", "", "only those that do this: create, move, resize, drain, evict, rebalance or upgrade")
	f.StringVar(&q.Phase, "phase", "", "only those that stand so: pending, running, waiting, done, failed, cancelled or parked")
	f.StringVar(&q.Volume, "volume", "", "only those of the volume")
	f.StringVar(&q.Node, "node", "", "only those that are about the node")
	f.StringVar(&q.Parent, "parent", "", "only the parts of the operation")
	return cmd
}

func printOperations(w io.Writer, all []mobyfs.Operation) {
	tw := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(tw, "OPERATION\tKIND\tABOUT\tPHASE\tPROGRESS\tCAUSE")
	for _, o := range all {
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\n", o.ID, o.Kind, aboutOperation(o), phaseOf(o), workOf(o), o.Cause)
	}
	_ = tw.Flush()
}

// aboutOperation says what an operation is about, in a few words.
func aboutOperation(o mobyfs.Operation) string {
	switch {
	case o.Name != "" && o.From != "":
		return fmt.Sprintf("%s: %s → %s", o.Name, o.From, cmp.Or(o.To, "?"))
	case o.Name != "":
		return o.Name + " on " + o.To
	default:
		return cmp.Or(o.Node, "the cluster")
	}
}

func phaseOf(o mobyfs.Operation) string {
	if o.Paused && !o.Phase.Ended() {
		return string(o.Phase) + ", paused"
	}
	return string(o.Phase)
}

// workOf says how much is done, and when the rest may be.
func workOf(o mobyfs.Operation) string {
	p := o.Progress
	text := fmt.Sprintf("%d of %d", p.Done, p.Total)
	if p.TotalBytes > 0 {
		text = fmt.Sprintf("%s of %s", humanize.IBytes(uint64(p.Bytes)), humanize.IBytes(uint64(p.TotalBytes)))
	}
	if o.Step != "" {
		text = o.Step + ": " + text
		if o.Pull.PredictedPause > 0 {
			text += fmt.Sprintf(", pause of %v", o.Pull.PredictedPause.Round(time.Millisecond))
		}
	}
	if p.Waiting > 0 {
		text += fmt.Sprintf(", %d wait", p.Waiting)
	}
	if !o.ETA.IsZero() {
		text += ", done " + humanize.Time(o.ETA)
	}
	return text
}

func printOperation(w io.Writer, o mobyfs.Operation) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(key, text string) {
		if text != "" {
			fmt.Fprintf(tw, "%s\t%s\n", key, text)
		}
	}
	when := func(t time.Time) string {
		if t.IsZero() {
			return ""
		}
		return t.Local().Format(time.DateTime)
	}
	row("operation", string(o.ID))
	row("kind", string(o.Kind))
	row("about", aboutOperation(o))
	row("phase", phaseOf(o))
	row("progress", workOf(o))
	row("cause", o.Cause)
	row("reason", o.Reason)
	row("part of", string(o.Parent))
	if o.Attempt > 0 {
		row("failed tries", fmt.Sprint(o.Attempt))
	}
	row("next try", when(o.NextTry))
	row("asked for", when(o.CreatedAt))
	row("begun", when(o.StartedAt))
	row("ended", when(o.EndedAt))
	_ = tw.Flush()
}

func newOperationWaitCommand(a *app) *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "wait ID",
		Short: "Follow an operation until it has ended",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			o, err := c.Operation(cmd.Context(), mobyfs.OperationID(args[0]))
			if err != nil {
				return err
			}
			return a.followOperation(cmd.Context(), c, o, timeout)
		},
	}
	cmd.Flags().DurationVar(&timeout, "timeout", 0, "how long to wait; for ever if 0")
	return cmd
}

// followOperation tells how an operation goes on until it has ended, and then how. When the command ends before, the
// operation goes on.
func (a *app) followOperation(ctx context.Context, c *api.Client, o mobyfs.Operation, timeout time.Duration) error {
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	told := ""
	for !o.Phase.Ended() && o.Phase != mobyfs.OperationParked {
		text := fmt.Sprintf("%s %s is %s, %s", o.Kind, aboutOperation(o), phaseOf(o), workOf(o))
		if o.Cause != "" {
			text += ": " + o.Cause
		}
		if text != told {
			told = text
			fmt.Fprintln(a.stderr, text)
		}
		next, err := c.WaitOperation(ctx, o.ID, o.Generation, api.MaxWait/5) // so that progress is seen, which changes no row
		switch {
		case ctx.Err() != nil:
			return mobyfs.Errorf(mobyfs.CodeUnavailable, "the %s of %s has not ended yet; it goes on", o.Kind, aboutOperation(o)).
				WithHint("mobyctl operation wait %s, or: mobyctl operation cancel %s", o.ID, o.ID)
		case mobyfs.CodeOf(err) == mobyfs.CodeUnavailable: // control is away; the operation goes on when it is back
			if err := pause(ctx, followAgain); err != nil {
				return err
			}
		case err != nil:
			return err
		default:
			o = next
		}
	}
	if o.Phase != mobyfs.OperationDone {
		return mobyfs.Errorf(mobyfs.CodeUnavailable, "the %s of %s is %s: %s", o.Kind, aboutOperation(o), o.Phase, cmp.Or(o.Cause, "no cause is told")).
			WithHint("mobyctl operation inspect %s tells more; mobyctl operation retry %s tries again", o.ID, o.ID)
	}
	return a.print(o, func(w io.Writer) {
		fmt.Fprintf(w, "%s of %s is done: %s\n", o.Kind, aboutOperation(o), workOf(o))
		if o.Cause != "" {
			fmt.Fprintln(w, o.Cause)
		}
	})
}

// pause waits, unless ctx ends before.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
