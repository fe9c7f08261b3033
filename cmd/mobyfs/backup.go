package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/mobyfs/mobyfs/agent/keep"
)

// newBackupCommand needs neither control nor the agent: it is for the day on which no control is left.
func newBackupCommand() *cobra.Command {
	var root string
	cmd := &cobra.Command{Use: "backup", Short: "Look at the copies of the control plane's backups on this host"}
	cmd.PersistentFlags().StringVar(&root, "root", cmp.Or(os.Getenv("MOBYFS_ROOT"), "/var/lib/mobyfs"), "directory of volumes, state and keys (MOBYFS_ROOT)")
	var file string
	export := &cobra.Command{
		Use:   "export [ID]",
		Short: "Write a backup to a file, the newest one if none is named",
		Long: "Write a backup of the control plane to a file, for mobyfs-control restore on a control host. It is sealed: without\n" +
			"the cluster's key it opens nowhere.",
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			id := ""
			if len(args) > 0 {
				id = args[0]
			}
			return exportBackup(keep.In(root), id, file, cmd.OutOrStdout())
		},
	}
	export.Flags().StringVarP(&file, "file", "f", "-", "the file (0600), which must not be there; - is stdout")
	cmd.AddCommand(export, &cobra.Command{
		Use:   "ls",
		Short: "List the copies of backups on this host",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			all, err := keep.In(root).List()
			if err != nil {
				return err
			}
			tw := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 3, ' ', 0)
			fmt.Fprintln(tw, "BACKUP\tCLUSTER\tMADE\tSIZE\tKEY")
			for _, b := range all {
				fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\n", b.ID, b.Cluster, b.MadeAt.Local().Format(time.DateTime), humanize.IBytes(uint64(max(b.Bytes, 0))), b.Key)
			}
			return tw.Flush()
		},
	})
	return cmd
}

func exportBackup(copies *keep.Copies, id, file string, stdout io.Writer) error {
	from, err := copies.Open(id)
	if err != nil {
		return err
	}
	defer from.Close()
	if file == "-" {
		_, err := io.Copy(stdout, from)
		return err
	}
	to, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(to, from)
	if err == nil {
		err = to.Sync()
	}
	return errors.Join(err, to.Close())
}
