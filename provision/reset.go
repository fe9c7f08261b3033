package provision

import (
	"context"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/provision/host"
	"github.com/mobyfs/mobyfs/provision/step"
)

// PlanReset tells what taking the named hosts down would remove, or all hosts if none is named. It refuses, with a
// *Preflight, while volumes are on them, unless purge is set, and while containers use those in any case. cluster
// may be nil or out of reach; then only what lies on the hosts counts.
func (in *Installer) PlanReset(ctx context.Context, names []string, purge bool, cluster Cluster) (*Plan, error) {
	targets, err := in.choose(names)
	if err != nil {
		return nil, err
	}
	if err := in.controlGoesLast(targets); err != nil {
		return nil, err
	}
	hosts, err := in.look(ctx, targets)
	if err != nil {
		return nil, err
	}
	p := &Plan{Cluster: in.Fleet.Cluster, Absent: true, in: in, volumes: map[string][]string{}, proofs: map[string]int{}}
	var problems []*host.Problem
	for _, s := range hosts {
		h := &HostPlan{Name: s.target.Name, conn: s.conn, facts: s.facts}
		p.Hosts = append(p.Hosts, h)
		if slices.Contains(in.Fleet.Controls, h.Name) && (p.control == nil || s.facts.Authority) {
			p.control = h
		}
		if err := in.desireAbsent(h, purge); err != nil {
			closeAll(hosts)
			return nil, err
		}
	}
	if cluster != nil {
		p.askForVolumes(ctx, cluster)
	}
	for _, h := range p.Hosts {
		problems = append(problems, p.checkReset(h, purge)...)
	}
	if len(problems) > 0 {
		closeAll(hosts)
		return nil, &Preflight{problems}
	}
	return p, nil
}

// choose finds the targets with the names.
func (in *Installer) choose(names []string) ([]host.Target, error) {
	if len(names) == 0 {
		return in.Fleet.Hosts, nil
	}
	var all []string
	var chosen []host.Target
	for _, t := range in.Fleet.Hosts {
		all = append(all, t.Name)
		if slices.Contains(names, t.Name) {
			chosen = append(chosen, t)
		}
	}
	for _, n := range names {
		if !slices.Contains(all, n) {
			return nil, mobyfs.Errorf(mobyfs.CodeNotFound, "cluster.yaml has no host %q%s", n, didYouMean(n, all)).
				WithHint("the hosts are %s", strings.Join(all, ", "))
		}
	}
	return chosen, nil
}

func (in *Installer) controlGoesLast(targets []host.Target) error {
	for _, t := range targets {
		if slices.Contains(in.Fleet.Controls, t.Name) && len(targets) < len(in.Fleet.Hosts) {
			return &Preflight{[]*host.Problem{host.ControlLast.Problem(t.Name,
				"the control plane runs on %s, and %s would be left without it", t.Name, count(len(in.Fleet.Hosts)-len(targets), "other host"))}}
		}
	}
	return nil
}

// desireAbsent fills what the host shall lose. A host that has lost its program gets it again, to do the work.
func (in *Installer) desireAbsent(h *HostPlan, purge bool) error {
	d := step.Desired{By: in.By, Cluster: in.Fleet.Cluster, Node: h.Name, Absent: true, Purge: purge}
	if !h.facts.Here() {
		h.desired = d
		return nil
	}
	prog, err := in.Programs.find(step.Agent, h.facts.Arch)
	if err != nil {
		return err
	}
	d.Programs = []step.Program{prog.Program}
	h.desired = d
	h.Changes = step.Plan(h.facts, d)
	h.upload([]program{prog})
	return nil
}

// askForVolumes notes whose homes the hosts are.
func (p *Plan) askForVolumes(ctx context.Context, cluster Cluster) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	all, err := cluster.Volumes(ctx)
	if err != nil {
		return // what lies on the hosts still counts
	}
	p.cluster = cluster
	for _, v := range all {
		if strings.HasPrefix(v.Name, proofPrefix) {
			p.proofs[v.Node]++
			continue
		}
		p.volumes[v.Node] = append(p.volumes[v.Node], v.Name)
	}
}

func (p *Plan) checkReset(h *HostPlan, purge bool) []*host.Problem {
	f, names := h.facts, p.volumes[h.Name]
	if f.Installed != nil && f.Installed.Cluster != p.Cluster {
		return []*host.Problem{host.OtherCluster.Problem(h.Name, "%s belongs to cluster %q, not to %q", h.Name, f.Installed.Cluster, p.Cluster).
			WithFix("use the cluster.yaml of %s", f.Installed.Cluster)}
	}
	if len(p.Hosts) < len(p.in.Fleet.Hosts) && f.Authority {
		return []*host.Problem{host.ControlLast.Problem(h.Name, "the authority of the cluster lies on %s", h.Name)}
	}
	if f.VolumesInUse > 0 {
		return []*host.Problem{host.VolumesInUse.Problem(h.Name, "containers there use %s", count(f.VolumesInUse, "volume"))}
	}
	if purge || f.Volumes == 0 && len(names) == 0 {
		return nil
	}
	if len(names) == 0 && f.Volumes <= p.proofs[h.Name] {
		h.desired.Purge = true // all that is there is what a proof that was killed left behind
		return nil
	}
	text := fmt.Sprintf("the bytes of %s are there", count(f.Volumes, "volume"))
	if len(names) > 0 {
		slices.Sort(names)
		text = fmt.Sprintf("it is the home of %s", shorten(names, 5))
	}
	return []*host.Problem{host.HasVolumes.Problem(h.Name, "%s", text)}
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func shorten(names []string, limit int) string {
	if len(names) <= limit {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:limit], ", "), len(names)-limit)
}

// remove takes the hosts down, all at once, and those with the control plane when all others are done.
func (p *Plan) remove(ctx context.Context) *Outcome {
	began, out := time.Now(), &Outcome{}
	g, _ := p.in.group(ctx)
	for _, h := range p.Hosts {
		if p.hasControl(h) {
			continue
		}
		g.Go(func() error {
			changed, err := p.removeOne(ctx, h)
			out.note(h.Name, changed, err)
			return nil
		})
	}
	_ = g.Wait()
	stays := len(out.Failed) > 0
	for _, h := range p.Hosts {
		switch {
		case !p.hasControl(h):
		case stays:
			out.note(h.Name, false, host.ControlLast.Problem(h.Name, "other hosts could not be taken down, so the control plane stays"))
		default:
			changed, err := p.removeOne(ctx, h)
			out.note(h.Name, changed, err)
		}
	}
	return out.finish(began)
}

func (p *Plan) hasControl(h *HostPlan) bool { return slices.Contains(p.in.Fleet.Controls, h.Name) }

func (p *Plan) removeOne(ctx context.Context, h *HostPlan) (changed bool, err error) {
	if len(h.Changes) == 0 {
		return false, nil
	}
	if p.control == nil && p.cluster != nil && h.desired.Purge {
		if err := p.forgetVolumes(ctx, h.Name); err != nil {
			return false, host.HasVolumes.Problem(h.Name, "%w", err)
		}
	}
	if p.control == nil && h.facts.Member {
		if err := p.leaveStore(ctx, h); err != nil {
			return false, err
		}
	}
	return p.install(ctx, h, nil)
}

// leaveStore takes a host that has no place among the control hosts any more out of the store, before its control is
// stopped: the others would count on its vote. The store refuses it if they would be too few.
func (p *Plan) leaveStore(ctx context.Context, h *HostPlan) error {
	command := host.Command(path.Join(step.BinDir, step.Control), "member", "rm", h.Name)
	if err := h.conn.Root(ctx, command, strings.NewReader(""), io.Discard); err != nil {
		return host.Members.Problem(h.Name, "take %s out of the store: %w", h.Name, err)
	}
	return nil
}

// forgetVolumes removes the volumes of a host from a cluster that goes on without it, so that nobody waits for them.
func (p *Plan) forgetVolumes(ctx context.Context, node string) error {
	v := Verify{Cluster: p.cluster, Limit: 30 * time.Second, Every: 200 * time.Millisecond}
	for _, name := range p.volumes[node] {
		limited, cancel := context.WithTimeout(ctx, v.Limit)
		err := v.remove(limited, name)
		cancel()
		if err != nil {
			return fmt.Errorf("remove volume %s: %w", name, err)
		}
	}
	return nil
}
