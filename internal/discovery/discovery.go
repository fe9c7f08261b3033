// Package discovery knows how Docker finds a volume driver: where it looks, in which order, what it believes of what
// it finds, and where the traps are.
//
// Docker looks up a driver's name once in each life of dockerd, at its first use, and calls the endpoint that it
// found then until it ends. A managed plugin of the name comes before everything else, also one that is disabled; then
// come sockets in RunDir, and then files in EtcDir and LibDir, of which the first that is there counts even if it
// can't be read.
package discovery

import (
	"net"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/mobyfs/mobyfs"
)

// Name is what the driver is called: docker volume create -d mobyfs.
const Name = "mobyfs"

// Where Docker looks.
const (
	RunDir = "/run/docker/plugins"
	EtcDir = "/etc/docker/plugins"
	LibDir = "/usr/lib/docker/plugins"
)

// Where bootstrap registers the driver.
const (
	SockPath = RunDir + "/" + Name + ".sock"
	SpecPath = EtcDir + "/" + Name + ".spec"
	JSONPath = EtcDir + "/" + Name + ".json"
	// DriverSock is the socket that a .spec leads to.
	DriverSock = "/run/mobyfs/driver.sock"
)

// Way is how Docker is told where the driver is.
type Way string

const (
	Sock Way = "sock" // a socket in RunDir
	Spec Way = "spec" // a file in EtcDir that holds a URL
	JSON Way = "json" // a file in EtcDir that holds a URL and certificates
)

// Ways lists all of them.
func Ways() []Way { return []Way{Sock, Spec, JSON} }

// Endpoint is where Docker calls the driver: unix:///path, tcp://127.0.0.1:port or https://127.0.0.1:port.
type Endpoint string

// The endpoints of each way unless another is wanted.
const (
	SockEndpoint Endpoint = "unix://" + SockPath
	SpecEndpoint Endpoint = "unix://" + DriverSock
	JSONEndpoint Endpoint = "https://127.0.0.1:8081"
)

// Default is the endpoint of a way unless another is wanted.
func (w Way) Default() Endpoint {
	switch w {
	case Spec:
		return SpecEndpoint
	case JSON:
		return JSONEndpoint
	default:
		return SockEndpoint
	}
}

// Check tells why the way can't lead to the endpoint, or nil. What Docker would do without a check of its own, and
// what would let other machines in, is refused.
func (w Way) Check(e Endpoint) error {
	u, err := url.Parse(string(e))
	if err != nil || u.Scheme == "" {
		return mobyfs.Errorf(mobyfs.CodeInvalid, "%q is no URL such as %s", string(e), w.Default())
	}
	wrong := func(format string, args ...any) error {
		return mobyfs.Errorf(mobyfs.CodeInvalid, format, args...).WithHint("use %s", w.Default())
	}
	switch {
	case w == Sock && e != SockEndpoint:
		return wrong("Docker looks for the socket at %s and nowhere else: leave the address out, or use discovery: spec", SockPath)
	case w == Sock:
		return nil
	case w == Spec && u.Scheme == "https":
		return wrong("Docker never verifies an https address in a .spec: use discovery: json")
	case w == JSON && u.Scheme != "https":
		return wrong("with discovery: json Docker is let in by certificates, which takes https://")
	case w == Spec && u.Scheme == "unix" && e != SpecEndpoint:
		return wrong("the socket behind a .spec is %s", SpecEndpoint)
	case w == Spec && u.Scheme == "unix":
		return nil
	case w == Spec && u.Scheme != "tcp":
		return wrong("Docker is led to unix:// or tcp:// by a .spec, not to %s://", u.Scheme)
	case u.Hostname() != "127.0.0.1":
		return wrong("%s is not 127.0.0.1: the driver answers the dockerd of its own host only", u.Hostname())
	case string(e) != u.Scheme+"://"+u.Host:
		return wrong("%q holds more than host and port: Docker ignores the rest", string(e))
	case e.Port() == 0:
		return wrong("%q has no port from 1 to 65535", string(e))
	}
	return nil
}

// Way tells by which way Docker is led to the endpoint.
func (e Endpoint) Way() Way {
	switch {
	case e == SockEndpoint:
		return Sock
	case e.TLS():
		return JSON
	default:
		return Spec
	}
}

// Listen is the endpoint in the words of package net.
func (e Endpoint) Listen() (network, address string) {
	scheme, rest, _ := strings.Cut(string(e), "://")
	if scheme == "unix" {
		return "unix", rest
	}
	return "tcp", rest
}

// Scheme is unix, tcp or https.
func (e Endpoint) Scheme() string {
	scheme, _, _ := strings.Cut(string(e), "://")
	return scheme
}

// Path is that of a unix socket, "" for others.
func (e Endpoint) Path() string {
	if network, address := e.Listen(); network == "unix" {
		return address
	}
	return ""
}

// Port is that of a TCP endpoint, 0 for others and for what is no port.
func (e Endpoint) Port() int {
	network, address := e.Listen()
	if network != "tcp" {
		return 0
	}
	_, text, err := net.SplitHostPort(address)
	port, convErr := strconv.Atoi(text)
	if err != nil || convErr != nil || port < 1 || port > 65535 {
		return 0
	}
	return port
}

// TLS reports whether callers show a certificate.
func (e Endpoint) TLS() bool { return e.Scheme() == "https" }

// Without is the endpoints but for one.
func Without(all []Endpoint, one Endpoint) []Endpoint {
	return slices.DeleteFunc(slices.Clone(all), func(e Endpoint) bool { return e == one })
}

// sockets lists where Docker looks for a socket, files where it looks for a file, each in its order.
func sockets() []string {
	return []string{path.Join(RunDir, Name+".sock"), path.Join(RunDir, Name, Name+".sock")}
}

func files() []string {
	var all []string
	for _, dir := range []string{EtcDir, LibDir} {
		for _, ext := range []string{".spec", ".json"} {
			all = append(all, path.Join(dir, Name+ext), path.Join(dir, Name, Name+ext))
		}
	}
	return all
}
