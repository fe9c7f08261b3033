package main

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/agent"
	"github.com/mobyfs/mobyfs/internal/discovery"
	"github.com/mobyfs/mobyfs/internal/pki"
	"github.com/mobyfs/mobyfs/provision/step"
)

// settings say which node this is and whom it speaks to. They come from flags, and where those are not given from
// the environment, which systemd reads from envFile.
type settings struct {
	cluster   string
	node      string             // as in the certificate
	control   []string           // host:port of the control plane's API, several for several endpoints
	advertise string             // host:port at which other nodes reach this one
	port      portFlag           // to listen at for them
	root      string             // private directory: volumes, state and pki
	endpoint  discovery.Endpoint // to serve Docker at, where systemd hands over no socket
	kept      string             // file of the endpoints that are served until dockerd ends
	docker    string             // dockerd's own socket; empty: dockerd is not asked for the names of containers
	trash     time.Duration      // how long what was removed stays in the trash
	linger    time.Duration      // how long a lease stays after the last container
	shared    string             // directory that all nodes see, for volumes of backend shared; empty: none
	zone      string             // with rack and labels what placement knows of the node when it joins
	rack      string
	labels    string // key=value,…
	run       string // directory of what need not outlive a boot
	metrics   string // host:port at which Prometheus reads; empty: nowhere
	perVolume bool   // metrics of each volume by itself, too
	log       string // debug | info | warn | error
	envFile   string // read again on SIGHUP
}

// bind makes flags of the settings. What no flag sets comes from the environment that lookup knows.
func (s *settings) bind(f *pflag.FlagSet, lookup func(key string) string) {
	env := func(key, otherwise string) string { return cmp.Or(lookup(key), otherwise) }
	_ = s.port.Set(env("MOBYFS_PORT", "8080"))
	f.StringVar(&s.cluster, "cluster", env("MOBYFS_CLUSTER", ""), "the cluster's name (MOBYFS_CLUSTER)")
	f.StringVar(&s.node, "node", env("MOBYFS_NODE", ""), "this node's name (MOBYFS_NODE)")
	f.StringSliceVar(&s.control, "control", split(env("MOBYFS_CONTROL", "")), "host:port of the control plane, several with commas (MOBYFS_CONTROL)")
	f.StringVar(&s.advertise, "advertise", env("MOBYFS_ADVERTISE", ""), "host:port at which other nodes reach this one (MOBYFS_ADVERTISE)")
	f.VarP(&s.port, "port", "p", "port to listen at for other nodes (MOBYFS_PORT)")
	f.StringVar(&s.root, "root", env("MOBYFS_ROOT", "/var/lib/mobyfs"), "directory of volumes, state and keys (MOBYFS_ROOT)")
	f.StringVar((*string)(&s.endpoint), "endpoint", env("MOBYFS_ENDPOINT", string(discovery.SockEndpoint)), "where Docker calls, if systemd holds no socket for it (MOBYFS_ENDPOINT)")
	f.StringVar(&s.kept, "kept", step.KeptPath, "file of the endpoints that are served until dockerd ends")
	f.StringVar(&s.docker, "docker", agent.DockerSocket, "socket of dockerd, to learn the names of containers")
	linger, err := time.ParseDuration(env("MOBYFS_LINGER", "5s"))
	if err != nil {
		linger = -1 // which check refuses
	}
	f.DurationVar(&s.linger, "linger", linger, "how long a volume stays held here after its last container ended, unless another node wants it (MOBYFS_LINGER)")
	trash, err := time.ParseDuration(env("MOBYFS_TRASH", mobyfs.DefaultTrash.String()))
	if err != nil {
		trash = -1 // which check refuses
	}
	f.DurationVar(&s.trash, "trash", trash, "how long what was removed can be brought back, if the disk does not run short before (MOBYFS_TRASH)")
	f.StringVar(&s.shared, "shared", env("MOBYFS_SHARED", ""), "directory that all nodes see, such as a mount of NFS, for volumes of backend shared (MOBYFS_SHARED)")
	f.StringVar(&s.metrics, "metrics", env("MOBYFS_METRICS", ""), "host:port at which Prometheus reads metrics: in plain text at 127.0.0.1, elsewhere with certificates; nowhere if empty (MOBYFS_METRICS)")
	f.BoolVar(&s.perVolume, "volume-metrics", env("MOBYFS_VOLUME_METRICS", "") == "true", "metrics of each volume of this node by itself, too (MOBYFS_VOLUME_METRICS=true)")
	f.StringVar(&s.zone, "zone", env("MOBYFS_ZONE", ""), "nodes of one zone can fail together; told when this one joins (MOBYFS_ZONE)")
	f.StringVar(&s.rack, "rack", env("MOBYFS_RACK", ""), "where it stands in its zone; told when it joins (MOBYFS_RACK)")
	f.StringVar(&s.labels, "labels", env("MOBYFS_LABELS", ""), "labels that volumes may ask for, key=value,…; told when it joins (MOBYFS_LABELS)")
	f.StringVar(&s.run, "run", "/run/mobyfs", "directory of what need not outlive a boot")
	f.StringVar(&s.log, "log", env("MOBYFS_LOG", "info"), "debug, info, warn or error (MOBYFS_LOG)")
	f.StringVar(&s.envFile, "env-file", "/etc/mobyfs/mobyfs.env", "where settings are read again on SIGHUP")
}

// labelled are the labels, as they are given.
func (s *settings) labelled() map[string]string {
	all := map[string]string{}
	for _, label := range split(s.labels) {
		key, value, _ := strings.Cut(label, "=")
		all[key] = value
	}
	return all
}

// portFlag is a port, or 0 for what is none: check refuses that, so that a bad one from systemd's environment is told
// to Docker like any other bad setting.
type portFlag int

// Set takes any text.
func (p *portFlag) Set(text string) error {
	n, err := strconv.Atoi(text)
	if err != nil {
		n = 0
	}
	*p = portFlag(n)
	return nil
}

func (p *portFlag) String() string { return strconv.Itoa(int(*p)) }

// Type is the word for the value in the help.
func (p *portFlag) Type() string { return "port" }

// check finds what is wrong before anything is started, and fills what follows from other settings.
func (s *settings) check() error {
	missing := func(what, key, flag string) error {
		return mobyfs.Errorf(mobyfs.CodeInvalid, "%s is missing", what).WithHint("set %s in %s, or give --%s", key, s.envFile, flag)
	}
	switch {
	case s.node == "":
		return missing("this node's name", "MOBYFS_NODE", "node")
	case s.cluster == "":
		return missing("the cluster's name", "MOBYFS_CLUSTER", "cluster")
	case len(s.control) == 0:
		return missing("the address of the control plane", "MOBYFS_CONTROL", "control")
	case s.port < 1 || s.port > 65535:
		return mobyfs.Errorf(mobyfs.CodeInvalid, "the port for other nodes is none from 1 to 65535").WithHint("look at MOBYFS_PORT, or give one such as -p 8080")
	case !filepath.IsAbs(s.root):
		return mobyfs.Errorf(mobyfs.CodeInvalid, "%q is no absolute path", s.root).WithHint("look at MOBYFS_ROOT")
	}
	if err := (mobyfs.Node{Zone: s.zone, Rack: s.rack, Labels: s.labelled()}).CheckLabels(); err != nil {
		return err
	}
	if s.shared != "" && !filepath.IsAbs(s.shared) {
		return mobyfs.Errorf(mobyfs.CodeInvalid, "%q is no absolute path", s.shared).WithHint("look at MOBYFS_SHARED")
	}
	if p := s.endpoint.Path(); p != "" && !filepath.IsAbs(p) {
		return mobyfs.Errorf(mobyfs.CodeInvalid, "%q is no absolute path", p).WithHint("look at MOBYFS_ENDPOINT")
	} else if err := s.endpoint.Way().Check(s.endpoint); p == "" && err != nil {
		return mobyfs.Errorf(mobyfs.CodeInvalid, "serve Docker: %w", err).WithHint("look at MOBYFS_ENDPOINT")
	}
	if s.advertise == "" {
		s.advertise = net.JoinHostPort(s.node, s.port.String())
	}
	for _, addr := range append([]string{s.advertise}, s.control...) {
		if host, port, err := net.SplitHostPort(addr); err != nil || host == "" || port == "" {
			return mobyfs.Errorf(mobyfs.CodeInvalid, "%q is not host:port", addr).WithHint("look at MOBYFS_ADVERTISE and MOBYFS_CONTROL")
		}
	}
	if _, port, err := net.SplitHostPort(s.metrics); s.metrics != "" && (err != nil || port == "") {
		return mobyfs.Errorf(mobyfs.CodeInvalid, "%q is no address to serve metrics at", s.metrics).WithHint("set MOBYFS_METRICS to host:port, such as 127.0.0.1:9646")
	}
	if _, err := parseLevel(s.log); err != nil {
		return err
	}
	if s.trash != 0 && s.trash < time.Minute || s.trash > mobyfs.MaxTrash {
		return mobyfs.Errorf(mobyfs.CodeInvalid, "the trash can't be kept for that time").WithHint("set MOBYFS_TRASH to a time from 1m to %v, such as 24h", mobyfs.MaxTrash)
	}
	if s.linger < 0 || s.linger > mobyfs.MaxLinger {
		return mobyfs.Errorf(mobyfs.CodeInvalid, "a lease can't linger for that time").WithHint("set MOBYFS_LINGER to a time from 0s to %v, such as 5s", mobyfs.MaxLinger)
	}
	if err := mobyfs.CheckNodeName(s.node); err != nil {
		return err
	}
	return s.checkIdentity()
}

// files is where the node's certificate lies.
func (s *settings) files() pki.Files { return pki.FilesIn(filepath.Join(s.root, "pki"), "node") }

// dockerd is who may call where certificates are shown, and dockerFiles where its certificate lies.
func (s *settings) dockerd() pki.Identity {
	return pki.Identity{Cluster: s.cluster, Role: pki.RoleDocker, Name: s.node}
}

func (s *settings) dockerFiles() pki.Files {
	return pki.FilesIn(filepath.Join(s.root, "pki"), "docker")
}

// checkIdentity checks that the certificate is that of this node in this cluster.
func (s *settings) checkIdentity() error {
	who, _, err := s.files().Identity()
	switch want := (pki.Identity{Cluster: s.cluster, Role: pki.RoleNode, Name: s.node}); {
	case errors.Is(err, fs.ErrNotExist):
		return mobyfs.Errorf(mobyfs.CodeInvalid, "this node has no certificate: %w", err).WithHint("mobyctl bootstrap gives it one")
	case err != nil:
		return err
	case who != want:
		return mobyfs.Errorf(mobyfs.CodeInvalid, "the certificate is that of %s in cluster %s, not of %s in %s", who, who.Cluster, want, want.Cluster).
			WithHint("run mobyctl bootstrap again")
	}
	return nil
}

func parseLevel(name string) (slog.Level, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(name)); err != nil {
		return l, mobyfs.Errorf(mobyfs.CodeInvalid, "there is no log level %q", name).WithHint("use debug, info, warn or error")
	}
	return l, nil
}

// readEnv reads an environment file as systemd does.
func readEnv(path string) (map[string]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	env := map[string]string{}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if key, value, ok := strings.Cut(line, "="); ok && !strings.HasPrefix(line, "#") {
			env[key] = strings.Trim(value, `"'`)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return env, nil
}

func split(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' || r == ' ' })
}
