package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
)

// settings is what holds for a host once the user's SSH configuration is taken into account.
type settings struct {
	user           string
	host           string // dialled
	port           int
	alias          string // stands for the host in known_hosts, if set
	identities     []string
	identitiesOnly bool
	known          []string // known_hosts files; new keys go to the first
	agent          string   // socket
	proxy          []string // a program and its arguments whose stdin and stdout are the connection; nil dials TCP
}

// settings asks ssh itself, where there is one: nothing else reads Match, Include and canonical names right.
func (d *Dialer) settings(ctx context.Context, t Target) (settings, error) {
	s, err := d.defaults(t)
	if err != nil {
		return s, err
	}
	program := d.SSH
	if program == "" {
		if program, err = exec.LookPath("ssh"); err != nil {
			return s, nil
		}
	}
	args := d.configArgs()
	args = append(args, "-G")
	if t.User != "" {
		args = append(args, "-l", t.User)
	}
	if t.Port != 0 {
		args = append(args, "-p", strconv.Itoa(t.Port))
	}
	args = append(args, "--", t.Address)
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil && ctx.Err() != nil {
		return s, context.Cause(ctx)
	}
	if err != nil {
		return s, SSHConfig.Problem(t.Name, "ssh -G %s: %w", t.Address, err).WithDetail(stderr.String())
	}
	s.apply(string(out), d, program)
	if t.IdentityFile != "" {
		s.identities, s.identitiesOnly = []string{expand(t.IdentityFile, d.Home)}, true
	}
	if d.KnownHosts != nil {
		s.known = d.KnownHosts
	}
	if t.KnownHosts != "" {
		s.known = []string{expand(t.KnownHosts, d.Home)}
	}
	return s, nil
}

func (d *Dialer) configArgs() []string {
	if d.ConfigFile == "" {
		return nil
	}
	return []string{"-F", d.ConfigFile}
}

// defaults is what holds without any SSH configuration.
func (d *Dialer) defaults(t Target) (settings, error) {
	s := settings{user: t.User, host: t.Address, port: t.Port, agent: os.Getenv("SSH_AUTH_SOCK")}
	if s.port == 0 {
		s.port = 22
	}
	if s.user == "" {
		me, err := user.Current()
		if err != nil {
			return s, SSHConfig.Problem(t.Name, "find the user's name: %w", err)
		}
		s.user = me.Username
	}
	if t.IdentityFile != "" {
		s.identities, s.identitiesOnly = []string{expand(t.IdentityFile, d.Home)}, true
	} else {
		for _, name := range []string{"id_ed25519", "id_ecdsa", "id_rsa"} {
			s.identities = append(s.identities, filepath.Join(d.Home, ".ssh", name))
		}
	}
	s.known = d.KnownHosts
	if s.known == nil {
		s.known = []string{filepath.Join(d.Home, ".ssh", "known_hosts"), "/etc/ssh/ssh_known_hosts"}
	}
	if t.KnownHosts != "" {
		s.known = []string{expand(t.KnownHosts, d.Home)}
	}
	return s, nil
}

// apply takes over what ssh -G has printed: lines of a lower-case key and a value.
func (s *settings) apply(out string, d *Dialer, program string) {
	var jump, command string
	var identities, known, global []string
	for line := range strings.Lines(out) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch key {
		case "user":
			s.user = value
		case "hostname":
			s.host = value
		case "port":
			if port, err := strconv.Atoi(value); err == nil {
				s.port = port
			}
		case "hostkeyalias":
			s.alias = value
		case "identityfile":
			identities = append(identities, expand(value, d.Home))
		case "identitiesonly":
			s.identitiesOnly = value == "yes"
		case "identityagent":
			s.agent = agentSocket(value, s.agent, d.Home)
		case "userknownhostsfile":
			known = expandAll(value, d.Home)
		case "globalknownhostsfile":
			global = expandAll(value, d.Home)
		case "proxyjump":
			jump = value
		case "proxycommand":
			command = value
		}
	}
	if identities != nil {
		s.identities = identities
	}
	if all := append(known, global...); all != nil {
		s.known = all
	}
	target := fmt.Sprintf("[%s]:%d", s.host, s.port)
	switch {
	case command != "" && command != "none":
		text := strings.NewReplacer("%%", "%", "%h", s.host, "%p", strconv.Itoa(s.port), "%r", s.user, "%n", s.host).Replace(command)
		s.proxy = []string{"/bin/sh", "-c", "exec " + text}
	case jump != "" && jump != "none":
		hops := strings.Split(jump, ",")
		s.proxy = append([]string{program, "-o", "BatchMode=yes"}, d.configArgs()...)
		if before := hops[:len(hops)-1]; len(before) > 0 {
			s.proxy = append(s.proxy, "-J", strings.Join(before, ","))
		}
		s.proxy = append(s.proxy, "-W", target, "--", hops[len(hops)-1])
	}
}

func agentSocket(value, inherited, home string) string {
	switch {
	case value == "none":
		return ""
	case value == "SSH_AUTH_SOCK":
		return inherited
	case strings.HasPrefix(value, "$"):
		return os.Getenv(strings.Trim(value, "${}"))
	default:
		return expand(value, home)
	}
}

func expandAll(list, home string) []string {
	var all []string
	for _, path := range strings.Fields(list) {
		if path != "none" {
			all = append(all, expand(path, home))
		}
	}
	return all
}

// expand resolves the ~ and %d that ssh -G leaves in paths.
func expand(path, home string) string {
	if rest, ok := strings.CutPrefix(path, "~/"); ok {
		return filepath.Join(home, rest)
	}
	return strings.ReplaceAll(path, "%d", home)
}

var errNoShape = errors.New("a fingerprint looks like SHA256:… with 43 characters")

// CheckFingerprint tells what is wrong with a pinned host key, or nil.
func CheckFingerprint(text string) error {
	if sum, ok := strings.CutPrefix(text, "SHA256:"); !ok || len(sum) != 43 || strings.ContainsAny(sum, " =\t") {
		return errNoShape
	}
	return nil
}
