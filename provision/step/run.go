package step

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/discovery"
	"github.com/mobyfs/mobyfs/internal/durable"
)

// Run is one application of what is desired, on the host itself.
type Run struct {
	Desired Desired
	Facts   Facts // kept true by the steps

	Root    string // stands in front of every path; "" but in tests
	Systemd Systemd
	// Say is told what goes on. Whoever can't hear it any more ends ctx.
	Say func(Event)
	// Sign has a certificate request signed for the host in a role.
	Sign func(ctx context.Context, role string, csr []byte) (Answer, error)
	// Command runs a program to its end.
	Command func(ctx context.Context, name string, args ...string) error
	// Probe makes sure that Docker's driver answers at its endpoint.
	Probe func(ctx context.Context, e discovery.Endpoint) error
}

// Apply runs the steps that find something to change. When ctx ends, the step under way is finished if it can be,
// and no other is begun. An error names the step; running it all again goes on from there.
func (r *Run) Apply(ctx context.Context) error {
	for _, s := range Steps(r.Desired) {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if len(s.Check(r.Facts, r.Desired)) == 0 {
			r.say(Event{Step: s.Name(), State: StateUnchanged})
			continue
		}
		began := time.Now()
		r.say(Event{Step: s.Name(), State: StateRunning})
		if err := s.Apply(ctx, r); err != nil {
			r.say(Event{Step: s.Name(), State: StateFailed, Error: failure(err)})
			return fmt.Errorf("step %s: %w", s.Name(), err)
		}
		if left := s.Check(r.Facts, r.Desired); len(left) > 0 {
			err := fmt.Errorf("after it was applied there is still to do: %v", left)
			r.say(Event{Step: s.Name(), State: StateFailed, Error: failure(err)})
			return fmt.Errorf("step %s: %w", s.Name(), err)
		}
		r.say(Event{Step: s.Name(), State: StateChanged, TookMS: time.Since(began).Milliseconds()})
	}
	r.say(Event{Step: "host", State: StateDone})
	return nil
}

func (r *Run) say(e Event) {
	e.Time = time.Now().UTC()
	r.Say(e)
}

// failure puts an error on the wire.
func failure(err error) *Failure {
	f := &Failure{Code: string(mobyfs.CodeOf(err)), Text: err.Error(), Hint: mobyfs.HintOf(err)}
	var unit *UnitError
	if errors.As(err, &unit) {
		f.Detail = unit.Log
	}
	return f
}

func (r *Run) path(p string) string { return r.Root + p }

// mkdirAll makes a directory and its parents, durably. One that is there keeps its mode.
func (r *Run) mkdirAll(dir string, perm fs.FileMode) error {
	if _, err := os.Stat(r.path(dir)); err == nil {
		return nil
	}
	if parent := filepath.Dir(dir); parent != dir {
		if err := r.mkdirAll(parent, 0o755); err != nil {
			return err
		}
	}
	if err := durable.Mkdir(r.path(dir), perm); err != nil {
		return err
	}
	if r.Facts.Exists == nil {
		r.Facts.Exists = map[string]bool{}
	}
	r.Facts.Exists[dir] = true
	return nil
}

// Gather looks at the machine it runs on with the same script that mobyctl sends to hosts.
func Gather(ctx context.Context, root string, ports ...int) (Facts, error) {
	args := []string{"-s", "--"}
	for _, p := range ports {
		args = append(args, strconv.Itoa(p))
	}
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, "sh", args...)
	cmd.Stdin, cmd.Stderr = strings.NewReader(FactsScript), &stderr
	cmd.Env = append(os.Environ(), "MOBYFS_HOST_ROOT="+root)
	out, err := cmd.Output()
	if ctx.Err() != nil {
		return Facts{}, context.Cause(ctx)
	}
	if err != nil {
		return Facts{}, fmt.Errorf("gather facts: %w: %s", err, strings.TrimSpace(stderr.String()))
	}
	return ParseFacts(out)
}

// RunProgram is Run.Command on a real host.
func RunProgram(ctx context.Context, name string, args ...string) error {
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", filepath.Base(name), strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}

// AskPlugin is Run.Probe on a real host: Docker's driver must answer, as it would to Docker, and the agent behind it,
// not the stub. An agent that is a moment late is waited for. The question changes nothing.
func AskPlugin(ctx context.Context, e discovery.Endpoint) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	for {
		err := discovery.AskRegistered(ctx, "", e)
		if err == nil || ctx.Err() != nil {
			return err
		}
		select {
		case <-time.After(500 * time.Millisecond):
		case <-ctx.Done():
			return err
		}
	}
}
