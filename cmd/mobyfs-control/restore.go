package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"time"

	"github.com/spf13/cobra"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/control"
	"github.com/mobyfs/mobyfs/internal/durable"
	"github.com/mobyfs/mobyfs/internal/failpoint"
	"github.com/mobyfs/mobyfs/internal/seal"
)

func newRestoreCommand(s *settings) *cobra.Command {
	var from, key string
	var aside bool
	cmd := &cobra.Command{
		Use:   "restore --from FILE --key FILE",
		Short: "Make the store anew from a backup, after all controls were lost",
		Long: "Make a store of one member from a backup. Stop mobyfs-control on all hosts first: a control that still runs on the\n" +
			"lost store would decide too. The whole backup is checked before anything is done; it may be run again if it was cut\n" +
			"short. A store that lies here is never deleted: it is refused, or with --move-aside kept beside the new one.\n\n" +
			"After mobyfs-control start the nodes tell what they hold. Until all have, control decides nothing, and volumes are\n" +
			"used where they are: mobyctl control status tells whom it waits for.",
		Example: "  mobyfs-control restore --from 01jexa3tq2….mbk --key key.txt && systemctl start mobyfs-control",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := s.check(); err != nil {
				return err
			}
			keys, err := s.backupKey(key)
			if err != nil {
				return err
			}
			if err := s.makePrivate(); err != nil {
				return err
			}
			log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelWarn}))
			result, err := control.Restore(cmd.Context(), control.RestoreConfig{
				Cluster: s.cluster, Name: s.name, Root: s.root, Identity: s.identity(), From: from, Key: keys, MoveAside: aside,
				Log: log, Now: failpoint.Now,
			})
			if err != nil {
				return err
			}
			tellRestored(cmd.OutOrStdout(), result)
			return nil
		},
	}
	cmd.Flags().StringVar(&from, "from", "", "file of the backup")
	cmd.Flags().StringVar(&key, "key", "", "file of the key that opens it, as mobyfs-control backup key printed it; this host's own if empty")
	cmd.Flags().BoolVar(&aside, "move-aside", false, "keep the store that lies here beside the restored one, under another name")
	if err := cmd.MarkFlagRequired("from"); err != nil {
		panic(err) // there is such a flag
	}
	return cmd
}

func tellRestored(out io.Writer, r control.RestoreResult) {
	if r.Again {
		fmt.Fprintf(out, "backup %s was restored here before; nothing was done\n", r.ID)
		return
	}
	fmt.Fprintf(out, "restored backup %s of cluster %s, made at %s: %d records, revision %d\n",
		r.ID, r.Cluster, r.MadeAt.UTC().Format(time.RFC3339), r.Records, r.Revision)
	for _, path := range r.Aside {
		fmt.Fprintf(out, "moved aside: %s\n", path)
	}
	if r.Identity {
		fmt.Fprintln(out, "control has a new certificate")
	}
	fmt.Fprintln(out, "next: systemctl start mobyfs-control, then mobyctl control status")
}

// backupKey loads the key from a file, or this host's own.
func (s settings) backupKey(path string) (*seal.Key, error) {
	own := path == ""
	if own {
		path = seal.PathIn(s.root)
	}
	key, err := seal.Load(path)
	if errors.Is(err, fs.ErrNotExist) && own {
		return nil, mobyfs.Errorf(mobyfs.CodeNotFound, "there is no key in %s", s.pkiDir()).
			WithHint("give the one that was kept elsewhere: --key FILE; on a control host, mobyfs-control backup key prints it")
	}
	if err != nil {
		return nil, mobyfs.Errorf(mobyfs.CodeInvalid, "%w", err).WithHint("give the file that mobyfs-control backup key printed")
	}
	return key, nil
}

func newBackupCommand(s *settings) *cobra.Command {
	cmd := &cobra.Command{Use: "backup", Short: "Look after backups of the store on a control host"}
	var out string
	key := &cobra.Command{
		Use:   "key",
		Short: "Print the key that opens the cluster's backups",
		Long: "Print the key that opens the cluster's backups and its sealed secrets, to be kept where nothing else is: without it\n" +
			"no backup opens, and whoever has it and a backup has the cluster.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			key, err := s.backupKey("")
			if err != nil {
				return err
			}
			if out != "" {
				return durable.WriteFile("control.export-key", out, key.Text(), 0o600)
			}
			_, err = cmd.OutOrStdout().Write(key.Text())
			return err
		},
	}
	key.Flags().StringVarP(&out, "output", "o", "", "file to write it to (0600), instead of stdout")
	cmd.AddCommand(key)
	return cmd
}
