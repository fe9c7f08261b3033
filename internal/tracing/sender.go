package tracing

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"sync"
	"time"

	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// sender sends spans to a collector, as OTLP over HTTP. It is ours because the one of OpenTelemetry brings gRPC, which the
// agent must not link: decision 0053.
type sender struct {
	settings
	log    *slog.Logger
	client *http.Client

	mu   sync.Mutex
	lost bool // the last spans were not taken
}

// Start implements otlptrace.Client.
func (s *sender) Start(context.Context) error {
	transport := &http.Transport{
		Proxy:           http.ProxyFromEnvironment,
		TLSClientConfig: &tls.Config{RootCAs: s.roots, MinVersion: tls.VersionTLS12},
		MaxIdleConns:    1, IdleConnTimeout: time.Minute, ForceAttemptHTTP2: true,
	}
	s.client = &http.Client{Transport: transport, Timeout: s.timeout}
	return nil
}

// Stop implements otlptrace.Client.
func (s *sender) Stop(context.Context) error {
	s.client.CloseIdleConnections()
	return nil
}

// UploadTraces implements otlptrace.Client. Spans that the collector does not take are lost; the log says so once, and
// once more when it takes some again.
func (s *sender) UploadTraces(ctx context.Context, spans []*tracepb.ResourceSpans) error {
	err := s.upload(ctx, spans)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err != nil && !s.lost:
		s.log.Warn("spans are lost", "address", s.shown, "err", err)
	case err == nil && s.lost:
		s.log.Info("spans are taken again", "address", s.shown)
	}
	s.lost = err != nil
	return nil
}

// upload sends spans once. The message is an ExportTraceServiceRequest, whose encoding is that of TracesData.
func (s *sender) upload(ctx context.Context, spans []*tracepb.ResourceSpans) error {
	body, err := proto.Marshal(&tracepb.TracesData{ResourceSpans: spans})
	if err != nil {
		return fmt.Errorf("encode spans: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header = s.header.Clone()
	req.Header.Set("Content-Type", "application/x-protobuf")
	resp, err := s.client.Do(req)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err
		}
		return err
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10))
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("the collector answers %s", resp.Status)
	}
	return nil
}
