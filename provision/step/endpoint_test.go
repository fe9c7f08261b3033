package step_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mobyfs/mobyfs/internal/discovery"
	"github.com/mobyfs/mobyfs/internal/pki"
	"github.com/mobyfs/mobyfs/provision/step"
	"github.com/mobyfs/mobyfs/templates"
)

// at is a host whose Docker calls the driver at an endpoint.
func (m *machine) at(e discovery.Endpoint) step.Desired {
	m.t.Helper()
	d := m.desired("agent 1")
	d.Endpoint = e
	_, listen := e.Listen()
	must := func(text string, err error) string {
		m.t.Helper()
		if err != nil {
			m.t.Fatal(err)
		}
		return text
	}
	for i := range d.Files {
		switch d.Files[i].Path {
		case step.UnitDir + "/" + step.SocketUnit:
			d.Files[i].Content = must(templates.Socket(e.Scheme(), listen))
		case "/etc/mobyfs/mobyfs.env":
			d.Files[i].Content += "MOBYFS_ENDPOINT=" + string(e) + "\n"
		}
	}
	switch e.Way() {
	case discovery.Spec:
		d.Files = append(d.Files, step.File{Path: discovery.SpecPath, Mode: 0o644, Content: must(templates.Spec(string(e)))})
	case discovery.JSON:
		d.Files = append(d.Files, step.File{Path: discovery.JSONPath, Mode: 0o644, Content: must(templates.JSON(string(e), step.PKIDir))})
	}
	return d
}

func (m *machine) there(path string) bool {
	m.t.Helper()
	_, err := os.Lstat(m.Root + path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		m.t.Fatal(err)
	}
	return err == nil
}

const tcpEndpoint discovery.Endpoint = "tcp://127.0.0.1:8082"

func TestC22EachWayIsInstalledAndThenThereIsNothingToDo(t *testing.T) {
	for e, want := range map[discovery.Endpoint]string{
		discovery.SockEndpoint: discovery.SockPath,
		discovery.SpecEndpoint: discovery.SpecPath,
		tcpEndpoint:            discovery.SpecPath,
		discovery.JSONEndpoint: discovery.JSONPath,
	} {
		m := newMachine(t)
		before := m.Tree(t, true)
		m.mustApply(m.at(e))
		if plan := step.Plan(m.Facts(t), m.at(e)); len(plan) != 0 {
			t.Errorf("%s: the second plan is not empty: %v", e, plan)
		}
		for _, p := range []string{discovery.SockPath, discovery.SpecPath, discovery.JSONPath} {
			if m.there(p) != (p == want) {
				t.Errorf("%s: %s is there: %v", e, p, m.there(p))
			}
		}
		who, _, err := pki.FilesIn(m.Root+step.PKIDir, "docker").Identity()
		if dockers := (pki.Identity{Cluster: "shop", Role: pki.RoleDocker, Name: "vol-1"}); e.TLS() && (err != nil || who != dockers) {
			t.Errorf("%s: dockerd is %v, %v", e, who, err)
		} else if !e.TLS() && err == nil {
			t.Errorf("%s: dockerd has a certificate that it does not need", e)
		}
		m.mustApply(absent(m.at(e)))
		for _, dir := range []string{"run/docker/plugins", "run/docker", "usr/lib"} { // not ours to remove
			if err := os.Remove(filepath.Join(m.Root, dir)); err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Fatal(err)
			}
		}
		if diff := cmp.Diff(before, m.Tree(t, true)); diff != "" {
			t.Errorf("%s: reset left something (-want +got):\n%s", e, diff)
		}
	}
}

// T18: a dockerd that runs calls the address that it read.
func TestChangedEndpointIsKeptUntilDockerdEnds(t *testing.T) {
	m := newMachine(t)
	m.mustApply(m.at(discovery.SockEndpoint))
	m.Calls(t)
	var plan []string
	for _, d := range step.Plan(m.Facts(t), m.at(discovery.JSONEndpoint)) {
		for _, c := range d.Changes {
			plan = append(plan, d.Step+": "+c.String())
		}
	}
	want := []string{
		"journal: ~ /var/lib/mobyfs/installed.json",
		"files: ~ /etc/mobyfs/mobyfs.env (its content differs)",
		"files: ~ /etc/systemd/system/mobyfs.socket (its content differs)",
		"files: + /etc/docker/plugins/mobyfs.json",
		"units: ~ reload systemd (mobyfs.socket changed)",
		"certificate: + certificate of dockerd on vol-1",
		"agent: ↻ restart mobyfs.socket (what it was started with has changed)",
		"agent: + keep unix:///run/docker/plugins/mobyfs.sock open until dockerd restarts (Docker calls the address that it read until then)",
		"agent: ↻ restart mobyfs.service (what it was started with has changed)",
	}
	if diff := cmp.Diff(want, plan); diff != "" {
		t.Errorf("the plan (-want +got):\n%s", diff)
	}
	m.mustApply(m.at(discovery.JSONEndpoint))
	calls := []string{"reload", "stop mobyfs.service", "restart mobyfs.socket", "reload", "start mobyfs-kept.socket", "start mobyfs.service"}
	if diff := cmp.Diff(calls, m.Calls(t)); diff != "" {
		t.Errorf("calls of systemd (-want +got):\n%s", diff)
	}
	if f := m.Facts(t); !slices.Equal(f.Kept, []discovery.Endpoint{discovery.SockEndpoint}) || !m.there(discovery.SockPath) {
		t.Errorf("kept are %v", f.Kept)
	}
	if plan := step.Plan(m.Facts(t), m.at(discovery.JSONEndpoint)); len(plan) != 0 {
		t.Errorf("the second plan is not empty: %v", plan)
	}

	m.RestartDocker(t)
	if m.there(discovery.SockPath) {
		t.Error("the next dockerd would find the old socket before the file")
	}
	if plan := step.Plan(m.Facts(t), m.at(discovery.JSONEndpoint)); len(plan) != 0 {
		t.Errorf("after dockerd's restart there is to do: %v", plan)
	}
}

func TestEndpointMayChangeAgainInOneLifeOfDockerd(t *testing.T) {
	m := newMachine(t)
	m.mustApply(m.at(discovery.SockEndpoint))
	for _, tc := range []struct {
		to   discovery.Endpoint
		kept []discovery.Endpoint
	}{
		{discovery.SpecEndpoint, []discovery.Endpoint{discovery.SockEndpoint}},
		{tcpEndpoint, []discovery.Endpoint{discovery.SockEndpoint, discovery.SpecEndpoint}},
		{discovery.JSONEndpoint, []discovery.Endpoint{discovery.SockEndpoint, discovery.SpecEndpoint, tcpEndpoint}},
		{discovery.SockEndpoint, []discovery.Endpoint{discovery.SpecEndpoint, tcpEndpoint, discovery.JSONEndpoint}},
	} {
		m.mustApply(m.at(tc.to))
		if diff := cmp.Diff(tc.kept, m.Facts(t).Kept); diff != "" {
			t.Errorf("at %s kept are (-want +got):\n%s", tc.to, diff)
		}
		if plan := step.Plan(m.Facts(t), m.at(tc.to)); len(plan) != 0 {
			t.Errorf("at %s there is still to do: %v", tc.to, plan)
		}
		for _, e := range append(tc.kept, tc.to) {
			if p := e.Path(); p != "" && !m.there(p) {
				t.Errorf("at %s nobody listens at %s", tc.to, p)
			}
		}
	}
	m.RestartDocker(t)
	m.mustApply(m.at(discovery.SockEndpoint))
	if !m.there(discovery.SockPath) || m.there(discovery.DriverSock) || m.there(discovery.JSONPath) {
		t.Error("what is there is not the socket alone")
	}
	// An upgrade in between must not lose what is kept.
	m.mustApply(m.at(discovery.SpecEndpoint))
	d := m.at(discovery.SpecEndpoint)
	for i := range d.Files {
		if d.Files[i].Path == step.UnitDir+"/"+step.SocketUnit {
			d.Files[i].Content += "# another version\n"
		}
	}
	m.mustApply(d)
	if diff := cmp.Diff([]discovery.Endpoint{discovery.SockEndpoint}, m.Facts(t).Kept); diff != "" {
		t.Errorf("after an upgrade kept are (-want +got):\n%s", diff)
	}
}

// Killed at any moment, another run ends with both endpoints served.
func TestChangeOfEndpointKilledAnywhereLosesNoCaller(t *testing.T) {
	killedEverywhere(t, 26, func(m *machine, kill string) bool {
		m.mustApply(m.at(discovery.SockEndpoint))
		if _, err := m.apply(m.at(discovery.JSONEndpoint), kill); err == nil {
			return false
		}
		m.mustApply(m.at(discovery.JSONEndpoint))
		f := m.Facts(m.t)
		if !slices.Equal(f.Kept, []discovery.Endpoint{discovery.SockEndpoint}) || f.Units[step.KeptUnit].Active != "active" || f.Units[step.AgentUnit].Active != "active" {
			m.t.Errorf("kept are %v by %+v", f.Kept, f.Units)
		}
		if plan := step.Plan(f, m.at(discovery.JSONEndpoint)); len(plan) != 0 {
			m.t.Errorf("after another run there is still to do: %v", plan)
		}
		m.RestartDocker(m.t)
		if plan := step.Plan(m.Facts(m.t), m.at(discovery.JSONEndpoint)); len(plan) != 0 {
			m.t.Errorf("after dockerd's restart there is to do: %v", plan)
		}
		return true
	})
}

func TestRemoveTakesKeptEndpointsToo(t *testing.T) {
	m := newMachine(t)
	m.mustApply(m.at(discovery.SockEndpoint))
	m.mustApply(m.at(discovery.SpecEndpoint))
	m.mustApply(absent(m.at(discovery.SpecEndpoint)))
	for _, p := range []string{discovery.SockPath, discovery.DriverSock, discovery.SpecPath, discovery.EtcDir, step.KeptPath, step.KeptUnitPath} {
		if m.there(p) {
			t.Errorf("%s is still there", p)
		}
	}
	if plan := step.Plan(m.Facts(t), absent(m.at(discovery.SpecEndpoint))); len(plan) != 0 {
		t.Errorf("there is still to remove: %v", plan)
	}
}

func TestPluginDirectoryOfSomebodyElseStays(t *testing.T) {
	m := newMachine(t)
	if err := os.MkdirAll(m.Root+discovery.EtcDir, 0o755); err != nil {
		t.Fatal(err)
	}
	m.mustApply(m.at(discovery.SpecEndpoint))
	m.mustApply(absent(m.at(discovery.SpecEndpoint)))
	if m.there(discovery.SpecPath) || !m.there(discovery.EtcDir) {
		t.Errorf("the file is there: %v, the directory: %v", m.there(discovery.SpecPath), m.there(discovery.EtcDir))
	}
}
