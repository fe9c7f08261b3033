package provision

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/mobyfs/mobyfs/internal/discovery"
	"github.com/mobyfs/mobyfs/provision/host"
	"github.com/mobyfs/mobyfs/provision/step"
)

// HostPlugins is what is registered with Docker on one host under the driver's name.
type HostPlugins struct {
	Host string `json:"host"`
	discovery.Report
}

// Plugins asks the named hosts, or all if none is named, what their Docker could find. It changes nothing. Hosts that
// could not be asked are among the problems.
func (in *Installer) Plugins(ctx context.Context, names []string) ([]HostPlugins, []*host.Problem, error) {
	targets, err := in.choose(names)
	if err != nil {
		return nil, nil, err
	}
	found, failed := make([]*HostPlugins, len(targets)), make([]error, len(targets))
	g, _ := in.group(ctx)
	for i, t := range targets {
		g.Go(func() error {
			found[i], failed[i] = in.pluginsOn(ctx, t)
			return nil
		})
	}
	_ = g.Wait()
	var all []HostPlugins
	var problems []*host.Problem
	for i, t := range targets {
		var p *host.Problem
		switch {
		case failed[i] == nil:
			all = append(all, *found[i])
		case errors.As(failed[i], &p):
			problems = append(problems, p)
		default:
			problems = append(problems, host.Facts.Problem(t.Name, "ask what is registered with Docker: %w", failed[i]))
		}
	}
	return all, problems, nil
}

// pluginsScript runs the host's own mobyfs, which knows where it was told to be. MOBYFS_HOST_ROOT is for tests.
const pluginsScript = `link=${MOBYFS_HOST_ROOT:-}` + step.BinDir + "/" + step.Agent + `
[ -L "$link" ] || exit 66
exec "${MOBYFS_HOST_ROOT:-}$(readlink "$link")" host plugins`

const notThere = 66 // the script's exit code where there is no mobyfs

func (in *Installer) pluginsOn(ctx context.Context, t host.Target) (*HostPlugins, error) {
	conn, err := in.Dialer.Dial(ctx, t)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, factsLimit)
	defer cancel()
	out, err := conn.Script(ctx, pluginsScript)
	var exit *host.ExitError
	if errors.As(err, &exit) && exit.Status == notThere {
		return nil, host.NotInstalled.Problem(t.Name, "%s/%s is not there", step.BinDir, step.Agent)
	}
	if err != nil {
		return nil, err
	}
	p := &HostPlugins{Host: t.Name}
	return p, json.Unmarshal(out, &p.Report)
}
