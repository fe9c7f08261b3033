package sandbox

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mobyfs/mobyfs"
)

func TestOptionsThatCanNeverWorkAreInvalidAndSayTheWayOut(t *testing.T) {
	for name, o := range map[string]Options{
		"name that leaves its directory": {Name: "../x"},
		"name with capitals":             {Name: "Demo"},
		"too many hosts":                 {Hosts: 241},
		"negative hosts":                 {Hosts: -1},
		"distro without recipe":          {Distros: []string{"buster"}},
		"more distros than hosts":        {Hosts: 1, Distros: []string{"bookworm", "trixie"}},
		"image and distros":              {Image: "mine", Distros: []string{"trixie"}},
		"subnet that is an address":      {Subnet: "10.1.2.3/24"},
		"subnet too small":               {Subnet: "10.1.2.0/25"},
		"subnet of IPv6":                 {Subnet: "fd00::/24"},
	} {
		_, err := o.withDefaults()
		if mobyfs.CodeOf(err) != mobyfs.CodeInvalid || mobyfs.HintOf(err) == "" {
			t.Errorf("%s: got %v (hint %q), want an invalid with a hint", name, err, mobyfs.HintOf(err))
		}
	}
}

func TestDistrosAreUsedInTurnAndHostsThatExistStayAsTheyAre(t *testing.T) {
	t.Setenv("XDG_DATA_HOME", t.TempDir())
	s, err := stateOf("turn")
	if err != nil {
		t.Fatal(err)
	}
	has := s.newFleet()
	has.Hosts = []Host{{Name: "h1", Distro: "trixie", Image: "mobyfs-sandbox:trixie-old", Container: "turn-h1"}}
	o, err := Options{Name: "turn", Hosts: 4, Distros: []string{"bookworm", "trixie"}, Light: true}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	hosts, err := (&raising{Options: o}).hostsOf(has)
	if err != nil {
		t.Fatal(err)
	}
	var got []Host
	for _, h := range hosts {
		if h.Name != "h1" && h.Image == "" {
			t.Errorf("%s has no image", h.Name)
		}
		if h.Name != "h1" {
			h.Image = ""
		}
		got = append(got, h)
	}
	want := []Host{
		has.Hosts[0],
		{Name: "h2", Distro: "trixie", Container: "turn-h2", Light: true},
		{Name: "h3", Distro: "bookworm", Container: "turn-h3", Light: true},
		{Name: "h4", Distro: "trixie", Container: "turn-h4", Light: true},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("hosts (-want +got):\n%s", d)
	}
	o.Hosts = 1
	if hosts, err = (&raising{Options: o}).hostsOf(Fleet{Hosts: hosts}); err != nil || len(hosts) != 4 {
		t.Errorf("asked for fewer: got %d hosts, %v; none may be removed", len(hosts), err)
	}
}

func TestStateIsReadBackAndForgotten(t *testing.T) {
	t.Setenv("XDG_DATA_HOME", t.TempDir())
	s, err := stateOf("demo")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.load(); mobyfs.CodeOf(err) != mobyfs.CodeNotFound {
		t.Errorf("load before save: got %v, want not-found", err)
	}
	first, err := s.makeKey("demo")
	if err != nil || !first.isNew {
		t.Fatalf("make key: %+v, %v; want a new one", first, err)
	}
	again, err := s.makeKey("demo")
	if err != nil || again.isNew || again.line != first.line {
		t.Errorf("make key again: got %+v, %v; want the first, not new", again, err)
	}
	want := s.newFleet()
	want.Subnet = "10.77.3.0/24"
	want.Hosts = []Host{{Name: "h1", Address: "10.77.3.11", Container: "demo-h1", Distro: "bookworm", Image: "i"}}
	if err := s.save(want); err != nil {
		t.Fatal(err)
	}
	got, err := Load(t.Context(), "demo")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("fleet (-want +got):\n%s", d)
	}
	if err := s.remove(); err != nil {
		t.Fatal(err)
	}
	if names, err := savedFleets(); err != nil || len(names) != 0 {
		t.Errorf("after remove: got %v, %v; want nothing", names, err)
	}
}

func TestListTellsOfHostsThatAreMissingAndOfContainersWrittenDownNowhere(t *testing.T) {
	made, err := parseContainers([]byte(`[
		{"Id":"aa","Name":"/demo-h1","State":{"Status":"running"},"Config":{"Labels":{"mobyfs.sandbox":"demo","mobyfs.sandbox.host":"h1"}}},
		{"Id":"bb","Name":"/demo-h10","State":{"Status":"paused"},"Config":{"Labels":{"mobyfs.sandbox":"demo","mobyfs.sandbox.host":"h10"}}},
		{"Id":"cc","Name":"/lost-h1","State":{"Status":"exited"},"Config":{"Labels":{"mobyfs.sandbox":"lost","mobyfs.sandbox.host":"h1"}}}]`))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"demo", "lost"}, withFleetsOf([]string{"demo"}, made)); d != "" {
		t.Errorf("fleets (-want +got):\n%s", d)
	}
	demo := Fleet{Name: "demo", Hosts: []Host{{Name: "h1", Container: "demo-h1"}, {Name: "h2", Container: "demo-h2"}}}
	want := []Host{
		{Name: "h1", Container: "demo-h1", State: "running"},
		{Name: "h2", Container: "demo-h2", State: "missing"},
		{Name: "h10", Container: "demo-h10", State: "paused"},
	}
	if d := cmp.Diff(want, withStates(demo, made)); d != "" {
		t.Errorf("hosts (-want +got):\n%s", d)
	}
}

func TestSSHCommandLineKeepsArgumentsApart(t *testing.T) {
	f := Fleet{User: "root", Key: "/k", KnownHosts: "/kh", Hosts: []Host{{Name: "h1", Address: "10.77.0.11"}}}
	base := []string{"ssh", "-i", "/k", "-o", "IdentitiesOnly=yes", "-o", "UserKnownHostsFile=/kh",
		"-o", "StrictHostKeyChecking=yes", "root@10.77.0.11"}
	for _, tc := range []struct{ command, want []string }{
		{nil, nil},
		{[]string{"ls | wc -l"}, []string{"ls | wc -l"}},
		{[]string{"sh", "-c", "echo 'a  b'"}, []string{"'sh'", "'-c'", `'echo '\''a  b'\'''`}},
	} {
		got, err := f.SSH("h1", tc.command...)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(append(append([]string{}, base...), tc.want...), got); d != "" {
			t.Errorf("%q (-want +got):\n%s", tc.command, d)
		}
	}
	if _, err := f.SSH("h2"); mobyfs.CodeOf(err) != mobyfs.CodeNotFound {
		t.Errorf("unknown host: got %v, want not-found", err)
	}
}

func TestDockerErrorsTellTheCauseAndTheWayOut(t *testing.T) {
	for _, tc := range []struct {
		stderr, text string
		code         mobyfs.Code
		hint         bool
	}{
		{"docker: Error response from daemon: no such image.\n\nRun 'docker run --help' for more information\n", "docker start x: no such image.", mobyfs.CodeInternal, false},
		{"Error response from daemon: exec: \"/bin/sh\": no such file\nError: failed to start containers: x\n", `docker start x: exec: "/bin/sh": no such file`, mobyfs.CodeInternal, false},
		{"Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?\n", "docker start x: no Docker Engine answers: Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?", mobyfs.CodeUnavailable, true},
		{"permission denied while trying to connect to the Docker daemon socket at unix:///var/run/docker.sock: dial\n", "docker start x: this user may not speak to Docker", mobyfs.CodeDenied, true},
	} {
		err := dockerError(t.Context(), []string{"start", "x"}, nil, tc.stderr)
		if err.Error() != tc.text || mobyfs.CodeOf(err) != tc.code || (mobyfs.HintOf(err) != "") != tc.hint {
			t.Errorf("got %q (%s, hint %q), want %q (%s)", err, mobyfs.CodeOf(err), mobyfs.HintOf(err), tc.text, tc.code)
		}
	}
}
