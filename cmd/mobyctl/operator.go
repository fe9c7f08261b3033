package main

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/api"
	"github.com/mobyfs/mobyfs/internal/pki"
)

func newOperatorCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: "operator", Short: "Let people in, list them, and shut them out"}
	cmd.AddCommand(newOperatorAddCommand(a), &cobra.Command{
		Use:   "ls",
		Short: "List the people who use the cluster",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			all, err := c.People(cmd.Context())
			if err != nil {
				return err
			}
			return a.print(all, func(w io.Writer) { printPeople(w, all, time.Now()) })
		},
	}, newOperatorRmCommand(a))
	return cmd
}

func newOperatorAddCommand(a *app) *cobra.Command {
	var role, network string
	var life time.Duration
	cmd := &cobra.Command{
		Use:   "add NAME",
		Short: "Make a token with which a person logs in, once",
		Long: `Make a token with which a person logs in, once, and as that name and role. The token goes to stdout and is not kept
anywhere; hand it over where nobody else reads it. The command to log in with goes to stderr.

viewer   sees volumes, nodes and events
auditor  also sees who did what
operator changes volumes and nodes, and lets others in
admin    the same`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			known, err := a.loadContext()
			if err != nil {
				return err
			}
			if pki.IssuerOf(role) != pki.IssuerOperator {
				return mobyfs.Errorf(mobyfs.CodeInvalid, "nobody can be a %q", role).WithHint("choose viewer, auditor, operator or admin")
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			t, err := c.CreateToken(cmd.Context(), api.TokenRequest{Role: role, Name: args[0], Network: network, Seconds: int(life / time.Second)})
			if err != nil {
				return err
			}
			fmt.Fprintf(a.stderr, "on the machine of %s, within %v, with the token at its stdin:\n  %s\n", args[0], life, loginCommand(args[0], known.Control))
			return a.print(t, func(w io.Writer) { fmt.Fprintln(w, t.Token) })
		},
	}
	cmd.Flags().StringVar(&role, "role", pki.RoleViewer, "viewer, auditor, operator or admin")
	cmd.Flags().StringVar(&network, "from", "", "the network that the login must come from, such as 10.1.0.0/16")
	cmd.Flags().DurationVar(&life, "ttl", 15*time.Minute, "for how long the token is good")
	return cmd
}

func newOperatorRmCommand(a *app) *cobra.Command {
	var role, cause string
	cmd := &cobra.Command{
		Use:   "rm NAME",
		Short: "Shut a person out at once, on open connections too",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			roles, err := rolesOf(cmd.Context(), c, args[0], role)
			if err != nil {
				return err
			}
			for _, r := range roles {
				if err := c.Evict(cmd.Context(), r, args[0], cause); err != nil {
					return err
				}
			}
			return a.print(roles, func(w io.Writer) {
				for _, r := range roles {
					fmt.Fprintf(w, "%s %s is shut out\n", r, args[0])
				}
			})
		},
	}
	cmd.Flags().StringVar(&role, "role", "", "in which role alone (default: in all that they have)")
	cmd.Flags().StringVar(&cause, "cause", "", "why, for the events")
	return cmd
}

// rolesOf are the roles in which somebody is in. A role that is given need not be known: it is shut out for what it has.
func rolesOf(ctx context.Context, c *api.Client, name, role string) ([]string, error) {
	if role != "" {
		return []string{role}, nil
	}
	all, err := c.People(ctx)
	if err != nil {
		return nil, err
	}
	var roles []string
	for _, p := range all {
		if p.Name == name {
			roles = append(roles, p.Role)
		}
	}
	if roles == nil {
		return nil, mobyfs.Errorf(mobyfs.CodeNotFound, "nobody named %.63q uses the cluster", name).
			WithHint("mobyctl operator ls lists all; give --role to shut out who never called")
	}
	return roles, nil
}

func printPeople(w io.Writer, all []mobyfs.Person, now time.Time) {
	tw := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(tw, "NAME\tROLE\tSINCE\tCERTIFICATE")
	for _, p := range all {
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\n", p.Name, p.Role, p.Since.Local().Format(time.DateTime), certificateState(p, now))
	}
	_ = tw.Flush()
}

func certificateState(p mobyfs.Person, now time.Time) string {
	if left := p.Until.Sub(now); left > 0 {
		return "good for " + left.Round(time.Minute).String()
	}
	return "expired " + p.Until.Local().Format(time.DateTime)
}
