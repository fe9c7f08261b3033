// Command mobyfs-control is the control plane: it decides which node owns which volume, and keeps the cluster's
// authority.
//
//	mobyfs-control init --cluster NAME                      makes the authority and control's own certificates
//	mobyfs-control sign --role ROLE --name NAME             signs a request from stdin
//	mobyfs-control root export                              prints the root's key, to be kept elsewhere
//	mobyfs-control start                                    decides, until SIGTERM
//	mobyfs-control member ls|add|rm                         who keeps the store
//	mobyfs-control backup key                               prints the key that opens backups, to be kept elsewhere
//	mobyfs-control restore --from FILE --key FILE           makes the store anew from a backup
//	mobyfs-control request | certify --role ROLE            a certificate for a control that others sign for
//
// Flags may be given in the environment, as their help says. Results go to stdout, everything else to stderr.
// Exit codes: 0 done, 1 error.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/mobyfs/mobyfs"
)

// version is set by the linker.
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := newRootCommand(os.Stdin, os.Stdout, os.Stderr).ExecuteContext(ctx)
	stop()
	if err == nil {
		return
	}
	fmt.Fprintf(os.Stderr, "mobyfs-control: %v\n", err)
	if hint := mobyfs.HintOf(err); hint != "" {
		fmt.Fprintf(os.Stderr, "  hint: %s\n", hint)
	}
	os.Exit(1)
}

func newRootCommand(stdin io.Reader, stdout, stderr io.Writer) *cobra.Command {
	var s settings
	root := &cobra.Command{
		Use:           "mobyfs-control",
		Short:         "The control plane of mobyfs: it decides which node owns which volume",
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	s.add(root.PersistentFlags())
	root.AddCommand(newStartCommand(&s), newInitCommand(&s), newSignCommand(&s), newRootKeyCommand(&s), newMemberCommand(&s),
		newRequestCommand(&s), newCertifyCommand(&s), newRestoreCommand(&s), newBackupCommand(&s), &cobra.Command{
			Use:   "version",
			Short: "Print the version",
			Args:  cobra.NoArgs,
			Run:   func(cmd *cobra.Command, _ []string) { fmt.Fprintln(cmd.OutOrStdout(), "mobyfs-control", version) },
		})
	return root
}
