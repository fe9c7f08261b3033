package main

import (
	"context"
	"fmt"
	"io"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/api"
)

func newVolumeResizeCommand(a *app) *cobra.Command {
	var wait bool
	cmd := &cobra.Command{
		Use:   "resize NAME SIZE",
		Short: "Change the space that a volume may count on; 0 promises none",
		Long: `Change the space that a volume may count on: 10G or 10GiB (powers of 1024), 10GB (powers of 1000), or bytes. More
of it is promised only where its node has the room, beside what others were promised; less never goes below what it uses.
Containers may use the volume meanwhile.`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			var bytes int64
			if args[1] != "0" {
				var err error
				if bytes, err = mobyfs.ParseSize(args[1]); err != nil {
					return err
				}
			}
			if wait {
				return a.resizeWhenThereIsRoom(cmd.Context(), args[0], bytes)
			}
			return a.change(cmd.Context(), args[0], api.VolumePatch{SizeBytes: &bytes}, func(w io.Writer, v mobyfs.Volume) {
				if v.Spec.SizeBytes == 0 {
					fmt.Fprintf(w, "%s is promised no space\n", v.Name)
					return
				}
				fmt.Fprintf(w, "%s may count on %s\n", v.Name, humanize.IBytes(uint64(v.Spec.SizeBytes)))
			})
		},
	}
	cmd.Flags().BoolVar(&wait, "wait", false, "wait for room where there is none; the command may be ended, the wait goes on")
	return cmd
}

func (a *app) resizeWhenThereIsRoom(ctx context.Context, name string, bytes int64) error {
	if err := mobyfs.CheckVolumeName(name); err != nil {
		return err
	}
	c, err := a.client()
	if err != nil {
		return err
	}
	o, err := c.ResizeVolume(ctx, name, bytes)
	if err != nil {
		return err
	}
	return a.followOperation(ctx, c, o, 0)
}

func newVolumeSetCommand(a *app) *cobra.Command {
	var takeover string
	var labels map[string]string
	var without []string
	cmd := &cobra.Command{
		Use:   "set NAME",
		Short: "Change the labels of a volume, and who may take it over",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			patch := api.VolumePatch{Labels: map[string]*string{}}
			for key, value := range labels {
				patch.Labels[key] = &value
			}
			for _, key := range without {
				patch.Labels[key] = nil
			}
			if takeover != "" {
				patch.Takeover = (*mobyfs.Takeover)(&takeover)
			}
			if len(patch.Labels) == 0 && patch.Takeover == nil {
				return mobyfs.Errorf(mobyfs.CodeInvalid, "what is to be changed of %s was not said", args[0]).
					WithHint("give --label KEY=VALUE, --unlabel KEY or --takeover")
			}
			return a.change(cmd.Context(), args[0], patch, func(w io.Writer, v mobyfs.Volume) { fmt.Fprintln(w, v.Name, "changed") })
		},
	}
	cmd.Flags().StringToStringVar(&labels, "label", nil, "label to give it, key=value")
	cmd.Flags().StringSliceVar(&without, "unlabel", nil, "label to take away")
	cmd.Flags().StringVar(&takeover, "takeover", "", "who may take it from a node that is silent: never, manual or auto; to or from auto only while nobody uses it")
	return cmd
}

// change makes one change of a volume and prints what it is then.
func (a *app) change(ctx context.Context, name string, patch api.VolumePatch, text func(io.Writer, mobyfs.Volume)) error {
	if err := mobyfs.CheckVolumeName(name); err != nil {
		return err
	}
	c, err := a.client()
	if err != nil {
		return err
	}
	v, err := c.PatchVolume(ctx, name, patch)
	if err != nil {
		return err
	}
	return a.print(v, func(w io.Writer) { text(w, v) })
}
