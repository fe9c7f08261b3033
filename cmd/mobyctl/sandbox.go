package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/provision/cloud/sandbox"
)

func newSandboxCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "sandbox",
		Short: "Make and remove fleets of hosts in containers on this machine",
		Long: "A sandbox is a fleet of hosts made out of containers on this machine, to try mobyfs without servers.\n" +
			"Each host runs systemd, sshd and a Docker of its own, and takes about 110 MB of memory.",
	}
	cmd.AddCommand(newSandboxUpCommand(a), newSandboxDownCommand(a), newSandboxLsCommand(a), newSandboxSSHCommand(a))
	return cmd
}

func newSandboxUpCommand(a *app) *cobra.Command {
	var o sandbox.Options
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Make a fleet, or bring back and add what is missing of it",
		Example: "  mobyctl sandbox up\n" +
			"  mobyctl sandbox up --name demo --hosts 3 --distros bookworm,bookworm,trixie",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Changed("hosts") && o.Hosts < 1 {
				return mobyfs.Errorf(mobyfs.CodeInvalid, "a fleet can't have %d hosts", o.Hosts).WithHint("ask for 1 or more")
			}
			o.Log = func(line string) { fmt.Fprintln(a.stderr, line) }
			f, err := sandbox.Up(cmd.Context(), o)
			if err != nil {
				return err
			}
			return a.print(f, func(w io.Writer) { printRaised(w, f) })
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&o.Name, "name", sandbox.DefaultName, "the name of the fleet")
	flags.IntVar(&o.Hosts, "hosts", 0, "how many hosts it is to have (default 3, or as many as it has)")
	flags.StringSliceVar(&o.Distros, "distros", nil, "of new hosts, in turn: bookworm, trixie (default both)")
	flags.StringVar(&o.Image, "image", "", "an image of your own for new hosts, with systemd and sshd")
	flags.StringVar(&o.Subnet, "subnet", "", "of the hosts (default 10.77.0.0/24, or the next 10.77.x.0/24 that is free)")
	flags.BoolVar(&o.Light, "light", false, "new hosts run no Docker")
	flags.StringVar(&o.Mirror, "mirror", "", "where Debian's packages come from when an image is made (default: as this machine's apt)")
	flags.BoolVar(&o.Keep, "keep", false, "after a failure, leave what was made for a look")
	return cmd
}

// printRaised tells how to reach the hosts and what to do with them.
func printRaised(w io.Writer, f sandbox.Fleet) {
	fmt.Fprintf(w, "Fleet %s is up, %d hosts on %s:\n", f.Name, len(f.Hosts), f.Subnet)
	printHosts(w, f)
	fmt.Fprintf(w, "\nLog in on one:     mobyctl sandbox ssh --name %s %s\n", f.Name, f.Hosts[0].Name)
	fmt.Fprintf(w, "or with plain ssh: ssh -i %s -o UserKnownHostsFile=%s %s@%s\n", f.Key, f.KnownHosts, f.User, f.Hosts[0].Address)
	fmt.Fprintf(w, "Make a cluster:    mobyctl init --sandbox %s && mobyctl bootstrap\n", f.Name)
	fmt.Fprintf(w, "Take it all away:  mobyctl sandbox down --name %s\n", f.Name)
}

func printHosts(w io.Writer, f sandbox.Fleet) {
	tw := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	for _, h := range f.Hosts {
		fmt.Fprintf(tw, "  %s\t%s\t%s\t%s\n", h.Name, h.Address, hostImage(h), h.Container)
	}
	_ = tw.Flush()
}

// hostImage tells what a host runs in a word.
func hostImage(h sandbox.Host) string {
	word := h.Distro
	if word == "" {
		word = h.Image
	}
	if h.Light {
		word += ", no Docker"
	}
	return word
}

func newSandboxDownCommand(a *app) *cobra.Command {
	var name string
	var all, images bool
	cmd := &cobra.Command{
		Use:   "down",
		Short: "Remove a fleet with everything on its hosts",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			removed, err := takeDown(cmd.Context(), a, name, all)
			if err != nil {
				return err
			}
			if images {
				gone, err := sandbox.RemoveImages(cmd.Context())
				if err != nil {
					return err
				}
				removed.Images = append(removed.Images, gone...)
			}
			return a.print(removed, func(w io.Writer) { printRemoved(w, removed) })
		},
	}
	cmd.Flags().StringVar(&name, "name", sandbox.DefaultName, "the name of the fleet")
	cmd.Flags().BoolVar(&all, "all", false, "remove every fleet that this user made")
	cmd.Flags().BoolVar(&images, "images", false, "remove the images that were made for hosts too, unless another fleet uses them")
	cmd.MarkFlagsMutuallyExclusive("name", "all")
	return cmd
}

// takeDown removes one fleet or all, and says which it leaves.
func takeDown(ctx context.Context, a *app, name string, all bool) (removed, error) {
	r := removed{Fleets: []string{}, Images: []string{}}
	if !all {
		r.Fleets = append(r.Fleets, name)
		return r, sandbox.Down(ctx, name)
	}
	gone, others, err := sandbox.DownAll(ctx)
	for _, o := range others {
		fmt.Fprintf(a.stderr, "fleet %s was not made by this user and stays (mobyctl sandbox down --name %s removes it)\n", o, o)
	}
	r.Fleets = append(r.Fleets, gone...)
	return r, err
}

// removed is what sandbox down did away with, or found gone.
type removed struct {
	Fleets []string `json:"fleets"`
	Images []string `json:"images"`
}

func printRemoved(w io.Writer, r removed) {
	for _, f := range r.Fleets {
		fmt.Fprintf(w, "fleet %s is gone\n", f)
	}
	for _, i := range r.Images {
		fmt.Fprintf(w, "image %s is gone\n", i)
	}
	if len(r.Fleets)+len(r.Images) == 0 {
		fmt.Fprintln(w, "there was nothing to remove")
	}
}

func newSandboxLsCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "ls",
		Short: "List the fleets and their hosts",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			fleets, err := sandbox.List(cmd.Context())
			if err != nil {
				return err
			}
			if fleets == nil {
				fleets = []sandbox.Fleet{}
			}
			return a.print(fleets, func(w io.Writer) { printFleets(w, fleets) })
		},
	}
}

func printFleets(w io.Writer, fleets []sandbox.Fleet) {
	tw := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	fmt.Fprintln(tw, "FLEET\tHOST\tSTATE\tADDRESS\tIMAGE\tCONTAINER")
	for _, f := range fleets {
		for _, h := range f.Hosts {
			fmt.Fprintln(tw, strings.Join([]string{f.Name, h.Name, h.State, h.Address, hostImage(h), h.Container}, "\t"))
		}
	}
	_ = tw.Flush()
}

func newSandboxSSHCommand(a *app) *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:   "ssh HOST [-- COMMAND…]",
		Short: "Log in on a host, or run a command there",
		Long: "Runs ssh with the fleet's key and its known_hosts. One word of COMMAND is a line for the host's shell;\n" +
			"several arrive as the arguments that they are. The exit code is the command's.",
		Example: "  mobyctl sandbox ssh h2\n  mobyctl sandbox ssh h2 -- docker ps",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := sandbox.Load(cmd.Context(), name)
			if err != nil {
				return err
			}
			command := args[1:]
			if len(command) > 0 && command[0] == "--" {
				command = command[1:]
			}
			line, err := f.SSH(args[0], command...)
			if err != nil {
				return err
			}
			return a.passTo(exec.CommandContext(cmd.Context(), line[0], line[1:]...))
		},
	}
	cmd.Flags().SetInterspersed(false) // what comes after HOST is for the host
	cmd.Flags().StringVar(&name, "name", sandbox.DefaultName, "the name of the fleet")
	return cmd
}

// passTo runs a program in place of this one, and ends with its exit code.
func (a *app) passTo(cmd *exec.Cmd) error {
	cmd.Stdin, cmd.Stdout, cmd.Stderr = a.stdin, a.stdout, a.stderr
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit) && exit.ExitCode() >= 0:
		return &exitCode{code: exit.ExitCode()}
	case errors.Is(err, exec.ErrNotFound):
		return mobyfs.Errorf(mobyfs.CodeUnavailable, "the command %s is missing", cmd.Args[0]).
			WithHint("install it: sudo apt-get install -y openssh-client")
	}
	return err
}
