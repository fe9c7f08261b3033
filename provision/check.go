package provision

import (
	"cmp"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"time"

	"github.com/mobyfs/mobyfs/internal/discovery"
	"github.com/mobyfs/mobyfs/provision/host"
	"github.com/mobyfs/mobyfs/provision/step"
)

// What a host must have.
const (
	minDocker    = "20.10"          // the oldest that the driver was tested with
	maxClockSkew = 30 * time.Minute // certificates are valid from one hour before they are made
	maxApart     = 5 * time.Minute  // of control hosts' clocks; the members of a store refuse more
	agentSpace   = 64 << 20         // for its state, volumes not counted
	controlSpace = 256 << 20        // etcd's log is laid out in advance
)

// check finds everything on a host that stands in the way of installing.
func (h *HostPlan) check(now time.Time, ports map[int]string) []*host.Problem {
	f, name := h.facts, h.Name
	if f.OS != "Linux" {
		return []*host.Problem{host.WrongOS.Problem(name, "the system there is %s", f.OS)}
	}
	var all []*host.Problem
	add := func(p *host.Problem) {
		if p != nil {
			all = append(all, p)
		}
	}
	if !f.Systemd {
		add(host.NoSystemd.Problem(name, "%s was not booted with systemd", name))
	}
	add(checkDocker(name, f))
	add(checkOwner(name, f, h.desired))
	for port, what := range ports {
		add(checkPort(name, f, port, what))
	}
	if len(h.Changes) > 0 {
		all = append(all, h.checkSpace()...)
	}
	if skew := f.Clock.Sub(now).Round(time.Second); skew.Abs() > maxClockSkew {
		where := "ahead of"
		if skew < 0 {
			where = "behind"
		}
		add(host.ClockWrong.Problem(name, "its clock is %v %s this machine's; certificates would not be valid everywhere", skew.Abs(), where))
	}
	slices.SortFunc(all, func(a, b *host.Problem) int {
		return cmp.Or(cmp.Compare(a.Code, b.Code), cmp.Compare(a.Text, b.Text))
	})
	return all
}

func checkDocker(name string, f step.Facts) *host.Problem {
	switch {
	case !f.Docker:
		return host.NoDocker.Problem(name, "neither docker nor dockerd is installed on %s", name)
	case f.DockerVersion == "":
		return host.DockerDown.Problem(name, "Docker is installed on %s, but its daemon does not run", name)
	case older(f.DockerVersion, minDocker):
		return host.DockerOld.Problem(name, "Docker %s runs on %s; mobyfs needs %s or newer", f.DockerVersion, name, minDocker)
	default:
		return nil
	}
}

var versionNumbers = regexp.MustCompile(`^(\d+)\.(\d+)`)

// older reports whether version a is older than b. One that can't be read is not.
func older(a, b string) bool {
	x, y := versionNumbers.FindStringSubmatch(a), versionNumbers.FindStringSubmatch(b)
	if x == nil || y == nil {
		return false
	}
	for i := 1; i <= 2; i++ {
		m, _ := strconv.Atoi(x[i])
		n, _ := strconv.Atoi(y[i])
		if m != n {
			return m < n
		}
	}
	return false
}

// checkOwner makes sure that nothing on the host belongs to someone else.
func checkOwner(name string, f step.Facts, d step.Desired) *host.Problem {
	if j := f.Installed; j != nil {
		switch {
		case j.Cluster != d.Cluster:
			return host.OtherCluster.Problem(name, "%s belongs to cluster %q, not to %q", name, j.Cluster, d.Cluster)
		case j.Node != d.Node:
			return host.OtherNode.Problem(name, "it is node %q of the cluster already, not %q", j.Node, d.Node)
		case j.Control && !d.Control:
			return host.OtherControl.Problem(name, "the control plane of %s runs on %s, and cluster.yaml has none there", d.Cluster, name).
				WithFix("write control: [%s] into cluster.yaml; to take it off for good, reset the host: mobyctl reset %s", name, name)
		}
		if _, ran := j.Running[step.ControlUnit]; ran && j.Control && f.ControlCA == "" && !d.Joins {
			return host.ControlLost.Problem(name, "the control plane ran on %s, and %s is empty now; a new one would know of no volume", name, step.ControlRoot).
				WithFix("bring %s back from a backup; or take the cluster down with mobyctl reset and make it anew", step.ControlRoot)
		}
	}
	for _, p := range d.Programs {
		link := path.Join(step.BinDir, p.Name)
		if f.Owns(link) {
			continue
		}
		if target, there := f.Links[link]; there {
			return host.NotOurs.Problem(name, "%s is there already%s, and bootstrap did not put it there", link, pointsTo(target)).
				WithFix("on %s: rm %s (or remove the package that has it)", name, link)
		}
	}
	for _, file := range d.Files {
		if _, there := f.Files[file.Path]; there && !f.Owns(file.Path) {
			return host.NotOurs.Problem(name, "%s is there already, and bootstrap did not put it there", file.Path).
				WithFix("on %s: rm %s (or remove the package that has it)", name, file.Path)
		}
	}
	if p := discovery.SockPath; f.Exists[p] && !f.Owns(p) && d.Endpoint.Way() != discovery.Sock {
		return host.NotOurs.Problem(name, "%s is there already, and Docker takes it for the driver before it reads a file", p).
			WithFix("on %s: stop what listens there, rm %s, then restart dockerd", name, p)
	}
	return nil
}

func pointsTo(target string) string {
	if target == "" {
		return ""
	}
	return " (a link to " + target + ")"
}

// checkPort makes sure that nobody but our own unit listens on a port.
func checkPort(name string, f step.Facts, port int, unit string) *host.Problem {
	l, taken := f.Listen[port]
	u := f.Units[unit]
	switch {
	case !taken, l.PID != 0 && l.PID == u.PID, l.PID == 0 && u.Active == "active":
		return nil
	case unit == step.SocketUnit && f.Serves(port): // systemd holds it, and the agent has it too
		return nil
	case l.Name == "":
		return host.PortTaken.Problem(name, "something listens on TCP port %d, which %s needs", port, unit)
	default:
		return host.PortTaken.Problem(name, "%s (process %d) listens on TCP port %d, which %s needs", l.Name, l.PID, port, unit)
	}
}

// checkSpace makes sure that what is installed fits, can be written and can be run.
func (h *HostPlan) checkSpace() []*host.Problem {
	need := map[string]int64{step.AgentRoot: agentSpace, step.EnvDir: 0, step.UnitDir: 0, step.BinDir: 0, step.DistDir: 0}
	if h.desired.Control {
		need[step.ControlRoot] = controlSpace
	}
	for _, p := range h.uploads {
		need[step.DistDir] += p.Size
	}
	var all []*host.Problem
	mounts := map[string]int64{}
	for dir, bytes := range need {
		space, known := h.facts.Space[dir]
		if !known {
			continue
		}
		mounts[space.Mount] += bytes
		if space.Has("ro") {
			all = append(all, host.ReadOnly.Problem(h.Name, "%s, which %s is on, is mounted read-only", space.Mount, dir).
				WithFix("on %s: mount -o remount,rw %s", h.Name, space.Mount))
		}
		if dir == step.DistDir && space.Has("noexec") {
			all = append(all, host.NoExec.Problem(h.Name, "%s, which %s is on, is mounted noexec", space.Mount, dir).
				WithFix("on %s: mount -o remount,exec %s", h.Name, space.Mount))
		}
	}
	for _, dir := range []string{step.DistDir, step.AgentRoot, step.ControlRoot} {
		space, known := h.facts.Space[dir]
		if want := mounts[space.Mount]; known && want > space.FreeBytes {
			all = append(all, host.NoSpace.Problem(h.Name, "%s, which %s is on, has %s free; %s are needed",
				space.Mount, dir, mib(space.FreeBytes), mib(want)))
			delete(mounts, space.Mount)
		}
	}
	return all
}

func mib(bytes int64) string { return fmt.Sprintf("%.1f MiB", float64(bytes)/(1<<20)) }

// apart finds control hosts whose clocks differ from that of the one with the authority.
func apart(controls []*seen, from *seen) []*host.Problem {
	var all []*host.Problem
	for _, s := range controls {
		if off := s.facts.Clock.Sub(from.facts.Clock); off.Abs() > maxApart {
			all = append(all, host.ClockWrong.Problem(s.target.Name, "its clock and that of %s are %v apart; control hosts may differ by %v", from.target.Name, off.Abs().Round(time.Second), maxApart))
		}
	}
	return all
}

// sameMachine finds entries that lead to one machine under several names.
func sameMachine(hosts []*seen) []*host.Problem {
	var all []*host.Problem
	first := map[string]string{}
	for _, s := range hosts {
		id := s.facts.MachineID + " " + s.facts.BootID + " " + s.facts.Hostname
		if other, ok := first[id]; ok {
			all = append(all, host.SameMachine.Problem(s.target.Name, "%s and %s lead to the same machine (%s)", other, s.target.Name, s.facts.Hostname))
			continue
		}
		first[id] = s.target.Name
	}
	return all
}
