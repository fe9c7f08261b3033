package host

import (
	"fmt"
	"strings"
)

// Kind is a thing that can be wrong with a host. Its code is stable: S is about SSH and sudo, P is found by the
// checks before anything is changed, A happens while changes are made.
type Kind struct {
	Code  string
	Title string // the cause in a few words
	Fix   string // the way out where a problem tells none of its own
}

// All kinds of problems, in the order of their codes.
var (
	Unreachable    = Kind{"MFS-S001", "unreachable", "check the address, the network and that sshd runs there"}
	AuthRefused    = Kind{"MFS-S002", "login refused", "add one of the keys to ~/.ssh/authorized_keys there, or name another in identityFile"}
	HostKeyChanged = Kind{"MFS-S003", "HOST KEY CHANGED, not connecting", "if the host was installed anew, remove the old key from known_hosts; otherwise someone may be in between"}
	HostKeyUnknown = Kind{"MFS-S004", "host key not known", "connect once with ssh, or pin the key by hostKey in cluster.yaml"}
	HostKeyPin     = Kind{"MFS-S005", "host key is not the pinned one, not connecting", "if the host was installed anew, put its new fingerprint into hostKey; otherwise someone may be in between"}
	Busy           = Kind{"MFS-S006", "sshd is refusing us for a while", "wait half a minute and run the same command again"}
	KeyUnusable    = Kind{"MFS-S007", "private key can't be used", "check the file that identityFile names"}
	Lost           = Kind{"MFS-S008", "connection lost", "run the same command again; it goes on where this one stopped"}
	SSHConfig      = Kind{"MFS-S009", "SSH configuration can't be read", "run ssh -G with the host to see what is wrong"}
	NoShell        = Kind{"MFS-S010", "no command can be run", "give the user a shell such as /bin/sh"}
	NotRoot        = Kind{"MFS-S011", "not root, and sudo is not allowed", "log in as root, or set ssh.sudo to auto in cluster.yaml"}
	SudoRefused    = Kind{"MFS-S012", "sudo refused", "allow the user sudo without a password, or use --sudo-password"}
	SudoPassword   = Kind{"MFS-S013", "sudo refused the password", "run the command again with the right password"}

	NoSystemd    = Kind{"MFS-P001", "no systemd", "mobyfs needs a host that was booted with systemd"}
	WrongOS      = Kind{"MFS-P002", "not Linux", "mobyfs runs on Linux"}
	WrongArch    = Kind{"MFS-P003", "wrong architecture", "build mobyfs for that architecture and name its folder with --binaries"}
	NoDocker     = Kind{"MFS-P010", "no Docker", "install Docker Engine (Debian, Ubuntu: apt-get install docker.io)"}
	DockerDown   = Kind{"MFS-P011", "Docker is not running", "systemctl enable --now docker"}
	DockerOld    = Kind{"MFS-P012", "Docker is too old", "upgrade Docker Engine"}
	NoSpace      = Kind{"MFS-P020", "disk full", "free space there"}
	NoExec       = Kind{"MFS-P021", "programs can't be run from the file system", "mount it without noexec"}
	ReadOnly     = Kind{"MFS-P022", "file system is read-only", "mount it read-write"}
	PortTaken    = Kind{"MFS-P030", "port is taken", "stop what uses it, or set another port under ports in cluster.yaml"}
	OtherCluster = Kind{"MFS-P040", "host belongs to another cluster", "take it out of that cluster first, with mobyctl reset"}
	OtherNode    = Kind{"MFS-P041", "host is a node under another name", "use its old name, or take it out of the cluster first with mobyctl reset"}
	OtherControl = Kind{"MFS-P042", "control plane runs elsewhere", "name the hosts that have it under control"}
	NotOurs      = Kind{"MFS-P043", "file is there that bootstrap did not put there", "move it away"}
	SameMachine  = Kind{"MFS-P044", "two entries are the same machine", "remove one of the two from cluster.yaml"}
	ControlLost  = Kind{"MFS-P045", "state of the control plane is gone", "bring it back from a backup"}
	ClockWrong   = Kind{"MFS-P050", "clock is wrong", "set the clock; timedatectl set-ntp true keeps it right"}
	Facts        = Kind{"MFS-P060", "host could not be looked at", "run the same command again; the text tells what went wrong there"}
	NotInstalled = Kind{"MFS-P061", "mobyfs is not installed", "run mobyctl bootstrap"}
	HasVolumes   = Kind{"MFS-P070", "volumes are on the host", "move them away with mobyctl volume move, or remove their bytes too with --purge-data"}
	VolumesInUse = Kind{"MFS-P071", "containers use volumes on the host", "stop those containers first"}
	ControlLast  = Kind{"MFS-P072", "other hosts need the control plane on this one", "reset those hosts first or together with this one"}

	Upload      = Kind{"MFS-A001", "program did not arrive", "run the same command again"}
	StepFailed  = Kind{"MFS-A002", "step failed", "mend what the text tells, then run the same command again"}
	Locked      = Kind{"MFS-A003", "someone else is at work on the host", "wait until they are done, then run the same command again"}
	NotSigned   = Kind{"MFS-A004", "certificate was not signed", "check the control host, then run the same command again"}
	Members     = Kind{"MFS-A007", "members of the store could not be changed", "mobyfs-control member ls there tells which of them answer; mend those, then run the same command again"}
	ControlDown = Kind{"MFS-A005", "control host is not ready, so nothing was changed here", "mend the control host, then run the same command again"}
	Stopped     = Kind{"MFS-A006", "stopped on request", "run the same command again to go on"}
	NotReady    = Kind{"MFS-A010", "node did not become ready", "look at journalctl -u mobyfs there, and whether it reaches the control plane's port"}
	Undescribed = Kind{"MFS-A012", "control was not told what the node is like", "look at mobyctl status, then run mobyctl bootstrap again"}
	ProofFailed = Kind{"MFS-A011", "proof failed", "look at mobyctl status, then run mobyctl bootstrap again"}
)

// Problem is what is wrong with one host: one sentence, what was tried, and the way out.
type Problem struct {
	Code   string   `json:"code"`
	Host   string   `json:"host"`
	Title  string   `json:"title"`
	Text   string   `json:"text"`             // the cause in this very case
	Detail []string `json:"detail,omitempty"` // what was tried and what the host said, word for word
	Fix    string   `json:"fix"`
	Err    error    `json:"-"`
}

// Problem makes a problem of the kind.
func (k Kind) Problem(host, format string, args ...any) *Problem {
	err := fmt.Errorf(format, args...)
	return &Problem{Code: k.Code, Host: host, Title: k.Title, Text: err.Error(), Fix: k.Fix, Err: err}
}

// WithFix tells a way out for this very case.
func (p *Problem) WithFix(format string, args ...any) *Problem {
	p.Fix = fmt.Sprintf(format, args...)
	return p
}

// WithDetail adds lines that were said word for word. Empty ones are left out.
func (p *Problem) WithDetail(lines ...string) *Problem {
	for _, text := range lines {
		for line := range strings.Lines(text) {
			if line = strings.TrimRight(line, " \r\n"); line != "" {
				p.Detail = append(p.Detail, line)
			}
		}
	}
	return p
}

// Of reports whether the problem is of the kind.
func (p *Problem) Of(k Kind) bool { return p.Code == k.Code }

func (p *Problem) Error() string { return fmt.Sprintf("%s: %s: %s", p.Host, p.Title, p.Text) }

func (p *Problem) Unwrap() error { return p.Err }

// Report is the problem as people read it: the cause, what was said, the fix.
func (p *Problem) Report() string {
	var b strings.Builder
	fmt.Fprintf(&b, "✖ %s  %s  %s\n    %s\n", p.Host, p.Code, p.Title, p.Text)
	for _, line := range p.Detail {
		fmt.Fprintf(&b, "      │ %s\n", line)
	}
	fmt.Fprintf(&b, "    fix: %s\n", p.Fix)
	return b.String()
}
