package provision

import (
	"context"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/provision/step"
)

// fakeCluster does at once what agents would do, unless a node is dead.
type fakeCluster struct {
	mu      sync.Mutex
	nodes   map[string]bool // ready
	volumes map[string]mobyfs.Volume
	log     []string
	broken  map[string]bool // nodes that create nothing
	said    map[string]mobyfs.Node
	err     error
}

func (c *fakeCluster) Nodes(context.Context) ([]mobyfs.Node, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []mobyfs.Node
	for n, ready := range c.nodes {
		node := c.said[n]
		node.Name, node.Ready = n, ready
		all = append(all, node)
	}
	return all, c.err
}

func (c *fakeCluster) Volumes(context.Context) ([]mobyfs.Volume, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []mobyfs.Volume
	for _, v := range c.volumes {
		all = append(all, v)
	}
	return all, c.err
}

func (c *fakeCluster) Volume(_ context.Context, name string) (mobyfs.Volume, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	v, ok := c.volumes[name]
	if !ok {
		return v, mobyfs.Errorf(mobyfs.CodeNotFound, "no volume %q", name)
	}
	return v, nil
}

func (c *fakeCluster) CreateVolume(_ context.Context, name string, spec mobyfs.VolumeSpec, node string) (mobyfs.Volume, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	v := mobyfs.Volume{Name: name, Node: node, State: mobyfs.VolumeReady}
	if c.broken[node] {
		v.State = mobyfs.VolumeCreating
	}
	c.volumes[name] = v
	c.log = append(c.log, "create on "+node)
	return v, nil
}

func (c *fakeCluster) MoveVolume(_ context.Context, name, to string) (mobyfs.Volume, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	v := c.volumes[name]
	c.log = append(c.log, "move "+v.Node+" to "+to)
	v.Node = to
	c.volumes[name] = v
	return v, nil
}

func (c *fakeCluster) RemoveVolume(_ context.Context, name string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.volumes, name)
	return nil
}

func (c *fakeCluster) DescribeNode(_ context.Context, name string, spec mobyfs.NodeSpec) (mobyfs.Node, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.broken[name] {
		return mobyfs.Node{}, mobyfs.Errorf(mobyfs.CodeUnavailable, "control is away").WithHint("try again")
	}
	c.said[name] = c.said[name].Describe(spec)
	c.log = append(c.log, "describe "+name)
	return c.said[name], nil
}

func newVerify(nodes ...string) (*fakeCluster, Verify) {
	c := &fakeCluster{nodes: map[string]bool{}, volumes: map[string]mobyfs.Volume{}, broken: map[string]bool{}, said: map[string]mobyfs.Node{}}
	for _, n := range nodes {
		c.nodes[n] = true
	}
	return c, Verify{Cluster: c, Nodes: nodes, Say: func(step.Event) {}, Limit: 50 * time.Millisecond, Every: time.Millisecond}
}

func TestProofLeavesNoVolume(t *testing.T) {
	c, v := newVerify("vol-1", "vol-2", "vol-3")
	proof, problems := v.Prove(t.Context())
	if len(problems) > 0 || proof.Nodes != 3 || proof.From != "vol-1" || proof.To != "vol-2" {
		t.Errorf("got %+v, %v", proof, problems)
	}
	if log := strings.Join(c.log, ", "); strings.Count(log, "create on") != 3 || !strings.Contains(log, "move vol-1 to vol-2") {
		t.Errorf("what was done: %s", log)
	}
	if len(c.volumes) > 0 {
		t.Errorf("left behind: %v", c.volumes)
	}
}

func TestProofOnOneNodeMovesNothing(t *testing.T) {
	_, v := newVerify("vol-1")
	proof, problems := v.Prove(t.Context())
	if len(problems) > 0 || proof.From != "" || proof.To != "" {
		t.Errorf("got %+v, %v", proof, problems)
	}
}

func TestFailedProofNamesTheNodeAndCleansUp(t *testing.T) {
	c, v := newVerify("vol-1", "vol-2")
	c.broken["vol-2"] = true
	_, problems := v.Prove(t.Context())
	if len(problems) != 1 || problems[0].Host != "vol-2" || problems[0].Code != "MFS-A011" || !strings.Contains(problems[0].Text, "creating") {
		t.Errorf("got %v", problems)
	}
	if len(c.volumes) > 0 {
		t.Errorf("left behind: %v", c.volumes)
	}
}

func TestReadyWaitsForEveryNode(t *testing.T) {
	c, v := newVerify("vol-1", "vol-2", "vol-3")
	c.nodes["vol-2"] = false
	delete(c.nodes, "vol-3")
	problems := v.Ready(t.Context())
	if len(problems) != 2 || problems[0].Host != "vol-2" || problems[1].Host != "vol-3" || problems[0].Code != "MFS-A010" {
		t.Fatalf("got %v", problems)
	}
	if !strings.Contains(problems[1].Text, "has not heard of it") {
		t.Errorf("of vol-3 it says %q", problems[1].Text)
	}
	v.Limit = 10 * time.Second
	time.AfterFunc(5*time.Millisecond, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.nodes["vol-2"], c.nodes["vol-3"] = true, true
	})
	if problems := v.Ready(t.Context()); len(problems) > 0 {
		t.Errorf("got %v", problems)
	}
}

func TestReadySaysThatControlCantBeAsked(t *testing.T) {
	c, v := newVerify("vol-1")
	c.nodes, c.err = nil, mobyfs.Errorf(mobyfs.CodeUnavailable, "dial h1:7946: connection refused")
	problems := v.Ready(t.Context())
	if len(problems) != 1 || !strings.Contains(problems[0].Text, "connection refused") {
		t.Errorf("got %v", problems)
	}
}

// What control knows of volumes counts as much as what lies on the host.
func TestResetAsksControlForVolumes(t *testing.T) {
	f := newFleet(t, "vol-1", "vol-2")
	f.bootstrap()
	c, _ := newVerify("vol-1", "vol-2")
	for _, name := range []string{"db", "cache"} {
		c.volumes[name] = mobyfs.Volume{Name: name, Node: "vol-2", State: mobyfs.VolumeReady}
	}
	_, err := f.in.PlanReset(t.Context(), []string{"vol-2"}, false, c)
	if text := reports(err); !strings.Contains(text, "it is the home of cache, db") {
		t.Errorf("got %v\n%s", err, text)
	}
	p, err := f.in.PlanReset(t.Context(), []string{"vol-2"}, true, c)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if out := p.Apply(t.Context()); len(out.Failed) > 0 || len(c.volumes) > 0 {
		t.Errorf("failed %v; the cluster still has %v", out.Failed, c.volumes)
	}
}

// A volume that a killed proof left behind is nobody's data, and does not keep a host from being reset.
func TestLeftoversOfProofs(t *testing.T) {
	c, v := newVerify("vol-1")
	old, young := proofPrefix+"old-vol-1", proofPrefix+"young-vol-1"
	c.volumes[old] = mobyfs.Volume{Name: old, Node: "vol-1", State: mobyfs.VolumeReady, CreatedAt: time.Now().Add(-time.Hour)}
	c.volumes[young] = mobyfs.Volume{Name: young, Node: "vol-1", State: mobyfs.VolumeReady, CreatedAt: time.Now()}
	c.volumes["db"] = mobyfs.Volume{Name: "db", Node: "vol-1", State: mobyfs.VolumeReady, CreatedAt: time.Now().Add(-time.Hour)}
	if err := v.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, there := c.volumes[old]; there || len(c.volumes) != 2 {
		t.Errorf("after the sweep there are %v", c.volumes)
	}

	f := newFleet(t, "vol-1")
	f.bootstrap()
	if err := os.MkdirAll(f.hosts["vol-1"].Root+step.AgentRoot+"/volumes/01jd3q8zv5w1y2x3k4m5n6p7q8/data", 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := f.in.PlanReset(t.Context(), nil, false, c); !strings.Contains(reports(err), "it is the home of db") {
		t.Errorf("with a volume of somebody's: %v", err)
	}
	delete(c.volumes, "db")
	p, err := f.in.PlanReset(t.Context(), nil, false, c)
	if err != nil {
		t.Fatalf("%v\n%s", err, reports(err))
	}
	defer p.Close()
	if out := p.Apply(t.Context()); len(out.Failed) > 0 {
		t.Error(out.Failed)
	}
}
