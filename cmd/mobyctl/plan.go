package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/mobyfs/mobyfs/provision"
)

func newPlanCommand(a *app) *cobra.Command {
	f := &fleetFlags{app: a}
	cmd := &cobra.Command{
		Use:   "plan",
		Short: "Show what bootstrap would change; exits 2 if there is something",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			in, err := f.installer(cmd.Context(), "plan")
			if err != nil {
				return err
			}
			plan, err := in.Plan(cmd.Context())
			if err != nil {
				return a.planFailed(err)
			}
			defer plan.Close()
			plan.AskForNodes(cmd.Context(), controlOf(in))
			if err := a.print(plan, func(w io.Writer) { printPlan(w, plan) }); err != nil {
				return err
			}
			if !plan.Empty() || plan.Operator != "" || plan.Describes() {
				return &exitCode{code: exitPending}
			}
			return nil
		},
	}
	f.add(cmd)
	return cmd
}

// printPlan shows every change: a line for each host, and below it a line for each step.
func printPlan(w io.Writer, p *provision.Plan) {
	fmt.Fprintf(w, "Cluster %s · %s", p.Cluster, hostCount(len(p.Hosts)))
	if len(p.Control) > 0 {
		fmt.Fprintf(w, " · control plane at %s", strings.Join(p.Control, ", "))
	}
	fmt.Fprintln(w)
	for _, h := range p.Hosts {
		mark, what := "=", "nothing to do"
		switch {
		case len(h.Changes) == 0:
		case p.Absent:
			mark, what = "-", "take off"
		case h.New():
			mark, what = "+", "install"
		default:
			mark, what = "~", "change"
		}
		if h.UploadBytes > 0 {
			what += ", upload " + humanize.IBytes(uint64(h.UploadBytes))
		}
		fmt.Fprintf(w, "  %s %-16s %s\n", mark, h.Name, what)
		for _, d := range h.Changes {
			words := make([]string, len(d.Changes))
			for i, c := range d.Changes {
				words[i] = c.String()
			}
			fmt.Fprintf(w, "      %-12s %s\n", d.Step, strings.Join(words, ", "))
		}
	}
	if p.Operator != "" {
		fmt.Fprintf(w, "  + mobyctl          its own certificate (%s)\n", p.Operator)
	}
	for _, n := range p.Nodes {
		printNodeNews(w, "  node ", n)
	}
	if !p.Empty() {
		fmt.Fprintln(w, "  Docker stays untouched on all hosts.")
	}
	if p.LeavesStub() {
		fmt.Fprintln(w, "  Where Docker has used mobyfs it asks for the driver until it is restarted: so long a stub answers it.")
	}
}
