package step_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mobyfs/mobyfs/internal/discovery"
	"github.com/mobyfs/mobyfs/internal/pki"
	"github.com/mobyfs/mobyfs/provision/step"
	"github.com/mobyfs/mobyfs/provision/step/steptest"
	"github.com/mobyfs/mobyfs/templates"
)

func TestMain(m *testing.M) {
	steptest.Main()
	os.Exit(m.Run())
}

// machine is a host and what the tests want it to be.
type machine struct {
	*steptest.Host
	t *testing.T
}

func newMachine(t *testing.T) *machine { return &machine{steptest.NewHost(t), t} }

// upload puts a program where an upload would, and returns what it is called.
func (m *machine) upload(name, content string) step.Program {
	m.t.Helper()
	p := step.Program{Name: name, SHA256: fmt.Sprintf("%064x", len(content)*1000+int(content[0])), Size: int64(len(content))}
	text := []byte(content)
	p.SHA256 = digestOf(text)
	path := m.Root + step.Dist(p.SHA256, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		m.t.Fatal(err)
	}
	if _, err := os.Stat(path); err == nil {
		return p
	}
	if err := os.WriteFile(path, text, 0o755); err != nil {
		m.t.Fatal(err)
	}
	return p
}

func digestOf(text []byte) string {
	out, err := exec.Command("sh", "-c", "printf %s \"$1\" | sha256sum | cut -c1-64", "sh", string(text)).Output()
	if err != nil {
		panic(err)
	}
	return strings.TrimSpace(string(out))
}

// desired is a host with the control plane, so that every step has something to do.
func (m *machine) desired(agent string) step.Desired {
	m.t.Helper()
	must := func(text string, err error) string {
		m.t.Helper()
		if err != nil {
			m.t.Fatal(err)
		}
		return text
	}
	file := func(path, text string) step.File { return step.File{Path: path, Mode: 0o644, Content: text} }
	f := m.Facts(m.t)
	return step.Desired{
		By: "the test", Cluster: "shop", Node: "vol-1", Control: true, Ports: []int{8080, 7946},
		Programs: []step.Program{m.upload(step.Agent, agent), m.upload(step.Control, "control 1")},
		Files: []step.File{
			file("/etc/mobyfs/mobyfs.env", must(templates.Node{Cluster: "shop", Node: "vol-1", Control: "h:7946", Advertise: "h:8080", AgentPort: 8080, Endpoint: string(discovery.SockEndpoint)}.Environment())),
			file("/etc/mobyfs/mobyfs-control.env", must(templates.Control{Cluster: "shop", ControlPort: 7946}.Environment())),
			file(step.UnitDir+"/"+step.SocketUnit, must(templates.Socket("unix", discovery.SockPath))),
			file(step.UnitDir+"/"+step.AgentUnit, must(templates.Unit(step.AgentUnit))),
			file(step.UnitDir+"/"+step.ControlUnit, must(templates.Unit(step.ControlUnit))),
		},
		Authority: f.ControlCA, NewAuthority: !f.HasControl(),
	}
}

// apply runs the host's hand in a process of its own, as over SSH, and answers its certificate requests.
func (m *machine) apply(d step.Desired, env ...string) ([]step.Event, error) {
	m.t.Helper()
	self, err := os.Executable()
	if err != nil {
		m.t.Fatal(err)
	}
	cmd := exec.Command(self, "host", "apply")
	cmd.Env = append(append(os.Environ(), m.Env()...), env...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		m.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		m.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	_ = json.NewEncoder(in).Encode(d) // it may be killed before it has read it
	var events []step.Event
	for lines := bufio.NewScanner(out); lines.Scan(); {
		var e step.Event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			m.t.Fatalf("%s is no event: %v", lines.Text(), err)
		}
		events = append(events, e)
		if e.State == step.StateAsks {
			m.answer(in, e)
		}
	}
	if err := cmd.Wait(); err != nil {
		return events, fmt.Errorf("%w: %s", err, stderr.String())
	}
	return events, nil
}

func (m *machine) answer(in io.Writer, e step.Event) {
	a, err := pki.OpenAuthority(m.Root + step.ControlRoot + "/pki")
	if err != nil {
		m.t.Fatal(err)
	}
	cert, err := a.Sign([]byte(e.CSR), pki.Identity{Cluster: "shop", Role: e.Role, Name: "vol-1"})
	if err != nil {
		m.t.Fatal(err)
	}
	_ = json.NewEncoder(in).Encode(step.Answer{Cert: string(cert), CA: string(a.CertPEM)})
}

func (m *machine) mustApply(d step.Desired) []step.Event {
	m.t.Helper()
	events, err := m.apply(d)
	if err != nil {
		m.t.Fatal(err)
	}
	return events
}

// changed lists the steps that changed something.
func changed(events []step.Event) []string {
	var names []string
	for _, e := range events {
		if e.State == step.StateChanged {
			names = append(names, e.Step)
		}
	}
	return names
}

func steps(plan []step.Diff) []string {
	var names []string
	for _, d := range plan {
		names = append(names, d.Step)
	}
	return names
}

func TestInstallThenNothingToDo(t *testing.T) {
	m := newMachine(t)
	d := m.desired("agent 1")
	all := []string{"journal", "program", "files", "units", "control", "certificate", "agent"}
	if got := steps(step.Plan(m.Facts(t), d)); !slices.Equal(got, all) {
		t.Errorf("the plan has the steps %v, want %v", got, all)
	}
	if got := changed(m.mustApply(d)); !slices.Equal(got, all) {
		t.Errorf("steps %v changed something, want %v", got, all)
	}
	want := []string{
		"enable mobyfs-control.service mobyfs.socket mobyfs.service", "reload",
		"start mobyfs-control.service", "start mobyfs.socket", "start mobyfs.service",
	}
	if diff := cmp.Diff(want, m.Calls(t)); diff != "" {
		t.Errorf("calls of systemd (-want +got):\n%s", diff)
	}
	before := m.Tree(t, false)
	d = m.desired("agent 1")
	if plan := step.Plan(m.Facts(t), d); len(plan) != 0 {
		t.Errorf("the second plan is not empty: %v", plan)
	}
	if got := changed(m.mustApply(d)); len(got) != 0 {
		t.Errorf("the second run changed %v", got)
	}
	if diff := cmp.Diff(before, m.Tree(t, false)); diff != "" {
		t.Errorf("the second run touched files:\n%s", diff)
	}
	if calls := m.Calls(t); len(calls) != 0 {
		t.Errorf("the second run called systemd: %v", calls)
	}
}

// Only what changed is acted upon, and Docker is never touched.
func TestChangesRestartNoMoreThanNeeded(t *testing.T) {
	env := func(d step.Desired, path, line string) step.Desired {
		d.Files = slices.Clone(d.Files)
		for i := range d.Files {
			if d.Files[i].Path == path {
				d.Files[i].Content += line
			}
		}
		return d
	}
	for _, tc := range []struct {
		name   string
		change func(m *machine) step.Desired
		want   []string
	}{
		{"another agent", func(m *machine) step.Desired { return m.desired("agent 2") }, []string{"restart mobyfs.service"}},
		{"another environment", func(m *machine) step.Desired {
			return env(m.desired("agent 1"), "/etc/mobyfs/mobyfs.env", "X=1\n")
		}, []string{"restart mobyfs.service"}},
		{"another unit", func(m *machine) step.Desired {
			return env(m.desired("agent 1"), step.UnitDir+"/mobyfs.service", "# x\n")
		}, []string{"reload", "restart mobyfs.service"}},
		{"another socket", func(m *machine) step.Desired {
			return env(m.desired("agent 1"), step.UnitDir+"/mobyfs.socket", "# x\n")
		}, []string{"reload", "stop mobyfs.service", "restart mobyfs.socket", "start mobyfs.service"}},
		{"a file edited by hand", func(m *machine) step.Desired {
			d := m.desired("agent 1")
			if err := os.WriteFile(m.Root+"/etc/mobyfs/mobyfs.env", []byte("MOBYFS_NODE=other\n"), 0o644); err != nil {
				m.t.Fatal(err)
			}
			return d
		}, nil}, // the agent was started with what is desired, and is again
		{"a mode changed by hand", func(m *machine) step.Desired {
			d := m.desired("agent 1")
			if err := os.Chmod(m.Root+"/etc/mobyfs/mobyfs.env", 0o600); err != nil {
				m.t.Fatal(err)
			}
			return d
		}, nil},
		{"a lost certificate", func(m *machine) step.Desired {
			d := m.desired("agent 1")
			if err := os.Remove(m.Root + step.AgentRoot + "/pki/node.crt"); err != nil {
				m.t.Fatal(err)
			}
			return d
		}, nil},
		{"a damaged program", func(m *machine) step.Desired {
			d := m.desired("agent 1")
			if err := os.WriteFile(m.Root+step.Dist(d.Programs[0].SHA256, step.Agent), []byte("garbage"), 0o755); err != nil {
				m.t.Fatal(err)
			}
			if m.Facts(m.t).HasProgram(d.Programs[0]) {
				m.t.Error("a damaged program counts as there")
			}
			if err := os.Remove(m.Root + step.Dist(d.Programs[0].SHA256, step.Agent)); err != nil {
				m.t.Fatal(err)
			}
			return m.desired("agent 1") // uploads it again
		}, nil},
	} {
		m := newMachine(t)
		m.mustApply(m.desired("agent 1"))
		m.Calls(t)
		d := tc.change(m)
		m.mustApply(d)
		if diff := cmp.Diff(tc.want, m.Calls(t)); diff != "" {
			t.Errorf("%s: calls of systemd (-want +got):\n%s", tc.name, diff)
		}
		if plan := step.Plan(m.Facts(t), m.settled(d)); len(plan) != 0 {
			t.Errorf("%s: there is still to do: %v", tc.name, plan)
		}
	}
}

// settled is d once the authority is known.
func (m *machine) settled(d step.Desired) step.Desired {
	f := m.Facts(m.t)
	d.Authority, d.NewAuthority = f.ControlCA, false
	return d
}

func TestOldProgramsGoButOneStaysAsTheWayBack(t *testing.T) {
	m := newMachine(t)
	for _, agent := range []string{"agent 1", "agent 2", "agent 3"} {
		m.mustApply(m.desired(agent))
	}
	left, err := filepath.Glob(m.Root + step.DistDir + "/*/mobyfs")
	if err != nil {
		t.Fatal(err)
	}
	if len(left) != 2 {
		t.Errorf("agents left: %v, want that in use and the one before", left)
	}
}

// Killed at any moment of an installation, the same command run again ends where it would have ended.
func TestInstallKilledAnywhereConverges(t *testing.T) {
	whole := newMachine(t)
	whole.mustApply(whole.desired("agent 1"))
	want := whole.Tree(t, true)
	killedEverywhere(t, 28, func(m *machine, kill string) bool {
		if _, err := m.apply(m.desired("agent 1"), kill); err == nil {
			return false
		}
		m.mustApply(m.desired("agent 1"))
		if diff := cmp.Diff(want, m.Tree(m.t, true)); diff != "" {
			m.t.Errorf("after another run (-want +got):\n%s", diff)
		}
		if plan := step.Plan(m.Facts(m.t), m.desired("agent 1")); len(plan) != 0 {
			m.t.Errorf("after another run there is still to do: %v", plan)
		}
		return true
	})
}

// killedEverywhere runs a test once for each moment at which the host's hand can be killed, and twice more to make
// sure that there are no others. The test returns false if nobody was killed.
func killedEverywhere(t *testing.T, moments int32, test func(m *machine, kill string) bool) {
	t.Helper()
	var survived atomic.Int32
	t.Run("moments", func(t *testing.T) {
		for n := range moments + 2 {
			t.Run(fmt.Sprint(n+1), func(t *testing.T) {
				t.Parallel()
				if !test(newMachine(t), fmt.Sprintf("MOBYFS_TEST_KILL_AT=%d", n+1)) {
					survived.Add(1)
				}
			})
		}
	})
	if got := moments + 2 - survived.Load(); got != moments {
		t.Errorf("it can be killed at %d moments, the test expects %d", got, moments)
	}
}

// The same holds for an upgrade, and then the agent runs the new program.
func TestUpgradeKilledAnywhereConverges(t *testing.T) {
	killedEverywhere(t, 12, func(m *machine, kill string) bool {
		m.mustApply(m.desired("agent 1"))
		m.Calls(m.t)
		if _, err := m.apply(m.desired("agent 2"), kill); err == nil {
			return false
		}
		m.mustApply(m.desired("agent 2"))
		if calls := m.Calls(m.t); !slices.Contains(calls, "restart mobyfs.service") {
			m.t.Errorf("the agent was not restarted: %v", calls)
		}
		if plan := step.Plan(m.Facts(m.t), m.desired("agent 2")); len(plan) != 0 {
			m.t.Errorf("after another run there is still to do: %v", plan)
		}
		return true
	})
}

func absent(d step.Desired) step.Desired {
	return step.Desired{By: d.By, Cluster: d.Cluster, Node: d.Node, Programs: d.Programs[:1], Absent: true}
}

func TestRemoveLeavesTheHostAsItWas(t *testing.T) {
	m := newMachine(t)
	before := m.Tree(t, true)
	d := m.desired("agent 1")
	m.mustApply(d)
	mine := filepath.Join(m.Root, "etc/mobyfs/notes.txt")
	if err := os.WriteFile(mine, []byte("not from bootstrap"), 0o644); err != nil {
		t.Fatal(err)
	}
	m.Calls(t)
	m.mustApply(absent(d))
	want := []string{
		"disable mobyfs.socket mobyfs.service mobyfs-control.service",
		"stop mobyfs.socket", "stop mobyfs.service", "stop mobyfs-control.service", "reload",
	}
	if diff := cmp.Diff(want, m.Calls(t)); diff != "" {
		t.Errorf("calls of systemd (-want +got):\n%s", diff)
	}
	if _, err := os.Stat(mine); err != nil {
		t.Errorf("a file of somebody else's is gone: %v", err)
	}
	if err := os.RemoveAll(filepath.Dir(mine)); err != nil {
		t.Fatal(err)
	}
	// The directories of Docker's plugins and of systemd's locks are not ours to remove.
	for _, dir := range []string{"run/docker/plugins", "run/docker", "usr/lib"} {
		if err := os.Remove(filepath.Join(m.Root, dir)); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(before, m.Tree(t, true)); diff != "" {
		t.Errorf("reset left something (-want +got):\n%s", diff)
	}
	if plan := step.Plan(m.Facts(t), absent(d)); len(plan) != 0 {
		t.Errorf("there is still to remove: %v", plan)
	}
}

func TestRemoveKilledAnywhereConverges(t *testing.T) {
	killedEverywhere(t, 20, func(m *machine, kill string) bool {
		return m.removeKilled(m.desired("agent 1"), kill)
	})
}

// removeKilled takes the host down, is killed, and does it again. It returns false if it was not killed.
func (m *machine) removeKilled(d step.Desired, kill string) bool {
	m.t.Helper()
	m.mustApply(d)
	if _, err := m.apply(absent(d), kill); err == nil {
		return false
	}
	m.mustApply(absent(d))
	if f := m.Facts(m.t); f.Here() || len(step.Plan(f, absent(d))) != 0 {
		m.t.Errorf("after another run there is still %v", step.Plan(f, absent(d)))
	}
	return true
}

// C25: a dockerd that has used the driver asks for it until it ends, so something has to answer.
func TestC25RemoveLeavesAStubWhereDockerHasUsedTheDriver(t *testing.T) {
	m := newMachine(t)
	d := m.desired("agent 1")
	m.mustApply(d)
	m.Activated(t)
	m.Calls(t)
	if got := steps(step.Plan(m.Facts(t), absent(d))); !slices.Equal(got, []string{"stop", "stub", "files", "program", "state"}) {
		t.Errorf("the plan has the steps %v", got)
	}
	m.mustApply(absent(d))
	want := []string{
		"disable mobyfs.socket mobyfs.service mobyfs-control.service",
		"stop mobyfs.socket", "stop mobyfs.service", "stop mobyfs-control.service", "run mobyfs-stub.service", "reload",
	}
	if diff := cmp.Diff(want, m.Calls(t)); diff != "" {
		t.Errorf("calls of systemd (-want +got):\n%s", diff)
	}
	f := m.Facts(t)
	if f.Here() || !f.Exists[discovery.SockPath] || len(step.Plan(f, absent(d))) != 0 {
		t.Errorf("here: %v, socket: %v, to do: %v", f.Here(), f.Exists[discovery.SockPath], step.Plan(f, absent(d)))
	}

	d = m.desired("agent 1") // and a later installation replaces it
	m.mustApply(d)
	calls := m.Calls(t)
	stopped, started := slices.Index(calls, "stop mobyfs-stub.service"), slices.Index(calls, "start mobyfs.socket")
	if stopped < 0 || started < stopped {
		t.Errorf("calls of systemd: %v, want the stub to stop before the socket starts", calls)
	}
	if plan := step.Plan(m.Facts(t), m.desired("agent 1")); len(plan) != 0 {
		t.Errorf("there is still to do: %v", plan)
	}
}

func TestRemoveWithAStubKilledAnywhereConverges(t *testing.T) {
	killedEverywhere(t, 23, func(m *machine, kill string) bool {
		m.Activated(m.t)
		killed := m.removeKilled(m.desired("agent 1"), kill)
		if f := m.Facts(m.t); killed && (f.Units[step.StubUnit].Active != "active" || !f.Exists[discovery.SockPath]) {
			m.t.Error("nobody answers Docker")
		}
		return killed
	})
}

// What an installation that was killed early left behind can be taken off too.
func TestRemoveAfterInstallKilledAnywhere(t *testing.T) {
	killedEverywhere(t, 28, func(m *machine, kill string) bool {
		d := m.desired("agent 1")
		if _, err := m.apply(d, kill); err == nil {
			return false
		}
		m.mustApply(absent(d))
		if f := m.Facts(m.t); f.Here() || len(step.Plan(f, absent(d))) != 0 {
			m.t.Errorf("there is still %v", step.Plan(f, absent(d)))
		}
		for _, dir := range []string{step.EnvDir, step.AgentRoot, step.ControlRoot} {
			if _, err := os.Stat(m.Root + dir); err == nil {
				m.t.Errorf("%s is still there", dir)
			}
		}
		return true
	})
}

func TestRemoveRefusesToLoseVolumes(t *testing.T) {
	m := newMachine(t)
	d := m.desired("agent 1")
	m.mustApply(d)
	data := m.Root + step.AgentRoot + "/volumes/01jd3q8zv5w1y2x3k4m5n6p7q8/data"
	if err := os.MkdirAll(data, 0o755); err != nil {
		t.Fatal(err)
	}
	m.Calls(t)
	if _, err := m.apply(absent(d)); err == nil || !strings.Contains(err.Error(), "bytes of 1 volumes") {
		t.Errorf("got %v", err)
	}
	if calls := m.Calls(t); len(calls) != 0 {
		t.Errorf("something was done all the same: %v", calls)
	}
	d = absent(d)
	d.Purge = true
	m.mustApply(d)
	if _, err := os.Stat(data); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after a purge the bytes are still there (%v)", err)
	}
}

func TestUnitThatDoesNotStartIsAFailedStepWithItsLog(t *testing.T) {
	m := newMachine(t)
	d := m.desired("agent 1")
	events, err := m.apply(d, "MOBYFS_TEST_FAIL=start mobyfs.service")
	last := events[len(events)-1]
	if err == nil || last.State != step.StateFailed || last.Step != "agent" || last.Error == nil || len(last.Error.Detail) != 1 {
		t.Fatalf("got %v, last event %+v", err, last)
	}
	if got := steps(step.Plan(m.Facts(t), m.settled(d))); !slices.Equal(got, []string{"agent"}) {
		t.Errorf("to do after the failure: %v, want the agent only", got)
	}
}

func TestRefusedCertificateStopsBeforeTheAgent(t *testing.T) {
	m := newMachine(t)
	d := m.desired("agent 1")
	m.mustApply(d)
	f := m.Facts(t)
	stranger, err := pki.NewAuthority(t.TempDir(), "shop")
	if err != nil {
		t.Fatal(err)
	}
	d = m.settled(d)
	d.Authority = string(stranger.CertPEM) // the cluster has another authority now, but the answer comes from the old one
	if got := steps(step.Plan(f, d)); !slices.Equal(got, []string{"certificate", "agent"}) {
		t.Errorf("to do: %v", got)
	}
}

func TestOneAtATime(t *testing.T) {
	root := t.TempDir()
	first, err := step.TakeLock(root, "ana@lap-7")
	if err != nil {
		t.Fatal(err)
	}
	var locked *step.LockedError
	if _, err := step.TakeLock(root, "bob"); !errors.As(err, &locked) {
		t.Fatalf("got %v, want a LockedError", err)
	}
	if h := locked.Holder; h.By != "ana@lap-7" || h.PID != os.Getpid() || time.Since(h.Since) > time.Minute {
		t.Errorf("the lock is held by %+v", h)
	}
	if err := first.Release(); err != nil {
		t.Fatal(err)
	}
	second, err := step.TakeLock(root, "bob")
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Release(); err != nil {
		t.Error(err)
	}
	if left, _ := filepath.Glob(root + "/run/*"); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestLockedHostSaysWho(t *testing.T) {
	m := newMachine(t)
	lock, err := step.TakeLock(m.Root, "ana@lap-7 with mobyctl bootstrap")
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := lock.Release(); err != nil {
			t.Error(err)
		}
	}()
	events, err := m.apply(m.desired("agent 1"))
	if err == nil || len(events) != 1 || events[0].Error.Code != step.CodeLocked || !strings.Contains(events[0].Error.Text, "ana@lap-7") {
		t.Errorf("got %v, %+v", err, events)
	}
}

// Whoever asked may be killed as well: the host stops, and the lock is free again.
func TestHostStopsWhenItsStdinEnds(t *testing.T) {
	m := newMachine(t)
	d := m.desired("agent 1")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "host", "apply")
	cmd.Env = append(os.Environ(), m.Env()...)
	text, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdin = bytes.NewReader(text)
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), step.ErrAlone.Error()) {
		t.Errorf("got %v: %s", err, out)
	}
	lock, err := step.TakeLock(m.Root, "next")
	if err != nil {
		t.Fatal(err)
	}
	if err := lock.Release(); err != nil {
		t.Error(err)
	}
	m.mustApply(m.desired("agent 1"))
}
