package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/control/store"
	"github.com/mobyfs/mobyfs/internal/durable"
)

func newMemberCommand(s *settings) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "member",
		Short: "Show and change who keeps the store",
		Long: "Show and change who keeps the store. These commands work on a host whose mobyfs-control runs and is a member,\n" +
			"for whoever may read its directory. A store has 1, 3 or 5 voters: while there is an even number of members, the\n" +
			"last one follows and does not vote, for two voters fail as soon as either fails.",
	}
	cmd.AddCommand(newMemberListCommand(s), newMemberAddCommand(s), newMemberRemoveCommand(s))
	return cmd
}

func newMemberListCommand(s *settings) *cobra.Command {
	return &cobra.Command{
		Use:   "ls",
		Short: "List the members of the store",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return withMembers(cmd.Context(), *s, func(ctx context.Context, m *store.Members) error {
				all, err := m.List(ctx)
				if err != nil {
					return err
				}
				return printMembers(cmd.OutOrStdout(), all)
			})
		},
	}
}

func printMembers(w io.Writer, all []store.Member) error {
	tw := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(tw, "MEMBER\tROLE\tURL\tSTATE")
	for _, m := range all {
		name, role, state := m.Name, string(m.Role), "ok"
		if name == "" {
			name = "?"
		}
		if m.Leader {
			role = "leader"
		}
		if m.Cause != "" {
			state = m.Cause
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%s\n", name, role, m.URL, state)
	}
	return tw.Flush()
}

func newMemberAddCommand(s *settings) *cobra.Command {
	return &cobra.Command{
		Use:   "add NAME URL [NAME URL …]",
		Short: "Let members join the store, and print what to start them with",
		Long: "Let members join the store, and print what to start each of them with: --join, or MOBYFS_JOIN. They follow at\n" +
			"first and vote once they have caught up and that makes an odd number of voters, so the store loses nothing if they\n" +
			"never start. Asked again it prints the same.",
		Example: "  mobyfs-control member add h2 https://h2:7947 h3 https://h3:7947",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args)%2 != 0 {
				return mobyfs.Errorf(mobyfs.CodeInvalid, "%s has no URL", args[len(args)-1]).
					WithHint("give each member its name and its URL, such as h2 https://h2:7947")
			}
			return withMembers(cmd.Context(), *s, func(ctx context.Context, m *store.Members) error {
				join, err := addMembers(ctx, m, args)
				if err != nil {
					return err
				}
				// This one too must not begin a store of its own if it loses its data.
				if err := durable.WriteFile("control.join", s.joinFile(), []byte(join+"\n"), 0o600); err != nil {
					return err
				}
				_, err = fmt.Fprintln(cmd.OutOrStdout(), join)
				return err
			})
		},
	}
}

// addMembers adds each of name, URL, name, URL, … and tells what all of them join. Killed in between, those that were
// added follow nobody and cost nothing; asked again they are there.
func addMembers(ctx context.Context, m *store.Members, pairs []string) (join string, err error) {
	names := map[string]string{}
	for i := 0; i < len(pairs); i += 2 {
		names[pairs[i+1]] = pairs[i]
		if join, err = m.Add(ctx, pairs[i], pairs[i+1]); err != nil {
			return "", err
		}
	}
	var all []string
	for _, part := range strings.Split(join, ",") {
		name, url, _ := strings.Cut(part, "=")
		all = append(all, cmp.Or(names[url], name)+"="+url) // one that has never started has told its name to nobody
	}
	slices.Sort(all)
	return strings.Join(all, ","), nil
}

func newMemberRemoveCommand(s *settings) *cobra.Command {
	return &cobra.Command{
		Use:   "rm NAME",
		Short: "Take a member out of the store, for good",
		Long: "Take a member out of the store, for good: what its disk holds is worth nothing afterwards. One that is not there is\n" +
			"success. One without which the others have no quorum is kept.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withMembers(cmd.Context(), *s, func(ctx context.Context, m *store.Members) error { return m.Remove(ctx, args[0]) })
		},
	}
}

// memberLimit is how long a command may wait for a store that has no quorum, or has just got one.
const memberLimit = 30 * time.Second

// withMembers reaches the store through the control that runs here.
func withMembers(ctx context.Context, s settings, do func(context.Context, *store.Members) error) error {
	ctx, cancel := context.WithTimeout(ctx, memberLimit)
	defer cancel()
	m, err := store.DialMembers(ctx, s.root)
	if err != nil {
		return err
	}
	defer func() { _ = m.Close() }()
	return do(ctx, m)
}
