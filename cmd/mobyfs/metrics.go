package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// metrics are what this program counts beside its agent.
type metrics struct {
	registry *prometheus.Registry
	calls    *prometheus.HistogramVec // of Docker's, by call and code
}

func newMetrics() *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		calls: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "mobyfs_driver_call_duration_seconds", Help: "How long calls of Docker's took, by call and code; ok is success.",
			Buckets: []float64{.001, .005, .01, .05, .1, .5, 1, 2.5, 5, 10, 30, 60, 110},
		}, []string{"call", "code"}),
	}
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "mobyfs_build_info", Help: "1; the labels tell which program this is.", ConstLabels: prometheus.Labels{"program": "mobyfs", "version": version},
	})
	info.Set(1)
	m.registry.MustRegister(m.calls, info, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// measured counts the calls of Docker's.
type measured struct {
	mobyfs.Mounter
	m *metrics
}

// took counts a call that began at a time and ended with err.
func (c measured) took(call string, began time.Time, err error) {
	code := "ok"
	if err != nil {
		code = string(mobyfs.CodeOf(err))
	}
	c.m.calls.WithLabelValues(call, code).Observe(time.Since(began).Seconds())
}

func (c measured) Create(ctx context.Context, name string, opts map[string]string) error {
	began := time.Now()
	err := c.Mounter.Create(ctx, name, opts)
	c.took("create", began, err)
	return err
}

func (c measured) Remove(ctx context.Context, name string) error {
	began := time.Now()
	err := c.Mounter.Remove(ctx, name)
	c.took("remove", began, err)
	return err
}

func (c measured) Mount(ctx context.Context, name, id string) (string, error) {
	began := time.Now()
	path, err := c.Mounter.Mount(ctx, name, id)
	c.took("mount", began, err)
	return path, err
}

func (c measured) Unmount(ctx context.Context, name, id string) error {
	began := time.Now()
	err := c.Mounter.Unmount(ctx, name, id)
	c.took("unmount", began, err)
	return err
}

func (c measured) Get(ctx context.Context, name string) (mobyfs.DockerVolume, error) {
	began := time.Now()
	v, err := c.Mounter.Get(ctx, name)
	c.took("get", began, err)
	return v, err
}

func (c measured) List() []mobyfs.DockerVolume {
	began := time.Now()
	all := c.Mounter.List()
	c.took("list", began, nil)
	return all
}

// gather implements prometheus.Gatherer: what the program counts, and its agent once there is one.
func (f *front) gather() ([]*dto.MetricFamily, error) {
	all := prometheus.Gatherers{f.counts.registry}
	if a := f.opened(); a != nil {
		all = append(all, a.Metrics())
	}
	return all.Gather()
}

// serveMetrics answers Prometheus until ctx ends, also while a stub answers Docker. A port that another program has is
// tried for again and again, for containers need their volumes all the same.
func (f *front) serveMetrics(ctx context.Context) {
	for said := false; ctx.Err() == nil; {
		if err := f.serveMetricsOnce(ctx); err != nil && !said && ctx.Err() == nil {
			f.log.Error("metrics can't be read here", "err", err)
			said = true
		}
		select {
		case <-ctx.Done():
		case <-time.After(portRetry):
		}
	}
}

// serveMetricsOnce listens as the settings say. At an address of this host alone anybody may read, as with dockerd's own
// metrics; at any other a certificate of the cluster is needed, of a role that reads.
func (f *front) serveMetricsOnce(ctx context.Context) error {
	l, err := net.Listen("tcp", f.metrics)
	if err != nil {
		return fmt.Errorf("listen for Prometheus: %w", err)
	}
	pages := http.NewServeMux()
	pages.Handle("GET /metrics", promhttp.HandlerFor(prometheus.GathererFunc(f.gather), promhttp.HandlerOpts{}))
	server := &http.Server{Handler: pages, ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 64 << 10, ErrorLog: slog.NewLogLogger(f.log.Handler(), slog.LevelDebug)}
	if !isLoopback(l.Addr()) {
		config, err := f.files().ServerTLS(f.admit)
		if err != nil {
			l.Close()
			return err
		}
		l = tls.NewListener(l, config)
		server.Handler = f.readersOnly(pages)
	}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	f.log.Info("metrics can be read", "address", l.Addr().String())
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func isLoopback(a net.Addr) bool {
	tcp, ok := a.(*net.TCPAddr)
	return ok && tcp.IP.IsLoopback()
}

// admit refuses who was evicted, and everybody while it is not known who was.
func (f *front) admit(cert *x509.Certificate) error {
	f.mu.Lock()
	id := f.id
	f.mu.Unlock()
	if id == nil {
		return mobyfs.Errorf(mobyfs.CodeUnavailable, "the agent is not open yet")
	}
	return id.admit(cert)
}

// readersOnly lets in who may see the whole cluster.
func (f *front) readersOnly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who, err := pki.PeerIdentity(r.TLS)
		switch {
		case err != nil || who.Cluster != f.cluster:
			http.Error(w, "a certificate of this cluster is needed", http.StatusForbidden)
		case !pki.Reads(who.Role):
			http.Error(w, who.String()+" may not read metrics: a viewer, an auditor or an operator may", http.StatusForbidden)
		default:
			next.ServeHTTP(w, r)
		}
	})
}
