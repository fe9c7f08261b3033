package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/pki"
	"github.com/mobyfs/mobyfs/internal/seal"
)

func newInitCommand(s *settings) *cobra.Command {
	return &cobra.Command{
		Use:   "init",
		Short: "Make the cluster's authority and control's own certificates",
		Long: "Make the cluster's authority and control's own certificates, for its API and for the other members of its\n" +
			"store. What is there is kept, so it may be run again; certificates whose time runs out are renewed.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			authority, until, err := initialise(*s)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "cluster %s\nauthority %s\ncontrol's certificate valid until %s\n",
				authority.Cluster, authority.Fingerprint(), until.UTC().Format(time.RFC3339))
			return nil
		},
	}
}

// initialise may be repeated. Killed at any point, the next run goes on from there.
func initialise(s settings) (*pki.Authority, time.Time, error) {
	if err := s.check(); err != nil {
		return nil, time.Time{}, err
	}
	if err := s.makePrivate(); err != nil {
		return nil, time.Time{}, err
	}
	authority, err := pki.NewAuthority(s.pkiDir(), s.cluster)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("make the authority: %w", err)
	}
	if _, err := seal.Make(seal.PathIn(s.root)); err != nil {
		return nil, time.Time{}, err
	}
	if _, err := certify(authority, s.peer(), s.who(pki.RolePeer), pki.RenewDockerBefore); err != nil {
		return nil, time.Time{}, err
	}
	until, err := certify(authority, s.identity(), s.who(pki.RoleControl), pki.RenewBefore)
	return authority, until, err
}

// certify makes sure that control has a certificate as who that lasts, and returns until when.
func certify(authority *pki.Authority, files pki.Files, who pki.Identity, before time.Duration) (time.Time, error) {
	renew, err := needsNew(files, authority, who, time.Now().Add(before))
	if err != nil {
		return time.Time{}, err
	}
	if renew {
		csr, err := files.NewRequest()
		if err != nil {
			return time.Time{}, fmt.Errorf("make the key of %s: %w", who, err)
		}
		cert, err := authority.Sign(csr, who)
		if err != nil {
			return time.Time{}, fmt.Errorf("sign the certificate of %s: %w", who, err)
		}
		if err := files.Install(cert, authority.CertPEM); err != nil {
			return time.Time{}, fmt.Errorf("store the certificate of %s: %w", who, err)
		}
	}
	_, until, err := files.Identity()
	return until, err
}

// needsNew reports whether there is no certificate yet, one of somebody else or of another authority, or one that ends
// before a time.
func needsNew(files pki.Files, authority *pki.Authority, who pki.Identity, before time.Time) (bool, error) {
	is, until, err := files.Identity()
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err != nil || is != who {
		return true, nil // what can't be read is no identity
	}
	chain, err := os.ReadFile(files.Cert)
	return until.Before(before) || !pki.ChainsTo(authority.CertPEM, chain), err
}

// openAuthority loads the authority that init has made.
func openAuthority(s settings) (*pki.Authority, error) {
	a, err := pki.OpenAuthority(s.pkiDir())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, mobyfs.Errorf(mobyfs.CodeInvalid, "there is no authority in %s", s.pkiDir()).
			WithHint("mobyfs-control init --cluster NAME")
	}
	return a, err
}
