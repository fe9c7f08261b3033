package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/durable"
	"github.com/mobyfs/mobyfs/internal/pki"
)

func newInitCommand(s *settings) *cobra.Command {
	return &cobra.Command{
		Use:   "init",
		Short: "Make the cluster's authority and control's own certificate",
		Long: "Make the cluster's authority and control's own certificate. What is there is kept, so it may be run\n" +
			"again; control's certificate is renewed when its time runs out.",
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
	if err := os.MkdirAll(s.root, 0o700); err != nil {
		return nil, time.Time{}, err
	}
	if err := durable.Mkdir(s.pkiDir(), 0o700); err != nil {
		return nil, time.Time{}, err
	}
	for _, dir := range []string{s.root, s.pkiDir()} {
		if err := os.Chmod(dir, 0o700); err != nil {
			return nil, time.Time{}, err
		}
	}
	authority, err := pki.NewAuthority(s.pkiDir(), s.cluster)
	if err != nil {
		return nil, time.Time{}, fmt.Errorf("make the authority: %w", err)
	}
	until, err := certify(authority, s.identity())
	return authority, until, err
}

// certify makes sure that control has a certificate that lasts, and returns until when.
func certify(authority *pki.Authority, files pki.Files) (time.Time, error) {
	renew, err := needsNew(files, authority, time.Now())
	if err != nil {
		return time.Time{}, err
	}
	if renew {
		csr, err := files.NewRequest()
		if err != nil {
			return time.Time{}, fmt.Errorf("make control's key: %w", err)
		}
		cert, err := authority.Sign(csr, controlOf(authority))
		if err != nil {
			return time.Time{}, fmt.Errorf("sign control's certificate: %w", err)
		}
		if err := files.Install(cert, authority.CertPEM); err != nil {
			return time.Time{}, fmt.Errorf("store control's certificate: %w", err)
		}
	}
	_, until, err := files.Identity()
	return until, err
}

// needsNew reports whether control has no certificate yet, one that is not its own, or one whose time runs out.
func needsNew(files pki.Files, authority *pki.Authority, now time.Time) (bool, error) {
	who, until, err := files.Identity()
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	return who != controlOf(authority) || until.Sub(now) < pki.RenewBefore, err
}

// controlOf is the identity of the cluster's control plane.
func controlOf(authority *pki.Authority) pki.Identity {
	return pki.Identity{Cluster: authority.Cluster, Role: pki.RoleControl, Name: "control"}
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
