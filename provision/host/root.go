package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
)

// become is how the user becomes root on a host. It is found out by the first command that needs root.
type become string

const (
	becomeUnknown  become = ""
	becomeNothing  become = "root"
	becomeSudo     become = "sudo"
	becomePassword become = "password"
)

// passwords keeps the sudo password of each user, once it was tried on a host.
type passwords struct {
	mu     sync.Mutex // held while a person is asked, so that one is asked once
	byUser map[string]string
}

// The words that a command of ours prints first, so that what a login shell's start files print before is known
// for what it is.
const marker = "mobyfs-runs-as-"

// Script runs a POSIX shell script as root, with arguments, and returns what it prints. The first one on a
// connection finds out how to become root and costs no command of its own where the user is root or sudo needs no
// password.
func (h *Host) Script(ctx context.Context, script string, args ...string) ([]byte, error) {
	shell := Command(append([]string{"sh", "-s", "--"}, args...)...)
	out := &after{}
	if h.become != becomeUnknown {
		err := h.Root(ctx, "sh -c "+quote("echo "+marker+string(h.become)+"; exec "+shell), strings.NewReader(script), out)
		if ctx.Err() != nil {
			return nil, err
		}
		return out.rest(), err
	}
	err := h.Exec(ctx, h.probe(shell), strings.NewReader(script), out)
	if ctx.Err() != nil {
		return nil, err
	}
	switch become(out.mark()) {
	case becomeNothing, becomeSudo:
		h.become = become(out.mark())
		return out.rest(), err
	case "user":
		return nil, NotRoot.Problem(h.Target.Name, "the user is %q, and cluster.yaml sets ssh.sudo to never", h.User)
	}
	var exit *ExitError
	if !errors.As(err, &exit) {
		if err == nil {
			err = errors.New("it ended without a word")
		}
		return nil, err
	}
	if noShell := strings.TrimSpace(out.noise() + exit.Stderr); !strings.Contains(noShell, "sudo") {
		return nil, NoShell.Problem(h.Target.Name, "the login of %q runs no command: status %d", h.User, exit.Status).WithDetail(noShell)
	}
	if err := h.askPassword(ctx, exit); err != nil {
		return nil, err
	}
	h.become = becomePassword
	return h.Script(ctx, script, args...)
}

// probe is a command that runs shell as root if root is reached without a password, and says how.
func (h *Host) probe(shell string) string {
	say := func(b become) string { return "echo " + marker + string(b) + "; exec " }
	other := "exec sudo -n sh -c " + quote(say(becomeSudo)+shell)
	if h.Target.Sudo == SudoNever {
		other = say("user") + "false"
	}
	return "sh -c " + quote(`if [ "$(id -u)" = 0 ]; then `+say(becomeNothing)+shell+`; fi; `+other)
}

// askPassword gets the password of the user's sudo, and makes sure with a single line of stdin that this host
// accepts it: a wrong one would make sudo take what follows for further attempts.
func (h *Host) askPassword(ctx context.Context, refused *ExitError) error {
	said := strings.TrimSpace(refused.Stderr)
	if strings.Contains(said, "not found") {
		return NotRoot.Problem(h.Target.Name, "user %q is not root, and there is no sudo", h.User).
			WithDetail(said).WithFix("log in as root, or install sudo on %s", h.Target.Name)
	}
	if h.dialer.Password == nil || !strings.Contains(said, "password") {
		return SudoRefused.Problem(h.Target.Name, "user %q can't become root without a password", h.User).
			WithDetail("sudo -n: "+strings.TrimPrefix(said, "sudo: ")).
			WithFix("add --sudo-password, or on %s: echo '%s ALL=(ALL) NOPASSWD:ALL' | sudo tee /etc/sudoers.d/%s", h.Target.Name, h.User, h.User)
	}
	p := &h.dialer.passwords
	p.mu.Lock()
	defer p.mu.Unlock()
	password, known := p.byUser[h.User]
	if !known {
		var err error
		if password, err = h.dialer.Password(ctx, h.User, h.Target.Name); err != nil {
			return err
		}
	}
	out := &after{}
	err := h.Exec(ctx, "sudo -S -k -p '' sh -c "+quote("echo "+marker+string(becomePassword)), strings.NewReader(password+"\n"), out)
	if become(out.mark()) == becomePassword {
		if p.byUser == nil {
			p.byUser = map[string]string{}
		}
		p.byUser[h.User] = password
		return nil
	}
	var exit *ExitError
	if !errors.As(err, &exit) {
		return err
	}
	return SudoPassword.Problem(h.Target.Name, "sudo on %s does not accept the password of %q", h.Target.Name, h.User).WithDetail(exit.Stderr)
}

// Root runs a command as root, as Exec does. Script must have succeeded before. The command must be one that sudo
// can start: words, no shell syntax outside sh -c.
func (h *Host) Root(ctx context.Context, command string, stdin io.Reader, stdout io.Writer) error {
	switch h.become {
	case becomeNothing:
		return h.Exec(ctx, command, stdin, stdout)
	case becomeSudo:
		return h.Exec(ctx, "sudo -n "+command, stdin, stdout)
	case becomePassword:
		h.dialer.passwords.mu.Lock()
		line := h.dialer.passwords.byUser[h.User] + "\n"
		h.dialer.passwords.mu.Unlock()
		if stdin == nil {
			stdin = strings.NewReader("")
		}
		return h.Exec(ctx, "sudo -S -k -p '' "+command, io.MultiReader(strings.NewReader(line), stdin), stdout)
	default:
		return fmt.Errorf("run %q on %s: it is not known yet how to become root", command, h.Target.Name)
	}
}

// after keeps what is printed after the line with the marker.
type after struct{ buf bytes.Buffer }

func (a *after) Write(p []byte) (int, error) { return a.buf.Write(p) }

func (a *after) split() (before, mark, rest string) {
	before, rest, found := strings.Cut(a.buf.String(), marker)
	if !found {
		return before, "", ""
	}
	mark, rest, _ = strings.Cut(rest, "\n")
	return before, strings.TrimSpace(mark), rest
}

func (a *after) noise() string { before, _, _ := a.split(); return before }
func (a *after) mark() string  { _, mark, _ := a.split(); return mark }
func (a *after) rest() []byte  { _, _, rest := a.split(); return []byte(rest) }
