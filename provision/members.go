package provision

import (
	"bytes"
	"context"
	"fmt"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/mobyfs/mobyfs/provision/host"
	"github.com/mobyfs/mobyfs/provision/step"
)

// members is how those who keep the store change. It is done on the host with the authority once control runs there,
// those that go first. Killed in between, the store is whole: one that was added and never comes costs it nothing, and
// the same command run again goes on. The store itself refuses what would cost its quorum.
type members struct {
	remove []string
	add    []step.Member

	join      string     // what those that are added join, once they are
	restarted sync.Mutex // controls are started anew one at a time, so that the others go on
}

// planMembers compares the store with cluster.yaml, and shows the difference at the host with the authority. What the
// store's control can't tell now, since it does not run, is looked at by the next run.
func (p *Plan) planMembers() {
	var changes []step.Change
	known := p.control.facts.Members
	kept := make([]bool, len(known))
	remove := func(name, why string) {
		p.members.remove = append(p.members.remove, name)
		changes = append(changes, step.Change{Verb: step.Delete, What: "member " + name + " of the store", Why: why})
	}
	for _, h := range p.Hosts {
		if !h.desired.Control {
			continue
		}
		m := step.Member{Name: h.Name, URL: "https://" + address(h.conn.Address, p.in.Fleet.PeerPort)}
		at := slices.IndexFunc(known, func(x step.Member) bool { return x.Name == m.Name || !x.Started() && x.URL == m.URL })
		if at >= 0 {
			kept[at] = true
		}
		if !h.desired.Joins || h.facts.Member {
			continue
		}
		if at >= 0 && known[at].Started() {
			remove(m.Name, "its data is gone")
		}
		p.members.add = append(p.members.add, m)
		changes = append(changes, step.Change{Verb: step.Add, What: "member " + m.Name + " of the store"})
	}
	for i, m := range known {
		switch {
		case kept[i] || len(known) == 1: // the only one may have begun under another name
		case m.Started():
			remove(m.Name, "cluster.yaml has no control there")
		default:
			remove(m.URL, "cluster.yaml has no control there")
		}
	}
	if len(changes) > 0 {
		p.control.Changes = append(p.control.Changes, step.Diff{Step: "members", Changes: changes})
	}
}

// changeMembers runs when control is up on the host with the authority.
func (p *Plan) changeMembers(ctx context.Context) error {
	m := &p.members
	for _, name := range m.remove {
		if _, err := p.member(ctx, "rm", name); err != nil {
			return err
		}
	}
	if len(m.add) == 0 {
		return nil
	}
	args := []string{"add"}
	for _, a := range m.add {
		args = append(args, a.Name, a.URL)
	}
	out, err := p.member(ctx, args...)
	m.join = strings.TrimSpace(out)
	return err
}

func (p *Plan) member(ctx context.Context, args ...string) (string, error) {
	var out bytes.Buffer
	command := host.Command(append([]string{path.Join(step.BinDir, step.Control), "member"}, args...)...)
	if err := p.control.conn.Root(ctx, command, bytes.NewReader(nil), &out); err != nil {
		return "", host.Members.Problem(p.control.Name, "change who keeps the store: %w", err)
	}
	return out.String(), nil
}

// secret reads the key of what is sealed in the store; empty if the cluster has none. It goes to hosts that join the
// control plane, from the one that has the authority, over both ends' SSH and through no file in between.
func (p *Plan) secret(ctx context.Context) (string, error) {
	var out bytes.Buffer
	err := p.control.conn.Root(ctx, host.Command("sh", "-c", `f=${MOBYFS_HOST_ROOT:-}$1; if [ -e "$f" ]; then cat "$f"; fi`, "mobyfs-key", step.ControlRoot+"/pki/kek"), bytes.NewReader(nil), &out)
	if err != nil {
		return "", fmt.Errorf("read the key of the store on %s: %w", p.control.Name, err)
	}
	return out.String(), nil
}
