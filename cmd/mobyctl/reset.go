package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/mobyfs/mobyfs/api"
	"github.com/mobyfs/mobyfs/internal/pki"
	"github.com/mobyfs/mobyfs/provision"
)

func newResetCommand(a *app) *cobra.Command {
	f := &fleetFlags{app: a}
	var yes, purge bool
	cmd := &cobra.Command{
		Use:   "reset [host …]",
		Short: "Take everything that bootstrap installed off the hosts again",
		Long: "reset removes what bootstrap put on the hosts, and nothing else; Docker stays as it is. It refuses while the\n" +
			"bytes of volumes are on a host, unless --purge-data is given, and while containers use them in any case.\n" +
			"Where Docker has used mobyfs, a stub without a file answers it until it is restarted.",
		RunE: func(cmd *cobra.Command, args []string) error {
			in, err := f.installer(cmd.Context(), "reset")
			if err != nil {
				return err
			}
			return a.reset(cmd.Context(), in, args, yes, purge)
		},
	}
	f.add(cmd)
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask before changing hosts")
	cmd.Flags().BoolVar(&purge, "purge-data", false, "remove the bytes of volumes too; they can't be had back")
	return cmd
}

func (a *app) reset(ctx context.Context, in *provision.Installer, hosts []string, yes, purge bool) error {
	plan, err := in.PlanReset(ctx, hosts, purge, controlOf(in))
	if err != nil {
		return a.planFailed(err)
	}
	defer plan.Close()
	whole := len(plan.Hosts) == len(in.Fleet.Hosts)
	if plan.Empty() {
		if whole {
			if err := dropContext(plan.Cluster); err != nil {
				return err
			}
		}
		return a.print(&provision.Outcome{Unchanged: plan.Names()}, func(w io.Writer) {
			fmt.Fprintf(w, "Done    nothing to do: nothing of mobyfs is on %s\n", hostCount(len(plan.Hosts)))
		})
	}
	a.progress(func(w io.Writer) { printPlan(w, plan) })
	if err := a.confirm(yes, "Take it off?"); err != nil {
		return err
	}
	out := plan.Apply(ctx)
	if len(out.Failed) > 0 {
		return a.partial(out, "done")
	}
	if whole {
		if err := dropContext(plan.Cluster); err != nil {
			return err
		}
	}
	return a.print(out, func(w io.Writer) { printDone(w, out) })
}

// controlOf connects to the control plane of the fleet, or returns nil if this user has no access to it.
func controlOf(in *provision.Installer) provision.Cluster {
	tlsConfig, err := in.Operator.ClientTLS(pki.RoleControl, "control")
	if err != nil {
		return nil
	}
	a := &app{cluster: in.Fleet.Cluster}
	c, err := a.loadContext()
	if err != nil {
		return nil
	}
	return api.NewClient(c.Control, tlsConfig)
}
