package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/provision"
	"github.com/mobyfs/mobyfs/templates"
)

func newInitCommand(a *app) *cobra.Command {
	var file, fleet, cluster string
	cmd := &cobra.Command{
		Use:   "init [user@]host[:port] …",
		Short: "Write a commented cluster.yaml",
		Long: "init writes a cluster.yaml that lists the hosts given, or takes them from a sandbox, with a comment for\n" +
			"every key. A file that exists is not overwritten.",
		Example: "  mobyctl init root@10.0.1.11 root@10.0.1.12\n  mobyctl init --sandbox demo",
		RunE: func(cmd *cobra.Command, args []string) error {
			sample, err := sampleOf(cluster, fleet, args)
			if err != nil {
				return err
			}
			text, err := sample.File()
			if err != nil {
				return err
			}
			if _, err := provision.ParseConfig(file, []byte(text)); err != nil {
				return err
			}
			if err := writeNew(file, text); err != nil {
				return err
			}
			return a.print(map[string]string{"file": file}, func(w io.Writer) {
				fmt.Fprintf(w, "%s written: look through it, then run mobyctl bootstrap -f %s\n", file, file)
			})
		},
	}
	cmd.Flags().StringVarP(&file, "output", "o", "cluster.yaml", "the file to write")
	cmd.Flags().StringVar(&fleet, "sandbox", "", "take the hosts from this sandbox")
	cmd.Flags().StringVar(&cluster, "name", "", "the cluster's name (default: the sandbox's, or mobyfs)")
	return cmd
}

// sampleOf makes names for hosts that are given by address only.
func sampleOf(cluster, sandbox string, args []string) (templates.Cluster, error) {
	c := templates.Cluster{Cluster: cluster, Sandbox: sandbox, First: "vol-1"}
	if c.Cluster == "" {
		c.Cluster = "mobyfs"
		if sandbox != "" {
			c.Cluster = sandbox
		}
	}
	switch {
	case sandbox != "" && len(args) > 0:
		return c, mobyfs.Errorf(mobyfs.CodeInvalid, "hosts come from a sandbox or from the command line, not from both")
	case sandbox == "" && len(args) == 0:
		return c, mobyfs.Errorf(mobyfs.CodeInvalid, "which hosts?").WithHint("mobyctl init root@10.0.1.11 root@10.0.1.12, or mobyctl init --sandbox NAME")
	}
	taken := map[string]bool{}
	for i, arg := range args {
		h := templates.Host{Address: arg}
		if user, rest, ok := strings.Cut(arg, "@"); ok {
			h.User, h.Address = user, rest
		}
		if address, port, err := net.SplitHostPort(h.Address); err == nil {
			if h.Port, err = strconv.Atoi(port); err != nil {
				return c, mobyfs.Errorf(mobyfs.CodeInvalid, "%q has no number for its port", arg)
			}
			h.Address = address
		}
		h.Name = nodeNameFor(h.Address, i, taken)
		c.Hosts = append(c.Hosts, h)
	}
	if len(c.Hosts) > 0 {
		c.First = c.Hosts[0].Name
	}
	return c, nil
}

// nodeNameFor takes the first label of a host name, or counts.
func nodeNameFor(address string, i int, taken map[string]bool) string {
	label, _, _ := strings.Cut(strings.ToLower(address), ".")
	if net.ParseIP(address) != nil || mobyfs.CheckNodeName(label) != nil || taken[label] {
		label = fmt.Sprintf("vol-%d", i+1)
	}
	taken[label] = true
	return label
}

// writeNew writes a file that must not exist yet.
func writeNew(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return mobyfs.Errorf(mobyfs.CodeExists, "%s exists already", path).WithHint("edit it, or choose another name with -o")
	}
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}
