package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/api"
)

func newTokenCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: "token", Short: "Let machines and people in that bootstrap does not reach"}
	cmd.AddCommand(newTokenCreateCommand(a), &cobra.Command{
		Use:   "ls",
		Short: "List the tokens, without their secrets",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			all, err := c.Tokens(cmd.Context())
			if err != nil {
				return err
			}
			return a.print(all, func(w io.Writer) { printTokens(w, all, time.Now()) })
		},
	}, &cobra.Command{
		Use:   "rm ID",
		Short: "Make a token worthless; who was let in with it stays",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			return c.RemoveToken(cmd.Context(), args[0])
		},
	})
	return cmd
}

func newTokenCreateCommand(a *app) *cobra.Command {
	var r api.TokenRequest
	var life time.Duration
	var labels []string
	cmd := &cobra.Command{
		Use:   "create",
		Short: "Make a token that lets one machine or person in, once",
		Long: "Make a token that lets one machine or person in, once. It goes to stdout and is not kept anywhere: what the\n" +
			"cluster keeps of it can't be used. A machine joins with: mobyfs join --token-file FILE",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r.Seconds = int(life / time.Second)
			r.Labels = map[string]string{}
			for _, l := range labels {
				key, value, ok := strings.Cut(l, "=")
				if !ok {
					return mobyfs.Errorf(mobyfs.CodeInvalid, "%q is no label", l).WithHint("write it as zone=a")
				}
				r.Labels[key] = value
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			t, err := c.CreateToken(cmd.Context(), r)
			if err != nil {
				return err
			}
			return a.print(t, func(w io.Writer) { fmt.Fprintln(w, t.Token) })
		},
	}
	f := cmd.Flags()
	f.StringVar(&r.Role, "role", "node", "who is let in: node, operator, admin, viewer or auditor")
	f.StringVar(&r.Name, "name", "", "the name that it must have")
	f.StringVar(&r.Network, "from", "", "the network that it must come from, such as 10.1.0.0/16")
	f.StringSliceVar(&labels, "label", nil, "label that the node gets, such as zone=a")
	f.BoolVar(&r.Replace, "replace", false, "it takes the place of the node of that name, which is shut out at once")
	f.DurationVar(&life, "ttl", 15*time.Minute, "for how long the token is good")
	return cmd
}

func printTokens(w io.Writer, all []mobyfs.JoinToken, now time.Time) {
	tw := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(tw, "TOKEN\tROLE\tNAME\tFROM\tSTATE")
	for _, t := range all {
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\n", t.ID, t.Role, orAny(t.Name), orAny(t.Network), tokenState(t, now))
	}
	_ = tw.Flush()
}

func orAny(s string) string {
	if s == "" {
		return "any"
	}
	return s
}

func tokenState(t mobyfs.JoinToken, now time.Time) string {
	switch {
	case t.UsedBy != "":
		return "used by " + t.UsedBy
	case !now.Before(t.ExpiresAt):
		return "expired"
	default:
		return "good for " + t.ExpiresAt.Sub(now).Round(time.Second).String()
	}
}
