package main

import (
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/durable"
	"github.com/mobyfs/mobyfs/internal/pki"
)

func newRequestCommand(s *settings) *cobra.Command {
	var role string
	cmd := &cobra.Command{
		Use:   "request --role control|peer",
		Short: "Print a certificate request for a control that joins others",
		Long: "Print a certificate request for this control, whose key is made here and stays here. Where the authority lies,\n" +
			"mobyfs-control sign answers it, and mobyfs-control certify takes the answer.",
		Example: "  mobyfs-control request --role peer | ssh h1 mobyfs-control sign --role peer --name h2 | mobyfs-control certify --role peer",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			files, err := s.filesOf(role)
			if err != nil {
				return err
			}
			if err := s.makePrivate(); err != nil {
				return err
			}
			csr, err := files.NewRequest()
			if err == nil {
				_, err = cmd.OutOrStdout().Write(csr)
			}
			return err
		},
	}
	cmd.Flags().StringVar(&role, "role", "", "control or peer")
	return cmd
}

func newCertifyCommand(s *settings) *cobra.Command {
	var role string
	cmd := &cobra.Command{
		Use:   "certify --role control|peer",
		Short: "Take a certificate that answers a request from stdin",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			files, err := s.filesOf(role)
			if err != nil {
				return err
			}
			answer, err := io.ReadAll(io.LimitReader(cmd.InOrStdin(), maxRequest))
			if err != nil {
				return fmt.Errorf("read the certificate: %w", err)
			}
			cert, ca, err := pki.SplitAnswer(answer)
			if err != nil {
				return err
			}
			return files.Install(cert, ca)
		},
	}
	cmd.Flags().StringVar(&role, "role", "", "control or peer")
	return cmd
}

// filesOf are those of this control in a role.
func (s settings) filesOf(role string) (pki.Files, error) {
	switch role {
	case pki.RoleControl:
		return s.identity(), nil
	case pki.RolePeer:
		return s.peer(), nil
	default:
		return pki.Files{}, mobyfs.Errorf(mobyfs.CodeInvalid, "a control has no certificate as %q", role).
			WithHint("--role is control or peer")
	}
}

// makePrivate makes the directories for the store and for keys. They may be there already.
func (s settings) makePrivate() error {
	if err := os.MkdirAll(s.root, 0o700); err != nil {
		return err
	}
	if err := durable.Mkdir(s.pkiDir(), 0o700); err != nil {
		return err
	}
	for _, dir := range []string{s.root, s.pkiDir()} {
		if err := os.Chmod(dir, 0o700); err != nil {
			return err
		}
	}
	return nil
}
