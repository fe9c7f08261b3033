package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/provision"
	"github.com/mobyfs/mobyfs/provision/cloud"
	"github.com/mobyfs/mobyfs/provision/cloud/sandbox"
	"github.com/mobyfs/mobyfs/provision/cloud/static"
	"github.com/mobyfs/mobyfs/provision/host"
	"github.com/mobyfs/mobyfs/provision/step"
)

// fleetFlags are what bootstrap, plan and reset have in common.
type fleetFlags struct {
	app           *app
	file          string
	binaries      string
	parallel      int
	sudoPassword  bool
	acceptNewKeys bool
}

func (f *fleetFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&f.file, "file", "f", "cluster.yaml", "the description of the cluster")
	cmd.Flags().StringVar(&f.binaries, "binaries", "", "directory of the programs that hosts get (default: that of mobyctl)")
	cmd.Flags().IntVar(&f.parallel, "parallel", 32, "hosts to work on at once")
	cmd.Flags().BoolVar(&f.sudoPassword, "sudo-password", false, "ask for the password that sudo wants on the hosts")
	cmd.Flags().BoolVar(&f.acceptNewKeys, "accept-new-hostkeys", false, "trust the keys of hosts that are not known yet, and remember them")
}

// installer reads cluster.yaml and gets everything ready that it takes to speak to the hosts.
func (f *fleetFlags) installer(ctx context.Context, command string) (*provision.Installer, error) {
	config, err := provision.LoadConfig(f.file)
	if wrong := (*provision.ConfigError)(nil); errors.As(err, &wrong) {
		return nil, mobyfs.Errorf(mobyfs.CodeInvalid, "%w", wrong)
	}
	if err != nil {
		return nil, err
	}
	if f.acceptNewKeys && config.SSH.HostKeys == host.HostKeysAsk {
		config.SSH.HostKeys = host.HostKeysAcceptNew
	}
	specs, err := providerOf(config).Hosts(ctx)
	if err != nil {
		return nil, err
	}
	fleet, err := provision.NewFleet(config, specs)
	if err != nil {
		return nil, err
	}
	dialer, err := host.NewDialer()
	if err != nil {
		return nil, err
	}
	if f.sudoPassword || fleet.PasswordNeeded {
		dialer.Password = f.app.askPassword
	}
	if f.binaries == "" {
		self, err := os.Executable()
		if err != nil {
			return nil, err
		}
		f.binaries = filepath.Dir(self)
	}
	operator, err := operatorFiles(fleet.Cluster)
	if err != nil {
		return nil, err
	}
	in := &provision.Installer{
		Fleet: fleet, Dialer: dialer, Programs: &provision.Programs{Dir: f.binaries}, Parallel: f.parallel,
		Operator: operator, OperatorName: operatorName(userName()), By: by(command), Say: f.app.event,
	}
	if f.app.interactive() {
		in.Trust = f.app.trust
	}
	return in, nil
}

// providerOf finds the hosts that cluster.yaml means.
func providerOf(c *provision.Config) cloud.Provider {
	if len(c.Hosts) == 0 {
		return sandbox.Provider{Fleet: c.Sandbox.Name}
	}
	return static.Hosts(c.Specs())
}

func userName() string {
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return "operator"
}

// operatorName makes a user's name one that may stand in a certificate.
func operatorName(user string) string {
	name := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' {
			return r
		}
		return '-'
	}, strings.ToLower(user))
	if name = strings.Trim(name, "-"); mobyfs.CheckNodeName(name) != nil {
		return "operator"
	}
	return name
}

// interactive reports whether somebody can be asked.
func (a *app) interactive() bool {
	in, ok := a.stdin.(*os.File)
	return ok && term.IsTerminal(int(in.Fd()))
}

// confirm asks before hosts are changed.
func (a *app) confirm(yes bool, question string) error {
	if yes {
		return nil
	}
	if !a.interactive() {
		return mobyfs.Errorf(mobyfs.CodeInvalid, "nothing was changed: there is no terminal to ask at").WithHint("add --yes to go ahead without asking")
	}
	ok, err := a.ask(question)
	if err == nil && !ok {
		err = errors.New("nothing was changed")
	}
	return err
}

func (a *app) ask(question string) (bool, error) {
	fmt.Fprintf(a.stderr, "%s [y/N] ", question)
	answer, err := bufio.NewReader(a.stdin).ReadString('\n')
	if err != nil && answer == "" {
		return false, err
	}
	answer = strings.ToLower(strings.TrimSpace(answer))
	return answer == "y" || answer == "yes", nil
}

// trust shows host keys that are not known, all at once.
func (a *app) trust(_ context.Context, keys []*host.UnknownKey) (bool, error) {
	fmt.Fprintf(a.stderr, "These host keys are not known yet:\n")
	for _, k := range keys {
		fmt.Fprintf(a.stderr, "  %-20s %s  %s\n", k.Host, k.Fingerprint, k.Type)
	}
	if len(keys) == 1 {
		return a.ask("Trust this key?")
	}
	return a.ask(fmt.Sprintf("Trust these %d keys?", len(keys)))
}

// askPassword asks at the terminal without showing what is typed; without a terminal it takes the first line of stdin.
func (a *app) askPassword(_ context.Context, user, name string) (string, error) {
	if in, ok := a.stdin.(*os.File); ok && a.interactive() {
		fmt.Fprintf(a.stderr, "sudo password for %s (tried on %s first): ", user, name)
		password, err := term.ReadPassword(int(in.Fd()))
		fmt.Fprintln(a.stderr)
		return string(password), err
	}
	line, err := bufio.NewReader(a.stdin).ReadString('\n')
	if err != nil && line == "" {
		return "", mobyfs.Errorf(mobyfs.CodeInvalid, "no sudo password: stdin is empty and no terminal").WithHint("give it as the first line of stdin")
	}
	return strings.TrimRight(line, "\r\n"), nil
}

// progress prints what is not a result, unless programs read along.
func (a *app) progress(text func(w io.Writer)) {
	if a.output != "json" {
		text(a.stderr)
	}
}

// event shows what goes on on a host: a line of JSON for programs, the milestones for people.
func (a *app) event(e step.Event) {
	if a.output == "json" {
		_ = json.NewEncoder(a.stderr).Encode(e)
		return
	}
	took := time.Duration(e.TookMS) * time.Millisecond
	switch {
	case e.State == step.StateDone:
		fmt.Fprintf(a.stderr, "  %-16s ✔ done      %s\n", e.Host, seconds(took))
	case e.State == step.StateFailed:
		fmt.Fprintf(a.stderr, "  %-16s ✖ %s\n", e.Host, e.Step)
	case e.State == step.StateWaiting:
		fmt.Fprintf(a.stderr, "  %-16s ● %s\n", e.Host, e.Text)
	case e.Step == "upload" && e.State == step.StateChanged:
		fmt.Fprintf(a.stderr, "  %-16s ● uploaded  %s in %s\n", e.Host, humanize.IBytes(uint64(e.Bytes)), seconds(took))
	case e.Step == "upload" && took == 0 && e.Bytes > 0 && e.Total > 64<<20:
		fmt.Fprintf(a.stderr, "  %-16s ● uploading %s of %s\n", e.Host, humanize.IBytes(uint64(e.Bytes)), humanize.IBytes(uint64(e.Total)))
	}
}

// problems prints each problem as people read it; with -o json as one line each.
func (a *app) problems(problems []*host.Problem) {
	for _, p := range problems {
		if a.output == "json" {
			_ = json.NewEncoder(a.stderr).Encode(p)
			continue
		}
		fmt.Fprint(a.stderr, p.Report())
	}
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }

func hostCount(n int) string {
	if n == 1 {
		return "1 host"
	}
	return fmt.Sprintf("%d hosts", n)
}
