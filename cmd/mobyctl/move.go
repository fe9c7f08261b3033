package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/api"
)

// moving are the flags of a move.
type moving struct {
	to                            string
	live, withContainers          bool
	cancel, undo, detach, explain bool
	bwlimit, onBusy, consistency  string
	maxPause                      time.Duration
	maxRounds                     int
	changed                       func(flag string) bool // it was given
}

func newVolumeMoveCommand(a *app) *cobra.Command {
	var m moving
	cmd := &cobra.Command{
		Use:   "move NAME [--to NODE] [--live]",
		Short: "Move a volume to another node",
		Long: `Move a volume to another node: to the one that suits best if none is named. The command follows the move and may be ended;
the move goes on. --cancel gives a move up: the volume stays where it was.

A volume that containers use moves with --live. They go on while its bytes are copied, in rounds of which each brings what was
changed during the one before, and are frozen for the last bytes only. With --with-containers they are made anew on the other
node, with the same configuration and name, and removed here; otherwise they are ended once the volume is there. If containers
write so fast that the pause would be longer than --max-pause, the move asks what to do: give --on-busy, --max-pause or
--bwlimit to the same command again while it goes on.

--undo moves a volume back to where its last move took it from.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			m.changed = cmd.Flags().Changed
			c, err := a.client()
			if err != nil {
				return err
			}
			return a.moveAs(cmd.Context(), c, args[0], m)
		},
	}
	f := cmd.Flags()
	f.StringVar(&m.to, "to", "", "the node that the volume shall be on (default: the one that suits best)")
	f.BoolVar(&m.live, "live", false, "move it although containers use it")
	f.BoolVar(&m.withContainers, "with-containers", false, "run the containers that use it on the other node too; implies --live")
	f.BoolVar(&m.withContainers, "with-container", false, "the same")
	f.StringVar(&m.bwlimit, "bwlimit", "", "the most that the copy takes in a second: 100M, or 0 for no limit")
	f.DurationVar(&m.maxPause, "max-pause", 0, "the longest pause of the containers that is aimed at (default 500ms)")
	f.IntVar(&m.maxRounds, "max-rounds", 0, "after so many rounds --on-busy decides (default 8)")
	f.StringVar(&m.onBusy, "on-busy", "", "when containers write too fast: ask, throttle them, or freeze whatever the pause (default ask)")
	f.StringVar(&m.consistency, "consistency", "", "crash: containers are frozen; clean: they are stopped (default crash)")
	f.BoolVar(&m.cancel, "cancel", false, "give up the move that is under way")
	f.BoolVar(&m.undo, "undo", false, "move it back to where its last move took it from")
	f.BoolVar(&m.detach, "detach", false, "do not wait for the end")
	f.Bool("wait", true, "wait for the end, as without it")
	f.BoolVar(&m.explain, "explain", false, "move nothing; tell where it would go, and why")
	f.BoolVar(&m.explain, "dry-run", false, "the same")
	cmd.MarkFlagsMutuallyExclusive("cancel", "undo", "to")
	cmd.MarkFlagsMutuallyExclusive("cancel", "undo", "live")
	cmd.MarkFlagsMutuallyExclusive("cancel", "undo", "explain")
	return cmd
}

// options are the options of a live move that the flags give.
func (m moving) options() (o mobyfs.MoveOptions, err error) {
	o = mobyfs.MoveOptions{
		WithContainers: m.withContainers, MaxPause: m.maxPause, MaxRounds: m.maxRounds,
		OnBusy: mobyfs.OnBusy(m.onBusy), Consistency: mobyfs.Consistency(m.consistency),
	}
	if m.bwlimit != "" && m.bwlimit != "0" {
		if o.BytesPerSecond, err = mobyfs.ParseSize(m.bwlimit); err != nil {
			return o, err
		}
	}
	return o.Check()
}

// patch is what the flags change of a move that is under way.
func (m moving) patch(o mobyfs.MoveOptions) (p api.MovePatch) {
	busy := cmp.Or(o.OnBusy, "ask")
	for flag, set := range map[string]func(){
		"bwlimit":    func() { p.BytesPerSecond = &o.BytesPerSecond },
		"max-pause":  func() { p.MaxPause = &o.MaxPause },
		"max-rounds": func() { p.MaxRounds = &o.MaxRounds },
		"on-busy":    func() { p.OnBusy = &busy },
	} {
		if m.changed(flag) {
			set()
		}
	}
	return p
}

func (a *app) moveAs(ctx context.Context, c *api.Client, name string, m moving) error {
	options, err := m.options()
	if err != nil {
		return err
	}
	switch {
	case m.cancel:
		return a.cancelMove(ctx, c, name)
	case m.explain:
		return a.explainMove(ctx, c, name, m.to)
	}
	var v mobyfs.Volume
	patch := m.patch(options)
	switch {
	case m.undo:
		v, err = c.UndoMove(ctx, name)
	case patch != (api.MovePatch{}) && !m.live && !m.withContainers:
		v, err = c.ChangeMove(ctx, name, patch)
	default:
		v, err = c.Move(ctx, name, api.MoveRequest{To: m.to, Live: m.live || m.withContainers, Options: options})
	}
	if err != nil {
		return err
	}
	return a.followMove(ctx, c, v, m.detach)
}

// explainMove tells where a volume would go. Its own node is told as such.
func (a *app) explainMove(ctx context.Context, c *api.Client, name, to string) error {
	p, err := c.ExplainPlacement(ctx, api.PlacementQuestion{Volume: name, Node: to})
	if err != nil {
		return err
	}
	return a.print(p, func(w io.Writer) { printPlacement(w, p, "moved") })
}

func (a *app) cancelMove(ctx context.Context, c *api.Client, name string) error {
	v, err := c.CancelMove(ctx, name)
	if err != nil {
		return err
	}
	return a.print(v, func(w io.Writer) { fmt.Fprintf(w, "%s stays on %s\n", v.Name, v.Node) })
}

// measuredWithin is how long the command waits for the measured pause once a live move is committed.
const measuredWithin = 30 * time.Second

// followMove tells how the move that is under way goes on, until it has ended, and then how.
func (a *app) followMove(ctx context.Context, c *api.Client, v mobyfs.Volume, detach bool) error {
	if v.Migration == nil {
		return a.print(v, func(w io.Writer) { fmt.Fprintf(w, "%s is on %s already\n", v.Name, v.Node) })
	}
	name, id, to, live := v.Name, v.Migration.ID, v.Migration.To, v.Migration.Live
	if detach {
		return a.print(v, func(w io.Writer) { fmt.Fprintf(w, "%s is moving to %s (%s)\n", name, to, id) })
	}
	told := ""
	v, err := follow(ctx, c, v, func(v mobyfs.Volume) bool {
		if v.Migration == nil || v.Migration.ID != id {
			return true
		}
		if text := howFar(*v.Migration); text != told {
			told = text
			fmt.Fprintf(a.stderr, "%s: %s → %s, %s\n", v.Name, v.Migration.From, v.Migration.To, text)
		}
		return false
	})
	if err != nil {
		return err
	}
	m := v.LastMove
	if m == nil || m.ID != id || m.State != mobyfs.MigrationCommitted {
		reason := "another move replaced it"
		if m != nil && m.ID == id {
			reason = m.Reason
		}
		return mobyfs.Errorf(mobyfs.CodeUnavailable, "move %s to %s: %s; it stays on %s", name, to, reason, v.Node).
			WithHint("mobyctl volume move %s --to %s%s tries again", name, to, map[bool]string{true: " --live"}[live])
	}
	if live {
		measured, cancel := context.WithTimeout(ctx, measuredWithin)
		defer cancel()
		if now, err := follow(measured, c, v, func(v mobyfs.Volume) bool { return v.LastMove == nil || v.LastMove.ID != id || v.LastMove.Told() }); err == nil && now.LastMove != nil && now.LastMove.ID == id {
			v, m = now, now.LastMove
		}
	}
	return a.print(v, func(w io.Writer) {
		fmt.Fprintf(w, "%s moved to %s: %s in %.1f s, digest %s\n", v.Name, to,
			progress(m.Progress), m.EndedAt.Sub(m.StartedAt).Seconds(), m.Digest)
		if m.Live {
			fmt.Fprintln(w, liveReport(*m))
		}
		if m.Trouble != "" {
			fmt.Fprintln(w, m.Trouble)
		}
	})
}

// liveReport says in one line how a live move went that was committed.
func liveReport(m mobyfs.Migration) string {
	parts := []string{"how long it paused is not known"}
	if m.Pause > 0 {
		parts[0] = fmt.Sprintf("paused for %v", m.Pause.Round(time.Millisecond))
	}
	parts = append(parts, fmt.Sprintf("%d rounds", m.Progress.Round+1))
	if m.Freezes > 1 {
		parts = append(parts, fmt.Sprintf("frozen %d times", m.Freezes))
	}
	if m.Progress.Feed != "" {
		parts = append(parts, "changes told by "+m.Progress.Feed)
	}
	if len(m.Containers) > 0 {
		parts = append(parts, fmt.Sprintf("%s run on %s", strings.Join(m.Containers, ", "), m.To))
	}
	return strings.Join(parts, ", ")
}

// howFar says in a few words how far a migration is.
func howFar(m mobyfs.Migration) string {
	p := m.Progress
	if !m.Live {
		return progress(p)
	}
	step := m.RoundText()
	switch {
	case m.State == mobyfs.MigrationFreezing:
		step = "frozen"
	case p.Asks:
		step = "asks what to do: give --on-busy freeze or --max-pause; " + m.RoundText()
	case p.Files == 0 && p.Bytes == 0 && p.Round == 0:
		step = "preparing"
	}
	text := step + ": " + progress(p)
	if p.Rate > 0 {
		text += fmt.Sprintf(", %s/s come", humanize.IBytes(uint64(p.Rate)))
	}
	if p.DirtyRate > 0 {
		text += fmt.Sprintf(", %s/s change", humanize.IBytes(uint64(p.DirtyRate)))
	}
	if p.PredictedPause > 0 {
		text += fmt.Sprintf(", pause of %v", p.PredictedPause.Round(time.Millisecond))
	}
	return text
}

// shownOptions puts options of a live move into words.
func shownOptions(o mobyfs.MoveOptions) string {
	parts := []string{fmt.Sprintf("after %d rounds: %s", o.Rounds(), cmp.Or(o.OnBusy, "ask"))}
	if o.WithContainers {
		parts = append(parts, "with containers")
	}
	if o.BytesPerSecond > 0 {
		parts = append(parts, humanize.IBytes(uint64(o.BytesPerSecond))+"/s at most")
	}
	if o.Consistency != mobyfs.ConsistencyCrash {
		parts = append(parts, string(o.Consistency))
	}
	return strings.Join(parts, ", ")
}
