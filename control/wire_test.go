package control

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs"
)

// raw sends a request as it is, with the certificate of a role, and returns the answer.
func (f *fleet) raw(role, method, path, contentType, body string) (*http.Response, []byte) {
	f.t.Helper()
	tlsConfig, err := f.files(f.authority, role, "h1").ClientTLS("control", "control")
	if err != nil {
		f.t.Fatal(err)
	}
	transport := &http.Transport{TLSClientConfig: tlsConfig, ForceAttemptHTTP2: true}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(f.t.Context(), method, "https://"+f.address+path, strings.NewReader(body))
	if err != nil {
		f.t.Fatal(err)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		f.t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		f.t.Fatal(err)
	}
	return resp, answer
}

func TestBadRequestsGetAProblemAndWriteNothing(t *testing.T) {
	f := newFleet(t, true)
	f.node("h1")
	f.ready("pgdata", "h1")
	ana := f.client(f.authority, "operator", "ana")
	before := f.told(ana.Events)
	spec := `,"spec":{}}`
	long := strings.Repeat("x", 300)
	const asJSON = "application/json"
	for _, tc := range []struct {
		name, role, method, path, contentType, body string
		status                                      int
		code                                        mobyfs.Code
	}{
		{"no body", "operator", "POST", "/v1/volumes", asJSON, ``, 400, mobyfs.CodeInvalid},
		{"not JSON", "operator", "POST", "/v1/volumes", asJSON, `{"name":`, 400, mobyfs.CodeInvalid},
		{"JSON and more", "operator", "POST", "/v1/volumes", asJSON, `{"name":"vol"} {}`, 400, mobyfs.CodeInvalid},
		{"no object", "operator", "POST", "/v1/volumes", asJSON, `[]`, 422, mobyfs.CodeInvalid},
		{"null", "operator", "POST", "/v1/volumes", asJSON, `null`, 422, mobyfs.CodeInvalid},
		{"no name", "operator", "POST", "/v1/volumes", asJSON, `{}`, 422, mobyfs.CodeInvalid},
		{"unknown field", "operator", "POST", "/v1/volumes", asJSON, `{"name":"vol","sizee":1}`, 422, mobyfs.CodeInvalid},
		{"unknown field within", "operator", "POST", "/v1/volumes", asJSON, `{"name":"vol","spec":{"size":"1G"}}`, 422, mobyfs.CodeInvalid},
		{"wrong type", "operator", "POST", "/v1/volumes", asJSON, `{"name":7}`, 422, mobyfs.CodeInvalid},
		{"wrong type within", "operator", "POST", "/v1/volumes", asJSON, `{"name":"vol","spec":{"size_bytes":"1G"}}`, 422, mobyfs.CodeInvalid},
		{"number out of range", "operator", "POST", "/v1/volumes", asJSON, `{"name":"vol","spec":{"size_bytes":1e300}}`, 422, mobyfs.CodeInvalid},
		{"negative size", "operator", "POST", "/v1/volumes", asJSON, `{"name":"vol","spec":{"size_bytes":-1}}`, 400, mobyfs.CodeInvalid},
		{"too large", "operator", "POST", "/v1/volumes", asJSON, `{"name":"` + strings.Repeat("x", 2<<20) + `"`, 413, mobyfs.CodeInvalid},
		{"other content", "operator", "POST", "/v1/volumes", "application/xml", `<name>vol</name>`, 415, mobyfs.CodeInvalid},
		{"a key twice", "operator", "POST", "/v1/volumes", asJSON, `{"name":"vol","name":"other"}`, 400, mobyfs.CodeInvalid},
		{"a key twice within", "operator", "POST", "/v1/volumes", asJSON, `{"name":"vol","spec":{"labels":{"a":"1","a":"2"}}}`, 400, mobyfs.CodeInvalid},
		{"a key twice, once escaped", "operator", "POST", "/v1/volumes", asJSON, `{"name":"vol","n\u0061me":"other"}`, 400, mobyfs.CodeInvalid},
		{"a key in another case", "operator", "POST", "/v1/volumes", asJSON, `{"name":"vol","NAME":"other"}`, 422, mobyfs.CodeInvalid},
		{"a key that folds to another", "operator", "POST", "/v1/volumes", asJSON, `{"name":"vol","ſpec":{}}`, 422, mobyfs.CodeInvalid},
		{"nested too deep", "operator", "POST", "/v1/volumes", asJSON, strings.Repeat(`{"name":`, 100_000), 400, mobyfs.CodeInvalid},
		{"not UTF-8", "operator", "POST", "/v1/volumes", asJSON, "{\"name\":\"vo\xffl\"}", 400, mobyfs.CodeInvalid},
		{"no content type", "operator", "POST", "/v1/volumes", "", `{"name":"vol"}`, 415, mobyfs.CodeInvalid},
		{"a patch's type", "operator", "POST", "/v1/volumes", "application/merge-patch+json", `{"name":"vol"}`, 415, mobyfs.CodeInvalid},
		{"decomposed name", "operator", "POST", "/v1/volumes", asJSON, "{\"name\":\"cafe\u0301\"}", 400, mobyfs.CodeInvalid},
		{"full-width name", "operator", "POST", "/v1/volumes", asJSON, `{"name":"ｐｇdata"}`, 400, mobyfs.CodeInvalid},
		{"labels that differ by form alone", "operator", "POST", "/v1/volumes", asJSON, "{\"name\":\"vol\",\"spec\":{\"labels\":{\"\u00e9\":\"1\",\"e\u0301\":\"2\"}}}", 400, mobyfs.CodeInvalid},
		{"patch of what can't be changed", "operator", "PATCH", "/v1/volumes/pgdata", asJSON, `{"node":"h2"}`, 422, mobyfs.CodeInvalid},
		{"patch by a node", "node", "PATCH", "/v1/volumes/pgdata", asJSON, `{"labels":{"a":"b"}}`, 403, mobyfs.CodeDenied},
		{"limit of nothing", "operator", "GET", "/v1/volumes?limit=0", "", ``, 422, mobyfs.CodeInvalid},
		{"limit of a million", "operator", "GET", "/v1/volumes?limit=1000000", "", ``, 422, mobyfs.CodeInvalid},
		{"unknown state", "operator", "GET", "/v1/volumes?state=lost", "", ``, 422, mobyfs.CodeInvalid},
		{"forged cursor", "operator", "GET", "/v1/volumes?cursor=e30", "", ``, 400, mobyfs.CodeInvalid},
		{"events since what", "operator", "GET", "/v1/events?since=-1", "", ``, 400, mobyfs.CodeInvalid},
		{"events since twice", "operator", "GET", "/v1/events?since=1&since=2", "", ``, 400, mobyfs.CodeInvalid},
		{"events of the future", "operator", "GET", "/v1/events?since=999999999", "", ``, 400, mobyfs.CodeInvalid},
		{"events for a node", "node", "GET", "/v1/events", "", ``, 403, mobyfs.CodeDenied},
		{"wait for a year", "operator", "GET", "/v1/volumes/pgdata:wait?timeout=31536000", "", ``, 422, mobyfs.CodeInvalid},
		{"unknown query", "operator", "GET", "/v1/volumes?colour=red", "", ``, 422, mobyfs.CodeInvalid},

		{"name with ../", "operator", "POST", "/v1/volumes", asJSON, `{"name":"../etc"` + spec, 400, mobyfs.CodeInvalid},
		{"name with NUL", "operator", "POST", "/v1/volumes", asJSON, `{"name":"a\u0000b"` + spec, 400, mobyfs.CodeInvalid},
		{"name of 300", "operator", "POST", "/v1/volumes", asJSON, `{"name":"` + long + `"` + spec, 400, mobyfs.CodeInvalid},
		{"empty name", "operator", "POST", "/v1/volumes", asJSON, `{"name":""` + spec, 400, mobyfs.CodeInvalid},
		{"case twin", "operator", "POST", "/v1/volumes", asJSON, `{"name":"PGDATA"` + spec, 409, mobyfs.CodeExists},
		{"other options", "operator", "POST", "/v1/volumes", asJSON, `{"name":"pgdata","spec":{"size_bytes":1}}`, 409, mobyfs.CodeExists},
		{"unknown backend", "operator", "POST", "/v1/volumes", asJSON, `{"name":"vol","spec":{"backend":"floppy"}}`, 400, mobyfs.CodeInvalid},
		{"unknown node", "operator", "POST", "/v1/volumes", asJSON, `{"name":"vol","spec":{},"node":"h9"}`, 404, mobyfs.CodeNotFound},
		{"node with ../", "operator", "POST", "/v1/volumes", asJSON, `{"name":"vol","spec":{},"node":"../h1"}`, 400, mobyfs.CodeInvalid},

		{"path with ..", "operator", "GET", "/v1/volumes/../cluster", "", ``, 400, mobyfs.CodeInvalid},
		{"path with encoded ..", "operator", "DELETE", "/v1/volumes/%2e%2e%2fpgdata", "", ``, 400, mobyfs.CodeInvalid},
		{"path with NUL", "operator", "DELETE", "/v1/volumes/pg%00data", "", ``, 400, mobyfs.CodeInvalid},
		{"path with an encoded slash", "operator", "DELETE", "/v1/volumes/pgdata%2fx", "", ``, 400, mobyfs.CodeInvalid},
		{"path of 300", "operator", "GET", "/v1/volumes/" + long, "", ``, 400, mobyfs.CodeInvalid},
		{"case twin in the path", "operator", "DELETE", "/v1/volumes/PGDATA", "", ``, 404, mobyfs.CodeNotFound},
		{"no such volume", "operator", "GET", "/v1/volumes/nosuch", "", ``, 404, mobyfs.CodeNotFound},
		{"no such call", "operator", "GET", "/v2/volumes", "", ``, 404, mobyfs.CodeNotFound},
		{"no such verb", "operator", "POST", "/v1/volumes/pgdata:explode", "", ``, 404, mobyfs.CodeNotFound},
		{"no such method", "operator", "PUT", "/v1/volumes/pgdata", asJSON, `{}`, 404, mobyfs.CodeNotFound},
		{"move to nowhere", "operator", "POST", "/v1/volumes/pgdata:move", asJSON, `{"to":"h9"}`, 404, mobyfs.CodeNotFound},
		{"move to wherever there is room, and there is none", "operator", "POST", "/v1/volumes/pgdata:move", asJSON, `{}`, 507, mobyfs.CodeNoSpace},
		{"cancel of nothing", "operator", "POST", "/v1/volumes/pgdata:cancel-move", "", ``, 404, mobyfs.CodeNotFound},

		{"claim of an ID that is a path", "node", "POST", "/v1/agent/claim", asJSON, `{"volume":"../../m/cluster"}`, 404, mobyfs.CodeNotFound},
		{"claim as someone else", "node", "POST", "/v1/agent/claim", asJSON, `{"volume":"x","node":"h2"}`, 422, mobyfs.CodeInvalid},
		{"claim by an operator", "operator", "POST", "/v1/agent/claim", asJSON, `{"volume":"x"}`, 403, mobyfs.CodeDenied},
		{"negative fence", "node", "POST", "/v1/agent/release", asJSON, `{"volume":"x","fence":-1}`, 422, mobyfs.CodeInvalid},
		{"report without an address", "node", "POST", "/v1/agent/report", asJSON,
			`{"address":"","version":"","capacity":{"total_bytes":1,"free_bytes":1},"volumes":0}`, 400, mobyfs.CodeInvalid},
		{"list by a node", "node", "GET", "/v1/volumes", "", ``, 403, mobyfs.CodeDenied},
		{"watch by control", "control", "GET", "/v1/agent/watch", "", ``, 403, mobyfs.CodeDenied},
	} {
		t.Run(tc.name, func(t *testing.T) {
			resp, body := f.raw(tc.role, tc.method, tc.path, tc.contentType, tc.body)
			var p struct {
				Type, Title, Detail, Next string
				Status                    int
				Code                      mobyfs.Code
			}
			if err := json.Unmarshal(body, &p); err != nil {
				t.Fatalf("the answer is %s %q: %v", resp.Status, body, err)
			}
			if resp.StatusCode != tc.status || p.Status != tc.status || p.Code != tc.code {
				t.Errorf("got %d (%d in the body) %s: %s; want %d %s", resp.StatusCode, p.Status, p.Code, p.Detail, tc.status, tc.code)
			}
			if p.Detail == "" || p.Next == "" || p.Title == "" || p.Type != "urn:mobyfs:"+string(tc.code) {
				t.Errorf("the problem is not whole: %s", body)
			}
			if ct := resp.Header.Get("Content-Type"); ct != "application/problem+json" {
				t.Errorf("the content is of type %s", ct)
			}
			if len(body) > 2000 {
				t.Errorf("the answer repeats the request: %d bytes", len(body))
			}
		})
	}
	if after := f.told(ana.Events); len(after) != len(before) {
		t.Errorf("something was changed: %q", texts(after[len(before):]))
	}
}

func TestHeadersDoNotSayWhoCalls(t *testing.T) {
	f := newFleet(t, true)
	f.node("h1")
	v := f.ready("pgdata", "h1")
	tlsConfig, err := f.files(f.authority, "operator", "ana").ClientTLS("control", "control")
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{TLSClientConfig: tlsConfig}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), "POST", "https://"+f.address+"/v1/agent/claim",
		strings.NewReader(fmt.Sprintf(`{"volume":%q}`, v.ID)))
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range []string{"X-Forwarded-Client-Cert", "X-Node", "X-Remote-User", "X-Ssl-Client-Cert", "Authorization"} {
		req.Header.Set(h, "URI=spiffe://shop/node/h1")
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusForbidden || f.record("pgdata").Lease != nil {
		t.Errorf("an operator claimed as h1 by a header: %s", resp.Status)
	}
}

func TestClientWithoutACertificateGetsNothing(t *testing.T) {
	f := newFleet(t, true)
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	defer transport.CloseIdleConnections()
	req, err := http.NewRequestWithContext(t.Context(), "GET", "https://"+f.address+"/openapi.json", nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp, err := transport.RoundTrip(req); err == nil {
		resp.Body.Close()
		t.Errorf("it got %s", resp.Status)
	}
}

// BenchmarkClaimAndRelease measures what a mount waits for: both calls over mutual TLS on loopback, each durable.
func BenchmarkClaimAndRelease(b *testing.B) {
	f := newFleet(b, true)
	h1 := f.node("h1")
	v := f.ready("pgdata", "h1")
	var claims, releases []time.Duration
	for b.Loop() {
		start := time.Now()
		g, err := h1.Claim(b.Context(), v.ID)
		claimed := time.Now()
		if err == nil {
			err = h1.Release(b.Context(), v.ID, g.Fence)
		}
		if err != nil {
			b.Fatal(err)
		}
		claims, releases = append(claims, claimed.Sub(start)), append(releases, time.Since(claimed))
	}
	report := func(name string, all []time.Duration) {
		slices.Sort(all)
		b.ReportMetric(float64(all[len(all)/2].Microseconds()), name+"-p50-µs")
		b.ReportMetric(float64(all[len(all)*99/100].Microseconds()), name+"-p99-µs")
	}
	report("claim", claims)
	report("release", releases)
}
