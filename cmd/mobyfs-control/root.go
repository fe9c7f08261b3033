package main

import (
	"github.com/spf13/cobra"
)

func newRootKeyCommand(s *settings) *cobra.Command {
	cmd := &cobra.Command{Use: "root", Short: "Look after the root of the cluster's authority"}
	cmd.AddCommand(&cobra.Command{
		Use:   "export",
		Short: "Print the root's certificate and private key",
		Long: "Print the root's certificate and private key (PEM), to be kept where nothing else is. From day to day the root\n" +
			"is not needed; pki/ca.key may be removed from this host once it lies elsewhere, and is needed here again for\n" +
			"mobyfs-control sign and mobyctl ca rotate.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			authority, err := openAuthority(*s)
			if err != nil {
				return err
			}
			key, err := authority.RootKeyPEM()
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(append(authority.RootPEM(), key...))
			return err
		},
	})
	return cmd
}
