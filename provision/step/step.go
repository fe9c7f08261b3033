// Package step is what is done to a host, a file per step, in the order of Install and Remove.
//
// A step has two halves. Check is pure: from the facts and what is desired it tells the changes. mobyctl calls it to
// show the plan, and the host calls it again just before it acts, so the plan that is shown is the plan that is run.
// Apply makes the changes, on the host and as root. Every change is atomic and may be repeated; killed anywhere, the
// same command run again goes on from what it finds. The host needs no SSH for any of this, so nothing here links it.
package step

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"path"
	"strings"

	"github.com/mobyfs/mobyfs/internal/discovery"
)

// Step is one thing that is done to a host.
type Step interface {
	Name() string
	// Check tells what has to change, nothing if all is as desired.
	Check(f Facts, d Desired) []Change
	// Apply changes it, and keeps r.Facts true.
	Apply(ctx context.Context, r *Run) error
}

// Change is one difference between what is and what is desired.
type Change struct {
	Verb Verb   `json:"verb"`
	What string `json:"what"`
	Why  string `json:"why,omitempty"` // the reason where What does not tell it
}

// Verb says what happens to the thing.
type Verb string

const (
	Add     Verb = "+" // it is not there
	Modify  Verb = "~" // it is there and differs
	Restart Verb = "↻" // it runs and is started anew
	Delete  Verb = "-" // it goes
)

func (c Change) String() string {
	if c.Why == "" {
		return string(c.Verb) + " " + c.What
	}
	return string(c.Verb) + " " + c.What + " (" + c.Why + ")"
}

// Desired is what a host shall be like. mobyctl sends it to the host; it holds no secret.
type Desired struct {
	By           string             `json:"by"` // who asks, for the lock
	Cluster      string             `json:"cluster"`
	Node         string             `json:"node"`
	Control      bool               `json:"control"`         // the control plane runs here too
	Joins        bool               `json:"joins,omitempty"` // with Control: another host has the authority, and began the store
	Join         string             `json:"join,omitempty"`  // with Joins: the members of the store, for one without data
	Programs     []Program          `json:"programs"`
	Files        []File             `json:"files"`
	Ports        []int              `json:"ports"`
	Endpoint     discovery.Endpoint `json:"endpoint,omitempty"`  // where Docker calls the driver
	Authority    string             `json:"authority,omitempty"` // PEM, whose certificates are good
	NewAuthority bool               `json:"new_authority"`       // control is about to be made: no certificate is good
	Absent       bool               `json:"absent"`              // take everything off instead
	Purge        bool               `json:"purge"`               // with Absent: the bytes of volumes too
}

// Program is an executable that is installed by its content.
type Program struct {
	Name   string `json:"name"`
	SHA256 string `json:"sha256"`
	Size   int64  `json:"size"`
}

// File is a file with all its content: an environment file or a unit.
type File struct {
	Path    string `json:"path"`
	Mode    uint32 `json:"mode"`
	Content string `json:"content"`
}

// Where things lie on a host.
const (
	BinDir       = "/usr/bin"
	DistDir      = "/usr/lib/mobyfs/dist" // <sha256>/<program>
	UnitDir      = "/etc/systemd/system"
	EnvDir       = "/etc/mobyfs"
	ClassesPath  = EnvDir + "/classes.json"
	AgentRoot    = "/var/lib/mobyfs"
	ControlRoot  = "/var/lib/mobyfs-control"
	JournalPath  = AgentRoot + "/installed.json"
	PKIDir       = AgentRoot + "/pki"
	LockPath     = "/run/mobyfs/host.lock"
	StartsPath   = "/run/mobyfs/starts.json" // there while the agent is new, and after it crashed
	KeptPath     = "/run/mobyfs/kept"        // a line for each endpoint that is served until dockerd ends
	KeptUnitPath = RunUnitDir + "/" + KeptUnit
	RunUnitDir   = "/run/systemd/system"
)

// Names of programs and units.
const (
	Agent        = "mobyfs"
	Control      = "mobyfs-control"
	AgentUnit    = "mobyfs.service"
	SocketUnit   = "mobyfs.socket"
	WatchdogUnit = "mobyfs-watchdog.service" // where a directory is shared; mobyfs.service wants it
	ControlUnit  = "mobyfs-control.service"
	KeptUnit     = "mobyfs-kept.socket"  // holds the endpoints in KeptPath
	StubUnit     = "mobyfs-stub.service" // transient: it has no file
)

// Install lists the steps that make a host a node.
func Install() []Step {
	return []Step{journal{}, programs{}, files{}, units{}, control{}, certificate{}, agent{}}
}

// Remove lists the steps that take everything off a host.
func Remove() []Step {
	return []Step{stop{}, stub{}, filesGone{}, programsGone{}, stateGone{}}
}

// Steps lists the steps for what is desired.
func Steps(d Desired) []Step {
	if d.Absent {
		return Remove()
	}
	return Install()
}

// Diff is the changes of one step.
type Diff struct {
	Step    string   `json:"step"`
	Changes []Change `json:"changes"`
}

// Plan tells what would be changed, step by step. It is empty if the host is as desired.
func Plan(f Facts, d Desired) []Diff {
	var plan []Diff
	for _, s := range Steps(d) {
		if changes := s.Check(f, d); len(changes) > 0 {
			plan = append(plan, Diff{s.Name(), changes})
		}
	}
	return plan
}

// units lists the units that shall run, in the order of starting.
func (d Desired) units() []string {
	if d.Control {
		return []string{ControlUnit, SocketUnit, AgentUnit}
	}
	return []string{SocketUnit, AgentUnit}
}

// content is that of the desired file, "" if there is none.
func (d Desired) content(path string) string {
	for _, f := range d.Files {
		if f.Path == path {
			return f.Content
		}
	}
	return ""
}

func (d Desired) program(name string) Program {
	for _, p := range d.Programs {
		if p.Name == name {
			return p
		}
	}
	return Program{}
}

// paths lists everything that a host gets, each before what is in it.
func (d Desired) paths() []string {
	all := []string{path.Dir(DistDir), EnvDir, AgentRoot}
	if d.Control {
		all = append(all, ControlRoot)
	}
	for _, p := range d.Programs {
		all = append(all, path.Join(BinDir, p.Name))
	}
	for _, f := range d.Files {
		all = append(all, f.Path)
	}
	return append(append(all, d.plugins()...), sockets()...)
}

// digest tells apart the things that a unit must be started anew for.
func (d Desired) digest(unit string) string {
	parts := []string{d.content(path.Join(UnitDir, unit))}
	switch unit {
	case AgentUnit:
		parts = append(parts, d.program(Agent).SHA256, d.content(path.Join(EnvDir, "mobyfs.env")))
	case ControlUnit:
		parts = append(parts, d.program(Control).SHA256, d.content(path.Join(EnvDir, "mobyfs-control.env")), d.content(ClassesPath))
	}
	return sum(strings.Join(parts, "\x00"))
}

func sum(text string) string {
	s := sha256.Sum256([]byte(text))
	return hex.EncodeToString(s[:])
}
