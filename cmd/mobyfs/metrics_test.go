package main

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/freeport"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// scrape reads metrics as Prometheus does.
func scrape(t *testing.T, url string, config *tls.Config) (status int, text string, err error) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}
	resp, err := client.Get(url + "/metrics")
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}

// value is that of one series, "" if there is none.
func value(text, series string) string {
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, series+" "); ok {
			return strings.TrimSpace(rest)
		}
	}
	return ""
}

func TestMetricsOfANodeTellWhatItDid(t *testing.T) {
	s := newShop(t)
	s.control()
	h1, h2 := s.settingsOf("h1"), s.settingsOf("h2")
	h1.metrics = freeport.At(t)
	h2.metrics, h2.perVolume = freeport.At(t), true
	s.run(h1)
	s.run(h2)
	s.eventually("both nodes have joined", func() bool {
		return call(t, h2, "VolumeDriver.Create", map[string]any{"Name": "probe"})["Err"] == "" &&
			call(t, h1, "VolumeDriver.Create", map[string]any{"Name": "pgdata", "Opts": map[string]string{"size": "10M"}})["Err"] == ""
	})
	must(t, h2, "Mount", map[string]any{"Name": "pgdata", "ID": "a"})
	if ans := call(t, h1, "VolumeDriver.Mount", map[string]any{"Name": "pgdata", "ID": "b"}); ans["Err"] == "" {
		t.Error("two nodes use the volume")
	}
	read := func(set settings) string {
		t.Helper()
		status, text, err := scrape(t, "http://"+set.metrics, nil)
		if err != nil || status != http.StatusOK {
			t.Fatalf("%s: %d, %v", set.node, status, err)
		}
		return text
	}
	s.eventually("the source has put its copy away", func() bool { return value(read(h1), `mobyfs_agent_volumes{kind="here"}`) == "0" })
	for series, want := range map[string]string{
		`mobyfs_driver_call_duration_seconds_count{call="mount",code="in-use"}`: "1",
		`mobyfs_agent_pulls_served_total{code="ok"}`:                            "1",
		`mobyfs_agent_pulls_serving`:                                            "0",
		`mobyfs_agent_fence_rejections_total{operation="attach"}`:               "0",
		`mobyfs_agent_catalogue_fresh`:                                          "1",
		`mobyfs_agent_catalogue_age_seconds`:                                    "0",
		`mobyfs_build_info{program="mobyfs",version="dev"}`:                     "1",
	} {
		if got := value(read(h1), series); got != want {
			t.Errorf("h1: %s is %q, want %s", series, got, want)
		}
	}
	id := ""
	if v, err := s.operator().Volume(t.Context(), "pgdata"); err != nil {
		t.Fatal(err)
	} else {
		id = string(v.ID)
	}
	for series, want := range map[string]string{
		`mobyfs_driver_call_duration_seconds_count{call="mount",code="ok"}`:             "1",
		`mobyfs_agent_migrations_total{result="committed"}`:                             "1",
		`mobyfs_agent_migration_phase_duration_seconds_count{code="ok",phase="pull"}`:   "1",
		`mobyfs_agent_migration_phase_duration_seconds_count{code="ok",phase="commit"}`: "1",
		`mobyfs_agent_migration_phase_duration_seconds_count{code="ok",phase="adopt"}`:  "1",
		`mobyfs_agent_volumes{kind="used"}`:                                             "1",
		`mobyfs_volume_mounts{id="` + id + `",volume="pgdata"}`:                         "1",
		`mobyfs_volume_capacity_bytes{id="` + id + `",volume="pgdata"}`:                 "1.048576e+07",
	} {
		if got := value(read(h2), series); got != want {
			t.Errorf("h2: %s is %q, want %s", series, got, want)
		}
	}
	for _, positive := range []string{"mobyfs_agent_session_remaining_seconds", "mobyfs_agent_certificate_expiry_seconds",
		`mobyfs_agent_disk_bytes{kind="free"}`, `mobyfs_agent_state_bytes{file="journal"}`, `mobyfs_agent_heartbeat_duration_seconds_count{code="ok"}`} {
		if got := value(read(h2), positive); got == "" || got == "0" {
			t.Errorf("h2: %s is %q", positive, got)
		}
	}
	if text := read(h1); strings.Contains(text, "pgdata") || strings.Contains(text, id) {
		t.Error("a node that was not asked to counts single volumes")
	}
}

// Not at a loopback address, a node shows its metrics to who may see the cluster, and to nobody else.
func TestMetricsBeyondTheHostNeedACertificateThatReads(t *testing.T) {
	s := newShop(t)
	s.control()
	h1 := s.settingsOf("h1")
	address := freeport.At(t)
	h1.metrics = strings.Replace(address, "127.0.0.1", "0.0.0.0", 1)
	s.run(h1)
	s.eventually("the port answers", func() bool {
		c, err := net.Dial("tcp", address)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	as := func(role, name string) *tls.Config {
		config, err := s.certify(pki.FilesIn(t.TempDir(), "x"), role, name).ClientTLS(pki.RoleNode, "h1")
		if err != nil {
			t.Fatal(err)
		}
		return config
	}
	for _, role := range []string{pki.RoleViewer, pki.RoleAuditor, pki.RoleOperator, pki.RoleAdmin} {
		status, text, err := scrape(t, "https://"+address, as(role, "ana"))
		if err != nil || status != http.StatusOK || !strings.Contains(text, "mobyfs_agent_session_remaining_seconds") {
			t.Errorf("%s: %d, %v", role, status, err)
		}
	}
	for _, role := range []string{pki.RoleNode, pki.RoleDocker} {
		if status, text, err := scrape(t, "https://"+address, as(role, "h2")); err == nil && status == http.StatusOK || strings.Contains(text, "mobyfs_agent_") {
			t.Errorf("%s: %d, %v", role, status, err)
		}
	}
	if status, _, err := scrape(t, "http://"+address, nil); err == nil && status == http.StatusOK {
		t.Error("without TLS it is shown")
	}
	nobody := as(pki.RoleViewer, "ana")
	nobody.Certificates, nobody.GetClientCertificate = nil, nil
	if _, text, err := scrape(t, "https://"+address, nobody); err == nil {
		t.Errorf("without a certificate: %.100q", text)
	}
	stranger := newShop(t)
	config, err := stranger.certify(pki.FilesIn(t.TempDir(), "x"), pki.RoleViewer, "ana").ClientTLS(pki.RoleNode, "h1")
	if err != nil {
		t.Fatal(err)
	}
	config.RootCAs, config.VerifyConnection, config.InsecureSkipVerify = nil, nil, true
	if _, text, err := scrape(t, "https://"+address, config); err == nil {
		t.Errorf("with a certificate of another cluster: %.100q", text)
	}
}

func TestBadAddressOfMetricsIsRefused(t *testing.T) {
	s := newShop(t)
	h1 := s.settingsOf("h1")
	for _, bad := range []string{"9646", "127.0.0.1", "127.0.0.1:"} {
		h1.metrics = bad
		if err := h1.check(); mobyfs.CodeOf(err) != mobyfs.CodeInvalid || !strings.Contains(mobyfs.HintOf(err), "MOBYFS_METRICS") {
			t.Errorf("%q: got %v", bad, err)
		}
	}
}
