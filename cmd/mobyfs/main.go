// Command mobyfs runs on every Docker host: Docker's volume driver in front, the agent of the cluster behind it. It
// also is the installer's hand on the host.
//
//	mobyfs start -p 8080     serves Docker and the other nodes, until SIGTERM
//	mobyfs join              lets this host into a cluster with a token
//	mobyfs host …            looks at this host and sets it up
//	mobyfs stub …            answers Docker on a host that left its cluster (mobyctl reset starts it)
//	mobyfs watchdog          ends writing to volumes that this node may have lost
//	mobyfs version
//
// Results go to stdout, everything else to stderr. Exit codes: 0 done, 1 error.
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
	err := newRootCommand().ExecuteContext(ctx)
	stop()
	if err != nil {
		printError(os.Stderr, err)
		os.Exit(1)
	}
}

func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "mobyfs",
		Short:         "Docker's volume driver, and the agent of a mobyfs cluster, on this host",
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.AddCommand(newStartCommand(), newHostCommand(), newStubCommand(), newJoinCommand(), newBackupCommand(), newWatchdogCommand(os.Getenv), newVersionCommand())
	return root
}

// printError says what went wrong and the way out.
func printError(w io.Writer, err error) {
	fmt.Fprintf(w, "mobyfs: %v\n", err)
	if hint := mobyfs.HintOf(err); hint != "" {
		fmt.Fprintf(w, "  hint: %s\n", hint)
	}
}

func newVersionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version of mobyfs",
		Args:  cobra.NoArgs,
		Run:   func(cmd *cobra.Command, _ []string) { fmt.Fprintln(cmd.OutOrStdout(), "mobyfs", version) },
	}
}
