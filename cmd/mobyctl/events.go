package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/api"
)

func newEventsCommand(a *app) *cobra.Command {
	var since int64
	var on bool
	cmd := &cobra.Command{
		Use:   "events",
		Short: "Tell what has changed in the cluster, and with -f what changes from now on",
		Long: "Tell every change of the cluster in the order in which they happened. With -f it goes on until it is interrupted,\n" +
			"across restarts of control. With -o json each event is a line.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			return tellEvents(cmd.Context(), c.Events, since, on, a.eventPrinter(eventLine))
		},
	}
	cmd.Flags().Int64Var(&since, "since", 0, "the revision to begin with; 0 is the oldest that is kept")
	cmd.Flags().BoolVarP(&on, "follow", "f", false, "go on with what changes from now on")
	return cmd
}

// stream is a call of api.Client that tells events.
type stream func(ctx context.Context, since int64, each func(mobyfs.Event) error, complete func(api.Complete) error) error

// tellEvents prints the events from a revision on: those that are there, or with on all to come as well. While control
// is away it waits and goes on where it was.
func tellEvents(ctx context.Context, from stream, since int64, on bool, print func(mobyfs.Event) error) error {
	told := map[string]bool{} // of the newest revision, for an event may come twice
	for {
		err := from(ctx, since, func(e mobyfs.Event) error {
			if e.Revision > since {
				since = e.Revision
				clear(told)
			}
			if told[e.ID] {
				return nil
			}
			told[e.ID] = true
			return print(e)
		}, func(c api.Complete) error {
			if !on {
				return errSeen
			}
			return nil
		})
		switch {
		case err == errSeen:
			return nil
		case !on || mobyfs.CodeOf(err) != mobyfs.CodeUnavailable:
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(followAgain):
		}
	}
}

// eventPrinter prints events one by one.
func (a *app) eventPrinter(line func(mobyfs.Event) string) func(mobyfs.Event) error {
	return func(e mobyfs.Event) error {
		if a.output == "json" {
			return json.NewEncoder(a.stdout).Encode(e)
		}
		_, err := io.WriteString(a.stdout, line(e)+"\n")
		return err
	}
}

// eventLine tells an event in one line: when, what, of which volume or node.
func eventLine(e mobyfs.Event) string {
	var about []string
	if e.Name != "" {
		about = append(about, "volume="+e.Name)
	}
	if e.Node != "" {
		about = append(about, "node="+e.Node)
	}
	if e.Fence != 0 {
		about = append(about, fmt.Sprintf("fence=%d", e.Fence))
	}
	return fmt.Sprintf("%s  %-8d  %-28s  %s", e.At.Local().Format(time.DateTime), e.Revision, e.Text, strings.Join(about, " "))
}
