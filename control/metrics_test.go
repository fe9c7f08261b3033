package control

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// scrape reads the metrics over the wire, as Prometheus does.
func (f *fleet) scrape(role, name string) (status int, text string) {
	f.t.Helper()
	tlsConfig, err := f.files(f.authority, role, name).ClientTLS(pki.RoleControl, "control")
	if err != nil {
		f.t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: tlsConfig, DisableKeepAlives: true}}
	resp, err := client.Get("https://" + f.address + "/metrics")
	if err != nil {
		f.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		f.t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func TestMetricsTellHowTheClusterIs(t *testing.T) {
	f := newFleet(t, true)
	h1 := f.node("h1")
	pgdata := f.ready("pgdata", "h1")
	f.ready("logs", "h1")
	must[mobyfs.Grant](t)(h1.Claim(t.Context(), pgdata.ID))
	if _, err := f.operator().CreateVolume(t.Context(), "huge", mobyfs.VolumeSpec{SizeBytes: 1000 * gib}, ""); mobyfs.CodeOf(err) != mobyfs.CodeNoSpace {
		t.Errorf("got %v, want no-space", err)
	}
	if _, err := h1.Nodes(t.Context()); mobyfs.CodeOf(err) != mobyfs.CodeDenied {
		t.Errorf("a node lists nodes: got %v, want denied", err)
	}
	_, text := f.scrape(pki.RoleOperator, "prometheus")
	for _, want := range []string{
		`mobyfs_control_volumes{condition="in use"} 1`,
		`mobyfs_control_volumes{condition="ready"} 1`,
		`mobyfs_control_nodes{ready="true"} 1`,
		`mobyfs_control_capacity_bytes{kind="free"} 1.073741824e+11`,
		`mobyfs_control_decisions_total{decision="lease given"} 1`,
		`mobyfs_control_denials_total{action="list volumes and nodes"} 1`,
		`mobyfs_control_placement_failures_total{code="no-space"} 1`,
		`mobyfs_control_unreadable_records 0`,
		`mobyfs_api_request_duration_seconds_count{call="claim",code="ok"} 1`,
		`mobyfs_api_request_duration_seconds_count{call="list-nodes",code="denied"} 1`,
		`etcd_mvcc_db_total_size_in_bytes`,
		`etcd_disk_wal_fsync_duration_seconds_count`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the metrics lack %s", want)
		}
	}
	for _, secret := range []string{"pgdata", string(pgdata.ID)} {
		if strings.Contains(text, secret) {
			t.Errorf("there is a series for the single volume %s", secret)
		}
	}
}

func TestNodeReadsNoMetricsOfControl(t *testing.T) {
	f := newFleet(t, true)
	if status, text := f.scrape(pki.RoleNode, "h1"); status != http.StatusForbidden || strings.Contains(text, "mobyfs_control_volumes") {
		t.Errorf("a node gets %d: %.200s", status, text)
	}
}
