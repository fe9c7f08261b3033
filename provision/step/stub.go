package step

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/mobyfs/mobyfs/internal/discovery"
	"github.com/mobyfs/mobyfs/internal/process"
)

// stub leaves a stub on a host whose dockerd has activated the driver. Such a dockerd asks for the driver, at the
// endpoint that it found then, until it ends, and waits 15 s each time nobody answers. The stub is a transient unit, so
// no boot starts it again, and runs the program that is about to be removed, so no file stays; it ends with that life of
// dockerd, and then its sockets go.
type stub struct{}

func (stub) Name() string { return "stub" }

// stubWanted reports whether something has to answer dockerd when the agent is gone.
func (f Facts) stubWanted() bool { return f.DriverActivated && f.DockerPID > 0 && f.endpoint() != "" }

// stubRuns reports whether something does.
func (f Facts) stubRuns() bool { return f.Units[StubUnit].Active == "active" }

// leftToStub reports whether the path is a socket that a stub answers at, and takes away when it ends.
func (f Facts) leftToStub(p string) bool {
	return (p == discovery.SockPath || p == discovery.DriverSock) && (f.stubWanted() || f.stubRuns())
}

func (stub) Check(f Facts, _ Desired) []Change {
	if !f.stubWanted() || f.stubRuns() {
		return nil
	}
	return []Change{{Add, "start " + StubUnit, "Docker has used the driver and asks for it until it is restarted"}}
}

func (stub) Apply(ctx context.Context, r *Run) error {
	life, err := process.Of(r.Facts.DockerPID)
	if err != nil { // it has just ended
		r.Facts.DriverActivated = false
		return nil
	}
	var endpoints []string
	for _, e := range append(slices.Clone(r.Facts.Kept), r.Facts.endpoint()) {
		endpoints = append(endpoints, string(e))
	}
	err = r.Systemd.StartTransient(ctx, StubUnit, Transient{
		Description: "mobyfs was taken off; this answers Docker until it is restarted",
		Command: []string{Dist(r.Desired.program(Agent).SHA256, Agent), "stub", "--dockerd", life.String(), "--root", AgentRoot,
			"--cluster", r.Facts.Installed.Cluster, "--node", r.Facts.Installed.Node, "--endpoint", strings.Join(endpoints, ",")},
		Afterwards: []string{"/bin/sh", "-c", fmt.Sprintf("rm -f %s %s; rmdir %s 2>/dev/null; true", // also when it is killed
			discovery.SockPath, discovery.DriverSock, path.Dir(discovery.DriverSock))},
	})
	if err != nil {
		return fmt.Errorf("leave a stub for Docker: %w", err)
	}
	u := r.Facts.Units[StubUnit]
	u.Active = "active"
	r.Facts.Units[StubUnit] = u
	return nil
}
