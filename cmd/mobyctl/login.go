package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/api"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// clockNote is from which difference of the clocks on a login tells it.
const clockNote = 2 * time.Second

// login is who somebody is from now on.
type login struct {
	Cluster string    `json:"cluster"`
	Role    string    `json:"role"`
	Name    string    `json:"name"`
	Until   time.Time `json:"until"`
}

func newLoginCommand(a *app) *cobra.Command {
	var control []string
	var file string
	cmd := &cobra.Command{
		Use:   "login NAME --control HOST:PORT",
		Short: "Join a cluster as a person, with a token from mobyctl operator add",
		Long: `Join a cluster as a person, with a token from mobyctl operator add. The token is read from a file or from stdin:
never from an argument, which others can see. It is sent only to the cluster that it names. The key is made here and
stays here. The certificate lasts 12 hours; each use of mobyctl renews it, up to a week after the last one. Run again,
also after it was killed, it ends the same.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkEndpoints(control); err != nil {
				return err
			}
			token, err := a.readToken(file)
			if err != nil {
				return err
			}
			l, err := a.login(cmd.Context(), args[0], control, token)
			if err != nil {
				return err
			}
			return a.print(l, func(w io.Writer) {
				fmt.Fprintf(w, "logged in to cluster %s as %s %s\n", l.Cluster, l.Role, l.Name)
			})
		},
	}
	cmd.Flags().StringSliceVar(&control, "control", nil, "addresses of the control plane, host:port with commas between")
	cmd.Flags().StringVar(&file, "token-file", "-", "file with the token, - for stdin")
	_ = cmd.MarkFlagRequired("control")
	return cmd
}

func checkEndpoints(control []string) error {
	for _, address := range control {
		if host, port, err := net.SplitHostPort(address); err != nil || host == "" || port == "" {
			return mobyfs.Errorf(mobyfs.CodeInvalid, "%q is no address of a control plane", address).WithHint("write it as h1:7946")
		}
	}
	return nil
}

// readToken reads the token from a file or stdin; at a terminal it asks, and shows nothing of what is typed.
func (a *app) readToken(file string) (string, error) {
	if terminal, ok := a.stdin.(*os.File); file == "-" && ok && a.interactive() {
		fmt.Fprint(a.stderr, "token: ")
		text, err := term.ReadPassword(int(terminal.Fd()))
		fmt.Fprintln(a.stderr)
		return string(text), err
	}
	return pki.ReadInvitation(file, a.stdin)
}

// login joins the cluster of a token and writes a context for it. It joins in a directory of the token, so that a join
// which was killed goes on with the same key, and so that the cluster which answers, whatever it says its name is, takes
// no other context's place.
func (a *app) login(ctx context.Context, name string, control []string, token string) (login, error) {
	invitation, err := pki.ParseInvitation(token)
	if err != nil {
		return login{}, mobyfs.Errorf(mobyfs.CodeInvalid, "%w", err).WithHint("mobyctl operator add makes another")
	}
	if invitation.Role == pki.RoleNode || mobyfs.CheckNodeName(invitation.ID) != nil {
		return login{}, mobyfs.Errorf(mobyfs.CodeInvalid, "the token is for a node, not for a person").
			WithHint("a node joins with: mobyfs join; for a person: mobyctl operator add")
	}
	root, err := contextRoot()
	if err != nil {
		return login{}, err
	}
	staging := filepath.Join(root, ".login-"+invitation.ID)
	if err := os.MkdirAll(staging, 0o700); err != nil {
		return login{}, err
	}
	files := pki.FilesIn(staging, "operator")
	apart, err := api.Join(ctx, control, token, name, files, time.Now)
	if err != nil {
		return login{}, err
	}
	if apart.Abs() > clockNote {
		fmt.Fprintf(a.stderr, "mobyctl: the clock here differs from control's by %v\n", apart.Round(time.Second))
	}
	who, until, err := files.Identity()
	if err != nil {
		return login{}, err
	}
	if err := adopt(who, files, control); err != nil {
		return login{}, err
	}
	return login{who.Cluster, who.Role, who.Name, until}, os.RemoveAll(staging)
}

// adopt makes who logged in the one that mobyctl is in that cluster. Killed before the context is written, it is done
// again from the same files.
func adopt(who pki.Identity, from pki.Files, control []string) error {
	if mobyfs.CheckNodeName(who.Cluster) != nil {
		return mobyfs.Errorf(mobyfs.CodeInvalid, "%.40q can't be the name of a cluster", who.Cluster)
	}
	dir, err := contextDir(who.Cluster)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := pki.FilesIn(dir, "operator").Adopt(from); err != nil {
		return err
	}
	return saveContext(clusterContext{Cluster: who.Cluster, Control: control})
}

// loginCommand is what a person types to log in.
func loginCommand(name string, control []string) string {
	return "mobyctl login " + name + " --control " + strings.Join(control, ",")
}
