// Package test tries the whole system the way its users do: the real programs, over real SSH, on hosts with
// systemd, sshd and their own Docker, which the sandbox makes out of containers.
//
// One fleet serves all tests; they run in the order of the files' names, which is the order of a cluster's life.
package test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs"
)

var keepFleet = flag.Bool("keep-fleet", false, "leave the hosts for a look after the tests")

// fleet is three hosts, and mobyctl with a home of its own.
type fleet struct {
	name  string
	dir   string            // of this run: binaries, cluster.yaml, mobyctl's home
	hosts map[string]string // h1 → address
	key   string            // of SSH
	known string            // known_hosts
}

// the is the fleet of this run.
var the *fleet

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(run(m))
}

func run(m *testing.M) (code int) {
	f, err := newFleet()
	if f != nil && !*keepFleet {
		defer func() {
			if err := f.down(); err != nil {
				fmt.Fprintln(os.Stderr, err)
				code = 1
			}
		}()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	the = f
	return m.Run()
}

// newFleet builds the programs and makes the hosts. What it could make it returns even with an error.
func newFleet() (*fleet, error) {
	dir, err := os.MkdirTemp("", "mobyfs-test-")
	if err != nil {
		return nil, err
	}
	f := &fleet{name: fmt.Sprintf("t%d", os.Getpid()), dir: dir}
	for _, build := range [][]string{
		{"-o", dir + "/bin/", "./cmd/..."},
		{"-o", dir + "/bin-failpoints/", "-tags", "failpoints", "./cmd/..."},
		{"-o", dir + "/hosttool", "./test/hosttool"},
	} {
		args := append([]string{"build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w -X main.version=v0.0.0-test"}, build...)
		cmd := exec.Command("go", args...)
		cmd.Dir = ".."
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return f, fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
		}
	}
	out, err := f.command("mobyctl", "sandbox", "up", "--name", f.name, "--hosts", "3",
		"--distros", "bookworm,bookworm,trixie", "-o", "json").Output()
	if err != nil {
		return f, fmt.Errorf("sandbox up: %w\n%s", err, stderrOf(err))
	}
	var up struct {
		Hosts []struct {
			Name    string `json:"name"`
			Address string `json:"address"`
		} `json:"hosts"`
		Key        string `json:"key"`
		KnownHosts string `json:"known_hosts"`
	}
	if err := json.Unmarshal(out, &up); err != nil {
		return f, fmt.Errorf("sandbox up: %w in %s", err, out)
	}
	f.hosts, f.key, f.known = map[string]string{}, up.Key, up.KnownHosts
	for _, h := range up.Hosts {
		f.hosts[h.Name] = h.Address
	}
	if len(f.hosts) != 3 {
		return f, fmt.Errorf("sandbox up made %d hosts, want 3: %s", len(f.hosts), out)
	}
	for h := range f.hosts {
		if out, err := exec.Command("docker", "cp", dir+"/hosttool", f.container(h)+":/usr/local/bin/hosttool").CombinedOutput(); err != nil {
			return f, fmt.Errorf("docker cp: %w\n%s", err, out)
		}
	}
	return f, nil
}

func (f *fleet) down() error {
	out, err := f.command("mobyctl", "sandbox", "down", "--name", f.name).CombinedOutput()
	if err != nil {
		return fmt.Errorf("sandbox down: %w\n%s", err, out)
	}
	return os.RemoveAll(f.dir)
}

// container is the name of the container that is the host.
func (f *fleet) container(host string) string { return f.name + "-" + host }

// command is one of the programs, with the home of this run.
func (f *fleet) command(program string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(f.dir, "bin", program), args...)
	cmd.Env = append(os.Environ(), "MOBYFS_HOME="+filepath.Join(f.dir, "home"), "XDG_DATA_HOME="+filepath.Join(f.dir, "data"))
	return cmd
}

// result is how a command ended.
type result struct {
	stdout, stderr string
	code           int
}

func (r result) String() string {
	return fmt.Sprintf("exit %d\nstdout: %s\nstderr: %s", r.code, r.stdout, r.stderr)
}

func runCommand(t *testing.T, cmd *exec.Cmd) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%s: %v", strings.Join(cmd.Args, " "), err)
	}
	return result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// try runs mobyctl.
func (f *fleet) try(t *testing.T, args ...string) result {
	t.Helper()
	return runCommand(t, f.command("mobyctl", args...))
}

// ctl runs mobyctl, which must succeed, and returns its stdout.
func (f *fleet) ctl(t *testing.T, args ...string) string {
	t.Helper()
	r := f.try(t, args...)
	if r.code != 0 {
		t.Fatalf("mobyctl %s: %v", strings.Join(args, " "), r)
	}
	return r.stdout
}

// tryOn runs a command on a host.
func (f *fleet) tryOn(t *testing.T, host string, args ...string) result {
	t.Helper()
	return runCommand(t, exec.Command("docker", append([]string{"exec", f.container(host)}, args...)...))
}

// on runs a command on a host, which must succeed, and returns its trimmed stdout.
func (f *fleet) on(t *testing.T, host string, args ...string) string {
	t.Helper()
	r := f.tryOn(t, host, args...)
	if r.code != 0 {
		t.Fatalf("%s: %s: %v", host, strings.Join(args, " "), r)
	}
	return strings.TrimSpace(r.stdout)
}

// sh runs a shell line on a host, which must succeed.
func (f *fleet) sh(t *testing.T, host, line string) string {
	t.Helper()
	return f.on(t, host, "sh", "-c", line)
}

// inVolume runs a shell line in a container on the host that has the volume at /data, and returns its stdout.
func (f *fleet) inVolume(t *testing.T, host, volume, line string) string {
	t.Helper()
	return f.on(t, host, "docker", "run", "--rm", "-v", volume+":/data", "--volume-driver=mobyfs", "busybox", "sh", "-c", line)
}

// powerCut ends everything on a host at once, without a word to anyone, and boots it again.
func (f *fleet) powerCut(t *testing.T, host string) {
	t.Helper()
	for _, verb := range []string{"kill", "start"} {
		if out, err := exec.Command("docker", verb, f.container(host)).CombinedOutput(); err != nil {
			t.Fatalf("docker %s %s: %v\n%s", verb, host, err, out)
		}
	}
}

// volume reads a volume's record through mobyctl.
func (f *fleet) volume(t *testing.T, name string) mobyfs.Volume {
	t.Helper()
	var v mobyfs.Volume
	f.decode(t, &v, "volume", "inspect", name, "-o", "json")
	return v
}

// decode fills v from what mobyctl prints.
func (f *fleet) decode(t *testing.T, v any, args ...string) {
	t.Helper()
	out := f.ctl(t, args...)
	if err := json.Unmarshal([]byte(out), v); err != nil {
		t.Fatalf("mobyctl %s: %v in %s", strings.Join(args, " "), err, out)
	}
}

// dataDir is where a host keeps the bytes of a volume.
func dataDir(v mobyfs.Volume) string { return "/var/lib/mobyfs/volumes/" + string(v.ID) + "/data" }

// treeOf sums up a volume's tree on a host: content and metadata.
func (f *fleet) treeOf(t *testing.T, host string, v mobyfs.Volume) string {
	t.Helper()
	return f.on(t, host, "hosttool", "sum", dataDir(v))
}

// eventually waits until ok says nothing more is missing, and fails with what it said last after the time given.
func eventually(t *testing.T, within time.Duration, ok func() (missing string)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		missing := ok()
		if missing == "" {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("after %v: %s", within, missing)
		case <-tick.C:
		}
	}
}

// has fails unless text holds every part.
func has(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Errorf("%q is missing in:\n%s", p, text)
		}
	}
}

func stderrOf(err error) string {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return string(exit.Stderr)
	}
	return ""
}
