package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/api"
	"github.com/mobyfs/mobyfs/internal/pki"
	"github.com/mobyfs/mobyfs/provision"
	"github.com/mobyfs/mobyfs/provision/host"
)

// readyLimit is how long nodes may take to report to control once their agents run.
const readyLimit = time.Minute

func newBootstrapCommand(a *app) *cobra.Command {
	f := &fleetFlags{app: a}
	var yes, noProof bool
	cmd := &cobra.Command{
		Use:   "bootstrap",
		Short: "Make the hosts of cluster.yaml a cluster, and prove that it works",
		Long: "bootstrap looks at every host, shows what it would change, asks, changes it and proves that volumes work.\n" +
			"Run again it changes only what is not as cluster.yaml says; killed in between, it goes on from there.\n" +
			"Docker is never restarted.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			in, err := f.installer(cmd.Context(), "bootstrap")
			if err != nil {
				return err
			}
			return a.bootstrap(cmd.Context(), in, yes, !noProof)
		},
	}
	f.add(cmd)
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask before changing hosts")
	cmd.Flags().BoolVar(&noProof, "no-proof", false, "make no volumes to prove that the cluster works")
	return cmd
}

// bootstrapResult is what bootstrap prints with -o json.
type bootstrapResult struct {
	Cluster string               `json:"cluster"`
	Control []string             `json:"control"`
	Outcome *provision.Outcome   `json:"outcome"`
	Nodes   []provision.NodeNews `json:"nodes,omitempty"` // of which something else is said now, or not what cluster.yaml says
	Proof   *provision.Proof     `json:"proof,omitempty"`
}

func (a *app) bootstrap(ctx context.Context, in *provision.Installer, yes, prove bool) error {
	plan, err := in.Plan(ctx)
	if err != nil {
		return a.planFailed(err)
	}
	defer plan.Close()
	plan.AskForNodes(ctx, controlOf(in))
	if !plan.Empty() || plan.Operator != "" || plan.Describes() {
		a.progress(func(w io.Writer) { printPlan(w, plan) })
	}
	if !plan.Empty() || plan.Describes() {
		if err := a.confirm(yes, "Apply?"); err != nil {
			return err
		}
	}
	out := plan.Apply(ctx)
	if len(out.Failed) > 0 {
		return a.partial(out, "finished and safe to use")
	}
	if err := saveContext(clusterContext{Cluster: plan.Cluster, Control: plan.Control}); err != nil {
		return err
	}
	r := bootstrapResult{Cluster: plan.Cluster, Control: plan.Control, Outcome: out}
	if err := a.verify(ctx, plan, in, prove && !plan.Empty(), &r); err != nil {
		return err
	}
	return a.print(r, func(w io.Writer) { printBootstrap(w, plan, r) })
}

// verify waits for the nodes, tells control what they are like and makes the proof.
func (a *app) verify(ctx context.Context, plan *provision.Plan, in *provision.Installer, prove bool, r *bootstrapResult) error {
	tlsConfig, err := in.Operator.ClientTLS(pki.RoleControl, "control")
	if err != nil {
		return err
	}
	client := api.NewClient(plan.Control, tlsConfig)
	defer client.Close()
	v := provision.Verify{
		Cluster: client, Nodes: plan.Names(),
		Say: a.event, Limit: readyLimit, Every: 100 * time.Millisecond,
	}
	problems := v.Ready(ctx)
	if len(problems) == 0 {
		if err := v.Sweep(ctx); err != nil {
			return err
		}
		r.Nodes, problems = v.Describe(ctx, in.Fleet.Nodes)
	}
	if len(problems) == 0 && prove {
		var proof provision.Proof
		proof, problems = v.Prove(ctx)
		r.Proof = &proof
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if len(problems) > 0 {
		r.Outcome.Failed = problems
		return a.partial(r.Outcome, "")
	}
	return nil
}

func printBootstrap(w io.Writer, plan *provision.Plan, r bootstrapResult) {
	if p := r.Proof; p != nil {
		moved := ""
		if p.To != "" {
			moved = fmt.Sprintf(", moved %s → %s", p.From, p.To)
		}
		fmt.Fprintf(w, "Proof   volume created%s and removed on %s in %s\n", moved, hostCount(p.Nodes), seconds(p.Took))
	}
	for _, n := range r.Nodes {
		printNodeNews(w, "Node    ", n)
	}
	if plan.Empty() {
		fmt.Fprintf(w, "Done    nothing to do: %s unchanged, all nodes ready\n", hostCount(len(plan.Hosts)))
		return
	}
	printDone(w, r.Outcome)
	fmt.Fprintln(w, "Next    on a host: docker volume create -d mobyfs db-data   ·   here: mobyctl status")
}

// printNodeNews shows what becomes of what is said of a node, and how an operator gives it back to cluster.yaml.
func printNodeNews(w io.Writer, before string, n provision.NodeNews) {
	if len(n.Changes) > 0 {
		fmt.Fprintf(w, "%s%s: %s\n", before, n.Name, strings.Join(n.Changes, ", "))
	}
	if len(n.Kept) > 0 {
		fmt.Fprintf(w, "%s%s: %s, as cluster.yaml says; it was set otherwise with mobyctl node, and stays\n", before, n.Name, strings.Join(n.Kept, ", "))
	}
}

func printDone(w io.Writer, out *provision.Outcome) {
	fmt.Fprintf(w, "Done    %d changed, %d unchanged, %d failed in %s\n",
		len(out.Changed), len(out.Unchanged), len(out.Failed), seconds(out.Took))
}

// planFailed says what stands in the way and chooses the exit code.
func (a *app) planFailed(err error) error {
	var pre *provision.Preflight
	if !errors.As(err, &pre) {
		return err
	}
	a.problems(pre.Problems)
	return &exitCode{exitPreflight, mobyfs.Errorf(mobyfs.CodeInvalid, "%w", pre)}
}

// partial says which hosts failed and how the others are.
func (a *app) partial(out *provision.Outcome, others string) error {
	a.problems(out.Failed)
	code, locked := exitPartial, true
	for _, p := range out.Failed {
		locked = locked && p.Of(host.Locked)
	}
	if locked {
		code = exitLocked
	}
	if a.output == "json" {
		if err := a.print(out, nil); err != nil {
			return err
		}
	}
	err := fmt.Errorf("%s failed", hostCount(len(out.Failed)))
	if fine := len(out.Changed) + len(out.Unchanged); others != "" && fine > 0 {
		err = fmt.Errorf("%w; the other %d: %s", err, fine, others)
	}
	return &exitCode{code, err}
}

// by names who asks, for the locks on the hosts.
func by(command string) string {
	name, err := os.Hostname()
	if err != nil {
		name = "?"
	}
	return fmt.Sprintf("%s@%s with mobyctl %s", userName(), name, command)
}
