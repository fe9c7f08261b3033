package provision

import (
	"cmp"
	"fmt"
	"net"
	"net/url"
	"os"
	"path"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/control/placement"
	"github.com/mobyfs/mobyfs/internal/discovery"
	"github.com/mobyfs/mobyfs/provision/cloud"
	"github.com/mobyfs/mobyfs/provision/host"
)

// APIVersion is the only one of cluster.yaml so far.
const APIVersion = "mobyfs.dev/v1"

// Config is cluster.yaml. The sample in package templates has a paragraph for each key.
type Config struct {
	APIVersion string        `yaml:"apiVersion"`
	Cluster    string        `yaml:"cluster"`
	SSH        SSHConfig     `yaml:"ssh"`
	Control    ControlConfig `yaml:"control"`
	Ports      PortsConfig   `yaml:"ports"`
	Docker     DockerConfig  `yaml:"docker"`
	Volumes    VolumesConfig `yaml:"volumes"`
	Monitoring Monitoring    `yaml:"monitoring"`
	Hosts      []HostConfig  `yaml:"hosts"`
	Sandbox    SandboxConfig `yaml:"sandbox"`
}

// SSHConfig holds for all hosts.
type SSHConfig struct {
	User         string             `yaml:"user"`
	Port         int                `yaml:"port"`
	IdentityFile string             `yaml:"identityFile"`
	KnownHosts   string             `yaml:"knownHosts"`
	HostKeys     host.HostKeyPolicy `yaml:"hostKeys"`
	Sudo         host.SudoPolicy    `yaml:"sudo"`
}

// ControlConfig says where the control plane runs: on one host, three or five, or on the first one if it says nothing.
// A list of names is short for hosts.
type ControlConfig struct {
	Host  string   `yaml:"host"`
	Hosts []string `yaml:"hosts"`
	// Quota is how much the store may take on each of them, such as 8GiB; control's default if empty.
	Quota string `yaml:"quota"`
	// SessionTTL is how long a node may be silent before its session ends, such as 30s; control's default if empty.
	SessionTTL string `yaml:"sessionTTL"`
}

// UnmarshalYAML takes a mapping or a list.
func (c *ControlConfig) UnmarshalYAML(unmarshal func(any) error) error {
	if unmarshal(&c.Hosts) == nil {
		return nil
	}
	type plain ControlConfig
	return unmarshal((*plain)(c))
}

// check tells what is wrong with the settings of the store and of sessions.
func (c ControlConfig) check(d *document) {
	if q := c.Quota; q != "" {
		if n, err := mobyfs.ParseSize(q); err != nil || n < mobyfs.MinStoreQuota || n > mobyfs.MaxStoreQuota {
			d.wrong("$.control.quota", "%q is no size from %s to %s: write it as 8GiB", q,
				mobyfs.FormatSize(mobyfs.MinStoreQuota), mobyfs.FormatSize(mobyfs.MaxStoreQuota))
		}
	}
	if s := c.SessionTTL; s != "" {
		if t, err := time.ParseDuration(s); err != nil || t < mobyfs.MinSessionTTL || t > mobyfs.MaxSessionTTL || t%time.Second != 0 {
			d.wrong("$.control.sessionTTL", "%q is no time of whole seconds from %v to %v: write it as %v", s,
				mobyfs.MinSessionTTL, mobyfs.MaxSessionTTL, mobyfs.SessionTTL)
		}
	}
}

// names are the hosts that it names, if it names any.
func (c ControlConfig) names() []string {
	if c.Host != "" {
		return append([]string{c.Host}, c.Hosts...)
	}
	return c.Hosts
}

// evenControls tells why so many hosts can't have the control plane, or "".
func evenControls(n int) string {
	switch n {
	case 1, 3, 5:
		return ""
	case 2, 4:
		return fmt.Sprintf("%d hosts can't have the control plane: more than half of them must be there, so they stand the loss of no more hosts "+
			"than %d do, and one more can be lost: use 1, 3 or 5", n, n-1)
	default:
		return fmt.Sprintf("%d hosts can't have the control plane: each change waits for more than half of them: use 1, 3 or 5", n)
	}
}

// PortsConfig are the TCP ports that hosts reach at each other.
type PortsConfig struct {
	Control int `yaml:"control"`
	Agent   int `yaml:"agent"`
	Peer    int `yaml:"peer"` // of hosts with the control plane, for each other
}

// DockerConfig says how Docker is told where the driver is.
type DockerConfig struct {
	Discovery discovery.Way      `yaml:"discovery"`
	Address   discovery.Endpoint `yaml:"address"`
}

// VolumesConfig says how volumes are made and kept.
type VolumesConfig struct {
	Linger  string        `yaml:"linger"` // as Go writes durations
	Trash   string        `yaml:"trash"`  // likewise
	Shared  string        `yaml:"shared"` // directory that all nodes see, for volumes of backend shared
	Classes []ClassConfig `yaml:"classes"`
	// Placement is how control chooses nodes for them.
	Placement PlacementConfig `yaml:"placement"`
}

// PlacementConfig says what is preferred among the nodes that can take a volume, and how much they may be promised.
type PlacementConfig struct {
	Strategy   placement.Strategy `yaml:"strategy"`
	Overcommit float64            `yaml:"overcommit"` // bytes promised per byte that there is
	Headroom   *float64           `yaml:"headroom"`   // share of each disk that stays free
}

// policy is what control goes by.
func (c PlacementConfig) policy() placement.Policy {
	p := placement.DefaultPolicy()
	p.Strategy, p.Overcommit = cmp.Or(c.Strategy, p.Strategy), cmp.Or(c.Overcommit, p.Overcommit)
	if c.Headroom != nil {
		p.Headroom = *c.Headroom
	}
	return p
}

// Monitoring says what can be seen from outside.
type Monitoring struct {
	Metrics   string `yaml:"metrics"`   // host:port at which each node shows its metrics; nowhere if empty
	PerVolume bool   `yaml:"perVolume"` // those of each volume, too
	Traces    string `yaml:"traces"`    // URL of a collector of OpenTelemetry; none if empty
}

// ClassConfig is what volumes of one class get where they ask for nothing else.
type ClassConfig struct {
	Name     string `yaml:"name"`
	Size     string `yaml:"size"`
	Backend  string `yaml:"backend"`
	Takeover string `yaml:"takeover"`
	FS       string `yaml:"fs"` // of backend loop: ext4 or xfs

	// Of the root directory of a volume, when it is made. The mode is in octal; 0 is root, as without a word.
	Mode octal `yaml:"mode"`
	UID  int   `yaml:"uid"`
	GID  int   `yaml:"gid"`

	// On which nodes its volumes may be; see mobyfs.VolumeSpec.
	Zone        string            `yaml:"zone"`
	Apart       string            `yaml:"apart"`
	NodeLabels  map[string]string `yaml:"nodeLabels"`
	Tolerations []string          `yaml:"tolerations"`

	Labels map[string]string `yaml:"labels"`
}

// octal is a mode as it was written. YAML takes one without quotes for a number, of which it is not known how it was written.
type octal string

// UnmarshalYAML keeps what stands there, but for quotes around it.
func (o *octal) UnmarshalYAML(text []byte) error {
	*o = octal(strings.Trim(strings.TrimSpace(string(text)), `"'`))
	return nil
}

// HostConfig is one host.
type HostConfig struct {
	Name         string `yaml:"name"`
	Address      string `yaml:"address"`
	Port         int    `yaml:"port"`
	User         string `yaml:"user"`
	IdentityFile string `yaml:"identityFile"`
	HostKey      string `yaml:"hostKey"`

	// What the node is like, for placement to go by; see mobyfs.NodeSpec.
	Zone   string            `yaml:"zone"`
	Rack   string            `yaml:"rack"`
	Labels map[string]string `yaml:"labels"`
	Taints []string          `yaml:"taints"` // as mobyfs.ParseTaint reads them
}

// SandboxConfig takes the hosts from a sandbox on this machine.
type SandboxConfig struct {
	Name string `yaml:"name"`
}

// Defaults of what cluster.yaml leaves open.
const (
	DefaultControlPort = 7946
	DefaultAgentPort   = 8080
	DefaultPeerPort    = 7947
	DefaultLinger      = "5s"
	DefaultTrash       = "1h"
)

// LoadConfig reads and checks a cluster.yaml. What is wrong in it is a *ConfigError.
func LoadConfig(path string) (*Config, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, mobyfs.Errorf(mobyfs.CodeInvalid, "%w", err).WithHint("mobyctl init writes a cluster.yaml; -f names another file")
	}
	return ParseConfig(path, text)
}

// ParseConfig is LoadConfig of a text; the name is for messages.
func ParseConfig(name string, text []byte) (*Config, error) {
	d, err := parseDocument(name, text)
	if err != nil {
		return nil, err
	}
	c := &Config{}
	if err := d.decode(c); err != nil {
		return nil, err
	}
	c.setDefaults()
	c.check(d)
	return c, d.err()
}

func (c *Config) setDefaults() {
	if c.SSH.HostKeys == "" {
		c.SSH.HostKeys = host.HostKeysAsk
	}
	if c.SSH.Sudo == "" {
		c.SSH.Sudo = host.SudoAuto
	}
	if c.Ports.Control == 0 {
		c.Ports.Control = DefaultControlPort
	}
	if c.Ports.Agent == 0 {
		c.Ports.Agent = DefaultAgentPort
	}
	if c.Ports.Peer == 0 {
		c.Ports.Peer = DefaultPeerPort
	}
	if c.Volumes.Trash == "" {
		c.Volumes.Trash = DefaultTrash
	}
	if c.Volumes.Linger == "" {
		c.Volumes.Linger = DefaultLinger
	}
	if c.Docker.Discovery == "" {
		c.Docker.Discovery = discovery.Sock
	}
	if c.Docker.Address == "" {
		c.Docker.Address = c.Docker.Discovery.Default()
	}
}

// check finds everything that is wrong, not only the first thing.
func (c *Config) check(d *document) {
	if c.APIVersion != APIVersion {
		d.wrong("$.apiVersion", "apiVersion must be %s", APIVersion)
	}
	if c.Cluster == "" {
		d.wrong("$.cluster", "the cluster needs a name, such as cluster: shop")
	} else if mobyfs.CheckNodeName(c.Cluster) != nil {
		d.wrong("$.cluster", "%q can't be the name of a cluster: use up to 63 lower-case letters, digits and -", c.Cluster)
	}
	choose(d, "$.ssh.hostKeys", c.SSH.HostKeys, host.HostKeysAsk, host.HostKeysStrict, host.HostKeysAcceptNew, host.HostKeysPinned)
	choose(d, "$.ssh.sudo", c.SSH.Sudo, host.SudoAuto, host.SudoWithPassword, host.SudoNever)
	d.port("$.ssh.port", c.SSH.Port)
	d.port("$.ports.control", c.Ports.Control)
	d.port("$.ports.agent", c.Ports.Agent)
	d.port("$.ports.peer", c.Ports.Peer)
	if c.Ports.Control == c.Ports.Agent {
		d.wrong("$.ports.agent", "the control plane and the agents can't have the same port %d", c.Ports.Agent)
	}
	if p := c.Ports.Peer; p == c.Ports.Control || p == c.Ports.Agent {
		d.wrong("$.ports.peer", "port %d is taken by the agents or the control plane: give the members of its store another one", p)
	}
	d.word("$.ssh.user", "user", c.SSH.User)
	c.checkDocker(d)
	c.checkVolumes(d)
	c.checkMonitoring(d)
	c.checkHosts(d)
}

func (c *Config) checkMonitoring(d *document) {
	if m := c.Monitoring.Metrics; m != "" {
		at, port, err := net.SplitHostPort(m)
		n, convErr := strconv.Atoi(port)
		switch {
		case err != nil || convErr != nil || n < 1 || n > 65535 || strings.ContainsAny(at, " \n\"'"):
			d.wrong("$.monitoring.metrics", "%q is not host:port: write it as 127.0.0.1:9646", m)
		case n == c.Ports.Control || n == c.Ports.Agent || n == c.Ports.Peer:
			d.wrong("$.monitoring.metrics", "port %d is taken by the agents or the control plane: give metrics another one", n)
		}
	}
	if c.Monitoring.PerVolume && c.Monitoring.Metrics == "" {
		d.wrong("$.monitoring.perVolume", "metrics of each volume need an address at which nodes show them: write metrics: 127.0.0.1:9646")
	}
	c.Control.check(d)
	if t := c.Monitoring.Traces; t != "" {
		u, err := url.Parse(t)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || u.User != nil || strings.ContainsAny(t, " \n\"'") {
			d.wrong("$.monitoring.traces", "that is no URL of a collector, without a password: write it as http://10.0.1.20:4318")
		}
	}
}

func (c *Config) checkVolumes(d *document) {
	if trash, err := time.ParseDuration(c.Volumes.Trash); err != nil || trash < time.Minute || trash > mobyfs.MaxTrash {
		d.wrong("$.volumes.trash", "%q is no time from 1m to %v: write it as 24h", c.Volumes.Trash, mobyfs.MaxTrash)
	}
	if linger, err := time.ParseDuration(c.Volumes.Linger); err != nil || linger < 0 || linger > mobyfs.MaxLinger {
		d.wrong("$.volumes.linger", "%q is no time from 0s to %v: write it as 5s or 1m30s", c.Volumes.Linger, mobyfs.MaxLinger)
	}
	if s := c.Volumes.Shared; s != "" && (!path.IsAbs(s) || path.Clean(s) != s || strings.ContainsAny(s, " \n\"'")) {
		d.wrong("$.volumes.shared", "%q is no plain absolute path", s)
	}
	if err := c.Volumes.Placement.policy().Check(); err != nil {
		d.wrong("$.volumes.placement", "%s: %s", err, mobyfs.HintOf(err))
	}
	names := map[string]bool{}
	for i, class := range c.Volumes.Classes {
		at := fmt.Sprintf("$.volumes.classes[%d]", i)
		switch {
		case class.Name == "":
			d.wrong(at+".name", "the class needs a name, such as name: fast")
		case mobyfs.CheckNodeName(class.Name) != nil:
			d.wrong(at+".name", "%q can't be the name of a class: use up to 63 lower-case letters, digits and -", class.Name)
		case names[class.Name]:
			d.wrong(at+".name", "there are two classes %q", class.Name)
		}
		names[class.Name] = true
		if class.Size != "" {
			if _, err := mobyfs.ParseSize(class.Size); err != nil {
				d.wrong(at+".size", "%q is no size: %s", class.Size, mobyfs.HintOf(err))
			}
		}
		if class.Backend != "" {
			choose(d, at+".backend", class.Backend, mobyfs.Backends()...)
		}
		if err := mobyfs.CheckTakeover(mobyfs.Takeover(class.Takeover), class.Backend); err != nil {
			d.wrong(at+".takeover", "%s: %s", err, mobyfs.HintOf(err))
		}
		filled := class.class().Fill(mobyfs.VolumeSpec{}).WithDefaults()
		if err := filled.CheckPlacement(); err != nil {
			d.wrong(at, "%s: %s", err, mobyfs.HintOf(err))
		}
		if err := filled.CheckLayout(); err != nil && slices.Contains(mobyfs.Backends(), filled.Backend) {
			d.wrong(at, "%s: %s", err, mobyfs.HintOf(err))
		}
		if class.Backend == mobyfs.SharedBackend && c.Volumes.Shared == "" {
			d.wrong(at+".backend", "backend %s needs volumes.shared: a directory that all hosts see", mobyfs.SharedBackend)
		}
	}
}

// classes are those of the file, as control reads them.
func (c *Config) classes() []mobyfs.VolumeClass {
	classes := []mobyfs.VolumeClass{}
	for _, k := range c.Volumes.Classes {
		classes = append(classes, k.class())
	}
	return classes
}

func (k ClassConfig) class() mobyfs.VolumeClass {
	size, _ := mobyfs.ParseSize(k.Size) // checked; none is 0
	return mobyfs.VolumeClass{
		Name: k.Name, Backend: k.Backend, Takeover: mobyfs.Takeover(k.Takeover), SizeBytes: size, Labels: k.Labels,
		Filesystem: k.FS, Mode: string(k.Mode), UID: k.UID, GID: k.GID, Zone: k.Zone, Apart: k.Apart, NodeLabels: k.NodeLabels, Tolerations: k.Tolerations,
	}
}

func (c *Config) checkDocker(d *document) {
	way, address := c.Docker.Discovery, c.Docker.Address
	if !choose(d, "$.docker.discovery", way, discovery.Ways()...) {
		return
	}
	if err := way.Check(address); err != nil {
		d.wrong("$.docker.address", "%v", err)
		return
	}
	if port := address.Port(); port != 0 && (port == c.Ports.Agent || port == c.Ports.Control || port == c.Ports.Peer) {
		d.wrong("$.docker.address", "port %d is taken by the agents or the control plane, as ports says: give Docker another one", port)
	}
}

func (c *Config) checkHosts(d *document) {
	sandbox := d.has("$.sandbox")
	switch {
	case sandbox && len(c.Hosts) > 0:
		d.wrong("$.sandbox", "hosts come from the sandbox or from the list under hosts, not from both")
	case !sandbox && len(c.Hosts) == 0:
		d.wrong("$.hosts", "there are no hosts: list them under hosts, each with name and address")
	}
	names, addresses := map[string]int{}, map[string]int{}
	for i, h := range c.Hosts {
		at := hostPath(i)
		c.checkHost(d, at, h)
		d.unique(at+".name", "name", h.Name, names, i)
		where := h.Address
		if h.Port != 0 {
			where = net.JoinHostPort(h.Address, itoa(h.Port))
		}
		d.unique(at+".address", "address", where, addresses, i)
	}
	c.checkControl(d, names)
}

func (c *Config) checkControl(d *document, names map[string]int) {
	wanted := c.Control.names()
	if len(wanted) == 0 {
		return
	}
	at := "$.control"
	if d.has(at + ".host") {
		at += ".host"
	}
	if c.Control.Host != "" && len(c.Control.Hosts) > 0 {
		d.wrong(at, "give host or hosts, not both")
	}
	if why := evenControls(len(wanted)); why != "" {
		d.wrong(at, "%s", why)
	}
	for i, want := range wanted {
		if slices.Index(wanted, want) < i {
			continue // said already
		}
		if _, ok := names[want]; !ok && len(c.Hosts) > 0 {
			d.wrong(at, "no host has the name %q%s", want, didYouMean(want, hostNames(c.Hosts)))
		}
		if slices.Contains(wanted[i+1:], want) {
			d.wrong(at, "%q stands there twice", want)
		}
	}
}

func (c *Config) checkHost(d *document, at string, h HostConfig) {
	if h.Name == "" {
		d.wrong(at+".name", "the host needs a name")
	} else if err := mobyfs.CheckNodeName(h.Name); err != nil {
		d.wrong(at+".name", "%q can't be the name of a host: use up to 63 lower-case letters, digits and -, such as vol-1", h.Name)
	}
	switch user, rest, found := strings.Cut(h.Address, "@"); {
	case h.Address == "":
		d.wrong(at+".address", "the host needs an address")
	case found:
		d.wrong(at+".address", "the user does not belong into the address: write user: %s and address: %s", user, rest)
	case strings.Count(h.Address, ":") == 1:
		name, port, _ := strings.Cut(h.Address, ":")
		d.wrong(at+".address", "the port does not belong into the address: write port: %s and address: %s", port, name)
	case strings.HasPrefix(h.Address, "-") || strings.ContainsFunc(h.Address, notInAddress):
		d.wrong(at+".address", "%q is no name or IP address", h.Address)
	}
	d.port(at+".port", h.Port)
	d.word(at+".user", "user", h.User)
	h.checkSpec(d, at)
	if h.HostKey != "" {
		if err := host.CheckFingerprint(h.HostKey); err != nil {
			d.wrong(at+".hostKey", "%v", err)
		}
	} else if c.SSH.HostKeys == host.HostKeysPinned {
		d.wrong(at+".name", "host %q needs a hostKey, since ssh.hostKeys is pinned", h.Name)
	}
}

func notInAddress(r rune) bool {
	return !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.:_-", r)
}

// choose demands one of a few words, and reports whether it is.
func choose[T ~string](d *document, at string, got T, may ...T) bool {
	if slices.Contains(may, got) {
		return true
	}
	words := make([]string, len(may))
	for i, m := range may {
		words[i] = string(m)
	}
	d.wrong(at, "%q is none of %s%s", string(got), strings.Join(words, ", "), didYouMean(string(got), words))
	return false
}

// Specs are the hosts that the file lists.
func (c *Config) Specs() []cloud.HostSpec {
	specs := make([]cloud.HostSpec, len(c.Hosts))
	for i, h := range c.Hosts {
		specs[i] = cloud.HostSpec{
			Name: h.Name, Address: h.Address, Port: h.Port, User: h.User, IdentityFile: h.IdentityFile, HostKey: h.HostKey, Node: h.spec(),
		}
	}
	return specs
}

func hostNames(hosts []HostConfig) []string {
	names := make([]string, len(hosts))
	for i, h := range hosts {
		names[i] = h.Name
	}
	return names
}

// keysAt lists the keys that the mapping at a path may have, in the order of the struct.
func keysAt(path string) []string {
	t := reflect.TypeFor[Config]()
	for part := range strings.SplitSeq(strings.TrimPrefix(path, "$"), ".") {
		name, _, _ := strings.Cut(part, "[")
		if name == "" {
			continue
		}
		field, ok := fieldOf(t, name)
		if !ok {
			return nil
		}
		if t = field.Type; t.Kind() == reflect.Slice {
			t = t.Elem()
		}
		if t.Kind() != reflect.Struct {
			return nil
		}
	}
	keys := make([]string, t.NumField())
	for i := range keys {
		keys[i] = t.Field(i).Tag.Get("yaml")
	}
	return keys
}

func fieldOf(t reflect.Type, key string) (reflect.StructField, bool) {
	for i := range t.NumField() {
		if f := t.Field(i); f.Tag.Get("yaml") == key {
			return f, true
		}
	}
	return reflect.StructField{}, false
}
