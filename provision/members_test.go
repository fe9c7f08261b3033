package provision

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mobyfs/mobyfs/internal/pki"
	"github.com/mobyfs/mobyfs/internal/seal"
	"github.com/mobyfs/mobyfs/provision/host"
	"github.com/mobyfs/mobyfs/provision/step"
)

// store tells the members as the fleet's control knows them.
func (f *fleet) store() []string {
	f.t.Helper()
	text, err := os.ReadFile(f.hosts["vol-1"].Root + step.ControlRoot + "/etcd/client.sock")
	if err != nil {
		f.t.Fatal(err)
	}
	var names []string
	for _, m := range strings.Fields(string(text)) {
		name, _, _ := strings.Cut(m, "=")
		names = append(names, name)
	}
	return names
}

// changesOf is what a plan tells of one step on one host.
func changesOf(p *Plan, name, of string) []string {
	var all []string
	for _, h := range p.Hosts {
		for _, d := range h.Changes {
			if h.Name == name && d.Step == of {
				for _, c := range d.Changes {
					all = append(all, c.String())
				}
			}
		}
	}
	return all
}

// TestClusterGrowsToThreeControls: the running control plane is not touched, those that join get certificates of their
// own and the key of the store, and killed anywhere the next run does the rest.
func TestClusterGrowsToThreeControls(t *testing.T) {
	f := newFleet(t, "vol-1", "vol-2", "vol-3", "vol-4")
	f.bootstrap()
	root := f.hosts["vol-1"].Root + step.ControlRoot
	if _, err := seal.Make(seal.PathIn(root)); err != nil {
		t.Fatal(err)
	}
	f.in.Fleet.Controls = []string{"vol-1", "vol-2", "vol-3"}
	p := f.plan()
	if diff := cmp.Diff([]string{"+ member vol-2 of the store", "+ member vol-3 of the store"}, changesOf(p, "vol-1", "members")); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if got := changesOf(p, "vol-1", "control"); got != nil {
		t.Errorf("the control that runs: %v", got)
	}
	f.servers["vol-2"].Env = append(f.servers["vol-2"].Env, "MOBYFS_TEST_FAIL=start mobyfs-control.service")
	if out := p.Apply(t.Context()); len(out.Failed) != 1 || out.Failed[0].Host != "vol-2" {
		t.Fatalf("failed: %v", out.Failed)
	}
	f.servers["vol-2"].Env = f.hosts["vol-2"].Env()
	f.bootstrap()
	if diff := cmp.Diff([]string{"vol-2", "vol-3"}, slices.DeleteFunc(f.store(), func(n string) bool { return n == "vol-1" })); diff != "" {
		t.Errorf("the store's members, -want +got:\n%s", diff)
	}
	if p := f.plan(); !p.Empty() {
		t.Errorf("there is still to do: %v", changesOf(p, "vol-1", "members"))
	}
	key, err := os.ReadFile(seal.PathIn(root))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"vol-2", "vol-3"} {
		dir := f.hosts[name].Root + step.ControlRoot + "/pki"
		for role, files := range map[string]pki.Files{pki.RoleControl: pki.FilesIn(dir, "control"), pki.RolePeer: pki.PeerFiles(dir)} {
			if who, _, err := files.Identity(); err != nil || who != (pki.Identity{Cluster: "shop", Role: role, Name: name}) {
				t.Errorf("%s is %v, %v", name, who, err)
			}
		}
		if got, err := os.ReadFile(dir + "/kek"); err != nil || string(got) != string(key) {
			t.Errorf("%s has another key for the store: %v", name, err)
		}
		if _, err := os.Stat(dir + "/ca.key"); err == nil {
			t.Errorf("%s has the authority's key", name)
		}
		if join, err := os.ReadFile(f.hosts[name].Root + step.ControlRoot + "/join"); err != nil || !strings.Contains(string(join), "vol-2=https://") {
			t.Errorf("%s joins %q, %v", name, join, err)
		}
		env, err := os.ReadFile(f.hosts[name].Root + step.EnvDir + "/mobyfs-control.env")
		if err != nil || !strings.Contains(string(env), "MOBYFS_CONTROL_NAME="+name+"\n") {
			t.Errorf("%s runs as %q, %v", name, env, err)
		}
	}
	env, err := os.ReadFile(f.hosts["vol-4"].Root + step.EnvDir + "/mobyfs.env")
	if err != nil || strings.Count(string(env), ":7946") != 3 {
		t.Errorf("the agents know %q, %v", env, err)
	}
}

func TestMemberThatLostItsDataIsReplaced(t *testing.T) {
	f := newFleet(t, "vol-1", "vol-2", "vol-3")
	f.in.Fleet.Controls = f.names
	f.bootstrap()
	if err := os.RemoveAll(f.hosts["vol-3"].Root + step.ControlRoot); err != nil {
		t.Fatal(err)
	}
	p := f.plan()
	want := []string{"- member vol-3 of the store (its data is gone)", "+ member vol-3 of the store"}
	if diff := cmp.Diff(want, changesOf(p, "vol-1", "members")); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	f.bootstrap()
	if !f.plan().Empty() || !slices.Contains(f.store(), "vol-3") {
		t.Errorf("the members are %v", f.store())
	}
}

// TestControlHostGivesWayToAnother: reset takes it out of the store before its control stops, and bootstrap lets the
// other join.
func TestControlHostGivesWayToAnother(t *testing.T) {
	f := newFleet(t, "vol-1", "vol-2", "vol-3", "vol-4")
	f.in.Fleet.Controls = []string{"vol-1", "vol-2", "vol-3"}
	f.bootstrap()
	if _, err := f.in.PlanReset(t.Context(), []string{"vol-3"}, false, nil); !strings.Contains(reports(err), "MFS-P072") {
		t.Errorf("reset of a control host: %v", err)
	}
	f.in.Fleet.Controls = []string{"vol-1", "vol-2", "vol-4"}
	if _, err := f.in.Plan(t.Context()); !strings.Contains(reports(err), "mobyctl reset vol-3") {
		t.Errorf("while its control runs: %s", reports(err))
	}
	if _, err := f.in.PlanReset(t.Context(), []string{"vol-1"}, false, nil); !strings.Contains(reports(err), "MFS-P072") {
		t.Errorf("reset of the host with the authority: %v", err)
	}
	p, err := f.in.PlanReset(t.Context(), []string{"vol-3"}, false, nil)
	if err != nil {
		t.Fatalf("%v: %s", err, reports(err))
	}
	defer p.Close()
	if out := p.Apply(t.Context()); len(out.Failed) > 0 {
		t.Fatal(out.Failed[0].Report())
	}
	f.bootstrap()
	if !f.plan().Empty() || !slices.Contains(f.store(), "vol-4") {
		t.Errorf("the members are %v", f.store())
	}
}

func TestControlHostsMustAgreeOnTheTime(t *testing.T) {
	f := newFleet(t, "vol-1", "vol-2", "vol-3")
	f.in.Fleet.Controls = f.names
	f.hosts["vol-2"].Script(t, "date", `echo $(($(/usr/bin/date +%s) - 400))`)
	_, err := f.in.Plan(t.Context())
	var kinds []string
	for _, p := range err.(*Preflight).Problems {
		kinds = append(kinds, p.Host+" "+p.Code)
	}
	if diff := cmp.Diff([]string{"vol-2 " + host.ClockWrong.Code}, kinds); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
