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
}

func newMetrics() *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "mobyfs_api_request_duration_seconds", Help: "How long calls took, by call and code; ok is success.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 15},
		}, []string{"call", "code"}),
	}
	m.registry.MustRegister(m.seconds)
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
