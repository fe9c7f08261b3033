package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/pki"
)

const maxRequest = 64 << 10 // bytes of a certificate request

func newSignCommand(s *settings) *cobra.Command {
	var role, name string
	cmd := &cobra.Command{
		Use:   "sign --role ROLE --name NAME",
		Short: "Sign a certificate request from stdin",
		Long: "Sign a certificate request (PEM, on stdin) with the cluster's authority. The certificate, that of the\n" +
			"intermediate which signed it and then the authority's own go to stdout. Of the request only the key counts; who it is for say the flags.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return sign(*s, role, name, cmd.InOrStdin(), cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVar(&role, "role", "", "node, docker, operator, admin, viewer, auditor, control or peer")
	cmd.Flags().StringVar(&name, "name", "", "the name of the node, of the node whose dockerd it is for, of the person, or of the control's host")
	return cmd
}

func sign(s settings, role, name string, csr io.Reader, out io.Writer) error {
	if pki.IssuerOf(role) == "" {
		return mobyfs.Errorf(mobyfs.CodeInvalid, "no certificate is signed for the role %q", role).
			WithHint("--role is node, docker, operator, admin, viewer, auditor, control or peer")
	}
	if mobyfs.CheckNodeName(name) != nil {
		return mobyfs.Errorf(mobyfs.CodeInvalid, "%q can't be the name of a %s", name, role).
			WithHint("use up to 63 lower-case letters, digits and -")
	}
	authority, err := openAuthority(s)
	if err != nil {
		return err
	}
	if s.cluster != "" && s.cluster != authority.Cluster {
		return mobyfs.Errorf(mobyfs.CodeInvalid, "the authority is that of cluster %q, not of %q", authority.Cluster, s.cluster)
	}
	request, err := io.ReadAll(io.LimitReader(csr, maxRequest))
	if err != nil {
		return fmt.Errorf("read the certificate request: %w", err)
	}
	cert, err := authority.Sign(request, pki.Identity{Cluster: authority.Cluster, Role: role, Name: name})
	if err != nil {
		return err
	}
	_, err = out.Write(append(cert, authority.CertPEM...))
	return err
}
