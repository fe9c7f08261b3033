package control

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mobyfs/mobyfs"
)

// outcomes are what control counts of how things end, beside the decisions themselves. Each is counted by the process that
// decided it.
type outcomes struct {
	moved     *prometheus.HistogramVec // migrations, by result
	paused    prometheus.Histogram     // live migrations, as their destinations measured
	takeovers *prometheus.CounterVec   // by cause
	waited    prometheus.Counter
	unfit     *prometheus.CounterVec // placements that came to nothing, by filter
	lost      prometheus.Counter
	fenced    prometheus.Counter
}

// Causes of a takeover.
const (
	byClaim    = "claim"    // a container on another node wants the volume
	byOperator = "operator" // somebody has asked for it, or the node was evicted
)

func newOutcomes() *outcomes {
	counter := func(name, help string) prometheus.CounterOpts {
		return prometheus.CounterOpts{Name: "mobyfs_control_" + name, Help: help}
	}
	o := &outcomes{
		moved: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "mobyfs_control_migration_duration_seconds", Help: "From the decision to move a volume to its end, by result.",
			Buckets: prometheus.ExponentialBuckets(0.1, 4, 9), // to 1.8 hours
		}, []string{"result"}),
		paused: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "mobyfs_control_migration_pause_seconds", Help: "Of live migrations, from the freeze until what was to move could use the volume.",
			Buckets: prometheus.ExponentialBuckets(0.025, 2, 12), // to 51 s
		}),
		takeovers: prometheus.NewCounterVec(counter("takeovers_total", "Volumes that were given to another node because theirs was silent, by cause."), []string{"cause"}),
		waited:    prometheus.NewCounter(counter("lock_delay_waits_total", "Takeovers that were put off because the silent node may not have stopped yet.")),
		unfit: prometheus.NewCounterVec(counter("placement_refusals_total",
			"Placements that came to nothing, by the filters that refused nodes: each counts once, however many nodes it refused."), []string{"filter"}),
		lost:   prometheus.NewCounter(counter("sessions_lost_total", "Sessions of nodes that ended because no heartbeat came.")),
		fenced: prometheus.NewCounter(counter("fence_rejections_total", "Calls that were refused because a newer decision was made since.")),
	}
	for _, result := range []mobyfs.MigrationState{mobyfs.MigrationCommitted, mobyfs.MigrationAborted} {
		o.moved.WithLabelValues(string(result)) // 0 from the beginning, for an alert to see the first
	}
	for _, cause := range []string{byClaim, byOperator} {
		o.takeovers.WithLabelValues(cause)
	}
	return o
}

func (o *outcomes) register(r *prometheus.Registry) {
	r.MustRegister(o.moved, o.paused, o.takeovers, o.waited, o.unfit, o.lost, o.fenced)
}

// ended counts the migration that was under way, if it is not any more.
func (o *outcomes) ended(was *mobyfs.Migration, v mobyfs.Volume) {
	if last := v.LastMove; was != nil && v.Migration == nil && last != nil && last.ID == was.ID {
		o.moved.WithLabelValues(string(last.State)).Observe(last.EndedAt.Sub(last.StartedAt).Seconds())
	}
}

// takenOver counts a takeover.
func (o *outcomes) takenOver(claimed bool, was *mobyfs.Migration, v mobyfs.Volume) {
	cause := byOperator
	if claimed {
		cause = byClaim
	}
	o.takeovers.WithLabelValues(cause).Inc()
	o.ended(was, v)
}

// unfit is an error that says that no node was found, with what was found of the nodes.
type unfit struct {
	error
	verdicts []mobyfs.Verdict
}

func (u unfit) Unwrap() error { return u.error }

// unplaceable counts why no node was found, if err says that none was.
func (o *outcomes) unplaceable(err error) {
	var u unfit
	if !errors.As(err, &u) {
		return
	}
	counted := map[string]bool{}
	for _, v := range u.verdicts {
		if !v.Fits && !counted[v.Filter] {
			counted[v.Filter] = true
			o.unfit.WithLabelValues(v.Filter).Inc()
		}
	}
}

// refused counts err if it says that a newer decision was made.
func (o *outcomes) refused(err error) {
	if mobyfs.CodeOf(err) == mobyfs.CodeStaleFence {
		o.fenced.Inc()
	}
}

// standing is how control itself stands: what it depends on, and for how long yet.
type standing struct{ c *Control }

var (
	descVoters = prometheus.NewDesc("mobyfs_control_voters", "Voters of the store, by whether this process reaches them.", []string{"reachable"}, nil)
	descMargin = prometheus.NewDesc("mobyfs_control_quorum_margin",
		"How many voters of the store may yet be lost before nothing can be decided; below 0 nothing can be.", nil, nil)
	descChain  = prometheus.NewDesc("mobyfs_control_intermediate_expiry_seconds", "Seconds until the intermediate ends that signed control's own certificate.", nil, nil)
	descBehind = prometheus.NewDesc("mobyfs_control_backup_overdue", "1 while the newest backup is too old, or too few nodes have it.", nil, nil)
	descFrozen = prometheus.NewDesc("mobyfs_control_frozen_seconds", "Of the volumes that are frozen for a live migration, how long the first one has been so; 0 if none is.", nil, nil)
	descBuild  = prometheus.NewDesc("mobyfs_build_info", "1; the labels tell which program this is.", []string{"program", "version"}, nil)
)

// Describe implements prometheus.Collector.
func (s *standing) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descVoters, descMargin, descChain, descBehind, descFrozen, descBuild} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (s *standing) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	if q, known := s.c.store.Quorum(); known {
		gauge(descVoters, float64(q.Reachable), "true")
		gauge(descVoters, float64(q.Voters-q.Reachable), "false")
		gauge(descMargin, float64(q.Margin()))
	}
	if chain, err := s.c.cfg.Identity.Chain(); err == nil && len(chain) > 1 {
		gauge(descChain, chain[1].NotAfter.Sub(s.c.now()).Round(time.Second).Seconds())
	}
	overdue := 0.0
	if s.c.backupOverdue() {
		overdue = 1
	}
	gauge(descBehind, overdue)
	gauge(descFrozen, s.c.longestFrozen().Seconds())
	gauge(descBuild, 1, "mobyfs-control", s.c.cfg.Version)
}
