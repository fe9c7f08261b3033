package step

import (
	"context"
	"path"
	"slices"
	"strings"

	"github.com/mobyfs/mobyfs/internal/discovery"
	"github.com/mobyfs/mobyfs/internal/durable"
	"github.com/mobyfs/mobyfs/templates"
)

// Docker calls the endpoint that it read until dockerd ends. So an endpoint that is changed is kept: KeptUnit serves
// it beside the new one, and systemd takes it away with that dockerd.

// endpoint is where Docker shall call the driver.
func (d Desired) endpoint() discovery.Endpoint {
	if d.Endpoint == "" {
		return discovery.SockEndpoint
	}
	return d.Endpoint
}

// plugins lists what tells Docker of the driver, each after the directory that it is in.
func (d Desired) plugins() []string {
	switch d.endpoint().Way() {
	case discovery.Spec:
		return []string{path.Dir(discovery.EtcDir), discovery.EtcDir, discovery.SpecPath}
	case discovery.JSON:
		return []string{path.Dir(discovery.EtcDir), discovery.EtcDir, discovery.JSONPath}
	default:
		return nil
	}
}

// isPluginDir reports whether a path is a directory that Docker's own installation may have made.
func isPluginDir(p string) bool { return p == discovery.EtcDir || p == path.Dir(discovery.EtcDir) }

// sockets lists what of ours is in /run, and gone after a reboot.
func sockets() []string {
	return []string{discovery.SockPath, discovery.DriverSock, KeptPath, KeptUnitPath}
}

// endpoint is where the driver was served last, "" if it never was.
func (f Facts) endpoint() discovery.Endpoint {
	switch {
	case f.running(SocketUnit) == "":
		return ""
	case f.Installed.Endpoint == "":
		return discovery.SockEndpoint
	default:
		return f.Installed.Endpoint
	}
}

// moved reports whether a dockerd that runs may call elsewhere than is desired.
func (f Facts) moved(d Desired) bool {
	e := f.endpoint()
	return e != "" && e != d.endpoint() && !slices.Contains(f.Kept, e)
}

// keep lists the endpoints that are to be served until dockerd ends.
func (f Facts) keep(d Desired) []discovery.Endpoint {
	all := f.Kept
	if f.moved(d) {
		all = append(slices.Clone(all), f.endpoint())
	}
	return discovery.Without(all, d.endpoint())
}

// keeps reports whether all of that is served now, and nothing else.
func (f Facts) keeps(d Desired) bool {
	keep := f.keep(d)
	return slices.Equal(keep, f.Kept) && (len(keep) == 0 || f.Units[KeptUnit].Active == "active")
}

// dead lists sockets of ours that nobody will listen at any more: Docker would wait there.
func (f Facts) dead(d Desired) []string {
	var all []string
	for _, e := range []discovery.Endpoint{discovery.SockEndpoint, discovery.SpecEndpoint} {
		if p := e.Path(); f.Exists[p] && f.Owns(p) && e != d.endpoint() && !slices.Contains(f.keep(d), e) {
			all = append(all, p)
		}
	}
	return all
}

// Serves reports whether the port is one at which Docker is served now.
func (f Facts) Serves(port int) bool {
	e := f.endpoint()
	return e.Port() == port || slices.ContainsFunc(f.Kept, func(e discovery.Endpoint) bool { return e.Port() == port })
}

// keepOpen makes systemd serve the endpoints until dockerd ends. The agent must not run: systemd starts no socket
// whose service does.
func (r *Run) keepOpen(ctx context.Context, keep []discovery.Endpoint) error {
	var lines strings.Builder
	var listen []string
	for _, e := range keep {
		lines.WriteString(string(e) + "\n")
		_, address := e.Listen()
		listen = append(listen, address)
	}
	unit, err := templates.KeptSocket(listen)
	if err != nil {
		return err
	}
	for _, f := range []struct{ path, text string }{{KeptPath, lines.String()}, {KeptUnitPath, unit}} {
		if err := r.mkdirAll(path.Dir(f.path), 0o755); err != nil {
			return err
		}
		if err := durable.WriteFile("step.keep", r.path(f.path), []byte(f.text), 0o644); err != nil {
			return err
		}
		r.Facts.Exists[f.path] = true
	}
	if err := r.Systemd.Reload(ctx); err != nil {
		return err
	}
	if err := r.Systemd.Start(ctx, KeptUnit); err != nil {
		return err
	}
	r.Facts.Kept, r.Facts.Units[KeptUnit] = keep, Unit{Load: "loaded", Active: "active"}
	return nil
}

// noteEndpoint records where Docker is served from now on.
func (r *Run) noteEndpoint() error {
	if r.Facts.Installed.Endpoint == r.Desired.endpoint() {
		return nil
	}
	j := r.Facts.merge(r.Desired)
	j.Endpoint = r.Desired.endpoint()
	return r.writeJournal(j)
}
