package store

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
)

const (
	startTimeout = 60 * time.Second // for a store of a million records on a slow disk
	quota        = 8 << 30          // bytes at which etcd takes no more writes
	history      = "1h"             // of old revisions, for a watch that was interrupted
	maxTxnOps    = 1024
	maxSocket    = 107 // bytes of a path that Linux takes for a unix socket
)

// Timing of elections. With one member nobody else can win, so a restart need not wait long for the election.
const (
	tick     = 20  // ms
	election = 200 // ms
)

// socketIn is where etcd serves this process. The file is open to all, so its directory must not be.
func socketIn(dir string) string { return filepath.Join(dir, "client.sock") }

// startEtcd starts a single member in dir and waits until it answers. It opens no port: clients come through the
// socket, and there is no listener for peers, whose address is a label only until the cluster grows.
func startEtcd(ctx context.Context, dir string, log *zap.Logger) (*embed.Etcd, error) {
	socket := socketIn(dir)
	if len(socket) > maxSocket {
		return nil, fmt.Errorf("start the store: the path %s is longer than the %d bytes a socket may have", socket, maxSocket)
	}
	client := url.URL{Scheme: "unix", Path: socket}
	peer := url.URL{Scheme: "http", Host: "127.0.0.1:2380"}
	cfg := embed.NewConfig()
	cfg.Name = "control"
	cfg.Dir = filepath.Join(dir, "data")
	cfg.ListenClientUrls = []url.URL{client}
	cfg.AdvertiseClientUrls = []url.URL{client}
	cfg.ListenPeerUrls = nil
	cfg.AdvertisePeerUrls = []url.URL{peer}
	cfg.InitialCluster = cfg.Name + "=" + peer.String()
	cfg.InitialClusterToken = "mobyfs"
	cfg.EnableGRPCGateway = false
	cfg.TickMs, cfg.ElectionMs = tick, election
	cfg.MaxTxnOps = maxTxnOps
	cfg.QuotaBackendBytes = quota
	cfg.AutoCompactionMode, cfg.AutoCompactionRetention = embed.CompactorModePeriodic, history
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(log)
	server, err := embed.StartEtcd(cfg)
	if err != nil {
		return nil, fmt.Errorf("start the store: %w", err)
	}
	timeout := time.NewTimer(startTimeout)
	defer timeout.Stop()
	select {
	case <-server.Server.ReadyNotify():
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

func (l *dirLock) release() { l.file.Close() }
