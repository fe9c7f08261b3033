package main

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/control"
	"github.com/mobyfs/mobyfs/control/placement"
	"github.com/mobyfs/mobyfs/control/store"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// settings say which cluster's control this is, where it lies, and who keeps the store with it.
type settings struct {
	cluster   string
	name      string           // of this one among the cluster's controls: its host's
	listen    string           // host:port of the API
	root      string           // private directory: pki/ and etcd/
	classes   string           // file of the classes of volumes
	session   time.Duration    // after which a silent node's session ends
	placement placement.Policy // how volumes are placed
	backups   time.Duration    // how often a backup is made

	peerListen string // host:port at which other members of the store are heard; empty: there are none
	peerURL    string // https://host:port at which they reach this one
	join       string // members of the store to join while there is no data here; empty: as joinFile says

	quota string // how much the store may take
	etcd  foreign
}

// Bounds of how often backups are made.
const (
	minBackupEvery = time.Second
	maxBackupEvery = 24 * time.Hour
)

// foreign is an etcd that somebody else runs. Without endpoints there is none.
type foreign struct {
	endpoints     []string
	ca, cert, key string // files; all empty for an etcd without TLS
}

// add defines the flags that all commands have.
func (s *settings) add(flags *pflag.FlagSet) {
	text := func(into *string, name, variable, otherwise, usage string) {
		flags.StringVar(into, name, cmp.Or(os.Getenv(variable), otherwise), usage+" ("+variable+")")
	}
	text(&s.cluster, "cluster", "MOBYFS_CLUSTER", "", "name of the cluster")
	text(&s.name, "name", "MOBYFS_CONTROL_NAME", "control", "name of this host among those with a control")
	text(&s.root, "root", "MOBYFS_CONTROL_ROOT", "/var/lib/mobyfs-control", "where the store and the authority lie")
}

// addStart defines the flags of a control that runs.
func (s *settings) addStart(flags *pflag.FlagSet) {
	text := func(into *string, name, variable, otherwise, usage string) {
		flags.StringVar(into, name, cmp.Or(os.Getenv(variable), otherwise), usage+" ("+variable+")")
	}
	text(&s.classes, "classes", "MOBYFS_CLASSES", "/etc/mobyfs/classes.json", "file of the classes of volumes")
	session, err := time.ParseDuration(cmp.Or(os.Getenv("MOBYFS_SESSION_TTL"), mobyfs.SessionTTL.String()))
	if err != nil {
		session = 0 // which check refuses
	}
	flags.DurationVar(&s.session, "session-ttl", session, "how long a node may be silent before its session ends; the same at all controls (MOBYFS_SESSION_TTL)")
	backups, err := time.ParseDuration(cmp.Or(os.Getenv("MOBYFS_BACKUP_EVERY"), control.BackupEvery.String()))
	if err != nil {
		backups = 0 // which check refuses
	}
	flags.DurationVar(&s.backups, "backup-every", backups, "how often a sealed backup is made and kept on two nodes (MOBYFS_BACKUP_EVERY)")
	s.addPlacement(flags)
	text(&s.listen, "listen", "MOBYFS_CONTROL_LISTEN", ":7946", "host:port of the API")
	text(&s.peerListen, "peer-listen", "MOBYFS_PEER_LISTEN", "", "host:port at which other members of the store are heard; none if empty")
	text(&s.peerURL, "peer-url", "MOBYFS_PEER_URL", "", "https://host:port at which other members reach this one")
	text(&s.join, "join", "MOBYFS_JOIN", "", "members of the store to join, as member add tells; read only while there is no data here")
	text(&s.quota, "quota", "MOBYFS_CONTROL_QUOTA", "8GiB", "how much the store may take on this host, 16MiB to 32GiB; the same on all")
	flags.StringSliceVar(&s.etcd.endpoints, "etcd-endpoints", split(os.Getenv("MOBYFS_ETCD_ENDPOINTS")),
		"an etcd that somebody else runs, instead of one in this process: https://host:port,… (MOBYFS_ETCD_ENDPOINTS)")
	text(&s.etcd.ca, "etcd-ca", "MOBYFS_ETCD_CA", "", "file of the authority of that etcd")
	text(&s.etcd.cert, "etcd-cert", "MOBYFS_ETCD_CERT", "", "file of the certificate that is shown to it")
	text(&s.etcd.key, "etcd-key", "MOBYFS_ETCD_KEY", "", "file of its key")
}

// addPlacement defines the flags that say how volumes are placed. All controls must have the same.
func (s *settings) addPlacement(flags *pflag.FlagSet) {
	s.placement = placement.DefaultPolicy()
	number := func(into *float64, name, variable, usage string) {
		otherwise := *into
		if text := os.Getenv(variable); text != "" {
			var err error
			if otherwise, err = strconv.ParseFloat(text, 64); err != nil {
				otherwise = -1 // which check refuses
			}
		}
		flags.Float64Var(into, name, otherwise, usage+" ("+variable+")")
	}
	flags.StringVar((*string)(&s.placement.Strategy), "placement", cmp.Or(os.Getenv("MOBYFS_PLACEMENT"), string(s.placement.Strategy)),
		"which of the nodes that can take a volume is preferred: spread, the emptiest, or binpack, the fullest (MOBYFS_PLACEMENT)")
	number(&s.placement.Overcommit, "overcommit", "MOBYFS_OVERCOMMIT", "how many bytes a node promises to volumes per byte that it has")
	number(&s.placement.Headroom, "headroom", "MOBYFS_HEADROOM", "the share of each disk that stays free, such as 0.05")
}

func split(list string) []string {
	if list == "" {
		return nil
	}
	return strings.Split(list, ",")
}

func (s settings) pkiDir() string { return filepath.Join(s.root, "pki") }

// identity is where control's own certificate lies.
func (s settings) identity() pki.Files { return pki.FilesIn(s.pkiDir(), "control") }

// peer is where the certificate lies that this control shows to the other members of its store.
func (s settings) peer() pki.Files { return pki.PeerFiles(s.pkiDir()) }

// who is this control in a role.
func (s settings) who(role string) pki.Identity {
	return pki.Identity{Cluster: s.cluster, Role: role, Name: s.name}
}

// joinFile is where the installer leaves what to join.
func (s settings) joinFile() string { return filepath.Join(s.root, "join") }

// self is this control as a member of its store.
func (s settings) self() (store.Self, error) {
	self := store.Self{Name: s.name, Listen: s.peerListen, URL: s.peerURL, Join: s.join, Files: s.peer()}
	if self.Join == "" && self.Listen != "" {
		text, err := os.ReadFile(s.joinFile())
		if err != nil && !os.IsNotExist(err) {
			return self, fmt.Errorf("read what to join: %w", err)
		}
		self.Join = strings.TrimSpace(string(text))
	}
	return self, nil
}

// storeQuota is how many bytes the store may take.
func (s settings) storeQuota() (int64, error) {
	quota, err := mobyfs.ParseSize(s.quota)
	if err != nil || quota < store.MinQuota || quota > store.MaxQuota {
		return 0, mobyfs.Errorf(mobyfs.CodeInvalid, "%.40q is no quota for the store", s.quota).
			WithHint("set MOBYFS_CONTROL_QUOTA, or give --quota, from %s to %s, such as 8GiB", mobyfs.FormatSize(store.MinQuota), mobyfs.FormatSize(store.MaxQuota))
	}
	return quota, nil
}

// tls is how the foreign etcd is called; nil without TLS.
func (f foreign) tls() (*tls.Config, error) {
	if f.ca == "" && f.cert == "" && f.key == "" {
		return nil, nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if f.ca != "" {
		text, err := os.ReadFile(f.ca)
		if err != nil {
			return nil, fmt.Errorf("read the authority of etcd: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(text) {
			return nil, mobyfs.Errorf(mobyfs.CodeInvalid, "%s holds no certificate", f.ca).WithHint("give the authority of etcd in PEM")
		}
	}
	if f.cert != "" || f.key != "" {
		pair, err := tls.LoadX509KeyPair(f.cert, f.key)
		if err != nil {
			return nil, fmt.Errorf("read the certificate for etcd: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

// check tells what is wrong with the settings, or nil. The cluster's name stands in certificates, so the rule is
// that of nodes.
func (s settings) check() error {
	if s.cluster == "" {
		return mobyfs.Errorf(mobyfs.CodeInvalid, "the cluster's name is missing").WithHint("set MOBYFS_CLUSTER, or give --cluster NAME")
	}
	if mobyfs.CheckNodeName(s.cluster) != nil {
		return mobyfs.Errorf(mobyfs.CodeInvalid, "%q can't be the name of a cluster", s.cluster).
			WithHint("use up to 63 lower-case letters, digits and -, such as shop")
	}
	if mobyfs.CheckNodeName(s.name) != nil {
		return mobyfs.Errorf(mobyfs.CodeInvalid, "%q can't be the name of a control", s.name).
			WithHint("set MOBYFS_CONTROL_NAME to the name that its host has in cluster.yaml")
	}
	if len(s.etcd.endpoints) > 0 && (s.peerListen != "" || s.join != "") {
		return mobyfs.Errorf(mobyfs.CodeInvalid, "the store is either an etcd that somebody else runs or one with members of our own, not both").
			WithHint("leave out --etcd-endpoints, or --peer-listen and --join")
	}
	return nil
}

// checkStart is check for a control that runs.
func (s settings) checkStart() error {
	if s.session < mobyfs.MinSessionTTL || s.session > mobyfs.MaxSessionTTL || s.session%time.Second != 0 {
		return mobyfs.Errorf(mobyfs.CodeInvalid, "the session of a node can't end after that time").
			WithHint("set MOBYFS_SESSION_TTL to whole seconds from %v to %v, such as %v", mobyfs.MinSessionTTL, mobyfs.MaxSessionTTL, mobyfs.SessionTTL)
	}
	if s.backups < minBackupEvery || s.backups > maxBackupEvery {
		return mobyfs.Errorf(mobyfs.CodeInvalid, "backups can't be made that often, or that rarely").
			WithHint("set MOBYFS_BACKUP_EVERY to a time from %v to %v, such as %v", minBackupEvery, maxBackupEvery, control.BackupEvery)
	}
	return s.check()
}
