package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"golang.org/x/crypto/ssh"
)

// ExitError is a command that ended with a status other than 0, or by a signal.
type ExitError struct {
	Status int
	Signal string
	Stderr string // its last 4 KiB
}

func (e *ExitError) Error() string {
	what := fmt.Sprintf("ended with status %d", e.Status)
	if e.Signal != "" {
		what = "was ended by signal " + e.Signal
	}
	if said := strings.TrimSpace(e.Stderr); said != "" {
		return what + ": " + said
	}
	return what
}

// Exec runs a command as the user who logged in, with the far side's shell. It returns when the command has ended.
// If ctx ends first, the command's stdin is closed, it gets Grace to end by itself, and then the session is cut.
// stdin is read until the command ends or stdin does; whoever passes a pipe closes it.
func (h *Host) Exec(ctx context.Context, command string, stdin io.Reader, stdout io.Writer) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	h.execs.Add(1)
	session, err := h.client.NewSession()
	if err != nil {
		return h.broken("open a session", err)
	}
	defer func() { _ = session.Close() }() // it is closed already unless it was cancelled
	in, err := session.StdinPipe()
	if err != nil {
		return err
	}
	stderr := &tail{}
	session.Stdout, session.Stderr = stdout, stderr
	if err := session.Start(command); err != nil {
		return h.broken("start a command", err)
	}
	if stdin == nil {
		stdin = strings.NewReader("")
	}
	go func() {
		_, _ = io.Copy(in, stdin)
		_ = in.Close()
	}()
	done := make(chan error, 1)
	go func() { done <- session.Wait() }()
	err = wait(ctx, done, func() { _ = in.Close() })
	var exit *ssh.ExitError
	switch {
	case err == nil, ctx.Err() != nil:
		return err
	case errors.As(err, &exit):
		return &ExitError{Status: exit.ExitStatus(), Signal: exit.Signal(), Stderr: stderr.String()}
	default:
		return h.broken("run a command", err).WithDetail(stderr.String())
	}
}

func (h *Host) broken(what string, err error) *Problem {
	if h.lost.Load() {
		return Lost.Problem(h.Target.Name, "%s has not answered for %v", h.Target.Name, 4*h.dialer.KeepAlive)
	}
	return Lost.Problem(h.Target.Name, "%s: the connection broke (%w)", what, err)
}

// quote makes text one word of a POSIX shell.
func quote(text string) string {
	if text != "" && !strings.ContainsFunc(text, func(r rune) bool {
		return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789@%_+=:,./-", r)
	}) {
		return text
	}
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}

// Command joins words to a command line for Exec and Root.
func Command(words ...string) string {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = quote(w)
	}
	return strings.Join(quoted, " ")
}
