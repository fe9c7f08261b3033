// Command mobyfs-control is the control plane: it decides which node owns which volume, and keeps the cluster's
// authority.
//
//	mobyfs-control init --cluster NAME                      makes the authority and control's own certificates
//	mobyfs-control sign --role ROLE --name NAME             signs a request from stdin
//	mobyfs-control start                                    decides, until SIGTERM
//
// Flags may be given as MOBYFS_CLUSTER, MOBYFS_CONTROL_NAME, MOBYFS_CONTROL_LISTEN and
// MOBYFS_CONTROL_ROOT. Results go to stdout,
// everything else to stderr. Exit codes: 0 done, 1 error.
package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/pki"
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

// settings say which cluster's control this is and where it lies.
type settings struct {
	cluster string
	name    string // of this one among the cluster's controls: its host's
	listen  string // host:port of the API
	root    string // private directory: pki/ and etcd/
	classes string // file of the classes of volumes
}

func (s settings) pkiDir() string { return filepath.Join(s.root, "pki") }

// identity is where control's own certificate lies.
func (s settings) identity() pki.Files { return pki.FilesIn(s.pkiDir(), "control") }

// peer is where the certificate lies that this control shows to the other members of its store.
func (s settings) peer() pki.Files { return pki.PeerFiles(s.pkiDir()) }

// who is this control in a role.
func (s settings) who(role string) pki.Identity {
	return pki.Identity{Cluster: s.cluster, Role: role, Name: s.name}
}

// check tells what is wrong with the settings, or nil. The cluster's name stands in certificates, so the rule is
// that of nodes.
func (s settings) check() error {
	if s.cluster == "" {
		return mobyfs.Errorf(mobyfs.CodeInvalid, "the cluster's name is missing").WithHint("set MOBYFS_CLUSTER, or give --cluster NAME")
	}
	if mobyfs.CheckNodeName(s.cluster) != nil {
		return mobyfs.Errorf(mobyfs.CodeInvalid, "%q can't be the name of a cluster", s.cluster).
			WithHint("use up to 63 lower-case letters, digits and -, such as shop")
	}
	if mobyfs.CheckNodeName(s.name) != nil {
		return mobyfs.Errorf(mobyfs.CodeInvalid, "%q can't be the name of a control", s.name).
			WithHint("set MOBYFS_CONTROL_NAME to the name that its host has in cluster.yaml")
	}
	return nil
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
	flags := root.PersistentFlags()
	flags.StringVar(&s.cluster, "cluster", os.Getenv("MOBYFS_CLUSTER"), "name of the cluster (MOBYFS_CLUSTER)")
	flags.StringVar(&s.name, "name", cmp.Or(os.Getenv("MOBYFS_CONTROL_NAME"), "control"),
		"name of this host among those with a control (MOBYFS_CONTROL_NAME)")
	flags.StringVar(&s.root, "root", cmp.Or(os.Getenv("MOBYFS_CONTROL_ROOT"), "/var/lib/mobyfs-control"),
		"where the store and the authority lie (MOBYFS_CONTROL_ROOT)")
	root.AddCommand(newStartCommand(&s), newInitCommand(&s), newSignCommand(&s), &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  cobra.NoArgs,
		Run:   func(cmd *cobra.Command, _ []string) { fmt.Fprintln(cmd.OutOrStdout(), "mobyfs-control", version) },
	})
	return root
}
