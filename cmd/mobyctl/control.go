package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/api"
	"github.com/mobyfs/mobyfs/internal/durable"
)

func newControlCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: "control", Short: "Look after the control plane: its backups, and the time after one was restored"}
	cmd.AddCommand(newBackupCommand(a), newBackupsCommand(a), newControlStatusCommand(a), newConvergeCommand(a))
	return cmd
}

func newBackupCommand(a *app) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "backup [--file FILE]",
		Short: "Make a sealed backup of the control plane now",
		Long: "Make a sealed backup of the control plane now; one is made each hour anyhow, and kept on two nodes. It opens with\n" +
			"the key that mobyfs-control backup key prints on a control host, and with nothing else: keep that key elsewhere.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			b, err := c.MakeBackup(cmd.Context())
			if err != nil {
				return err
			}
			if file != "" {
				if err := a.fetchBackup(cmd.Context(), c, b.ID, file); err != nil {
					return err
				}
			}
			return a.print(b, func(w io.Writer) { printBackups(w, []api.Backup{b}) })
		},
	}
	cmd.Flags().StringVarP(&file, "file", "f", "", "write it to a file (0600), too; - is stdout")
	return cmd
}

// fetchBackup writes a backup to a file, which is there whole or not at all.
func (a *app) fetchBackup(ctx context.Context, c *api.Client, id, file string) error {
	if file == "-" {
		return c.Backup(ctx, id, a.stdout)
	}
	scratch := file + ".part"
	f, err := os.OpenFile(scratch, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(scratch) }() // which is gone if all went well
	if err := c.Backup(ctx, id, f); err != nil {
		_ = f.Close()
		return err
	}
	if err := f.Sync(); err != nil {
		_ = f.Close()
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return durable.Rename("mobyctl.backup", scratch, file)
}

func newBackupsCommand(a *app) *cobra.Command {
	var fetch, file string
	cmd := &cobra.Command{
		Use:   "backups",
		Short: "List the backups of the control plane and the nodes that keep copies",
		Long: "List the backups of the control plane and the nodes that keep copies. If no control is left, the nodes have them\n" +
			"all the same: mobyfs backup ls, and mobyfs backup export, on any of them.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			if fetch != "" {
				if file == "" {
					file = fetch + ".mbk"
				}
				return a.fetchBackup(cmd.Context(), c, fetch, file)
			}
			all, err := c.Backups(cmd.Context())
			if err != nil {
				return err
			}
			return a.print(all, func(w io.Writer) { printBackups(w, all) })
		},
	}
	cmd.Flags().StringVar(&fetch, "fetch", "", "write the backup with this ID to a file instead, from the control that made it")
	cmd.Flags().StringVarP(&file, "file", "f", "", "the file; ID.mbk if empty, - is stdout")
	return cmd
}

func printBackups(w io.Writer, all []api.Backup) {
	tw := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(tw, "BACKUP\tMADE\tSIZE\tRECORDS\tBY\tKEPT ON")
	for _, b := range all {
		kept := strings.Join(b.Held, ", ")
		if kept == "" {
			kept = "no node yet"
		}
		fmt.Fprintf(tw, "%s\t%s\t%s\t%d\t%s\t%s\n", b.ID, b.MadeAt.Local().Format(time.DateTime), humanize.IBytes(uint64(max(b.Bytes, 0))), b.Records, b.By, kept)
	}
	_ = tw.Flush()
}

// controlStatus is the state of the control plane as to backups.
type controlStatus struct {
	Backup  *api.Backup  `json:"backup"`
	Restore *api.Restore `json:"restore"`
	Due     bool         `json:"backup_due"`
}

func newControlStatusCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show the newest backup, and whom control waits for after it was restored; exits 2 when something is wrong",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			cluster, err := c.Cluster(cmd.Context())
			if err != nil {
				return err
			}
			s := controlStatus{cluster.Backup, cluster.Restore, cluster.BackupDue}
			if err := a.print(s, func(w io.Writer) { printControlStatus(w, s, time.Now()) }); err != nil {
				return err
			}
			if s.Due || s.Restore != nil {
				return &exitCode{code: exitPending}
			}
			return nil
		},
	}
}

func printControlStatus(w io.Writer, s controlStatus, now time.Time) {
	for _, line := range controlLines(s, now) {
		fmt.Fprintln(w, line)
	}
}

// controlLines says how the backups are, and how far a restore is.
func controlLines(s controlStatus, now time.Time) (lines []string) {
	switch b := s.Backup; {
	case b == nil:
		lines = append(lines, "there is no backup of the control plane yet")
	default:
		lines = append(lines, fmt.Sprintf("newest backup %s, %s old, kept on %d nodes", b.ID, now.Sub(b.MadeAt).Round(time.Second), len(b.Held)))
	}
	if r := s.Restore; r != nil {
		lines = append(lines, restoreLine(*r))
	}
	return lines
}

func restoreLine(r api.Restore) string {
	line := fmt.Sprintf("control was restored from a backup of %s and decides nothing yet: ", r.MadeAt.Local().Format(time.DateTime))
	if len(r.Awaited) == 0 {
		return line + "it compares its records with what the nodes hold"
	}
	return line + fmt.Sprintf("it waits for %s (%d nodes have told what they hold)", strings.Join(r.Awaited, ", "), len(r.Told))
}

func newConvergeCommand(a *app) *cobra.Command {
	var without []string
	var patience time.Duration
	cmd := &cobra.Command{
		Use:   "converge [--without NODE…]",
		Short: "After a restore, wait until control decides again; without nodes that are lost, if so told",
		Long: "After control was restored from a backup it decides nothing until all nodes have told what they hold. A node that is\n" +
			"lost has to be named: what it alone held, volumes made or moved there since the backup, is set aside or stays with\n" +
			"the home that the backup knew. If it comes back its bytes are kept, and nothing of them is deleted.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), patience)
			defer cancel()
			r, err := c.Converge(ctx, without)
			for said := ""; err == nil && r.Backup != ""; r, err = c.RestoreStatus(ctx) {
				if line := restoreLine(r); line != said {
					fmt.Fprintln(a.stderr, line)
					said = line
				}
				select {
				case <-time.After(time.Second):
				case <-ctx.Done():
					return mobyfs.Errorf(mobyfs.CodeUnavailable, "%s", restoreLine(r)).WithHint("start mobyfs.service there; of a node that is lost: mobyctl control converge --without NODE")
				}
			}
			if err != nil {
				return err
			}
			return a.print(r, func(w io.Writer) { fmt.Fprintln(w, "control decides") })
		},
	}
	cmd.Flags().StringSliceVar(&without, "without", nil, "nodes that are not waited for")
	cmd.Flags().DurationVar(&patience, "timeout", 10*time.Minute, "how long to wait")
	return cmd
}
