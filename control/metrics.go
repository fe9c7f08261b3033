package control

import (
	"context"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/control/store"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// metrics are what control counts. What it knows anyway (how many volumes are in which state) is counted when
// somebody asks. There is no series for a single volume: a million of them would be a million series.
type metrics struct {
	*outcomes
	registry *prometheus.Registry
	decided  *prometheus.CounterVec // by what was decided, in the words of the events
	denied   *prometheus.CounterVec // by the action that was asked for
	unplaced *prometheus.CounterVec // by code
	recalled prometheus.Counter
	carried  *prometheus.CounterVec   // operations, by kind and the phase they came to
	lasted   *prometheus.HistogramVec // operations that ended, by kind and phase
}

func newMetrics(c *Control) *metrics {
	m := &metrics{
		outcomes: newOutcomes(),
		registry: prometheus.NewRegistry(),
		decided: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mobyfs_control_decisions_total", Help: "Decisions on volumes, by what was decided.",
		}, []string{"decision"}),
		denied: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mobyfs_control_denials_total", Help: "Calls that the caller's certificate does not allow, by what they wanted.",
		}, []string{"action"}),
		unplaced: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "mobyfs_control_placement_failures_total", Help: "Volumes for which no node was found, by the code of the refusal.",
		}, []string{"code"}),
		recalled: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "mobyfs_control_recalls_total", Help: "Times that a decision asked a node to give a lease back.",
		}),
	}
	m.carried = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "mobyfs_control_operation_phases_total", Help: "Steps of operations into another phase.",
	}, []string{"kind", "phase"})
	m.lasted = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "mobyfs_control_operation_duration_seconds", Help: "From the request for an operation to its end.",
		Buckets: prometheus.ExponentialBuckets(0.1, 4, 9), // to 1.8 hours
	}, []string{"kind", "phase"})
	m.outcomes.register(m.registry)
	m.registry.MustRegister(&standing{c}, storeCensus{c})
	m.registry.MustRegister(m.decided, m.denied, m.unplaced, m.recalled, m.carried, m.lasted, &census{c})
	return m
}

// operation counts that an operation has come to another phase.
func (m *metrics) operation(o mobyfs.Operation) {
	m.carried.WithLabelValues(string(o.Kind), string(o.Phase)).Inc()
	if o.Phase.Ended() {
		m.lasted.WithLabelValues(string(o.Kind), string(o.Phase)).Observe(o.EndedAt.Sub(o.CreatedAt).Seconds())
	}
}

// Metrics implements api.Service. What etcd counts in this process comes with it.
func (c *Control) Metrics(_ context.Context, who pki.Identity) (prometheus.Gatherer, error) {
	if err := c.allow(who, doMeasure); err != nil {
		return nil, err
	}
	return prometheus.Gatherers{c.metrics.registry, prometheus.DefaultGatherer}, nil
}

// census counts what control knows, at the moment it is asked.
type census struct{ c *Control }

var (
	descVolumes = prometheus.NewDesc("mobyfs_control_volumes", "Volumes, by condition.", []string{"condition"}, nil)
	descNodes   = prometheus.NewDesc("mobyfs_control_nodes", "Nodes, by whether they are heard from.", []string{"ready"}, nil)
	descSpace   = prometheus.NewDesc("mobyfs_control_capacity_bytes", "Space for volumes on nodes that are heard from.", []string{"kind"}, nil)
	descLag     = prometheus.NewDesc("mobyfs_control_watch_lag_revisions",
		"How many revisions the watch of the store is behind the newest change that this process heard of.", nil, nil)
	descBad     = prometheus.NewDesc("mobyfs_control_unreadable_records", "Records in the store that this version can't read.", nil, nil)
	descDue     = prometheus.NewDesc("mobyfs_control_certificate_expiry_seconds", "Seconds until control's own certificate ends.", nil, nil)
	descAge     = prometheus.NewDesc("mobyfs_control_backup_age_seconds", "Seconds since the newest backup was made; since control began if there is none.", nil, nil)
	descHeld    = prometheus.NewDesc("mobyfs_control_backup_copies", "Nodes that keep a copy of the newest backup.", nil, nil)
	descAwaited = prometheus.NewDesc("mobyfs_control_restore_awaited_nodes", "Nodes that control waits for after it was restored from a backup.", nil, nil)
	descBox     = prometheus.NewDesc("mobyfs_control_watchers", "Streams of changes that this process serves.", nil, nil)
	descOps     = prometheus.NewDesc("mobyfs_control_operations", "Operations that have not ended, by what they do and how they stand.", []string{"kind", "phase"}, nil)
	descSum     = prometheus.NewDesc("mobyfs_control_watch_coalesced_total",
		"Changes that watchers did not have to be told, for a newer one of the same record came first.", nil, nil)
)

// Describe implements prometheus.Collector.
func (s *census) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descVolumes, descNodes, descSpace, descLag, descBad, descDue, descAge, descHeld, descAwaited, descBox, descSum, descOps} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (s *census) Collect(ch chan<- prometheus.Metric) {
	c := s.c
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	conditions := map[string]int{"ready": 0, "in use": 0, "moving": 0, "aside": 0, "returning": 0, string(mobyfs.VolumeCreating): 0, string(mobyfs.VolumeRemoving): 0}
	var nodes []mobyfs.Node
	c.store.View(func(view store.View) {
		for condition := range conditions {
			conditions[condition] = view.Count(store.InCondition(condition))
		}
		for n := range view.Nodes {
			nodes = append(nodes, n)
		}
	})
	for condition, n := range conditions {
		gauge(descVolumes, float64(n), condition)
	}
	ready := 0
	var space mobyfs.Capacity
	for _, n := range nodes {
		if n = c.told.node(n); n.Ready {
			ready++
			space.TotalBytes += n.Capacity.TotalBytes
			space.FreeBytes += n.Capacity.FreeBytes
		}
	}
	for what, n := range c.operationsUnderWay() {
		gauge(descOps, float64(n), string(what.kind), string(what.phase))
	}
	gauge(descNodes, float64(ready), "true")
	gauge(descNodes, float64(len(nodes)-ready), "false")
	gauge(descSpace, float64(space.TotalBytes), "total")
	gauge(descSpace, float64(space.FreeBytes), "free")
	stats := c.store.Stats()
	gauge(descLag, float64(stats.Lag))
	gauge(descBad, float64(stats.Unreadable))
	gauge(descBox, float64(stats.Watchers))
	ch <- prometheus.MustNewConstMetric(descSum, prometheus.CounterValue, float64(stats.Coalesced))
	newest, ok := c.newestBackup()
	if !ok {
		newest.MadeAt = c.opened
	}
	gauge(descAge, c.now().Sub(newest.MadeAt).Round(time.Second).Seconds())
	gauge(descHeld, float64(len(newest.Held)))
	gauge(descAwaited, float64(len(c.restoreStatus().Awaited)))
	if _, until, err := c.cfg.Identity.Identity(); err == nil {
		gauge(descDue, until.Sub(c.now()).Round(time.Second).Seconds())
	}
}

// decision is the word for a decision among the few that are counted: what is said of one without the names in it.
func decision(said string) string {
	for _, before := range []string{" by ", " from ", " to ", ":"} {
		said, _, _ = strings.Cut(said, before)
	}
	return said
}

// operationsLike are operations of one kind in one phase.
type operationsLike struct {
	kind  mobyfs.OperationKind
	phase mobyfs.OperationPhase
}

// operationsUnderWay counts the operations that have not ended. What is not known is counted as one kind, for its name may
// be anything.
func (c *Control) operationsUnderWay() map[operationsLike]int {
	n := map[operationsLike]int{}
	c.store.View(func(view store.View) {
		for _, o := range store.Operations.All(view) {
			switch o = parked(o); {
			case o.Phase == mobyfs.OperationParked:
				n[operationsLike{"unknown", o.Phase}]++
			case !o.Phase.Ended():
				n[operationsLike{o.Kind, o.Phase}]++
			}
		}
	})
	return n
}
