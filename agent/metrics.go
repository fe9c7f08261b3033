package agent

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mobyfs/mobyfs"
)

// metrics are what an agent counts. What it knows anyway is counted when somebody asks: see census.
type metrics struct {
	registry *prometheus.Registry

	heartbeats  *prometheus.HistogramVec // by code
	selfFences  prometheus.Counter
	lostLeases  prometheus.Counter
	purgedEarly prometheus.Counter
	fences      *prometheus.CounterVec   // rejections, by what was to be done
	failures    *prometheus.CounterVec   // of steps, by step and code
	phases      *prometheus.HistogramVec // of migrations to here, by phase and code
	migrations  *prometheus.CounterVec   // to here, by how they ended
	pulled      prometheus.Counter
	served      *prometheus.CounterVec // pulls, by code
	serving     prometheus.Gauge
}

var (
	callBuckets = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}
	workBuckets = []float64{.01, .05, .1, .5, 1, 5, 10, 30, 60, 300, 900, 3600, 14400}
)

func newMetrics(a *Agent) *metrics {
	counter := func(name, help string) prometheus.CounterOpts {
		return prometheus.CounterOpts{Name: "mobyfs_agent_" + name, Help: help}
	}
	histogram := func(name, help string, buckets []float64) prometheus.HistogramOpts {
		return prometheus.HistogramOpts{Name: "mobyfs_agent_" + name, Help: help, Buckets: buckets}
	}
	m := &metrics{
		registry: prometheus.NewRegistry(),
		heartbeats: prometheus.NewHistogramVec(histogram("heartbeat_duration_seconds",
			"How long heartbeats took, by code; ok is success.", callBuckets), []string{"code"}),
		selfFences: prometheus.NewCounter(counter("self_fences_total",
			"Times that writing to a volume was ended here because control could not be reached in time, or another node has the volume.")),
		purgedEarly: prometheus.NewCounter(counter("trash_purged_early_total", "Removed volumes that were deleted from the trash before their time, for the disk was short of space.")),
		lostLeases:  prometheus.NewCounter(counter("lost_leases_total", "Leases that containers here relied on and that control gave to nobody or to another node.")),
		fences: prometheus.NewCounterVec(counter("fence_rejections_total",
			"Operations that were refused because a newer decision was made since, by operation."), []string{"operation"}),
		failures: prometheus.NewCounterVec(counter("step_failures_total", "Steps of work on volumes that failed and are tried again, by step and code."), []string{"step", "code"}),
		phases: prometheus.NewHistogramVec(histogram("migration_phase_duration_seconds",
			"How long the phases of migrations to this node took, by phase and code; ok is success.", workBuckets), []string{"phase", "code"}),
		migrations: prometheus.NewCounterVec(counter("migrations_total", "Migrations to this node that ended, by result."), []string{"result"}),
		pulled:     prometheus.NewCounter(counter("pulled_bytes_total", "Bytes of content that migrations brought here.")),
		served:     prometheus.NewCounterVec(counter("pulls_served_total", "Pulls that other nodes asked for here, by code; ok is one that was let in."), []string{"code"}),
		serving:    prometheus.NewGauge(prometheus.GaugeOpts{Name: "mobyfs_agent_pulls_serving", Help: "Pulls that are being served from here."}),
	}
	m.registry.MustRegister(m.heartbeats, m.selfFences, m.lostLeases, m.purgedEarly, m.fences, m.failures, m.phases, m.migrations, m.pulled, m.served, m.serving, &census{a})
	for _, operation := range []string{"attach", "export", "adopt", "remove"} {
		m.fences.WithLabelValues(operation) // 0 from the beginning, for an alert to see the first
	}
	if a.VolumeMetrics {
		m.registry.MustRegister(&volumes{a})
	}
	return m
}

// Metrics are what the agent counts, for Prometheus.
func (a *Agent) Metrics() prometheus.Gatherer { return a.metrics.registry }

// fence counts err if it says that a newer decision was made.
func (m *metrics) fence(operation string, err error) {
	if mobyfs.CodeOf(err) == mobyfs.CodeStaleFence {
		m.fences.WithLabelValues(operation).Inc()
	}
}

// phase counts how long a phase of a migration took.
func (m *metrics) phase(name string, began time.Time, err error) {
	m.phases.WithLabelValues(name, codeLabel(err)).Observe(time.Since(began).Seconds())
}

// codeLabel is the code of an error, as a label.
func codeLabel(err error) string {
	if err == nil {
		return "ok"
	}
	return string(mobyfs.CodeOf(err))
}
