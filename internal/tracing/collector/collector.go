// Package collector takes spans as a real collector does, over HTTP on loopback, and keeps them for tests to look at.
package collector

import (
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// Span is one span as a test sees it.
type Span struct {
	Trace, ID, Parent string // hexadecimal; Parent is empty for the first of a trace
	Service, Instance string
	Name              string
	Took              time.Duration
	Failed            bool
	About             map[string]string
}

// Collector is a collector in memory.
type Collector struct {
	URL string

	mu      sync.Mutex
	spans   []Span
	headers http.Header // of the last request
}

// Open starts a collector that ends with the test.
func Open(t testing.TB) *Collector {
	c := &Collector{}
	s := httptest.NewServer(c)
	t.Cleanup(s.Close)
	c.URL = s.URL
	return c
}

// ServeHTTP takes an export request.
func (c *Collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	var all tracepb.TracesData
	if err == nil {
		err = proto.Unmarshal(body, &all)
	}
	if err != nil || r.URL.Path != "/v1/traces" || r.Header.Get("Content-Type") != "application/x-protobuf" {
		http.Error(w, fmt.Sprint("that is no request for spans: ", err), http.StatusBadRequest)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.headers = r.Header
	for _, from := range all.ResourceSpans {
		resource := texts(from.Resource.Attributes)
		for _, scope := range from.ScopeSpans {
			for _, s := range scope.Spans {
				c.spans = append(c.spans, spanOf(s, resource))
			}
		}
	}
}

// Spans are those that came so far, in the order in which they began to come.
func (c *Collector) Spans() []Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.spans)
}

// Header is that of the last request.
func (c *Collector) Header() http.Header {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.headers.Clone()
}

func spanOf(s *tracepb.Span, resource map[string]string) Span {
	return Span{
		Trace: hex.EncodeToString(s.TraceId), ID: hex.EncodeToString(s.SpanId), Parent: hex.EncodeToString(s.ParentSpanId),
		Service: resource["service.name"], Instance: resource["service.instance.id"], Name: s.Name, About: texts(s.Attributes),
		Took:   time.Duration(s.EndTimeUnixNano - s.StartTimeUnixNano),
		Failed: s.Status.GetCode() == tracepb.Status_STATUS_CODE_ERROR,
	}
}

func texts(pairs []*commonpb.KeyValue) map[string]string {
	all := map[string]string{}
	for _, p := range pairs {
		switch v := p.Value.Value.(type) {
		case *commonpb.AnyValue_StringValue:
			all[p.Key] = v.StringValue
		case *commonpb.AnyValue_IntValue:
			all[p.Key] = fmt.Sprint(v.IntValue)
		case *commonpb.AnyValue_BoolValue:
			all[p.Key] = fmt.Sprint(v.BoolValue)
		}
	}
	return all
}
