package provision

import (
	"context"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/provision/host"
)

// spec is what the file says of the node.
func (h HostConfig) spec() mobyfs.NodeSpec {
	s := mobyfs.NodeSpec{Zone: h.Zone, Rack: h.Rack, Labels: h.Labels}
	for _, text := range h.Taints {
		t, _ := mobyfs.ParseTaint(text) // checked
		s.Taints = append(s.Taints, t)
	}
	return s
}

// checkSpec tells what is wrong with what is said of the node.
func (h HostConfig) checkSpec(d *document, at string) {
	wrong := func(key string, err error) {
		if err != nil {
			d.wrong(at+"."+key, "%s: %s", err, mobyfs.HintOf(err))
		}
	}
	wrong("zone", mobyfs.NodeSpec{Zone: h.Zone}.Check())
	wrong("rack", mobyfs.NodeSpec{Rack: h.Rack}.Check())
	wrong("labels", mobyfs.NodeSpec{Labels: h.Labels}.Check())
	for _, text := range h.Taints {
		if _, err := mobyfs.ParseTaint(text); err != nil {
			wrong("taints", err)
			return
		}
	}
	wrong("taints", mobyfs.CheckTaints(h.spec().Taints))
}

// NodeNews is what becomes of what is said of a node, once it is told what cluster.yaml says.
type NodeNews struct {
	Name    string   `json:"name"`
	Changes []string `json:"changes,omitempty"` // such as "zone none → east"
	Kept    []string `json:"kept,omitempty"`    // what an operator has set and stays, such as "zone is west and not east"
}

// newsOf tells what becomes of a node, and whether control has to be told.
func newsOf(n mobyfs.Node, spec mobyfs.NodeSpec) (news NodeNews, tell bool) {
	news = newsBetween(n, n.Describe(spec))
	return news, len(news.Changes) > 0 || !n.Description().Equal(spec)
}

// newsBetween tells what differs of a node, and what of it is not as its description says.
func newsBetween(n, after mobyfs.Node) NodeNews {
	return NodeNews{Name: n.Name, Changes: n.Spec().Changes(after.Spec()), Kept: after.Undescribed()}
}

// Describes reports whether anything would be said of nodes otherwise than now.
func (p *Plan) Describes() bool {
	for _, n := range p.Nodes {
		if len(n.Changes) > 0 {
			return true
		}
	}
	return false
}

// AskForNodes fills Nodes. A node that control does not know yet has nothing said of it. cluster is nil where control
// can't be asked, for it is yet to be made or mobyctl has no certificate; then only hosts that are new are known.
func (p *Plan) AskForNodes(ctx context.Context, cluster Cluster) {
	known := map[string]mobyfs.Node{}
	asked := false
	if cluster != nil {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		nodes, err := cluster.Nodes(ctx)
		asked = err == nil
		for _, n := range nodes {
			known[n.Name] = n
		}
	}
	p.Nodes = nil
	for _, h := range p.Hosts {
		n, ok := known[h.Name]
		if !ok && !asked && !h.New() {
			continue
		}
		n.Name = h.Name
		if news, _ := newsOf(n, p.in.Fleet.Nodes[h.Name]); len(news.Changes)+len(news.Kept) > 0 {
			p.Nodes = append(p.Nodes, news)
		}
	}
}

// Describe tells control what specs say of the nodes, and returns what that has changed or left. Nodes of which nothing
// new is said are left alone. Killed in between, the next run tells the rest.
func (v Verify) Describe(ctx context.Context, specs map[string]mobyfs.NodeSpec) (all []NodeNews, failed []*host.Problem) {
	ctx, cancel := context.WithTimeout(ctx, v.Limit)
	defer cancel()
	nodes, err := v.Cluster.Nodes(ctx)
	if err != nil {
		return nil, []*host.Problem{undescribed(v.Nodes[0], err)}
	}
	known := map[string]mobyfs.Node{}
	for _, n := range nodes {
		known[n.Name] = n
	}
	for _, name := range v.Nodes {
		n := known[name]
		n.Name = name
		news, tell := newsOf(n, specs[name])
		if tell {
			after, err := v.Cluster.DescribeNode(ctx, name, specs[name])
			if err != nil {
				failed = append(failed, undescribed(name, err))
				continue
			}
			news = newsBetween(n, after)
		}
		if len(news.Changes)+len(news.Kept) > 0 {
			all = append(all, news)
		}
	}
	return all, failed
}

func undescribed(node string, err error) *host.Problem {
	p := host.Undescribed.Problem(node, "tell control what cluster.yaml says of the node: %w", err)
	if hint := mobyfs.HintOf(err); hint != "" {
		p.Fix = hint
	}
	return p
}
