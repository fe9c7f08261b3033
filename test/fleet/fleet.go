// Package fleet is what the tests on real hosts run on: hosts with systemd, sshd and their own Docker, which the sandbox
// makes out of containers, and the real programs, which reach them over real SSH.
package fleet

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
	"sync"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs"
)

var (
	keep = flag.Bool("keep-fleet", false, "leave the hosts for a look after the tests, and for -use-fleet")
	use  = flag.String("use-fleet", "", "the `directory` of a run whose hosts were kept: use those, with their cluster, and leave them")
)

// Fleet is three hosts, and mobyctl with a home of its own.
type Fleet struct {
	Name  string
	Dir   string            // of this run: binaries, cluster.yaml, mobyctl's home
	Hosts map[string]string // h1 → address
	Key   string            // of SSH
	Known string            // known_hosts

	firsts sync.Map // of hosts: the first process, as *os.Process; it may have ended
}

// Main makes a fleet, runs the tests of a package on it and takes it off again. It returns the exit code.
func Main(m *testing.M, the **Fleet) (code int) {
	flag.Parse()
	f, err := up(*use)
	if f != nil && !*keep && *use == "" {
		defer func() {
			if err := f.Down(); err != nil {
				fmt.Fprintln(os.Stderr, err)
				code = 1
			}
		}()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	*the = f
	return m.Run()
}

// oftenStarted lets Docker be restarted as often as tests do; systemd gives up after three times in a minute.
const oftenStarted = `mkdir -p /etc/systemd/system/docker.service.d &&
	printf '[Unit]\nStartLimitIntervalSec=0\n' >/etc/systemd/system/docker.service.d/often.conf && systemctl daemon-reload`

// up builds the programs and makes the hosts, if none were kept. What it could make it returns even with an error.
func up(kept string) (*Fleet, error) {
	f := &Fleet{Name: fmt.Sprintf("t%d", os.Getpid()), Dir: kept}
	if kept != "" {
		text, err := os.ReadFile(filepath.Join(kept, stateName))
		if err == nil {
			err = json.Unmarshal(text, f)
		}
		if err != nil {
			return nil, fmt.Errorf("read of the hosts that were kept: %w", err)
		}
		return f, errors.Join(f.build(), f.furnish())
	}
	var err error
	if f.Dir, err = os.MkdirTemp("", "mobyfs-test-"); err != nil {
		return nil, err
	}
	if err := f.build(); err != nil {
		return f, err
	}
	if err := f.makeHosts(); err != nil {
		return f, err
	}
	if *keep {
		text, err := json.Marshal(f)
		if err == nil {
			err = os.WriteFile(filepath.Join(f.Dir, stateName), text, 0o600)
		}
		if err != nil {
			return f, fmt.Errorf("write down which hosts are kept: %w", err)
		}
		fmt.Fprintln(os.Stderr, "the hosts are kept: -use-fleet", f.Dir)
	}
	return f, f.furnish()
}

// stateName is the file in a run's directory that tells of hosts which are kept.
const stateName = "fleet.json"

// build builds the programs.
func (f *Fleet) build() error {
	root, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/mobyfs/mobyfs").Output()
	if err != nil {
		return fmt.Errorf("find the module's folder: %w\n%s", err, stderrOf(err))
	}
	for _, build := range [][]string{
		{"-o", f.Dir + "/bin/", "./cmd/..."},
		{"-o", f.Dir + "/bin-failpoints/", "-tags", "failpoints", "./cmd/..."},
		{"-o", f.Dir + "/hosttool", "./test/hosttool"},
	} {
		args := append([]string{"build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w -X main.version=v0.0.0-test"}, build...)
		cmd := exec.Command("go", args...)
		cmd.Dir = strings.TrimSpace(string(root))
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("go %s: %w\n%s", strings.Join(args, " "), err, out)
		}
	}
	return nil
}

func (f *Fleet) makeHosts() error {
	out, err := f.Command("mobyctl", "sandbox", "up", "--name", f.Name, "--hosts", "3",
		"--distros", "bookworm,bookworm,trixie", "-o", "json").Output()
	if err != nil {
		return fmt.Errorf("sandbox up: %w\n%s", err, stderrOf(err))
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
		return fmt.Errorf("sandbox up: %w in %s", err, out)
	}
	f.Hosts, f.Key, f.Known = map[string]string{}, up.Key, up.KnownHosts
	for _, h := range up.Hosts {
		f.Hosts[h.Name] = h.Address
	}
	if len(f.Hosts) != 3 {
		return fmt.Errorf("sandbox up made %d hosts, want 3: %s", len(f.Hosts), out)
	}
	return nil
}

// furnish gives the hosts what tests need there.
func (f *Fleet) furnish() error {
	for h := range f.Hosts {
		if out, err := exec.Command("docker", "cp", f.Dir+"/hosttool", f.Container(h)+":/usr/local/bin/hosttool").CombinedOutput(); err != nil {
			return fmt.Errorf("docker cp: %w\n%s", err, out)
		}
		if out, err := f.CmdOn(h, "sh", "-c", oftenStarted).CombinedOutput(); err != nil {
			return fmt.Errorf("let Docker on %s be restarted often: %w\n%s", h, err, out)
		}
	}
	return f.shareImage()
}

// Down takes the hosts off again, and all that the run left on this machine.
func (f *Fleet) Down() error {
	out, err := f.Command("mobyctl", "sandbox", "down", "--name", f.Name).CombinedOutput()
	if err != nil {
		return fmt.Errorf("sandbox down: %w\n%s", err, out)
	}
	return os.RemoveAll(f.Dir)
}

// Container is the name of the container that is the host.
func (f *Fleet) Container(host string) string { return f.Name + "-" + host }

// Command is one of the programs, with the home of this run.
func (f *Fleet) Command(program string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(f.Dir, "bin", program), args...)
	cmd.Env = append(os.Environ(), "MOBYFS_HOME="+filepath.Join(f.Dir, "home"), "XDG_DATA_HOME="+filepath.Join(f.Dir, "data"))
	return cmd
}

// Result is how a command ended.
type Result struct {
	Stdout, Stderr string
	Code           int
}

func (r Result) String() string {
	return fmt.Sprintf("exit %d\nstdout: %s\nstderr: %s", r.Code, r.Stdout, r.Stderr)
}

// RunCommand runs a command to its end; that it can't be started fails the test.
func RunCommand(t *testing.T, cmd *exec.Cmd) Result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%s: %v", strings.Join(cmd.Args, " "), err)
	}
	return Result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// Try runs mobyctl.
func (f *Fleet) Try(t *testing.T, args ...string) Result {
	t.Helper()
	return RunCommand(t, f.Command("mobyctl", args...))
}

// Ctl runs mobyctl, which must succeed, and returns its stdout.
func (f *Fleet) Ctl(t *testing.T, args ...string) string {
	t.Helper()
	r := f.Try(t, args...)
	if r.Code != 0 {
		t.Fatalf("mobyctl %s: %v", strings.Join(args, " "), r)
	}
	return r.Stdout
}

// TryOn runs a command on a host.
func (f *Fleet) TryOn(t *testing.T, host string, args ...string) Result {
	t.Helper()
	return RunCommand(t, f.CmdOn(host, args...))
}

// On runs a command on a host, which must succeed, and returns its trimmed stdout.
func (f *Fleet) On(t *testing.T, host string, args ...string) string {
	t.Helper()
	r := f.TryOn(t, host, args...)
	if r.Code != 0 {
		t.Fatalf("%s: %s: %v", host, strings.Join(args, " "), r)
	}
	return strings.TrimSpace(r.Stdout)
}

// Sh runs a shell line on a host, which must succeed.
func (f *Fleet) Sh(t *testing.T, host, line string) string {
	t.Helper()
	return f.On(t, host, "sh", "-c", line)
}

// InVolume runs a shell line in a container on the host that has the volume at /data, and returns its stdout.
func (f *Fleet) InVolume(t *testing.T, host, volume, line string) string {
	t.Helper()
	return f.On(t, host, "docker", "run", "--rm", "-v", volume+":/data", "--volume-driver=mobyfs", "busybox", "sh", "-c", line)
}

// PowerCut ends everything on a host at once, without a word to anyone, and boots it again.
func (f *Fleet) PowerCut(t *testing.T, host string) {
	t.Helper()
	for _, verb := range []string{"kill", "start"} {
		if out, err := exec.Command("docker", verb, f.Container(host)).CombinedOutput(); err != nil {
			t.Fatalf("docker %s %s: %v\n%s", verb, host, err, out)
		}
	}
}

// Volume reads a volume's record through mobyctl.
func (f *Fleet) Volume(t *testing.T, name string) mobyfs.Volume {
	t.Helper()
	var v mobyfs.Volume
	f.Decode(t, &v, "volume", "inspect", name, "-o", "json")
	return v
}

// Decode fills v from what mobyctl prints.
func (f *Fleet) Decode(t *testing.T, v any, args ...string) {
	t.Helper()
	out := f.Ctl(t, args...)
	if err := json.Unmarshal([]byte(out), v); err != nil {
		t.Fatalf("mobyctl %s: %v in %s", strings.Join(args, " "), err, out)
	}
}

// DataDir is where a host keeps the bytes of a volume.
func DataDir(v mobyfs.Volume) string { return "/var/lib/mobyfs/volumes/" + string(v.ID) + "/data" }

// TreeOf sums up a volume's tree on a host: content and metadata.
func (f *Fleet) TreeOf(t *testing.T, host string, v mobyfs.Volume) string {
	t.Helper()
	return f.On(t, host, "hosttool", "sum", DataDir(v))
}

// Eventually waits until ok says nothing more is missing, and fails with what it said last after the time given. It
// also serves a clean-up.
func Eventually(t *testing.T, within time.Duration, ok func() (missing string)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), within)
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

// Has fails unless text holds every part.
func Has(t *testing.T, text string, parts ...string) {
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

// ClusterYAML is the file that the fleet's cluster is made from.
func (f *Fleet) ClusterYAML() string { return filepath.Join(f.Dir, "cluster.yaml") }

// Bootstrap makes a cluster of the hosts.
func (f *Fleet) Bootstrap(t *testing.T) {
	t.Helper()
	f.Ctl(t, "init", "--sandbox", f.Name, "-o", f.ClusterYAML())
	f.Ctl(t, "bootstrap", "-f", f.ClusterYAML(), "--yes")
}

// UseBinaries puts other builds of the programs on all hosts, by the way users upgrade: bootstrap.
func (f *Fleet) UseBinaries(t *testing.T, dir string) {
	t.Helper()
	f.Ctl(t, "bootstrap", "-f", f.ClusterYAML(), "--yes", "--binaries", filepath.Join(f.Dir, dir))
}

// DockerVolume is what docker volume inspect says.
type DockerVolume struct {
	Name, Driver, Mountpoint, Scope, CreatedAt string
	Labels                                     map[string]string
	Status                                     map[string]any
}

// Inspect asks a host's Docker for a volume, which must exist.
func (f *Fleet) Inspect(t *testing.T, host, name string) DockerVolume {
	t.Helper()
	var all []DockerVolume
	out := f.On(t, host, "docker", "volume", "inspect", name)
	if err := json.Unmarshal([]byte(out), &all); err != nil || len(all) != 1 {
		t.Fatalf("docker volume inspect %s: %v in %s", name, err, out)
	}
	return all[0]
}

// DockerLists tells whether Docker on the host lists the volume as mobyfs's.
func (f *Fleet) DockerLists(t *testing.T, host, name string) bool {
	t.Helper()
	for line := range strings.Lines(f.On(t, host, "docker", "volume", "ls", "--format", "{{.Driver}} {{.Name}}")) {
		if strings.TrimSpace(line) == "mobyfs "+name {
			return true
		}
	}
	return false
}

// Remove takes volumes away at the end of a test.
func (f *Fleet) Remove(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		Eventually(t, 60*time.Second, func() string {
			if r := f.Try(t, "volume", "rm", name); r.Code != 0 {
				return r.String()
			}
			return ""
		})
	}
}
