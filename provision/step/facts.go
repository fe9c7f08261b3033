package step

import (
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/mobyfs/mobyfs/internal/discovery"
)

// FactsScript is a POSIX shell script that prints what Facts holds and changes nothing. It must run as root; its
// arguments are the TCP ports that are to be looked at.
//
//go:embed facts.sh
var FactsScript string

// Facts is what a host is like at one moment.
type Facts struct {
	OS           string    `json:"os"`   // as uname -s
	Arch         string    `json:"arch"` // as uname -m
	Kernel       string    `json:"kernel"`
	Hostname     string    `json:"hostname"`
	Distribution string    `json:"distribution"`
	MachineID    string    `json:"machine_id"`
	BootID       string    `json:"boot_id"`
	Clock        time.Time `json:"clock"` // whole seconds

	Systemd bool            `json:"systemd"` // the host was booted with it
	Units   map[string]Unit `json:"units,omitempty"`
	Wants   map[string]bool `json:"wants,omitempty"` // units that some target wants, so that they start at boot

	Docker        bool   `json:"docker"`                   // is installed
	DockerVersion string `json:"docker_version,omitempty"` // of the daemon; empty if it does not run
	DockerPID     int    `json:"docker_pid,omitempty"`     // of the daemon; 0 if it does not run
	// DriverActivated: the daemon that runs has used our driver, or may have. It is asked only where mobyfs is installed.
	DriverActivated bool `json:"driver_activated,omitempty"`

	Space  map[string]Space    `json:"space,omitempty"`  // of the file system that a path is on
	Listen map[int]Listener    `json:"listen,omitempty"` // TCP ports that are in use
	Files  map[string]FileFact `json:"files,omitempty"`  // those of ours that are there
	Links  map[string]string   `json:"links,omitempty"`  // what is at our names in /usr/bin; "" is something that is no link
	Exists map[string]bool     `json:"exists,omitempty"` // directories and sockets of ours

	Env       map[string]string `json:"env,omitempty"` // of mobyfs.env
	Installed *Journal          `json:"installed,omitempty"`

	NodeKey     bool   `json:"node_key"`
	NodeCert    string `json:"node_cert,omitempty"` // PEM
	NodeCA      string `json:"node_ca,omitempty"`
	DockerKey   bool   `json:"docker_key"`
	DockerCert  string `json:"docker_cert,omitempty"` // its authority is NodeCA
	ControlKey  bool   `json:"control_key"`
	ControlCert string `json:"control_cert,omitempty"`
	ControlCA   string `json:"control_ca,omitempty"`
	ControlPeer bool   `json:"control_peer"` // it has a certificate for the members of its store
	Authority   bool   `json:"authority"`    // the key of the cluster's root lies here
	Member      bool   `json:"member"`       // the data of a member of the store lies here

	Members []Member `json:"members,omitempty"` // of the store, as the control that runs here knows them

	Kept []discovery.Endpoint `json:"kept,omitempty"` // that are served until dockerd ends

	Volumes      int `json:"volumes"`        // whose bytes are here
	VolumesInUse int `json:"volumes_in_use"` // of them, those mounted into a container
}

// Member is a member of the store. Its name is "?" until it has started.
type Member struct {
	Name string `json:"name"`
	URL  string `json:"url"`
}

// Started reports whether it has ever told its name.
func (m Member) Started() bool { return m.Name != "?" }

// Unit is a unit as systemd has it loaded.
type Unit struct {
	Load       string `json:"load"`   // loaded | not-found | …
	Active     string `json:"active"` // active | inactive | failed | …
	FileState  string `json:"file_state"`
	NeedReload bool   `json:"need_reload"` // its file changed since systemd read it
	PID        int    `json:"pid"`
}

// Space tells of the file system that a path is on.
type Space struct {
	FreeBytes int64  `json:"free_bytes"`
	Mount     string `json:"mount"`
	Options   string `json:"options"` // as mounted, with commas between
}

// Has reports whether the file system is mounted with an option.
func (s Space) Has(option string) bool {
	for o := range strings.SplitSeq(s.Options, ",") {
		if o == option {
			return true
		}
	}
	return false
}

// Listener is who has a port. Name is empty if the host could not tell.
type Listener struct {
	Name string `json:"name"`
	PID  int    `json:"pid"`
}

// FileFact is a file as it is.
type FileFact struct {
	SHA256 string `json:"sha256"`
	Mode   string `json:"mode"` // octal
}

var listener = regexp.MustCompile(`users:\(\("([^"]*)",pid=(\d+)`)

// ParseFacts reads what FactsScript printed. Output that was cut short is an error.
func ParseFacts(out []byte) (Facts, error) {
	f := Facts{
		Units: map[string]Unit{}, Wants: map[string]bool{}, Space: map[string]Space{}, Listen: map[int]Listener{},
		Files: map[string]FileFact{}, Links: map[string]string{}, Exists: map[string]bool{}, Env: map[string]string{},
	}
	p := factsParser{facts: &f, mounts: map[string]string{}}
	for line := range strings.Lines(string(out)) {
		if line = strings.TrimRight(line, "\r\n"); line == "" {
			continue
		}
		if err := p.line(line); err != nil {
			return f, fmt.Errorf("read the facts line %.200q: %.200v", line, err) // the host says how long both are
		}
	}
	if !p.ended {
		return f, errors.New("the facts end too early")
	}
	p.finish()
	if p.installed != "" {
		f.Installed = &Journal{}
		if err := json.Unmarshal([]byte(p.installed), f.Installed); err != nil {
			return f, fmt.Errorf("decode %s: %w", JournalPath, err)
		}
	}
	return f, nil
}

type factsParser struct {
	facts     *Facts
	unit      map[string]string
	mounts    map[string]string
	installed string
	ended     bool
}

func (p *factsParser) line(line string) (err error) {
	f := p.facts
	key, value, _ := strings.Cut(line, "=")
	kind, name, _ := strings.Cut(key, ":")
	switch kind {
	case "os":
		f.OS = value
	case "arch":
		f.Arch = value
	case "kernel":
		f.Kernel = value
	case "hostname":
		f.Hostname = value
	case "distribution":
		f.Distribution = value
	case "machine_id":
		f.MachineID = value
	case "boot_id":
		f.BootID = value
	case "clock":
		var seconds int64
		seconds, err = strconv.ParseInt(value, 10, 64)
		f.Clock = time.Unix(seconds, 0).UTC()
	case "systemd":
		f.Systemd = true
	case "unit":
		p.unitLine(name, value)
	case "docker":
		f.Docker = true
	case "docker_version":
		f.DockerVersion = value
	case "docker_pid":
		f.DockerPID, err = strconv.Atoi(value)
	case "driver_activated":
		f.DriverActivated = true
	case "space":
		free, mount, _ := strings.Cut(value, " ")
		var kib int64
		kib, err = strconv.ParseInt(free, 10, 64)
		f.Space[name] = Space{FreeBytes: kib << 10, Mount: mount}
	case "mount":
		p.mounts[name] = value
	case "listen":
		err = p.listenLine(name, value)
	case "sha":
		sum, file, _ := strings.Cut(name, "  ")
		p.file(file, func(x *FileFact) { x.SHA256 = sum })
	case "mode":
		mode, file, _ := strings.Cut(name, " ")
		p.file(file, func(x *FileFact) { x.Mode = mode })
	case "link":
		f.Links[name] = value
	case "exists":
		f.Exists[value] = true
	case "wants":
		unit, _, _ := strings.Cut(value, " ")
		f.Wants[unit] = true
	case "installed":
		p.installed += value
	case "env":
		if k, v, ok := strings.Cut(value, "="); ok && !strings.HasPrefix(k, "#") {
			f.Env[k] = v
		}
	case "node_crt":
		f.NodeCert += value + "\n"
	case "node_ca":
		f.NodeCA += value + "\n"
	case "control_crt":
		f.ControlCert += value + "\n"
	case "control_ca":
		f.ControlCA += value + "\n"
	case "docker_crt":
		f.DockerCert += value + "\n"
	case "kept":
		f.Kept = append(f.Kept, discovery.Endpoint(value))
	case "node_key":
		f.NodeKey = true
	case "docker_key":
		f.DockerKey = true
	case "control_key":
		f.ControlKey = true
	case "control_peer":
		f.ControlPeer = true
	case "authority_key":
		f.Authority = true
	case "store":
		f.Member = true
	case "member":
		if w := strings.Fields(value); len(w) > 2 && strings.Contains(w[2], "://") {
			f.Members = append(f.Members, Member{w[0], w[2]})
		}
	case "volumes":
		f.Volumes, err = strconv.Atoi(value)
	case "in_use":
		f.VolumesInUse, err = strconv.Atoi(value)
	case "end":
		p.ended = value == "mobyfs-facts"
	}
	return err
}

// unitLine takes one property; systemctl prints Id last in no fixed order, so a unit is known by its whole block.
func (p *factsParser) unitLine(property, value string) {
	if p.unit == nil || property == "" || p.unit[property] != "" {
		p.endUnit()
		p.unit = map[string]string{}
	}
	p.unit[property] = value
}

func (p *factsParser) endUnit() {
	if p.unit["Id"] == "" {
		return
	}
	pid, _ := strconv.Atoi(p.unit["MainPID"])
	p.facts.Units[p.unit["Id"]] = Unit{
		Load: p.unit["LoadState"], Active: p.unit["ActiveState"], FileState: p.unit["UnitFileState"],
		NeedReload: p.unit["NeedDaemonReload"] == "yes", PID: pid,
	}
}

func (p *factsParser) listenLine(name, value string) error {
	port, err := strconv.Atoi(name)
	if err != nil {
		return err
	}
	l := Listener{}
	if m := listener.FindStringSubmatch(value); m != nil {
		l.Name = m[1]
		l.PID, err = strconv.Atoi(m[2])
	}
	p.facts.Listen[port] = l
	return err
}

func (p *factsParser) file(name string, set func(*FileFact)) {
	x := p.facts.Files[name]
	set(&x)
	p.facts.Files[name] = x
}

func (p *factsParser) finish() {
	p.endUnit()
	for name, s := range p.facts.Space {
		s.Options = p.mounts[s.Mount]
		p.facts.Space[name] = s
	}
}

// Dist tells where the program with the content is or would be.
func Dist(sha256, name string) string { return path.Join(DistDir, sha256, name) }

// HasProgram reports whether a program is on the host, whole.
func (f Facts) HasProgram(p Program) bool {
	return f.Files[Dist(p.SHA256, p.Name)].SHA256 == p.SHA256
}
