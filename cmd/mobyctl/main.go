// Command mobyctl makes and runs a mobyfs cluster: it sets hosts up over SSH, and creates, moves and removes volumes.
//
// Results go to stdout, everything else to stderr; -o json gives every result as JSON. Exit codes: 0 done (or
// nothing to do), 1 error, 2 changes are pending (plan) or something needs a look (status), 3 some hosts failed, 4 a
// check before the first change failed, 5 someone else is at work, 130 interrupted.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/mobyfs/mobyfs"
)

// Exit codes, as docs/operations.md tells them.
const (
	exitError       = 1
	exitPending     = 2
	exitPartial     = 3
	exitPreflight   = 4
	exitLocked      = 5
	exitInterrupted = 130
)

// version is set by the linker.
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	a := &app{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, endTrace: func(error) {}}
	err := newRootCommand(a).ExecuteContext(ctx)
	a.endTrace(err)
	interrupted := ctx.Err() != nil
	stop()
	if err == nil {
		return
	}
	a.printError(err)
	var exit *exitCode
	switch {
	case interrupted:
		os.Exit(exitInterrupted)
	case errors.As(err, &exit):
		os.Exit(exit.code)
	default:
		os.Exit(exitError)
	}
}

// app is what all commands share: where words go, and which cluster is meant.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	output         string // text | json
	cluster        string // --cluster; empty is the current one
	endTrace       func(error)
}

// exitCode is an error that ends the program with a code of its own. With a nil err all was said already.
type exitCode struct {
	code int
	err  error
}

func (e *exitCode) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}

func (e *exitCode) Unwrap() error { return e.err }

func newRootCommand(a *app) *cobra.Command {
	root := &cobra.Command{
		Use:   "mobyctl",
		Short: "Docker volumes that follow their containers from host to host",
		Long: "mobyctl sets up Docker hosts over SSH and runs the cluster of volumes on them.\n\n" +
			"Exit codes: 0 done, 1 error, 2 changes pending (plan) or something needs a look (status), 3 some hosts failed,\n" +
			"4 a check before the first change failed, 5 someone else is at work, 130 interrupted.",
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			if a.output != "text" && a.output != "json" {
				return mobyfs.Errorf(mobyfs.CodeInvalid, "there is no output %q", a.output).WithHint("use -o text or -o json")
			}
			a.beginTrace(cmd)
			return nil
		},
	}
	root.SetIn(a.stdin)
	root.SetOut(a.stdout)
	root.SetErr(a.stderr)
	root.PersistentFlags().StringVarP(&a.output, "output", "o", "text", "how results are printed: text or json")
	root.PersistentFlags().StringVar(&a.cluster, "cluster", "", "the cluster to speak to (default: the one bootstrapped last)")
	root.AddGroup(
		&cobra.Group{ID: "fleet", Title: "Set up hosts:"},
		&cobra.Group{ID: "use", Title: "Use the cluster:"})
	for _, c := range []*cobra.Command{
		newInitCommand(a), newPlanCommand(a), newBootstrapCommand(a), newResetCommand(a), newPluginCommand(a), newSandboxCommand(a),
	} {
		c.GroupID = "fleet"
		root.AddCommand(c)
	}
	for _, c := range []*cobra.Command{newVolumeCommand(a), newClassCommand(a), newNodeCommand(a), newOperationCommand(a), newRebalanceCommand(a), newStatusCommand(a), newEventsCommand(a), newAuditCommand(a), newLoginCommand(a), newOperatorCommand(a), newTokenCommand(a), newCACommand(a), newControlCommand(a)} {
		c.GroupID = "use"
		root.AddCommand(c)
	}
	root.AddCommand(newVersionCommand(a))
	return root
}

// print gives a result: v as JSON, or what text writes.
func (a *app) print(v any, text func(w io.Writer)) error {
	if a.output == "json" {
		enc := json.NewEncoder(a.stdout)
		enc.SetIndent("", "  ")
		return enc.Encode(v)
	}
	text(a.stdout)
	return nil
}

// printError says what went wrong and the way out, on stderr.
func (a *app) printError(err error) {
	if err.Error() == "" {
		return
	}
	if a.output == "json" {
		_ = json.NewEncoder(a.stderr).Encode(map[string]string{
			"error": err.Error(), "code": string(mobyfs.CodeOf(err)), "hint": mobyfs.HintOf(err)})
		return
	}
	fmt.Fprintf(a.stderr, "mobyctl: %v\n", err)
	if hint := mobyfs.HintOf(err); hint != "" {
		fmt.Fprintf(a.stderr, "  hint: %s\n", hint)
	}
}

func newVersionCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version of mobyctl",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return a.print(map[string]string{"version": version}, func(w io.Writer) { fmt.Fprintln(w, "mobyctl", version) })
		},
	}
}
