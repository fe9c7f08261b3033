package fleet

import (
	"bytes"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/test/ledger"
)

// Gateway is this machine's address as the hosts see it.
func (f *Fleet) Gateway() (string, error) {
	out, err := exec.Command("docker", "inspect", "-f", "{{range .NetworkSettings.Networks}}{{.Gateway}}{{end}}", f.Container("h1")).Output()
	if err != nil {
		return "", fmt.Errorf("ask Docker for the hosts' gateway: %w\n%s", err, stderrOf(err))
	}
	if gateway := strings.TrimSpace(string(out)); gateway != "" {
		return gateway, nil
	}
	return "", fmt.Errorf("ask Docker for the hosts' gateway: it knows none of %s", f.Container("h1"))
}

// WriterImage is the same image on all hosts. Each host's busybox is its own.
const WriterImage = "writer:1"

// shareImage gives all hosts the image for writers.
func (f *Fleet) shareImage() error {
	out, err := f.CmdOn("h1", "sh", "-c", "docker tag busybox "+WriterImage+" && docker save "+WriterImage).Output()
	if err != nil {
		return fmt.Errorf("take an image from h1: %w\n%s", err, stderrOf(err))
	}
	for h := range f.Hosts {
		if h == "h1" {
			continue
		}
		cmd := f.CmdOn(h, "docker", "load")
		cmd.Stdin = bytes.NewReader(out)
		if said, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("give %s an image: %w\n%s", h, err, said)
		}
	}
	return nil
}

// Ledger hears writers until the test has ended.
func (f *Fleet) Ledger(t *testing.T) *ledger.Ledger {
	t.Helper()
	l, err := ledger.Listen()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// RunWriter starts a container on a host that has the volume at /data and writes records into it, of which it tells the
// ledger under the volume's name. It has the volume's name, too. More options of docker run may be given.
func (f *Fleet) RunWriter(t *testing.T, l *ledger.Ledger, host, volume, image string, options ...string) {
	t.Helper()
	f.On(t, host, f.WriterArgs(t, l, volume, image, options...)...)
	Writes(t, l, volume, 30*time.Second)
}

// WriterArgs is the command for what RunWriter starts.
func (f *Fleet) WriterArgs(t *testing.T, l *ledger.Ledger, volume, image string, options ...string) []string {
	t.Helper()
	gateway, err := f.Gateway()
	if err != nil {
		t.Fatal(err)
	}
	run := append([]string{"docker", "run", "-d", "--name", volume, "-v", volume + ":/data", "--volume-driver=mobyfs",
		"-v", "/usr/local/bin/hosttool:/hosttool:ro"}, options...)
	return append(run, image, "/hosttool", "write", "/data", fmt.Sprintf("%s:%d", gateway, l.Port()), volume, "10ms")
}

// Writes waits until a writer has acknowledged some records more than when it was asked.
func Writes(t *testing.T, l *ledger.Ledger, volume string, within time.Duration) {
	t.Helper()
	before := len(l.Acks(volume))
	Eventually(t, within, func() string {
		if len(l.Acks(volume)) < before+5 {
			return fmt.Sprintf("the writer of %s acknowledges nothing; it told of %q", volume, l.Troubles(volume))
		}
		return ""
	})
}

// RunsOn tells on which hosts a container of a name runs.
func (f *Fleet) RunsOn(t *testing.T, name string) (hosts []string) {
	t.Helper()
	for h, r := range f.OnEach([]string{"h1", "h2", "h3"}, "docker", "container", "inspect", "-f", "{{.State.Status}}", name) {
		if r.Stdout == "running\n" {
			hosts = append(hosts, h)
		}
	}
	slices.Sort(hosts)
	return hosts
}

// OnEach runs a command on several hosts at once. A code of -1 stands for one that could not be run.
func (f *Fleet) OnEach(hosts []string, args ...string) map[string]Result {
	var mu sync.Mutex
	var work sync.WaitGroup
	results := map[string]Result{}
	for _, h := range hosts {
		work.Go(func() {
			out, err := f.CmdOn(h, args...).Output()
			r := Result{Stdout: string(out), Stderr: stderrOf(err)}
			var exit *exec.ExitError
			if errors.As(err, &exit) {
				r.Code = exit.ExitCode()
			} else if err != nil {
				r.Code, r.Stderr = -1, err.Error()
			}
			mu.Lock()
			defer mu.Unlock()
			results[h] = r
		})
	}
	work.Wait()
	return results
}

// Judge compares what lies on the volume's node with what was acknowledged until now. If nothing does, all is lost.
func (f *Fleet) Judge(t *testing.T, l *ledger.Ledger, v mobyfs.Volume) ledger.Verdict {
	t.Helper()
	acks := l.Acks(v.Name)
	all, _ := ledger.Parse(f.TryOn(t, v.Node, "cat", DataDir(v)+"/"+ledger.Name).Stdout)
	return ledger.Judge(all, acks)
}
