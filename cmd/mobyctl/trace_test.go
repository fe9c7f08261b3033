package main

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mobyfs/mobyfs/internal/pki"
	"github.com/mobyfs/mobyfs/internal/tracing/collector"
)

// anybody makes mobyctl the operator of a cluster whose control is answer.
func anybody(t *testing.T, answer http.HandlerFunc) {
	t.Helper()
	t.Setenv("MOBYFS_HOME", t.TempDir())
	authority, err := pki.NewAuthority(filepath.Join(t.TempDir(), "pki"), "shop")
	if err != nil {
		t.Fatal(err)
	}
	certify := func(f pki.Files, role, name string) pki.Files {
		csr, err := f.NewRequest()
		if err != nil {
			t.Fatal(err)
		}
		cert, err := authority.Sign(csr, pki.Identity{Cluster: "shop", Role: role, Name: name})
		if err == nil {
			err = f.Install(cert, authority.CertPEM)
		}
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	config, err := certify(pki.FilesIn(t.TempDir(), "control"), pki.RoleControl, "control").ControlTLS()
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(answer)
	s.TLS = config
	s.StartTLS()
	t.Cleanup(s.Close)
	if err := saveContext(clusterContext{Cluster: "shop", Control: []string{s.Listener.Addr().String()}}); err != nil {
		t.Fatal(err)
	}
	files, err := operatorFiles("shop")
	if err != nil {
		t.Fatal(err)
	}
	certify(files, pki.RoleOperator, "ana")
}

func TestCommandIsOneTraceThatControlHearsOf(t *testing.T) {
	c := collector.Open(t)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", c.URL)
	heard := ""
	anybody(t, func(w http.ResponseWriter, r *http.Request) {
		heard = r.Header.Get("Traceparent")
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(http.StatusConflict)
		fmt.Fprint(w, `{"code":"in-use","detail":"it is in use"}`)
	})
	if _, _, err := run(t, "volume", "move", "pgdata", "--to", "h2"); err == nil {
		t.Error("the command succeeded")
	}
	spans := c.Spans()
	if len(spans) != 2 {
		t.Fatalf("got %+v", spans)
	}
	call, command := spans[0], spans[1]
	if command.Name != "mobyctl volume move" || command.Service != "mobyctl" || !command.Failed || command.About["code"] != "in-use" {
		t.Errorf("got %+v", command)
	}
	if call.Name != "move-volume" || call.Parent != command.ID || !strings.Contains(heard, call.Trace+"-"+call.ID) {
		t.Errorf("control heard %q, the spans are %+v", heard, spans)
	}
}

func TestCommandWithBadSettingsOfTracesSaysSoAndGoesOn(t *testing.T) {
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318")
	stdout, stderr, err := run(t, "version")
	if err != nil || !strings.Contains(stdout, "mobyctl") || !strings.Contains(stderr, "OTEL_EXPORTER_OTLP_ENDPOINT") || !strings.Contains(stderr, "hint=") {
		t.Errorf("got %v: %s%s", err, stdout, stderr)
	}
}
