package sandbox

import "strings"

// SSH is the command line, beginning with ssh, that logs in on a host. The host's key must be the known one. With one
// word of command it is a line for the host's shell; several arrive there as the arguments that they are.
func (f Fleet) SSH(host string, command ...string) ([]string, error) {
	h, err := f.host(host)
	if err != nil {
		return nil, err
	}
	args := []string{
		"ssh", "-i", f.Key, "-o", "IdentitiesOnly=yes", "-o", "UserKnownHostsFile=" + f.KnownHosts,
		"-o", "StrictHostKeyChecking=yes", f.User + "@" + h.Address,
	}
	if len(command) == 1 {
		return append(args, command[0]), nil
	}
	for _, word := range command {
		args = append(args, quote(word))
	}
	return args, nil
}

// quote makes one word of s for any shell. sshd joins what it gets with spaces and hands it to the user's.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
