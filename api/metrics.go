package api

import (
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/mobyfs/mobyfs"
)

// getMetrics is not called by a Client: Prometheus does, with an operator's certificate.
var getMetrics = call{http.MethodGet, "/metrics", "get-metrics", "What control counts, in Prometheus' text format"}

// metrics are what the server counts of its calls.
type metrics struct {
	registry *prometheus.Registry
	seconds  *prometheus.HistogramVec
	refused  *prometheus.CounterVec // before they were asked, by why
}

// Why a request is refused unread.
const (
	refusedCalls   = "calls"
	refusedStreams = "streams"
	refusedPage    = "page"
)

func newMetrics(s *Server) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "mobyfs_api_request_duration_seconds", Help: "How long calls took, by call and code; ok is success.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 15},
		}, []string{"call", "code"}),
	}
	m.refused = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "mobyfs_api_refused_total", Help: "Requests that were refused unread: their client has too many calls or streams under way, or a foreign page asked.",
	}, []string{"why"})
	under := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "mobyfs_api_requests_under_way", Help: "Requests that are being answered, streams among them.",
	}, func() float64 { return float64(s.underWay.Load()) })
	for _, why := range []string{refusedCalls, refusedStreams, refusedPage} {
		m.refused.WithLabelValues(why) // 0 from the beginning, for an alert to see the first
	}
	links := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "mobyfs_api_links", Help: "Links of agents that are open.",
	}, func() float64 { return float64(s.links.Links()) })
	m.registry.MustRegister(m.seconds, m.refused, under, links)
	return m
}

// answered counts a call.
func (m *metrics) answered(id string, err error, took time.Duration) {
	code := string(mobyfs.CodeOf(err))
	if err == nil {
		code = "ok"
	}
	m.seconds.WithLabelValues(id, code).Observe(took.Seconds())
}

func (s *Server) serveMetrics() {
	s.mux.HandleFunc(getMetrics.method+" "+getMetrics.path, func(w http.ResponseWriter, r *http.Request) {
		service, err := s.service.Metrics(r.Context(), caller(r.Context()))
		if err != nil {
			s.note(r.Context(), getMetrics.id, err)
			writeProblem(w, problemOf(err))
			return
		}
		promhttp.HandlerFor(prometheus.Gatherers{s.metrics.registry, service}, promhttp.HandlerOpts{}).ServeHTTP(w, r)
	})
	s.huma.OpenAPI().AddOperation(&huma.Operation{
		OperationID: getMetrics.id, Method: getMetrics.method, Path: getMetrics.path, Summary: getMetrics.summary,
		Responses: map[string]*huma.Response{
			"200":     {Description: "OK", Content: map[string]*huma.MediaType{"text/plain": {Schema: &huma.Schema{Type: "string"}}}},
			"default": s.problemResponse(),
		},
	})
}
