package provision

import (
	"context"
	"encoding/json"
	"errors"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/mobyfs/mobyfs/internal/discovery"
	"github.com/mobyfs/mobyfs/internal/pki"
	"github.com/mobyfs/mobyfs/provision/host"
	"github.com/mobyfs/mobyfs/provision/step"
	"github.com/mobyfs/mobyfs/templates"
)

// Plan is what would be changed, and the open connections to change it. It must be closed.
type Plan struct {
	Cluster  string      `json:"cluster"`
	Hosts    []*HostPlan `json:"hosts"`              // in the order of cluster.yaml
	Operator string      `json:"operator,omitempty"` // why mobyctl needs a certificate of its own; empty if it has one
	Control  []string    `json:"control"`            // host:port of each control process
	Absent   bool        `json:"absent"`             // a reset: everything goes
	Nodes    []NodeNews  `json:"nodes,omitempty"`    // what will be said of nodes otherwise than now, as far as control could be asked

	in      *Installer
	control *HostPlan           // that of the authority; nil in a reset that leaves the control plane alone
	members members             // how those who keep the store change
	cluster Cluster             // of a reset; nil if the control plane can't be asked
	volumes map[string][]string // of a reset: the names of volumes by their home
	proofs  map[string]int      // and how many more are those of proofs
}

// HostPlan is what would be changed on one host.
type HostPlan struct {
	Name        string      `json:"name"`
	Changes     []step.Diff `json:"changes"`
	UploadBytes int64       `json:"upload_bytes"`

	conn    *host.Host
	facts   step.Facts
	desired step.Desired
	uploads []program
}

// LeavesStub reports whether a host keeps something that answers its dockerd.
func (p *Plan) LeavesStub() bool {
	return slices.ContainsFunc(p.Hosts, func(h *HostPlan) bool {
		return p.Absent && slices.ContainsFunc(h.Changes, func(d step.Diff) bool { return d.Step == "stub" })
	})
}

// Empty reports whether nothing would be changed, on any host. What is said of nodes is in control alone: see Nodes.
func (p *Plan) Empty() bool {
	for _, h := range p.Hosts {
		if len(h.Changes) > 0 {
			return false
		}
	}
	return true
}

// Close ends the connections.
func (p *Plan) Close() {
	for _, h := range p.Hosts {
		h.conn.Close()
	}
}

// Execs tells how many commands were run on a host so far.
func (h *HostPlan) Execs() int { return h.conn.Execs() }

// Plan looks at all hosts and tells what installing would change. If anything stands in the way, the error is a
// *Preflight with all of it.
func (in *Installer) Plan(ctx context.Context) (*Plan, error) {
	hosts, err := in.look(ctx, in.Fleet.Hosts)
	if err != nil {
		return nil, err
	}
	p, err := in.planInstall(hosts)
	if err != nil {
		closeAll(hosts)
		return nil, err
	}
	return p, nil
}

func (in *Installer) planInstall(hosts []*seen) (*Plan, error) {
	p := &Plan{Cluster: in.Fleet.Cluster, in: in}
	problems := sameMachine(hosts)
	controls := in.controls(hosts)
	for _, s := range controls {
		p.Control = append(p.Control, address(s.conn.Address, in.Fleet.ControlPort))
	}
	control := founder(controls)
	problems = append(problems, apart(controls, control)...)
	for _, s := range hosts {
		h := &HostPlan{Name: s.target.Name, conn: s.conn, facts: s.facts}
		p.Hosts = append(p.Hosts, h)
		if s == control {
			p.control = h
		}
		if err := in.desire(h, slices.Contains(controls, s), control, strings.Join(p.Control, ",")); err != nil {
			var problem *host.Problem
			if !errors.As(err, &problem) {
				return nil, err
			}
			problems = append(problems, problem)
			continue
		}
		ports := map[int]string{in.Fleet.AgentPort: step.AgentUnit}
		if h.desired.Control {
			ports[in.Fleet.ControlPort], ports[in.Fleet.PeerPort] = step.ControlUnit, step.ControlUnit
		}
		if port := in.Fleet.Endpoint.Port(); port != 0 {
			ports[port] = step.SocketUnit
		}
		problems = append(problems, h.check(time.Now(), ports)...)
	}
	if len(problems) > 0 {
		return nil, &Preflight{problems}
	}
	p.Operator = in.operatorTrouble(control.facts)
	p.planMembers()
	return p, nil
}

// controls are the hosts that have the control plane, in the order of cluster.yaml.
func (in *Installer) controls(hosts []*seen) []*seen {
	var all []*seen
	for _, name := range in.Fleet.Controls {
		for _, s := range hosts {
			if s.target.Name == name {
				all = append(all, s)
			}
		}
	}
	return all
}

// founder is the control host that has the authority, or shall make it: it signs for the others.
func founder(controls []*seen) *seen {
	for _, s := range controls {
		if s.facts.Authority {
			return s
		}
	}
	return controls[0]
}

// ports lists the TCP ports that are looked at on hosts.
func (in *Installer) ports() []int {
	all := []int{in.Fleet.AgentPort, in.Fleet.ControlPort, in.Fleet.PeerPort}
	if port := in.Fleet.Endpoint.Port(); port != 0 {
		all = append(all, port)
	}
	return all
}

// desire fills what the host shall be like, and what it takes.
func (in *Installer) desire(h *HostPlan, isControl bool, control *seen, endpoint string) error {
	d := step.Desired{
		By: in.By, Cluster: in.Fleet.Cluster, Node: h.Name, Control: isControl, Joins: isControl && h.Name != control.target.Name,
		Endpoint: in.Fleet.Endpoint, Ports: in.ports(),
		Authority: control.facts.ControlCA, NewAuthority: !control.facts.HasControl(),
	}
	names := []string{step.Agent}
	if isControl {
		names = append(names, step.Control)
	}
	var local []program
	for _, name := range names {
		prog, err := in.Programs.find(name, h.facts.Arch)
		if errors.Is(err, errArch) {
			return host.WrongArch.Problem(h.Name, "%w", err)
		}
		if err != nil {
			return err
		}
		d.Programs, local = append(d.Programs, prog.Program), append(local, prog)
	}
	files, err := in.files(d, h.conn.Address, endpoint)
	if err != nil {
		return err
	}
	d.Files = files
	h.desired = d
	h.Changes = step.Plan(h.facts, d)
	h.upload(local)
	return nil
}

// upload notes which programs the host does not have yet.
func (h *HostPlan) upload(local []program) {
	for _, prog := range local {
		if !h.facts.HasProgram(prog.Program) {
			h.uploads = append(h.uploads, prog)
			h.UploadBytes += prog.Size
		}
	}
}

// files renders what differs from host to host, and adds the units.
func (in *Installer) files(d step.Desired, at, endpoint string) ([]step.File, error) {
	var all []step.File
	add := func(path string, content string, err error) error {
		all = append(all, step.File{Path: path, Mode: 0o644, Content: content})
		return err
	}
	env, err := templates.Node{
		Cluster: d.Cluster, Node: d.Node, Control: endpoint, Advertise: address(at, in.Fleet.AgentPort), AgentPort: in.Fleet.AgentPort,
		Endpoint: string(d.Endpoint), Linger: in.Fleet.Linger, Trash: in.Fleet.Trash, Shared: in.Fleet.Shared,
		Metrics: in.Fleet.Monitoring.Metrics, PerVolume: in.Fleet.Monitoring.PerVolume, Traces: in.Fleet.Monitoring.Traces,
	}.Environment()
	err = errors.Join(err, add(path.Join(step.EnvDir, "mobyfs.env"), env, nil))
	_, listen := d.Endpoint.Listen()
	socket, socketErr := templates.Socket(d.Endpoint.Scheme(), listen)
	err = errors.Join(err, add(path.Join(step.UnitDir, step.SocketUnit), socket, socketErr))
	switch d.Endpoint.Way() {
	case discovery.Spec:
		spec, specErr := templates.Spec(string(d.Endpoint))
		err = errors.Join(err, add(discovery.SpecPath, spec, specErr))
	case discovery.JSON:
		file, jsonErr := templates.JSON(string(d.Endpoint), step.PKIDir)
		err = errors.Join(err, add(discovery.JSONPath, file, jsonErr))
	}
	units := []string{step.AgentUnit}
	if in.Fleet.Shared != "" {
		units = append(units, step.WatchdogUnit)
	}
	if d.Control {
		env, envErr := templates.Control{
			Cluster: d.Cluster, Host: d.Node, ControlPort: in.Fleet.ControlPort,
			PeerPort: in.Fleet.PeerPort, PeerAddress: address(at, in.Fleet.PeerPort), Traces: in.Fleet.Monitoring.Traces,
			Strategy: string(in.Fleet.Placement.Strategy), Overcommit: in.Fleet.Placement.Overcommit, Headroom: in.Fleet.Placement.Headroom,
			Quota: in.Fleet.Quota, SessionTTL: in.Fleet.SessionTTL,
		}.Environment()
		err = errors.Join(err, add(path.Join(step.EnvDir, "mobyfs-control.env"), env, envErr))
		classes, classErr := json.MarshalIndent(in.Fleet.Classes, "", "  ")
		err = errors.Join(err, add(step.ClassesPath, string(classes)+"\n", classErr))
		units = append(units, step.ControlUnit)
	}
	for _, u := range units {
		text, unitErr := templates.Unit(u)
		err = errors.Join(err, add(path.Join(step.UnitDir, u), text, unitErr))
	}
	return all, err
}

// operatorTrouble tells why whoever runs mobyctl needs a certificate, or "".
func (in *Installer) operatorTrouble(control step.Facts) string {
	who, until, err := in.Operator.Identity()
	switch {
	case err != nil:
		return "there is none"
	case who.Cluster != in.Fleet.Cluster || who.Role != pki.RoleOperator:
		return "it is that of " + who.String()
	case time.Now().After(until.Add(-pki.RenewBefore)):
		return "it expires on " + until.Format(time.DateOnly)
	case !sameAuthority(in.Operator, control.ControlCA):
		return "another authority signed it"
	default:
		return ""
	}
}

// Names lists the hosts.
func (p *Plan) Names() []string {
	names := make([]string, len(p.Hosts))
	for i, h := range p.Hosts {
		names[i] = h.Name
	}
	return names
}

// New reports whether nothing of ours is on the host yet.
func (h *HostPlan) New() bool { return h.facts.Installed == nil }
