package provision

import (
	"testing"

	"github.com/mobyfs/mobyfs/internal/discovery"
	"github.com/mobyfs/mobyfs/provision/host"
)

func TestPluginsAreAskedOnEachHost(t *testing.T) {
	f := newFleet(t, "vol-1", "vol-2")
	if _, _, err := f.in.Plugins(t.Context(), []string{"vol-3"}); err == nil {
		t.Error("a host that is not there was asked")
	}
	found, problems, err := f.in.Plugins(t.Context(), nil)
	if err != nil || len(found) != 0 || len(problems) != 2 || !problems[0].Of(host.NotInstalled) {
		t.Fatalf("before bootstrap: %+v, %v, %v", found, problems, err)
	}
	f.bootstrap()
	before := f.trees(false)
	found, problems, err = f.in.Plugins(t.Context(), []string{"vol-2"})
	if err != nil || len(problems) != 0 || len(found) != 1 {
		t.Fatalf("got %+v, %v, %v", found, problems, err)
	}
	// The host in a directory has a file for a socket, and no dockerd to ask.
	h := found[0]
	if h.Host != "vol-2" || len(h.Registrations) != 1 || h.Registrations[0].Place != discovery.SockPath || h.Registrations[0].Wins || h.Fine() || h.Docker.Error == "" {
		t.Errorf("got %+v", h)
	}
	if after := f.trees(false); after != before {
		t.Error("asking touched files")
	}
}
