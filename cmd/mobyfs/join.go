package main

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/api"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// clockNote is from which difference of the clocks on a join tells it.
const clockNote = 2 * time.Second

func newJoinCommand() *cobra.Command {
	var s settings
	var file string
	cmd := &cobra.Command{
		Use:   "join --token-file FILE",
		Short: "Join the cluster with a token from mobyctl token create",
		Long: `Join the cluster with a token from mobyctl token create. The token is read from a file or, for -, from stdin:
never from an argument, which others can see. It is sent only to the cluster that it names. Run again, also after it was
killed, it ends the same. Then start mobyfs.service.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file == "" {
				return mobyfs.Errorf(mobyfs.CodeInvalid, "where the token is was not said").WithHint("give --token-file FILE, or - for stdin")
			}
			if s.node == "" || len(s.control) == 0 {
				return mobyfs.Errorf(mobyfs.CodeInvalid, "this node's name or the address of the control plane is missing").
					WithHint("set MOBYFS_NODE and MOBYFS_CONTROL, or give --node and --control")
			}
			token, err := pki.ReadInvitation(file, cmd.InOrStdin())
			if err != nil {
				return err
			}
			if err := os.MkdirAll(filepath.Join(s.root, "pki"), 0o700); err != nil {
				return err
			}
			apart, err := api.Join(cmd.Context(), s.control, token, s.node, s.files(), time.Now)
			if err != nil {
				return err
			}
			if apart.Abs() > clockNote {
				fmt.Fprintf(cmd.ErrOrStderr(), "mobyfs: the clock here differs from control's by %v\n", apart.Round(time.Second))
			}
			who, until, err := s.files().Identity()
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "joined cluster %s as %s; the certificate is good until %s and renewed by mobyfs.service\n",
				who.Cluster, who, until.UTC().Format(time.RFC3339))
			return nil
		},
	}
	s.bind(cmd.Flags(), os.Getenv)
	cmd.Flags().StringVar(&file, "token-file", "", "file with the token, - for stdin")
	return cmd
}
