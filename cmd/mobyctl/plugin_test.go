package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/mobyfs/mobyfs/internal/discovery"
	"github.com/mobyfs/mobyfs/provision"
)

func TestPluginStatusShowsTheOrderAndWhatNeedsALook(t *testing.T) {
	hosts := []provision.HostPlugins{
		{Host: "h1", Report: discovery.Report{
			Docker: discovery.Docker{Version: "26.1.5", Activated: true},
			Registrations: []discovery.Registration{
				{Place: discovery.SockPath, Kind: "sock", Endpoint: discovery.SockEndpoint, Mode: "0600", Owner: "root", Wins: true, Answers: true},
				{Place: discovery.SpecPath, Kind: "spec", Endpoint: "https://10.0.0.1:1", Mode: "0644", Owner: "root", Answer: "connection refused",
					Trouble: []string{"Docker never verifies https in a .spec"}},
			}}},
		{Host: "h2", Report: discovery.Report{Docker: discovery.Docker{Version: "20.10.24"}, Trouble: []string{"nothing tells Docker of the driver"}}},
	}
	var b strings.Builder
	printPlugins(&b, hosts)
	want := `HOST   REGISTERED BY                     LEADS TO                                 DOCKER           ANSWERS   MODE
h1     /run/docker/plugins/mobyfs.sock   unix:///run/docker/plugins/mobyfs.sock   uses it          yes       0600 root
h1     /etc/docker/plugins/mobyfs.spec   https://10.0.0.1:1                       passes it over   no        0644 root
h2     -                                 -                                        finds nothing    -         -
  ▲ h1: /etc/docker/plugins/mobyfs.spec: Docker never verifies https in a .spec
      │ connection refused
  ▲ h2: nothing tells Docker of the driver
`
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if allFine(hosts) || !allFine(hosts[:0]) {
		t.Error("the exit code would be wrong")
	}
}
