package provision

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/mobyfs/mobyfs/internal/pki"
	"github.com/mobyfs/mobyfs/provision/host"
	"github.com/mobyfs/mobyfs/provision/step"
)

// receive takes programs off the head of stdin, each into a place named by its content, and then becomes mobyfs with
// the rest of stdin. A program that did not arrive whole is dropped. Arguments: the digest of mobyfs, then digest,
// size and name of each program that follows. dd and not head reads it: what comes after the last byte must stay in
// the pipe, and not every head promises that. MOBYFS_HOST_ROOT and MOBYFS_HOST_PATH are for tests.
const receive = `set -eu
umask 022
PATH=${MOBYFS_HOST_PATH:-/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin}
export PATH
dist=${MOBYFS_HOST_ROOT:-}` + step.DistDir + `
agent=$1
shift
while [ $# -gt 0 ]; do
	mkdir -p "$dist/$1"
	part=$dist/$1/.$3.$$.part
	trap 'rm -f "$part"' EXIT
	dd of="$part" bs=65536 count="$2" iflag=fullblock,count_bytes conv=fsync status=none
	if [ "$(sha256sum <"$part")" != "$1  -" ]; then
		echo "$3 did not arrive whole" >&2
		exit 65
	fi
	chmod 755 "$part"
	mv -f "$part" "$dist/$1/$3"
	trap - EXIT
	shift 3
done
exec "$dist/$agent/mobyfs" host apply`

// silence is how long a host may say nothing before it is given up. Units have a minute to start.
const silence = 3 * time.Minute

var errSilent = fmt.Errorf("the host said nothing for %v", silence)

// push sends a host the programs it lacks and what it shall be, and answers what it asks, all in one command. each is
// told every event. On an error the host keeps what it has; the next run goes on from there.
func (p *Plan) push(ctx context.Context, h *HostPlan, each func(step.Event)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	idle := time.AfterFunc(silence, func() { cancel(errSilent) })
	defer idle.Stop()

	args := []string{"sh", "-c", receive, "mobyfs-receive", h.desired.Programs[0].SHA256}
	for _, u := range h.uploads {
		args = append(args, u.SHA256, fmt.Sprint(u.Size), u.Name)
	}
	inR, inW := io.Pipe()
	outR, outW := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		err := h.conn.Root(ctx, host.Command(args...), inR, outW)
		inR.CloseWithError(errNoAnswer)
		_ = outW.Close()
		ended <- err
	}()
	sent := make(chan error, 1)
	go func() {
		err := p.send(h, inW, func() { idle.Reset(silence) })
		if err != nil {
			cancel(err)
		}
		sent <- err
	}()
	talk := &talk{plan: p, host: h, in: inW, each: each}
	talk.listen(ctx, outR, func() { idle.Reset(silence) })
	err := <-ended
	_ = inW.Close()
	return talk.verdict(ctx, err, <-sent)
}

// send writes the programs and then what is desired.
func (p *Plan) send(h *HostPlan, w io.Writer, alive func()) error {
	began, done := time.Now(), int64(0)
	for _, u := range h.uploads {
		f, err := os.Open(u.path)
		if err != nil {
			return err
		}
		n, err := io.Copy(&meter{w: w, tick: func(n int64) {
			alive()
			p.in.say(h.Name, step.Event{Step: "upload", State: step.StateRunning, Text: u.Name, Bytes: done + n, Total: h.UploadBytes})
		}}, f)
		f.Close()
		if err != nil {
			return err
		}
		if n != u.Size {
			return fmt.Errorf("%s changed while it was sent", u.path)
		}
		done += n
	}
	if done > 0 {
		p.in.say(h.Name, step.Event{Step: "upload", State: step.StateChanged, Bytes: done, Total: done, TookMS: time.Since(began).Milliseconds()})
	}
	return json.NewEncoder(w).Encode(h.desired)
}

// meter tells how far a copy has come, four times a second at most.
type meter struct {
	w    io.Writer
	n    int64
	last time.Time
	tick func(n int64)
}

func (m *meter) Write(b []byte) (int, error) {
	n, err := m.w.Write(b)
	m.n += int64(n)
	if time.Since(m.last) > 250*time.Millisecond {
		m.last = time.Now()
		m.tick(m.n)
	}
	return n, err
}

// talk is what a host says while it works, and the answers to it.
type talk struct {
	plan *Plan
	host *HostPlan
	in   io.Writer
	each func(step.Event)

	begun   bool          // mobyfs runs there
	done    bool          // it has finished
	failed  *step.Failure // what it said went wrong
	inStep  string        // where
	noise   []string      // lines that are no events
	refused *host.Problem // a request of it could not be answered
}

// listen reads events until the host ends. Lines of other kinds, such as those of a login shell, are kept for the
// case that something goes wrong.
func (t *talk) listen(ctx context.Context, out io.Reader, alive func()) {
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e step.Event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil || e.State == "" {
			t.noise = append(t.noise, lines.Text())
			continue
		}
		alive()
		t.event(ctx, e)
	}
	_, _ = io.Copy(io.Discard, out)
}

func (t *talk) event(ctx context.Context, e step.Event) {
	t.begun = true
	switch e.State {
	case step.StateAsks:
		t.answer(ctx, e.Role, []byte(e.CSR))
		return
	case step.StateFailed:
		t.failed, t.inStep = e.Error, e.Step
	case step.StateDone:
		t.done = true
		return
	}
	t.plan.in.say(t.host.Name, e)
	t.each(e)
}

// answer has a request signed. The name in the certificate is the one that the plan gives the host, whatever it asks;
// of roles it gets those of a node alone, and those of a control if it is one that joins others.
func (t *talk) answer(ctx context.Context, role string, csr []byte) {
	var a step.Answer
	var cert, ca []byte
	err := fmt.Errorf("a host can't have a certificate as %q", role)
	switch {
	case role == pki.RoleNode, role == pki.RoleDocker, t.host.desired.Joins && (role == pki.RoleControl || role == pki.RolePeer):
		cert, ca, err = t.plan.sign(ctx, role, t.host.Name, csr)
	}
	if err == nil && role == pki.RoleControl {
		a.Secret, err = t.plan.secret(ctx)
	}
	if err != nil {
		t.refused = host.NotSigned.Problem(t.host.Name, "%w", err)
		a.Error = err.Error()
	}
	a.Cert, a.CA = string(cert), string(ca)
	_ = json.NewEncoder(t.in).Encode(a) // if it fails, the host has ended, and that is heard
}

// verdict tells how it went from what was said, how the command ended, and whether all was sent.
func (t *talk) verdict(ctx context.Context, err, sent error) error {
	name := t.host.Name
	var p *host.Problem
	var exit *host.ExitError
	stderr := ""
	if errors.As(err, &exit) {
		stderr = exit.Stderr
	}
	switch {
	case err == nil && t.done:
		return nil
	case ctx.Err() != nil && errors.Is(context.Cause(ctx), errSilent):
		return host.Lost.Problem(name, "%w", errSilent)
	case ctx.Err() != nil && !errors.Is(context.Cause(ctx), sent):
		return host.Stopped.Problem(name, "%w", context.Cause(ctx))
	case t.refused != nil:
		return t.refused
	case t.failed != nil && t.failed.Code == step.CodeLocked:
		return host.Locked.Problem(name, "%s", t.failed.Text)
	case t.failed != nil:
		p := host.StepFailed.Problem(name, "step %s: %s", t.inStep, t.failed.Text).WithDetail(t.failed.Detail...)
		if t.failed.Hint != "" {
			p.Fix = t.failed.Hint + ", then run the same command again"
		}
		return p
	case errors.As(err, &p):
		return p
	case !t.begun && len(t.host.uploads) > 0:
		return host.Upload.Problem(name, "%s", firstLine(stderr, err, sent)).WithDetail(t.noise...).WithDetail(stderr)
	default:
		return host.StepFailed.Problem(name, "%s", firstLine(stderr, err, errNoAnswer)).WithDetail(t.noise...).WithDetail(stderr)
	}
}

// firstLine is the first thing that was said, or the first error.
func firstLine(said string, errs ...error) string {
	if line, _, _ := bytes.Cut([]byte(strings.TrimSpace(said)), []byte("\n")); len(line) > 0 {
		return string(line)
	}
	for _, err := range errs {
		if err != nil {
			return err.Error()
		}
	}
	return "it ended at once"
}
