// Package store keeps the records of the cluster: volumes, their names, nodes and the cluster itself. It is the
// only package that knows etcd, which runs inside the process: nothing to install, and the same engine when the
// control plane grows to three members.
//
// Three things can be done with it. Update changes records in one transaction that fails over to another try when
// somebody else was faster. View reads what this process knows of all records. Subscribe tells which records
// changed. When Update returns, the change is on disk, and View and all subscribers of this process know it.
package store

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/durable"
)

// Config says where a store lies and whose it is.
type Config struct {
	Root    string           // an existing directory; the data goes to Root/etcd, which is made 0700
	Cluster string           // name of the cluster; a store of another one is refused
	Log     *slog.Logger     // not nil
	Now     func() time.Time // time.Now if nil
	Self    Self             // which member of the store this process is
	// Endpoints are those of an etcd that somebody else runs (https://host:port), with TLS to call it. This process then
	// is no member, and Root is not used.
	Endpoints []string
	TLS       *tls.Config
	// Quota is how many bytes the records and their history may take; DefaultQuota if 0. It means nothing for an etcd that
	// somebody else runs.
	Quota int64

	tempo tempo // atEase if zero
}

// Store is an open store. All methods may be called at once.
type Store struct {
	engine   engine
	end      func() error     // closes the engine
	etcd     *embed.Etcd      // nil if the engine is another
	client   *clientv3.Client // of etcd; nil if the engine is another
	self     Self             // which member of etcd this is
	log      *slog.Logger
	now      func() time.Time
	serving  *atomic.Bool // between start and stop
	cluster  clusterNow
	cache    *cache
	boxes    *mailboxes
	tail     *tail
	space    atomic.Pointer[Space] // nil until it was looked at
	levelled chan struct{}         // holds one value when the level of space has changed
	counts   spaceCounts

	stop     context.CancelFunc // ends follow
	released func()             // gives the directory back
	running  sync.WaitGroup
	closing  sync.Once
	closed   chan struct{} // closed when Close is called
	done     chan struct{} // closed when etcd has stopped
	mu       sync.Mutex
	err      error
}

// Open starts the store in etcd and loads what it holds. Records that can't be read don't stop it: Unreadable tells
// them. It fails at once if another process has the directory. A member that joins is open once it may vote.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	if len(cfg.Endpoints) > 0 {
		return openForeign(ctx, cfg)
	}
	if cfg.Quota == 0 {
		cfg.Quota = DefaultQuota
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Quota < MinQuota || cfg.Quota > MaxQuota {
		return nil, mobyfs.Errorf(mobyfs.CodeInvalid, "a quota of %s is not between %s and %s", mobyfs.FormatSize(cfg.Quota), mobyfs.FormatSize(MinQuota), mobyfs.FormatSize(MaxQuota)).
			WithHint("set MOBYFS_CONTROL_QUOTA, such as 8GiB, or leave it out")
	}
	dir := filepath.Join(cfg.Root, "etcd")
	if err := durable.Mkdir(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the directory of the store: %w", err)
	}
	lock, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	if cfg.Self.Join != "" {
		if err := mayJoin(ctx, dir, cfg.Self, cfg.Now()); err != nil {
			lock.release()
			return nil, err
		}
	}
	serving, b := &atomic.Bool{}, ballast{dir}
	if err := b.ready(); err != nil {
		lock.release()
		return nil, err
	}
	log := zap.New(etcdLog{cfg.Log.Handler(), serving}, lastWords{cfg.Log, b}.options()...)
	server, err := startEtcd(ctx, dir, cfg.Self, cfg.Quota, log)
	if err != nil {
		lock.release()
		return nil, err
	}
	client, err := clientv3.New(clientv3.Config{
		Context:     context.WithoutCancel(ctx),
		Endpoints:   []string{"unix://" + socketIn(dir)},
		DialTimeout: startTimeout,
		Logger:      zap.NewNop(),
	})
	if err != nil {
		server.Close()
		lock.release()
		return nil, fmt.Errorf("connect to the store: %w", err)
	}
	here := newOwn(server.Server, client)
	s := newStore(etcdEngine{client, here}, cfg, serving)
	s.etcd, s.client, s.self = server, client, cfg.Self
	s.end = func() error {
		here.close()
		err := client.Close()
		server.Close()
		return err
	}
	s.running.Go(s.watchEtcd)
	return s.open(ctx, cfg, lock.release)
}

// openForeign is Open on an etcd that somebody else runs.
func openForeign(ctx context.Context, cfg Config) (*Store, error) {
	client, err := clientv3.New(clientv3.Config{
		Context: context.WithoutCancel(ctx), Endpoints: cfg.Endpoints, TLS: cfg.TLS, DialTimeout: foreignTimeout,
		DialKeepAliveTime: foreignTimeout, DialKeepAliveTimeout: foreignTimeout, Logger: zap.NewNop(),
	})
	if err != nil {
		return nil, fmt.Errorf("connect to etcd at %s: %w", strings.Join(cfg.Endpoints, ", "), err)
	}
	s := newStore(etcdEngine{client: client}, cfg, &atomic.Bool{})
	s.client = client
	s.end = func() error { close(s.done); return client.Close() }
	opening, cancel := context.WithTimeout(ctx, foreignPatience)
	defer cancel()
	return s.open(opening, cfg, func() {})
}

// How long an etcd that somebody else runs may take.
const (
	foreignTimeout  = 10 * time.Second // to take a connection, or to show that one is alive
	foreignPatience = 60 * time.Second // to answer when the store is opened
)

// OpenMemory is Open on records in memory, which stay there when the store is closed.
func OpenMemory(ctx context.Context, cfg Config, l *Line) (*Store, error) {
	s := newStore(l, cfg, &atomic.Bool{})
	s.end = func() error { close(s.done); return nil }
	return s.open(ctx, cfg, func() {})
}

func newStore(e engine, cfg Config, serving *atomic.Bool) *Store {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Store{
		engine: e, log: cfg.Log, now: cfg.Now, cache: newCache(), boxes: &mailboxes{}, tail: newTail(), serving: serving,
		levelled: make(chan struct{}, 1), closed: make(chan struct{}), done: make(chan struct{}),
	}
}

// open completes what began. released is called when the store is closed, or at once if it can't be opened.
func (s *Store) open(ctx context.Context, cfg Config, released func()) (*Store, error) {
	follow, stop := context.WithCancel(context.WithoutCancel(ctx))
	s.stop, s.released = stop, released
	if err := s.start(ctx, follow, cfg); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	s.serving.Store(true)
	return s, nil
}

// start checks whose store it is, loads the cache and keeps it fresh until follow ends.
func (s *Store) start(ctx, follow context.Context, cfg Config) error {
	if s.etcd != nil {
		if err := s.awaitVote(ctx); err != nil {
			return err
		}
		if err := s.settle(ctx, cfg.Self); err != nil {
			return err
		}
	}
	if err := s.shift(ctx); err != nil {
		return err
	}
	if err := s.adoptCluster(ctx, cfg.Cluster, s.now()); err != nil {
		return err
	}
	rev, err := s.load(ctx)
	if err != nil {
		return fmt.Errorf("load the store: %w", err)
	}
	s.complain(s.Unreadable())
	s.running.Go(func() { s.follow(follow, rev+1) })
	s.cache.suspects() // of before
	s.running.Go(func() { s.quarantineUntil(follow) })
	if s.etcd != nil && !cfg.Self.alone() {
		s.running.Go(func() { s.promote(follow) })
	}
	switch {
	case s.etcd != nil:
		s.running.Go(func() { s.newSpaceKeeper(cfg).keepSpaceUntil(follow) })
	case s.client != nil:
		s.running.Go(func() { s.watchForeignUntil(follow, cfg) })
	}
	return nil
}

// Done is closed when etcd has stopped, by Close or by itself. A process whose store has stopped must end: what
// it knows is getting old.
func (s *Store) Done() <-chan struct{} { return s.done }

// Err tells why the store stopped by itself; nil before, and after Close.
func (s *Store) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Close stops the store and waits until its files are closed. It may be called twice.
func (s *Store) Close() error {
	var err error
	s.closing.Do(func() {
		s.serving.Store(false)
		close(s.closed)
		s.stop()
		s.boxes.close()
		err = s.end()
		s.running.Wait()
		s.released()
	})
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	return err
}

// watchEtcd closes done when etcd has stopped, and notes why if nobody asked it to.
func (s *Store) watchEtcd() {
	var err error
	select {
	case err = <-s.etcd.Err():
	case <-s.etcd.Server.StopNotify():
	}
	select {
	case <-s.closed:
	default:
		if err == nil {
			err = errors.New("etcd ended by itself")
		}
		s.mu.Lock()
		s.err = fmt.Errorf("the store has stopped: %w", err)
		s.mu.Unlock()
	}
	close(s.done)
	s.boxes.close()
}

// CaughtUp is nil if the store answers and this process knows of every change that was made before it asked.
func (s *Store) CaughtUp(ctx context.Context) error {
	rev, err := s.engine.read(ctx, clusterKey, 0, func(string, entry) {})
	if err != nil {
		return unavailable("read the store", err)
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		s.cache.mu.RLock()
		if s.etcd == nil {
			rev = s.cache.newest // others may write to that etcd what concerns nobody here
		}
		behind := rev - s.cache.watched
		s.cache.mu.RUnlock()
		if behind <= 0 {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return mobyfs.Errorf(mobyfs.CodeUnavailable, "this control does not know the newest %d changes of the store yet", behind)
		}
	}
}

// Ping is nil if the store answers.
func (s *Store) Ping(ctx context.Context) error {
	return s.Update(ctx, func(tx *Tx) error { _, err := tx.get(clusterKey); return err })
}
