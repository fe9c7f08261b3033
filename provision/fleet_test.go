package provision

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mobyfs/mobyfs/internal/discovery"
	"github.com/mobyfs/mobyfs/internal/pki"
	"github.com/mobyfs/mobyfs/provision/cloud"
	"github.com/mobyfs/mobyfs/provision/host"
	"github.com/mobyfs/mobyfs/provision/host/hosttest"
	"github.com/mobyfs/mobyfs/provision/step"
	"github.com/mobyfs/mobyfs/provision/step/steptest"
)

func TestMain(m *testing.M) {
	steptest.Main()
	os.Exit(m.Run())
}

// fleet is hosts in directories, each behind an SSH server of its own, and an installer for them. The programs that
// hosts get are the test's own binary.
type fleet struct {
	t       *testing.T
	in      *Installer
	hosts   map[string]*steptest.Host
	servers map[string]*hosttest.Server
	names   []string
	mu      sync.Mutex
	events  []step.Event
}

func newFleet(t *testing.T, names ...string) *fleet {
	t.Helper()
	home := t.TempDir()
	t.Setenv("SSH_AUTH_SOCK", "")
	identity := filepath.Join(home, ".ssh", "id_ed25519")
	pub := hosttest.WriteKey(t, identity, "")
	f := &fleet{t: t, names: names, hosts: map[string]*steptest.Host{}, servers: map[string]*hosttest.Server{}}
	dialer, err := host.NewDialer()
	if err != nil {
		t.Fatal(err)
	}
	dialer.Home, dialer.ConfigFile, dialer.Pause = home, "none", time.Millisecond
	dialer.KnownHosts = []string{filepath.Join(home, ".ssh", "known_hosts")}
	c := &Config{Cluster: "shop", Ports: PortsConfig{Control: 7946, Agent: 8080, Peer: 7947}, Docker: DockerConfig{discovery.Sock, discovery.SockEndpoint}, SSH: SSHConfig{HostKeys: host.HostKeysAsk, Sudo: host.SudoAuto}}
	var specs []cloud.HostSpec
	for _, name := range names {
		h, s := steptest.NewHost(t), hosttest.Start(t, pub)
		s.Env = h.Env()
		s.Run = func(command string, stdin io.Reader, stdout, stderr io.Writer) int {
			return s.Shell(inRoot(h, command), stdin, stdout, stderr)
		}
		f.hosts[name], f.servers[name] = h, s
		specs = append(specs, cloud.HostSpec{
			Name: name, Address: s.Host, Port: s.Port, User: "root", IdentityFile: identity, HostKey: s.Fingerprint(),
		})
	}
	fl, err := NewFleet(c, specs)
	if err != nil {
		t.Fatal(err)
	}
	f.in = &Installer{
		Fleet: fl, Dialer: dialer, Programs: &Programs{Dir: programsDir(t)},
		Operator: pki.FilesIn(filepath.Join(home, "shop"), "operator"), OperatorName: "ana", By: "the test",
		Say: func(e step.Event) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.events = append(f.events, e)
		},
	}
	return f
}

// inRoot makes a command find the program that /usr/bin/mobyfs-control is in the host's directory.
func inRoot(h *steptest.Host, command string) string {
	link := step.BinDir + "/" + step.Control
	if !strings.Contains(command, link) {
		return command
	}
	target, err := os.Readlink(h.Root + link)
	if err != nil {
		return command
	}
	return strings.ReplaceAll(command, link, h.Root+target)
}

func programsDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{step.Agent, step.Control} {
		if err := os.Symlink(self, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func (f *fleet) plan() *Plan {
	f.t.Helper()
	p, err := f.in.Plan(f.t.Context())
	if err != nil {
		f.t.Fatalf("%v: %s", err, reports(err))
	}
	f.t.Cleanup(p.Close)
	return p
}

// bootstrap plans and applies, and fails the test unless all hosts succeed.
func (f *fleet) bootstrap() *Outcome {
	f.t.Helper()
	out := f.plan().Apply(f.t.Context())
	for _, p := range out.Failed {
		f.t.Error(p.Report())
	}
	return out
}

func (f *fleet) trees(stable bool) string {
	var all []string
	for _, n := range f.names {
		all = append(all, f.hosts[n].Tree(f.t, stable))
	}
	return strings.Join(all, "\n\n")
}

func reports(err error) string {
	var pre *Preflight
	if !errors.As(err, &pre) {
		return ""
	}
	var b strings.Builder
	for _, p := range pre.Problems {
		b.WriteString(p.Report())
	}
	return b.String()
}

func TestBootstrapThenNothingToDo(t *testing.T) {
	f := newFleet(t, "vol-1", "vol-2", "vol-3")
	plan := f.plan()
	if plan.Empty() || plan.Operator == "" || len(plan.Hosts) != 3 {
		t.Fatalf("the plan is %+v", plan)
	}
	out := plan.Apply(t.Context())
	if diff := cmp.Diff(f.names, out.Changed); diff != "" || len(out.Failed) > 0 {
		t.Fatalf("changed (-want +got):\n%s\nfailed: %v", diff, out.Failed)
	}
	for _, h := range plan.Hosts {
		want := 2
		if h.Name == "vol-1" {
			want += 4 // it signs for three hosts and mobyctl
		}
		if h.Execs() != want {
			t.Errorf("%s took %d commands, want %d", h.Name, h.Execs(), want)
		}
	}
	if who, _, err := f.in.Operator.Identity(); err != nil || who.String() != "operator/ana" {
		t.Errorf("mobyctl is %v, %v", who, err)
	}
	for _, n := range f.names {
		who, _, err := pki.FilesIn(f.hosts[n].Root+step.AgentRoot+"/pki", "node").Identity()
		if err != nil || who != (pki.Identity{Cluster: "shop", Role: pki.RoleNode, Name: n}) {
			t.Errorf("%s is %v, %v", n, who, err)
		}
	}

	before := f.trees(false)
	plan = f.plan()
	if !plan.Empty() || plan.Operator != "" {
		text, _ := json.Marshal(plan)
		t.Errorf("the second plan is not empty: %s", text)
	}
	out = plan.Apply(t.Context())
	if diff := cmp.Diff(f.names, out.Unchanged); diff != "" {
		t.Errorf("unchanged (-want +got):\n%s", diff)
	}
	for _, h := range plan.Hosts {
		if h.Execs() != 1 {
			t.Errorf("%s took %d commands, want 1", h.Name, h.Execs())
		}
	}
	if diff := cmp.Diff(before, f.trees(false)); diff != "" {
		t.Errorf("the second run touched files:\n%s", diff)
	}
}

func TestPlanChangesNothing(t *testing.T) {
	f := newFleet(t, "vol-1", "vol-2")
	before := f.trees(false)
	f.plan()
	if diff := cmp.Diff(before, f.trees(false)); diff != "" {
		t.Errorf("looking at hosts touched files:\n%s", diff)
	}
	if _, err := os.Stat(filepath.Dir(f.in.Operator.Key)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it touched this machine: %v", err)
	}
}

var digests = regexp.MustCompile(`[0-9a-f]{12}\b`)

func TestPlanReads(t *testing.T) {
	f := newFleet(t, "vol-1", "vol-2")
	var b strings.Builder
	show := func(title string) {
		fmt.Fprintf(&b, "== %s\n", title)
		for _, h := range f.plan().Hosts {
			fmt.Fprintf(&b, "%s\n", h.Name)
			for _, d := range h.Changes {
				fmt.Fprintf(&b, "  %s\n", d.Step)
				for _, c := range d.Changes {
					fmt.Fprintf(&b, "    %s\n", digests.ReplaceAllString(c.String(), "<digest>"))
				}
			}
		}
	}
	show("new hosts")
	f.bootstrap()
	show("installed")
	f.in.Fleet.AgentPort = 9090
	show("another port for the agents")
	if err := os.Remove(f.hosts["vol-2"].Root + step.AgentRoot + "/pki/node.crt"); err != nil {
		t.Fatal(err)
	}
	f.in.Fleet.AgentPort = 8080
	show("a lost certificate")
	f.in.Fleet.Endpoint = discovery.JSONEndpoint
	show("another way for Docker")
	f.in.Fleet.Endpoint = discovery.SockEndpoint
	if err := os.RemoveAll(f.hosts["vol-1"].Root + step.ControlRoot); err != nil {
		t.Fatal(err)
	}
	_, err := f.in.Plan(t.Context()) // it must not be made anew behind the operator's back: it would know of no volume
	fmt.Fprintf(&b, "== a lost control plane\n%s", reports(err))
	golden(t, "plan.golden", b.String())
}

// A host that fails does not stop the others; the next run does the rest.
func TestFailingHostDoesNotStopTheOthers(t *testing.T) {
	f := newFleet(t, "vol-1", "vol-2", "vol-3")
	f.servers["vol-2"].Env = append(f.servers["vol-2"].Env, "MOBYFS_TEST_FAIL=start mobyfs.service")
	out := f.plan().Apply(t.Context())
	if !slices.Equal(out.Changed, []string{"vol-1", "vol-3"}) || len(out.Failed) != 1 {
		t.Fatalf("changed %v, failed %v", out.Changed, out.Failed)
	}
	report := out.Failed[0].Report()
	for _, want := range []string{"vol-2", "MFS-A002", "step agent", "it does not like this host", "fix: "} {
		if !strings.Contains(report, want) {
			t.Errorf("the report does not say %q:\n%s", want, report)
		}
	}
	f.servers["vol-2"].Env = f.hosts["vol-2"].Env()
	if out := f.bootstrap(); !slices.Equal(out.Changed, []string{"vol-2"}) {
		t.Errorf("the second run changed %v", out.Changed)
	}
}

func TestWithoutControlNothingIsBegun(t *testing.T) {
	f := newFleet(t, "vol-1", "vol-2")
	f.servers["vol-1"].Env = append(f.servers["vol-1"].Env, "MOBYFS_TEST_FAIL=start mobyfs-control.service")
	before := f.hosts["vol-2"].Tree(t, false)
	out := f.plan().Apply(t.Context())
	var codes []string
	for _, p := range out.Failed {
		codes = append(codes, p.Host+" "+p.Code)
	}
	if diff := cmp.Diff([]string{"vol-1 MFS-A002", "vol-2 MFS-A005"}, codes); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if diff := cmp.Diff(before, f.hosts["vol-2"].Tree(t, false)); diff != "" {
		t.Errorf("vol-2 was touched:\n%s", diff)
	}
	f.servers["vol-1"].Env = f.hosts["vol-1"].Env()
	f.bootstrap()
}

// However much of the programs arrives before the line breaks, nothing half-done is installed, and the next run
// finishes.
func TestCutUploadInstallsNothing(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(self)
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []int64{20_000, 1 << 20, info.Size() - 1000, info.Size() + 1<<20, 2*info.Size() - 1000} {
		f := newFleet(t, "vol-1")
		plan := f.plan()
		f.servers["vol-1"].CutAfter.Store(at)
		out := plan.Apply(t.Context())
		if len(out.Failed) != 1 || !out.Failed[0].Of(host.Lost) {
			t.Fatalf("cut after %d bytes: got %+v", at, out)
		}
		f.servers["vol-1"].CutAfter.Store(0)
		facts := f.hosts["vol-1"].Facts(t)
		if facts.Installed != nil || len(facts.Links) > 0 {
			t.Errorf("cut after %d bytes: there is %v %v", at, facts.Installed, facts.Links)
		}
		for path, file := range facts.Files {
			if path != step.Dist(file.SHA256, filepath.Base(path)) {
				t.Errorf("cut after %d bytes: %s has the digest %s", at, path, file.SHA256)
			}
		}
		f.bootstrap()
		if left, _ := filepath.Glob(f.hosts["vol-1"].Root + step.DistDir + "/*/.*"); len(left) > 0 {
			t.Errorf("cut after %d bytes: left behind %v", at, left)
		}
	}
}

func TestStopOnRequest(t *testing.T) {
	f := newFleet(t, "vol-1")
	plan := f.plan()
	ctx, cancel := context.WithCancelCause(t.Context())
	f.in.Say = func(e step.Event) {
		if e.Step == "files" && e.State == step.StateChanged {
			cancel(errors.New("interrupted"))
		}
	}
	out := plan.Apply(ctx)
	if len(out.Failed) != 1 || !out.Failed[0].Of(host.Stopped) {
		t.Fatalf("got %+v", out)
	}
	f.in.Say = func(step.Event) {}
	f.bootstrap()
}

func TestLockedHostFails(t *testing.T) {
	f := newFleet(t, "vol-1")
	lock, err := step.TakeLock(f.hosts["vol-1"].Root, "bob@lap-8 with mobyctl bootstrap")
	if err != nil {
		t.Fatal(err)
	}
	out := f.plan().Apply(t.Context())
	if len(out.Failed) != 1 || !out.Failed[0].Of(host.Locked) || !strings.Contains(out.Failed[0].Text, "bob@lap-8") {
		t.Errorf("got %+v", out.Failed)
	}
	if err := lock.Release(); err != nil {
		t.Fatal(err)
	}
	f.bootstrap()
}

// All that is wrong is found on all hosts before anything is changed on any.
func TestPreflightFindsEverythingAndChangesNothing(t *testing.T) {
	f := newFleet(t, "vol-1", "vol-2", "vol-3", "vol-4")
	f.hosts["vol-2"].Docker(t, "")
	if err := os.RemoveAll(f.hosts["vol-3"].Root + "/run/systemd"); err != nil {
		t.Fatal(err)
	}
	f.hosts["vol-3"].Script(t, "ss", `case "$*" in *8080*) echo 'LISTEN 0 511 *:8080 *:* users:(("nginx",pid=77,fd=6))';; esac`)
	f.servers["vol-4"].SetKeys(hosttest.Key(t))
	before := f.trees(false)
	_, err := f.in.Plan(t.Context())
	text := reports(err)
	if !strings.Contains(text, "MFS-S005") || strings.Contains(text, "MFS-P011") {
		t.Errorf("hosts that can't be reached come first:\n%s", text)
	}
	f.servers["vol-4"].SetKeys() // replaced below
	f.in.Fleet.Hosts = f.in.Fleet.Hosts[:3]
	_, err = f.in.Plan(t.Context())
	text = reports(err)
	for _, want := range []string{
		"vol-2  MFS-P011", "vol-3  MFS-P001", "vol-3  MFS-P030", "nginx (process 77) listens on TCP port 8080, which mobyfs.service needs",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the report does not say %q:\n%s", want, text)
		}
	}
	if diff := cmp.Diff(before, f.trees(false)); diff != "" {
		t.Errorf("hosts were touched:\n%s", diff)
	}
}

// Unknown keys of all hosts are one question; then they are known.
func TestUnknownKeysAreAskedAboutOnce(t *testing.T) {
	f := newFleet(t, "vol-1", "vol-2")
	for i := range f.in.Fleet.Hosts {
		f.in.Fleet.Hosts[i].HostKey = ""
	}
	if _, err := f.in.Plan(t.Context()); !strings.Contains(reports(err), "MFS-S004") {
		t.Fatalf("without a person to ask: %v", err)
	}
	asked, answer := 0, false
	f.in.Trust = func(_ context.Context, keys []*host.UnknownKey) (bool, error) {
		asked += len(keys)
		return answer, nil
	}
	if _, err := f.in.Plan(t.Context()); asked != 2 || !strings.Contains(reports(err), "MFS-S004") {
		t.Fatalf("asked about %d keys, answered no: %v", asked, err)
	}
	answer = true
	f.plan()
	f.plan()
	if asked != 4 {
		t.Errorf("asked about %d keys in all, want 4: what was answered is remembered", asked)
	}
}

func TestSameMachineTwice(t *testing.T) {
	f := newFleet(t, "vol-1", "vol-2")
	f.in.Fleet.Hosts[1].Port = f.in.Fleet.Hosts[0].Port
	f.in.Fleet.Hosts[1].HostKey = f.in.Fleet.Hosts[0].HostKey
	_, err := f.in.Plan(t.Context())
	if text := reports(err); !strings.Contains(text, "MFS-P044") || !strings.Contains(text, "vol-1 and vol-2 lead to the same machine") {
		t.Errorf("got %v\n%s", err, text)
	}
}

func TestResetTakesEverythingOff(t *testing.T) {
	f := newFleet(t, "vol-1", "vol-2", "vol-3")
	f.bootstrap()
	reset := func(names ...string) *Plan {
		t.Helper()
		p, err := f.in.PlanReset(t.Context(), names, false, nil)
		if err != nil {
			t.Fatalf("%v\n%s", err, reports(err))
		}
		t.Cleanup(p.Close)
		return p
	}
	if _, err := f.in.PlanReset(t.Context(), []string{"vol-1"}, false, nil); !strings.Contains(reports(err), "MFS-P072") {
		t.Errorf("the control plane alone could be taken down: %v", err)
	}
	if _, err := f.in.PlanReset(t.Context(), []string{"vol-9"}, false, nil); err == nil || !strings.Contains(err.Error(), "did you mean") {
		t.Errorf("a host that is not there: %v", err)
	}
	if out := reset("vol-2").Apply(t.Context()); !slices.Equal(out.Changed, []string{"vol-2"}) || len(out.Failed) > 0 {
		t.Fatalf("got %+v", out)
	}
	if out := reset().Apply(t.Context()); !slices.Equal(out.Changed, []string{"vol-1", "vol-3"}) || !slices.Equal(out.Unchanged, []string{"vol-2"}) {
		t.Fatalf("got %+v %v", out, out.Failed)
	}
	for _, n := range f.names {
		if facts := f.hosts[n].Facts(t); facts.Here() || len(facts.Files)+len(facts.Links)+len(facts.Exists)+len(facts.Wants) > 0 {
			t.Errorf("%s still has %+v", n, facts)
		}
	}
	if p := reset(); !p.Empty() {
		t.Error("the second reset has something to do")
	}
	f.bootstrap()
}

func TestResetRefusesToLoseVolumes(t *testing.T) {
	f := newFleet(t, "vol-1", "vol-2")
	f.bootstrap()
	data := f.hosts["vol-2"].Root + step.AgentRoot + "/volumes/01jd3q8zv5w1y2x3k4m5n6p7q8/data"
	if err := os.MkdirAll(data, 0o755); err != nil {
		t.Fatal(err)
	}
	before := f.trees(false)
	_, err := f.in.PlanReset(t.Context(), nil, false, nil)
	if text := reports(err); !strings.Contains(text, "vol-2  MFS-P070") || !strings.Contains(text, "--purge-data") {
		t.Errorf("got %v\n%s", err, text)
	}
	if diff := cmp.Diff(before, f.trees(false)); diff != "" {
		t.Errorf("hosts were touched:\n%s", diff)
	}
	p, err := f.in.PlanReset(t.Context(), nil, true, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if out := p.Apply(t.Context()); len(out.Failed) > 0 {
		t.Error(out.Failed)
	}
	if _, err := os.Stat(data); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after --purge-data: %v", err)
	}
}

func TestPasswordFleet(t *testing.T) {
	f := newFleet(t, "vol-1", "vol-2")
	for _, n := range f.names {
		f.hosts[n].Script(t, "id", "echo 1000")
		f.hosts[n].Script(t, "sudo", `
if [ "$1" = -n ]; then echo "sudo: a password is required" >&2; exit 1; fi
shift 4
IFS= read -r line
[ "$line" = secret ] || exit 1
exec "$@"`)
	}
	if _, err := f.in.Plan(t.Context()); !strings.Contains(reports(err), "MFS-S012") {
		t.Errorf("without a password: %v", err)
	}
	f.in.Dialer.Password = func(context.Context, string, string) (string, error) { return "secret", nil }
	f.bootstrap()
}

func TestNewFleet(t *testing.T) {
	c, err := ParseConfig("cluster.yaml", []byte(head+"ssh: {user: ubuntu, port: 2222, identityFile: ~/k}\n"+hosts+
		"  - {name: vol-2, address: b, user: root, port: 22, identityFile: k2, hostKey: \"SHA256:TwmDxAGJPPzAwTMXcLbZpeMVvTfFyTgvCEr4P3K2kLk\"}\n"))
	if err != nil {
		t.Fatal(err)
	}
	f, err := NewFleet(c, c.Specs())
	if err != nil {
		t.Fatal(err)
	}
	want := []host.Target{
		{Name: "vol-1", Address: "10.0.1.11", User: "ubuntu", Port: 2222, IdentityFile: "~/k", HostKeys: host.HostKeysAsk, Sudo: host.SudoAuto},
		{Name: "vol-2", Address: "b", User: "root", Port: 22, IdentityFile: "k2", HostKeys: host.HostKeysAsk, Sudo: host.SudoAuto,
			HostKey: "SHA256:TwmDxAGJPPzAwTMXcLbZpeMVvTfFyTgvCEr4P3K2kLk"},
	}
	if diff := cmp.Diff(want, f.Hosts); diff != "" || !slices.Equal(f.Controls, []string{"vol-1"}) {
		t.Errorf("control %v, -want +got:\n%s", f.Controls, diff)
	}
	for name, specs := range map[string][]cloud.HostSpec{
		"none": nil, "twice": {{Name: "a"}, {Name: "a"}}, "bad name": {{Name: "A"}},
	} {
		if _, err := NewFleet(c, specs); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	c.Control.Host = "vol-9"
	if _, err := NewFleet(c, c.Specs()); err == nil || !strings.Contains(err.Error(), "did you mean") {
		t.Errorf("control on no host: %v", err)
	}
}
