// Package templates holds the texts that an installation consists of: systemd units, environment files, what tells
// Docker of the driver, and the sample of cluster.yaml.
package templates

import (
	"bytes"
	"embed"
	"text/template"
)

//go:embed *.socket *.service *.env *.spec *.json cluster.yaml
var files embed.FS

// Node fills mobyfs.env.
type Node struct {
	Cluster   string
	Node      string
	Control   string // host:port of each control process, with commas between
	Advertise string // host:port at which other agents reach this one
	AgentPort int
	Trash     string // how long what was removed stays in the trash, such as 24h
	Linger    string // how long a lease stays after the last container, such as 5s
	Shared    string // directory that all nodes see, for volumes of backend shared; empty for none
	Metrics   string // host:port at which Prometheus reads; empty for nowhere
	PerVolume bool   // metrics of each volume, too
	Traces    string // URL of a collector of OpenTelemetry; empty for none
	Endpoint  string // where Docker calls: unix:///path, tcp://127.0.0.1:port or https://127.0.0.1:port
}

// Control fills mobyfs-control.env.
type Control struct {
	Cluster     string
	Host        string // this one's name
	ControlPort int
	PeerPort    int    // at which other members of the store are heard
	PeerAddress string // host:port at which they reach this one
	Traces      string // URL of a collector of OpenTelemetry; empty for none

	// How control chooses nodes for volumes.
	Strategy   string  // spread or binpack
	Overcommit float64 // bytes promised per byte that there is
	Headroom   float64 // share of each disk that stays free

	Quota      string // of the store, such as 8GiB; control's default if empty
	SessionTTL string // of nodes, such as 30s; control's default if empty
}

// Cluster fills cluster.yaml.
type Cluster struct {
	Cluster string
	User    string // for all hosts; empty leaves it to the SSH configuration
	First   string // name of the first host
	Sandbox string // name of the sandbox that has the hosts; empty if Hosts lists them
	Hosts   []Host
}

// Host is one entry of cluster.yaml. User and Port may be empty.
type Host struct {
	Name, Address, User string
	Port                int
}

// Environment renders the environment file of an agent.
func (n Node) Environment() (string, error) { return render("mobyfs.env", n) }

// Environment renders the environment file of the control plane.
func (c Control) Environment() (string, error) { return render("mobyfs-control.env", c) }

// File renders a commented cluster.yaml.
func (c Cluster) File() (string, error) { return render("cluster.yaml", c) }

// Unit returns a systemd service. Services are the same on every host; what differs stands in the environment files.
func Unit(name string) (string, error) {
	text, err := files.ReadFile(name)
	return string(text), err
}

// Socket returns mobyfs.socket for an address as systemd takes it (a path or 127.0.0.1:port). The agent gets to know
// the socket by the scheme of its endpoint: unix, tcp or https.
func Socket(scheme, listen string) (string, error) {
	return render("mobyfs.socket", struct{ Name, Listen string }{scheme, listen})
}

// KeptSocket returns the unit that holds the addresses of before until dockerd ends.
func KeptSocket(listen []string) (string, error) { return render("mobyfs-kept.socket", listen) }

// Spec returns the file that leads Docker to an endpoint without TLS.
func Spec(endpoint string) (string, error) { return render("mobyfs.spec", endpoint) }

// JSON returns the file that leads Docker to an endpoint with TLS, and names the authority's certificate and Docker's
// own in a directory. Without the authority Docker would verify nobody.
func JSON(endpoint, pki string) (string, error) {
	return render("mobyfs.json", struct{ Addr, PKI string }{endpoint, pki})
}

func render(name string, data any) (string, error) {
	t, err := template.New(name).Option("missingkey=error").ParseFS(files, name)
	if err != nil {
		return "", err
	}
	var b bytes.Buffer
	if err := t.Execute(&b, data); err != nil {
		return "", err
	}
	return b.String(), nil
}
