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

// refreshTime bounds how long a command waits for its own certificate to be renewed.
const refreshTime = 5 * time.Second

func newCACommand(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: "ca", Short: "Look after the cluster's authority"}
	cmd.AddCommand(newRotateCommand(a), &cobra.Command{
		Use:   "status",
		Short: "Show the root, and who keeps a rotation from going on",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, files, err := a.clientFiles()
			if err != nil {
				return err
			}
			r, err := c.Rotation(cmd.Context())
			if err != nil {
				return err
			}
			if err := a.keepUp(cmd.Context(), c, files); err != nil {
				fmt.Fprintln(a.stderr, "renew the certificate here; it is tried again next time:", err)
			}
			return a.print(r, func(w io.Writer) { printRotation(w, r) })
		},
	}, newRevokeCommand(a))
	return cmd
}

func newRevokeCommand(a *app) *cobra.Command {
	var cause string
	cmd := &cobra.Command{
		Use:   "revoke ROLE NAME",
		Short: "Shut a person or node out at once, such as: mobyctl ca revoke operator ana",
		Long: "Shut a person or node out at once: connections are cut, certificates are refused and not renewed. It does\n" +
			"nothing about a node's volumes.",
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			return c.Evict(cmd.Context(), args[0], args[1], cause)
		},
	}
	cmd.Flags().StringVar(&cause, "cause", "", "why, for the events")
	return cmd
}

func newRotateCommand(a *app) *cobra.Command {
	var force []string
	var detach bool
	cmd := &cobra.Command{
		Use:   "rotate",
		Short: "Replace the root of the cluster's authority, step by step, with nobody left behind",
		Long: `Replace the root of the cluster's authority. All members learn to trust the new root, then get certificates
below it, then unlearn the old one; each phase waits for every node that is not evicted and for every control.
The command follows it to the end, and may be ended and run again; it renews its own certificate on the way. Other
people should run a command of mobyctl meanwhile, such as this one; who did not needs a token afterwards.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.rotate(cmd.Context(), force, detach)
		},
	}
	cmd.Flags().StringSliceVar(&force, "force", nil, "go on without a member, such as node/h1; it has to join anew")
	cmd.Flags().BoolVar(&detach, "detach", false, "do not follow it")
	return cmd
}

// rotate begins a rotation, or joins the one that is under way, and follows it.
func (a *app) rotate(ctx context.Context, force []string, detach bool) error {
	c, files, err := a.clientFiles()
	if err != nil {
		return err
	}
	r, err := c.Rotate(ctx, force)
	if err != nil {
		return err
	}
	for said := ""; r.Phase != mobyfs.RotationNone && !detach; {
		if text := rotationLine(r); text != said {
			fmt.Fprintln(a.stderr, text)
			said = text
		}
		if err := a.keepUp(ctx, c, files); err != nil {
			fmt.Fprintln(a.stderr, "renew the certificate here; it is tried again:", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
		if r, err = c.Rotation(ctx); err != nil {
			return err
		}
	}
	return a.print(r, func(w io.Writer) { printRotation(w, r) })
}

// keepUp makes the certificate and the roots of who runs mobyctl those that the cluster wants.
func (a *app) keepUp(ctx context.Context, c *api.Client, files pki.Files) error {
	b, err := c.Bundle(ctx)
	if err != nil {
		return err
	}
	if trust, issuer, err := files.Held(); err != nil || trust == pki.TrustID([]byte(b.Roots)) && issuer == b.Issuing {
		return err
	}
	if err := files.SetRoots([]byte(b.Roots)); err != nil {
		return err
	}
	return a.renew(ctx, c, files)
}

func (a *app) renew(ctx context.Context, c *api.Client, files pki.Files) error {
	if err := api.RenewFiles(ctx, c.Endpoints(), files); err != nil {
		return err
	}
	config, err := files.ClientTLS(pki.RoleControl, "control")
	if err == nil {
		c.Redirect(c.Endpoints(), config)
	}
	return err
}

// renewInTime renews the certificate when half its life is over, or when it has ended not long ago: it needs none to be
// renewed. That it can't be done now is no reason not to go on.
func (a *app) renewInTime(c *api.Client, files pki.Files) {
	chain, err := files.Chain()
	if err != nil || time.Now().Before(pki.RenewAt(chain[0], nil)) || time.Now().After(chain[0].NotAfter.Add(pki.PersonGrace)) {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), refreshTime)
	defer cancel()
	if err := a.renew(ctx, c, files); err != nil {
		fmt.Fprintln(a.stderr, "mobyctl: renew the certificate here; it is tried again next time:", err)
	}
}

func rotationLine(r mobyfs.Rotation) string {
	text := "phase " + string(r.Phase)
	if len(r.Lacking) > 0 {
		text += fmt.Sprintf(", waiting for %d: %s (%s)", len(r.Lacking), r.Lacking[0].Who, r.Lacking[0].Why)
	}
	return text
}

func printRotation(w io.Writer, r mobyfs.Rotation) {
	tw := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintf(tw, "root\t%s\n", r.Root)
	if r.Next != "" {
		fmt.Fprintf(tw, "next root\t%s\n", r.Next)
	}
	if r.Phase == mobyfs.RotationNone {
		fmt.Fprintf(tw, "rotation\tnone\n")
	} else {
		fmt.Fprintf(tw, "rotation\t%s since %s\n", r.Phase, r.Since.Local().Format(time.DateTime))
	}
	for _, l := range r.Lacking {
		fmt.Fprintf(tw, "waits for\t%s: %s\n", l.Who, l.Why)
	}
	for _, f := range r.Forced {
		fmt.Fprintf(tw, "goes on without\t%s\n", f)
	}
	_ = tw.Flush()
}
