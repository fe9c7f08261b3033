// Package control decides: which node is a volume's home, who may use it, and when it moves. It keeps the records
// and carries nothing out; the agents watch the records and work until their disks agree.
//
// Each decision is a pure function of a volume's record, and takes effect in one transaction on that record, in
// which nothing that was read has changed. So of two decisions that exclude each other exactly one happens, and
// every one of them raises the volume's fence. A decision asked for again is answered again, without a change.
//
// What nodes report with each heartbeat (that they are there, their space, how far a pull is) is kept in memory and
// added to the records that are given out. It is lost when control restarts, and told again.
package control

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/oklog/ulid/v2"
	"go.opentelemetry.io/otel/attribute"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/api"
	"github.com/mobyfs/mobyfs/control/placement"
	"github.com/mobyfs/mobyfs/control/store"
	"github.com/mobyfs/mobyfs/internal/boottime"
	"github.com/mobyfs/mobyfs/internal/failpoint"
	"github.com/mobyfs/mobyfs/internal/pki"
	"github.com/mobyfs/mobyfs/internal/tracing"
)

// Config is what a control plane needs to start.
type Config struct {
	Cluster  string               // name of the cluster, as in all its certificates
	Root     string               // an existing private directory; the store goes to Root/etcd
	Identity pki.Files            // control's own, which signs tickets
	Version  string               // of this program, for status
	Classes  []mobyfs.VolumeClass // from which volumes may be made; see ReadClasses
	Log      *slog.Logger         // not nil
	Now      func() time.Time     // time.Now if nil
	Clock    boottime.Clock       // boottime.Now if nil; leases are measured by it
	// SessionTTL is how long a node may be silent before its session ends; mobyfs.SessionTTL if 0, whole seconds.
	SessionTTL time.Duration
	// LockDelay is how long after a session ended what the node has may not be given to another; SessionTTL if 0.
	LockDelay time.Duration
	// RecallWait is how long a decision waits for the holder of a lease to give it back; a second if 0.
	RecallWait time.Duration

	Self        store.Self  // which member of the store this process is
	Endpoints   []string    // of an etcd that somebody else runs; then this process is no member
	EndpointTLS *tls.Config // to call it
	Quota       int64       // bytes that the store may take on each member; store.DefaultQuota if 0

	// WholeVolumes and WholeNodes are how large a cluster may be of which every agent knows everything; 10,000 and 500
	// if 0. Beyond that an agent knows what concerns its node, for what a change costs must not grow with the agents.
	WholeVolumes, WholeNodes int

	// Placement is how volumes are placed; placement.DefaultPolicy if zero. Its version is that of this program.
	Placement placement.Policy
	// BackupEvery is how often a backup is made; BackupEvery the constant if 0.
	BackupEvery time.Duration

	// OpenStore opens the store; store.Open if nil.
	OpenStore func(context.Context, store.Config) (*store.Store, error)
}

// NoLockDelay, as Config.LockDelay, is for simulations that show what the delay is for.
const NoLockDelay time.Duration = -1

// Control is a running control plane. All methods may be called at once.
type Control struct {
	cfg     Config
	log     *slog.Logger
	now     func() time.Time
	store   *store.Store
	told    *told
	keeper  *keeper
	metrics *metrics
	name    string // of this process among those of the cluster
	denials denials
	unknown chan met // people who called and have no record yet

	backing    sync.Mutex      // one backup is made after the other
	background context.Context // ends with Close
	opened     time.Time

	restart     chan struct{}
	restartOnce sync.Once

	placing  placing
	wake     chan struct{} // the carrier of operations
	carrying atomic.Bool   // it found some that have not ended
	stop     context.CancelFunc
	running  sync.WaitGroup
}

var _ api.Service = (*Control)(nil)

// Open opens the store and begins to decide. ctx bounds the opening alone.
func Open(ctx context.Context, cfg Config) (*Control, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Clock == nil {
		cfg.Clock = boottime.Now
	}
	cfg.SessionTTL = cmp.Or(cfg.SessionTTL, mobyfs.SessionTTL)
	cfg.LockDelay = cmp.Or(cfg.LockDelay, cfg.SessionTTL)
	cfg.RecallWait = cmp.Or(cfg.RecallWait, recallWait)
	cfg.WholeVolumes, cfg.WholeNodes = cmp.Or(cfg.WholeVolumes, wholeVolumes), cmp.Or(cfg.WholeNodes, wholeNodes)
	cfg.BackupEvery = cmp.Or(cfg.BackupEvery, BackupEvery)
	if cfg.OpenStore == nil {
		cfg.OpenStore = store.Open
	}
	if cfg.Placement == (placement.Policy{}) {
		cfg.Placement = placement.DefaultPolicy()
	}
	cfg.Placement.Version = cfg.Version
	if err := cfg.Placement.Check(); err != nil {
		return nil, err
	}
	who, _, err := cfg.Identity.Identity()
	if err != nil {
		return nil, fmt.Errorf("load control's identity: %w", err)
	}
	if want := (pki.Identity{Cluster: cfg.Cluster, Role: pki.RoleControl, Name: who.Name}); who != want {
		return nil, mobyfs.Errorf(mobyfs.CodeInvalid, "the certificate says %s, control needs %s", who.URI(), want.URI()).
			WithHint("mobyfs-control init --cluster %s", cfg.Cluster)
	}
	s, err := cfg.OpenStore(ctx, store.Config{
		Root: cfg.Root, Cluster: cfg.Cluster, Log: cfg.Log, Now: cfg.Now,
		Self: cfg.Self, Endpoints: cfg.Endpoints, TLS: cfg.EndpointTLS, Quota: cfg.Quota,
	})
	if err != nil {
		return nil, err
	}
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	c := &Control{cfg: cfg, log: cfg.Log, now: cfg.Now, store: s, told: newTold(), placing: placing{nodes: map[string]int{}}, stop: stop, background: background, opened: cfg.Now(), name: who.Name, wake: make(chan struct{}, 1), unknown: make(chan met, 16), restart: make(chan struct{})}
	c.metrics = newMetrics(c)
	if c.keeper, err = openKeeper(c); err == nil {
		err = c.keeper.adopt(ctx)
	}
	if err != nil {
		stop()
		return nil, errors.Join(fmt.Errorf("open the authority: %w", err), s.Close())
	}
	sessions := s.Subscribe()
	c.lookAtSessions(ctx, c.nodeNames()...)
	c.running.Go(func() { c.followSessions(background, sessions) })
	c.running.Go(func() { c.reconcileUntil(background) })
	c.running.Go(func() { c.keeper.run(background) })
	c.running.Go(func() { c.keepTrailUntil(background) })
	c.running.Go(func() { c.carryUntil(background) })
	c.running.Go(func() { c.meetUntil(background) })
	c.running.Go(func() { c.keepBackupsUntil(background) })
	c.running.Go(func() { c.convergeUntil(background) })
	return c, nil
}

// Done is closed when the store has stopped. The process must end then, and be started anew.
func (c *Control) Done() <-chan struct{} { return c.store.Done() }

// Err tells why the store has stopped by itself, or nil.
func (c *Control) Err() error { return c.store.Err() }

// Close ends all watches and closes the store. It may be called twice.
func (c *Control) Close() error {
	c.stop()
	c.running.Wait()
	return c.store.Close()
}

// Healthy implements api.Service.
func (c *Control) Healthy(ctx context.Context) error { return c.store.Ping(ctx) }

// decide makes a decision on a volume. rule changes the record that it is given and says in a few words what it
// decided, or says nothing if nothing is to be written; it may be called several times. The record that holds
// afterwards is returned, without what nodes have told.
func (c *Control) decide(ctx context.Context, id mobyfs.VolumeID, rule func(v *mobyfs.Volume) (string, error)) (mobyfs.Volume, error) {
	return c.decideIn(ctx, id, func(_ *store.Tx, v *mobyfs.Volume) (string, error) { return rule(v) })
}

// decideIn is decide for a rule that reads other records too: it holds only if they have not changed either.
func (c *Control) decideIn(ctx context.Context, id mobyfs.VolumeID, rule func(tx *store.Tx, v *mobyfs.Volume) (string, error)) (v mobyfs.Volume, err error) {
	var decided string
	if err := c.observing(); err != nil {
		return v, err
	}
	ctx, span := tracing.Continue(ctx, "decide")
	defer func() {
		c.metrics.refused(err)
		c.metrics.unplaceable(err)
		tracing.End(span, err)
	}()
	var was *mobyfs.Migration
	failpoint.Reach("control.decide.before")
	err = c.store.Update(ctx, func(tx *store.Tx) (err error) {
		if v, err = tx.Volume(id); err != nil {
			return err
		}
		if err = matches(ctx, v.Revision, title(v)); err != nil {
			return err
		}
		was = v.Migration
		if decided, err = rule(tx, &v); err != nil || decided == "" {
			return err
		}
		if m := v.Migration; m != nil && (was == nil || was.ID != m.ID) && m.Traceparent == "" {
			m.Traceparent = tracing.Parent(ctx)
		}
		return put(tx, decided, &v)
	})
	failpoint.Reach("control.decide.after")
	if err == nil && decided != "" {
		span.SetAttributes(attribute.String("volume", v.Name), attribute.String("decision", decided), attribute.String("fence", v.Fence.String()))
		c.metrics.ended(was, v)
		c.say(decided, v)
		if c.carrying.Load() {
			c.wakeCarrier() // something may have waited for this
		}
	}
	return v, err
}

// raise gives a volume the next fence. Every decision on it does that once.
func (c *Control) raise(v *mobyfs.Volume) { v.Fence = v.Fence.Next(c.store.Epoch()) }

// put writes the record of a volume and the event that tells what was decided.
func put(tx *store.Tx, decided string, v *mobyfs.Volume) error {
	if err := tx.PutVolume(v); err != nil {
		return err
	}
	return record(tx, decided, *v)
}

// record writes the event that tells what was decided on a volume.
func record(tx *store.Tx, decided string, v mobyfs.Volume) error {
	e := mobyfs.Event{Text: decided, Volume: v.ID, Name: v.Name, Node: v.Node, Fence: v.Fence}
	if v.Migration != nil {
		e.Migration, e.Operation = v.Migration.ID, v.Migration.Operation
	}
	return tx.Record(e)
}

// note writes into a volume's record what a node has seen. It decides nothing: the fence stays, and nothing is
// logged.
func (c *Control) note(ctx context.Context, id mobyfs.VolumeID, change func(v *mobyfs.Volume)) error {
	return c.store.Update(ctx, func(tx *store.Tx) error {
		v, err := tx.Volume(id)
		if err != nil {
			return err
		}
		change(&v)
		return tx.PutVolume(&v)
	})
}

// say logs and counts what was decided on a volume.
func (c *Control) say(decided string, v mobyfs.Volume) {
	attrs := []any{"volume", v.Name, "id", string(v.ID), "node", v.Node, "fence", v.Fence.String()}
	if m := v.Migration; m != nil {
		attrs = append(attrs, "migration", string(m.ID), "to", m.To)
	}
	c.metrics.decided.WithLabelValues(decision(decided)).Inc()
	c.log.Info(decided, attrs...)
}

// newID makes an ID that is never used twice and sorts by time.
func (c *Control) newID() string {
	return strings.ToLower(ulid.MustNew(ulid.Timestamp(c.now()), rand.Reader).String())
}

// title is how texts name a volume.
func title(v mobyfs.Volume) string { return fmt.Sprintf("volume %q", v.Name) }
