package main

import (
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/mobyfs/mobyfs/internal/discovery"
	"github.com/mobyfs/mobyfs/provision"
)

func newPluginCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: "plugin", Short: "What Docker finds the driver by"}
	cmd.AddCommand(newPluginStatusCommand(a))
	return cmd
}

func newPluginStatusCommand(a *app) *cobra.Command {
	f := &fleetFlags{app: a}
	cmd := &cobra.Command{
		Use:   "status [host …]",
		Short: "Show what is registered with Docker under the name mobyfs; exits 2 when something needs a look",
		Long: "plugin status asks hosts over SSH what their Docker could find under the name mobyfs, in the order in which\n" +
			"Docker looks: what wins, what it shadows, whether a driver answers there. Nothing is changed, and Docker\n" +
			"is not made to use the driver.\n\n" +
			"Exit codes: 0 all is well, 2 something needs a look, 3 some hosts could not be asked.",
		RunE: func(cmd *cobra.Command, args []string) error {
			in, err := f.installer(cmd.Context(), "plugin status")
			if err != nil {
				return err
			}
			hosts, problems, err := in.Plugins(cmd.Context(), args)
			if err != nil {
				return err
			}
			a.problems(problems)
			if err := a.print(hosts, func(w io.Writer) { printPlugins(w, hosts) }); err != nil {
				return err
			}
			switch fine := allFine(hosts); {
			case len(problems) > 0:
				return &exitCode{code: exitPartial}
			case !fine:
				return &exitCode{code: exitPending}
			}
			return nil
		},
	}
	cmd.Flags().StringVarP(&f.file, "file", "f", "cluster.yaml", "the description of the cluster")
	cmd.Flags().IntVar(&f.parallel, "parallel", 32, "hosts to ask at once")
	cmd.Flags().BoolVar(&f.sudoPassword, "sudo-password", false, "ask for the password that sudo wants on the hosts")
	return cmd
}

func allFine(hosts []provision.HostPlugins) bool {
	for _, h := range hosts {
		if !h.Fine() {
			return false
		}
	}
	return true
}

// printPlugins prints a table in Docker's order, and under it what needs a look.
func printPlugins(w io.Writer, hosts []provision.HostPlugins) {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(t, "HOST\tREGISTERED BY\tLEADS TO\tDOCKER\tANSWERS\tMODE")
	for _, h := range hosts {
		if len(h.Registrations) == 0 {
			fmt.Fprintf(t, "%s\t-\t-\t%s\t-\t-\n", h.Host, use(h, false))
		}
		for _, r := range h.Registrations {
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", h.Host, r.Place, dash(string(r.Endpoint)), use(h, r.Wins), yes(r.Answers), dash(modeOf(r)))
		}
	}
	_ = t.Flush()
	for _, h := range hosts {
		for _, text := range h.Trouble {
			fmt.Fprintf(w, "  ▲ %s: %s\n", h.Host, text)
		}
		for _, r := range h.Registrations {
			for _, text := range r.Trouble {
				fmt.Fprintf(w, "  ▲ %s: %s: %s\n", h.Host, r.Place, text)
			}
			if r.Answer != "" {
				fmt.Fprintf(w, "      │ %s\n", r.Answer)
			}
		}
	}
}

// use tells what Docker does with a registration.
func use(h provision.HostPlugins, wins bool) string {
	switch {
	case h.Docker.Error != "":
		return "is silent"
	case wins && h.Docker.Activated:
		return "uses it"
	case wins:
		return "would use it"
	case len(h.Registrations) == 0:
		return "finds nothing"
	default:
		return "passes it over"
	}
}

func modeOf(r discovery.Registration) string {
	if r.Mode == "" {
		return ""
	}
	return r.Mode + " " + r.Owner
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
