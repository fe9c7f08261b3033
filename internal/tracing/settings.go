package tracing

import (
	"crypto/x509"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/mobyfs/mobyfs"
)

// settings say where spans go. They come from the variables that OpenTelemetry's specification defines for exporters.
type settings struct {
	url     string // empty: nowhere
	shown   string // url as it may be logged
	header  http.Header
	roots   *x509.CertPool // nil: the system's
	timeout time.Duration
}

// variables look settings up. Each may be given for traces alone, which comes first.
type variables func(string) string

// find returns the value of a setting and the name of the variable that it stands in.
func (lookup variables) find(what string) (name, value string) {
	name = "OTEL_EXPORTER_OTLP_TRACES_" + what
	if value = lookup(name); value == "" {
		name = "OTEL_EXPORTER_OTLP_" + what
		value = lookup(name)
	}
	return name, value
}

// settings reads the variables. Without an endpoint the others do not matter.
func (lookup variables) settings() (settings, error) {
	s := settings{header: http.Header{}, timeout: 10 * time.Second}
	name, value := lookup.find("ENDPOINT")
	if value == "" || lookup("OTEL_SDK_DISABLED") == "true" || lookup("OTEL_TRACES_EXPORTER") == "none" {
		return s, nil
	}
	u, err := url.Parse(value)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return s, mobyfs.Errorf(mobyfs.CodeInvalid, "%s is no address of a collector", name).
			WithHint("set it to one such as http://127.0.0.1:4318, or leave it out")
	}
	if !strings.Contains(name, "_TRACES_") {
		u = u.JoinPath("v1", "traces")
	}
	s.url, s.shown = u.String(), u.Redacted()
	if name, text := lookup.find("PROTOCOL"); text != "" && text != "http/protobuf" {
		return s, mobyfs.Errorf(mobyfs.CodeInvalid, "%s is %.40q, and spans are sent as http/protobuf alone", name, text).
			WithHint("leave it out, and name the collector's port for HTTP, which is 4318")
	}
	if name, text := lookup.find("TIMEOUT"); text != "" {
		ms, err := strconv.Atoi(text)
		if err != nil || ms <= 0 {
			return s, mobyfs.Errorf(mobyfs.CodeInvalid, "%s is no number of milliseconds", name).WithHint("set it to one such as 10000")
		}
		s.timeout = time.Duration(ms) * time.Millisecond
	}
	if s.header, err = lookup.header(); err != nil {
		return s, err
	}
	s.roots, err = lookup.roots()
	return s, err
}

// header is what the collector is told with each request, such as a key. Its values are not shown in errors.
func (lookup variables) header() (http.Header, error) {
	name, text := lookup.find("HEADERS")
	header := http.Header{}
	for pair := range strings.FieldsFuncSeq(text, func(r rune) bool { return r == ',' }) {
		key, value, ok := strings.Cut(pair, "=")
		value, err := url.PathUnescape(strings.TrimSpace(value))
		if !ok || err != nil {
			return nil, mobyfs.Errorf(mobyfs.CodeInvalid, "%s holds something that is not key=value", name).WithHint("write key=value,key=value")
		}
		header.Set(strings.TrimSpace(key), value)
	}
	return header, nil
}

// roots are the authorities that the collector's certificate may be from; nil for those of the system.
func (lookup variables) roots() (*x509.CertPool, error) {
	name, file := lookup.find("CERTIFICATE")
	if file == "" {
		return nil, nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read the authority of the collector: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(text) {
		return nil, mobyfs.Errorf(mobyfs.CodeInvalid, "%s names a file that holds no certificate", name).WithHint("name one in PEM")
	}
	return roots, nil
}
