package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"go.etcd.io/etcd/pkg/v3/featuregate"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/features"
	"go.uber.org/zap"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/pki"
)

const (
	startTimeout = 60 * time.Second // for a store of a million records on a slow disk
	history      = "1h"             // of old revisions, for a watch that was interrupted
	maxTxnOps    = 1024
	maxSocket    = 107 // bytes of a path that Linux takes for a unix socket
)

// Timing of elections. A single member has nobody to wait for, so its restart need not wait long for the election;
// several must not take a busy disk or network for a dead leader.
const (
	tickAlone     = 20   // ms
	electionAlone = 200  // ms
	tick          = 100  // ms
	election      = 1000 // ms
)

// aloneURL is the label of a member that has no address for others.
var aloneURL = url.URL{Scheme: "http", Host: "127.0.0.1:2380"}

// socketIn is where etcd serves this process. The file is open to all, so its directory must not be.
func socketIn(dir string) string { return filepath.Join(dir, "client.sock") }

// startEtcd starts this process's member in dir and waits until it answers. Clients come through the socket only; the
// one port there is, is for the other members, and a member that is alone has none.
func startEtcd(ctx context.Context, dir string, self Self, quota int64, log *zap.Logger) (*embed.Etcd, error) {
	socket := socketIn(dir)
	if len(socket) > maxSocket {
		return nil, fmt.Errorf("start the store: the path %s is longer than the %d bytes a socket may have", socket, maxSocket)
	}
	cfg, err := configure(dir, self, quota)
	if err != nil {
		return nil, err
	}
	client := url.URL{Scheme: "unix", Path: socket}
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(log)
	began := hasData(dir)
	server, err := embed.StartEtcd(cfg)
	if err != nil {
		return nil, fmt.Errorf("start the store: %w", err)
	}
	timeout := time.NewTimer(startTimeout)
	defer timeout.Stop()
	select {
	case <-server.Server.ReadyNotify():
		if began && !self.alone() {
			err = sameAsOthers(server, self)
		}
		if err != nil {
			server.Close()
			return nil, err
		}
		return server, nil
	case err, ok := <-server.Err():
		if !ok || err == nil {
			err = errors.New("etcd ended at once")
		}
		server.Close()
		return nil, fmt.Errorf("start the store: %w", err)
	case <-timeout.C:
		server.Close()
		return nil, fmt.Errorf("start the store: not ready after %v", startTimeout)
	case <-ctx.Done():
		server.Close()
		return nil, fmt.Errorf("start the store: %w", ctx.Err())
	}
}

// hasData reports whether a member has been here before.
func hasData(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "data", "member"))
	return err == nil
}

// sameAsOthers is nil unless another member has other data at the same revision, by its hash. Who does not answer says
// nothing. etcd's own check at the start (InitialCorruptCheck) is the same one too early: no member hears the others yet
// while it waits for them, so when all begin at once each waits 7 s for each of the others. Until this has returned
// nobody reads from this member.
func sameAsOthers(server *embed.Etcd, self Self) error {
	if err := server.Server.CorruptionChecker().InitialCheck(); err != nil {
		return mobyfs.Errorf(mobyfs.CodeCorrupt, "start the store: the data of %s is not that of the other members: %w", self.name(), err).
			WithHint("on another member: mobyfs-control member rm %s; move %s aside here, then add it again", self.name(), server.Config().Dir)
	}
	return nil
}

// configure is how etcd runs as this member, without its clients.
func configure(dir string, self Self, quota int64) (*embed.Config, error) {
	if err := self.check(); err != nil {
		return nil, err
	}
	cfg := embed.NewConfig()
	cfg.Name = self.name()
	cfg.Dir = filepath.Join(dir, "data")
	cfg.InitialClusterToken = cmp.Or(self.token, "mobyfs")
	cfg.EnableGRPCGateway = false
	cfg.MaxTxnOps = maxTxnOps
	cfg.MaxLearners = maxLearners
	cfg.QuotaBackendBytes = quota + reserve(quota)
	cfg.AutoCompactionMode, cfg.AutoCompactionRetention = embed.CompactorModePeriodic, history
	cfg.TickMs, cfg.ElectionMs = tickAlone, electionAlone
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = nil, []url.URL{aloneURL}
	if !self.alone() {
		if err := listenToPeers(cfg, self); err != nil {
			return nil, err
		}
	}
	cfg.InitialCluster = cfg.Name + "=" + cfg.AdvertisePeerUrls[0].String()
	if self.Join != "" {
		cfg.ClusterState, cfg.InitialCluster = embed.ClusterStateFlagExisting, self.Join
	}
	return cfg, nil
}

// anyPeer is a name that all members' certificates have.
var anyPeer = pki.ServerName(pki.RolePeer, pki.RolePeer)

// listenToPeers opens the port for the other members.
func listenToPeers(cfg *embed.Config, self Self) error {
	at, err := url.Parse(self.URL)
	if err != nil {
		return err
	}
	listen := self.Listen
	if host, port, err := net.SplitHostPort(listen); err == nil && host == "" {
		listen = net.JoinHostPort("0.0.0.0", port) // etcd wants an address; Go takes this one for all of them, IPv6 too
	}
	cfg.ListenPeerUrls = []url.URL{{Scheme: "https", Host: listen}}
	cfg.AdvertisePeerUrls = []url.URL{*at}
	cfg.TickMs, cfg.ElectionMs = tick, election
	cfg.PeerTLSInfo = peerTLS(self)
	cfg.TlsMinVersion = "TLS1.3"
	gates, ok := cfg.ServerFeatureGate.(featuregate.MutableFeatureGate)
	if !ok {
		return errors.New("start the store: this etcd can't check itself for corruption")
	}
	return gates.SetFromMap(map[string]bool{string(features.CompactHashCheck): true})
}

// dirLock keeps other processes out of a directory. It ends with the process, however that ends.
type dirLock struct{ file *os.File }

// lockDir takes the lock, or fails at once if another process has it.
func lockDir(dir string) (*dirLock, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the store: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("another mobyfs-control has %s open", dir)
		}
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return &dirLock{f}, nil
}

// Lock keeps other processes that take it out of a directory until release is called, or this process ends. It fails at
// once if another has it, such as a control that runs on the store in the directory.
func Lock(dir string) (release func(), err error) {
	l, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	return l.release, nil
}

func (l *dirLock) release() { l.file.Close() }
