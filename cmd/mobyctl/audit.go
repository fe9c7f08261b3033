package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/api"
	"github.com/mobyfs/mobyfs/internal/audit"
	"github.com/mobyfs/mobyfs/internal/durable"
)

func newAuditCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{Use: "audit", Short: "Who did what, who was refused, and whether that record is whole"}
	cmd.AddCommand(newAuditLsCommand(a), newAuditVerifyCommand(a), newAuditExportCommand(a))
	return cmd
}

func newAuditLsCommand(a *app) *cobra.Command {
	var since int64
	var on bool
	cmd := &cobra.Command{
		Use:   "ls",
		Short: "List changes and refusals of the last day, with who asked for them from where",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			return tellEvents(cmd.Context(), c.Audit, since, on, a.eventPrinter(auditLine))
		},
	}
	cmd.Flags().Int64Var(&since, "since", 0, "the revision to begin with; 0 is the oldest that is kept")
	cmd.Flags().BoolVarP(&on, "follow", "f", false, "go on with what happens from now on")
	return cmd
}

// auditLine tells an event with who asked for it.
func auditLine(e mobyfs.Event) string {
	line := eventLine(e) + "  by=" + cmp.Or(e.Who, "control")
	if e.From != "" {
		line += " from=" + e.From
	}
	if e.Request != "" {
		line += " request=" + e.Request
	}
	return line
}

// headFile is the segment that was sealed last when the trail was exported.
const headFile = "head.json"

func newAuditExportCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "export DIR",
		Short: "Write the sealed audit trail into a directory, and check it on the way",
		Long: "Write the sealed segments of the audit trail into a directory. Segments that are there already are checked and kept, so a\n" +
			"directory that is exported into now and then is a copy that nobody on the control hosts can change.",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			chain, err := exportTrail(cmd.Context(), c, args[0])
			if err != nil {
				return err
			}
			return a.printTrail(chain, "exported")
		},
	}
}

func newAuditVerifyCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "verify [DIR]",
		Short: "Check that nothing in the audit trail was changed, dropped or reordered",
		Long: "Check the sealed segments that control has, or those that were exported into a directory, against the digests that each\n" +
			"carries of the one before, and against the last that was sealed. Ends with 1 if the trail is broken.",
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				chain, err := verifyFolder(args[0])
				if err != nil {
					return err
				}
				return a.printTrail(chain, "whole")
			}
			c, err := a.client()
			if err != nil {
				return err
			}
			chain, err := walkTrail(cmd.Context(), c, func(int64, []byte) error { return nil })
			if err != nil {
				return err
			}
			return a.printTrail(chain, "whole")
		},
	}
}

// trailReader is what the commands ask of control.
type trailReader interface {
	AuditTrail(ctx context.Context) (api.AuditTrail, error)
	AuditSegment(ctx context.Context, n int64) ([]byte, error)
}

// walkTrail reads the trail that control has, checks it whole, and calls each with every segment.
func walkTrail(ctx context.Context, c trailReader, each func(n int64, text []byte) error) (audit.Chain, error) {
	var chain audit.Chain
	trail, err := c.AuditTrail(ctx)
	if err != nil {
		return chain, err
	}
	for _, n := range trail.Segments {
		if n > trail.Head.N {
			break // sealed since
		}
		text, err := c.AuditSegment(ctx, n)
		if err != nil {
			return chain, err
		}
		if err := chain.Add(text); err != nil {
			return chain, err
		}
		if err := each(n, text); err != nil {
			return chain, err
		}
	}
	return chain, chain.End(trail.Head)
}

// exportTrail writes what is not in the directory yet, once all of it is known to be whole and to go on what is there.
func exportTrail(ctx context.Context, c trailReader, dir string) (audit.Chain, error) {
	before, err := segmentFiles(dir)
	if err != nil {
		return audit.Chain{}, err
	}
	if len(before) > 0 {
		if _, err := verifyFolder(dir); err != nil {
			return audit.Chain{}, err
		}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return audit.Chain{}, err
	}
	chain, err := walkTrail(ctx, c, func(n int64, text []byte) error {
		path := filepath.Join(dir, fmt.Sprintf("%012d.jsonl", n))
		had, err := os.ReadFile(path)
		if err == nil && string(had) != string(text) {
			return mobyfs.Errorf(mobyfs.CodeCorrupt, "segment %d that control has is not the one that was exported before", n).
				WithHint("keep %s as it is, and compare it with what other controls have", path)
		}
		if err == nil {
			return nil
		}
		return durable.WriteFile("mobyctl.audit", path, text, 0o600)
	})
	if err != nil {
		return chain, err
	}
	return chain, durable.WriteJSON("mobyctl.audit", filepath.Join(dir, headFile), chain.Last, 0o600)
}

// verifyFolder checks an exported trail.
func verifyFolder(dir string) (audit.Chain, error) {
	var chain audit.Chain
	files, err := segmentFiles(dir)
	if err != nil {
		return chain, err
	}
	var head audit.Segment
	if err := durable.ReadJSON(filepath.Join(dir, headFile), &head); err != nil {
		return chain, mobyfs.Errorf(mobyfs.CodeCorrupt, "the export in %s does not say where it ends: %w", dir, err).
			WithHint("export it again: mobyctl audit export %s", dir)
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			return chain, err
		}
		if err := chain.Add(text); err != nil {
			return chain, err
		}
		if chain.Last.N == head.N {
			break
		}
	}
	return chain, chain.End(head)
}

// segmentFiles are the segments in a directory, in order.
func segmentFiles(dir string) ([]string, error) {
	files, err := filepath.Glob(filepath.Join(dir, strings.Repeat("[0-9]", 12)+".jsonl"))
	slices.Sort(files)
	return files, err
}

func (a *app) printTrail(c audit.Chain, is string) error {
	return a.print(map[string]any{"last": c.Last, "events": c.Events}, func(w io.Writer) {
		if c.Last.N == 0 {
			fmt.Fprintln(w, "nothing is sealed yet")
			return
		}
		fmt.Fprintf(w, "the audit trail is %s: %d events up to segment %d of %s, digest %s\n",
			is, c.Events, c.Last.N, c.Last.At.Local().Format(time.DateTime), c.Last.Digest)
	})
}
