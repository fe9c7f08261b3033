// Package attacks tries what an intruder would, over mutual TLS against a whole control process. Each attack must fail for the
// reason that is written beside it, and change nothing.
package attacks

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/api"
	"github.com/mobyfs/mobyfs/control"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// victim is a cluster with the nodes h1 and h2; the volume pgdata is in use on h1, and moving goes from h1 to h2.
type victim struct {
	t         *testing.T
	authority *pki.Authority
	address   string
	dir       string // control's root
	pgdata    mobyfs.Volume
	moving    mobyfs.Volume
	files     map[string]pki.Files
	later     atomic.Int64 // seconds by which control's clock is ahead
	heard     int64        // revision up to which the audit trail was looked at
}

func newVictim(t *testing.T) *victim {
	t.Helper()
	dir, err := os.MkdirTemp("", "mobyfs") // t.TempDir is too long for a socket
	ok(t, err)
	t.Cleanup(func() { ok(t, os.RemoveAll(dir)) })
	v := &victim{t: t, dir: dir, files: map[string]pki.Files{}}
	v.authority, err = pki.NewAuthority(filepath.Join(dir, "pki"), "shop")
	ok(t, err)
	quiet := slog.New(slog.DiscardHandler)
	identity := v.identity("control", "control")
	c, err := control.Open(t.Context(), control.Config{Cluster: "shop", Root: dir, Version: "v1", Identity: identity, Log: quiet, Now: v.now})
	ok(t, err)
	t.Cleanup(func() { ok(t, c.Close()) })
	tlsConfig, err := identity.ControlTLS(c.Admit)
	ok(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ok(t, err)
	v.address = l.Addr().String()
	s := api.NewServer(c, quiet)
	go func() { ok(t, s.Serve(l, tlsConfig)) }()
	t.Cleanup(func() { ok(t, s.Shutdown(t.Context())) })
	v.fill()
	return v
}

// now is control's clock.
func (v *victim) now() time.Time {
	return time.Now().Add(time.Duration(v.later.Load()) * time.Second)
}

// refusals are what the audit trail says of refusals since it was looked at last; so many are waited for. Then a second
// passes for control, which tells of one refusal in a second of each caller.
func (v *victim) refusals(atLeast int) []mobyfs.Event {
	v.t.Helper()
	var all []mobyfs.Event
	enough, complete := errors.New("enough"), false
	check := func() error {
		if complete && len(all) >= atLeast {
			return enough
		}
		return nil
	}
	ctx, cancel := context.WithTimeout(v.t.Context(), 5*time.Second)
	defer cancel()
	err := v.client("auditor", "trail").Audit(ctx, v.heard, func(e mobyfs.Event) error {
		if e.Denied != "" {
			all = append(all, e)
		}
		v.heard = max(v.heard, e.Revision+1)
		return check()
	}, func(api.Complete) error { complete = true; return check() })
	if !errors.Is(err, enough) && ctx.Err() == nil {
		v.t.Fatal(err)
	}
	v.later.Add(1)
	return all
}

// wantTold fails the test unless the trail tells of one refusal since it was looked at last, by who asked and with the
// code; who is empty for a stranger.
func (v *victim) wantTold(t *testing.T, who string, code mobyfs.Code) {
	t.Helper()
	told := v.refusals(1)
	if len(told) != 1 || told[0].Denied != code || !strings.HasSuffix(told[0].Actor.Who, who) || who == "" && told[0].Actor.Who != "" || told[0].Actor.From == "" {
		t.Errorf("the audit trail tells of %+v, want one refusal of %q with the code %s", told, who, code)
	}
}

// isRefusal reports whether a status is one that the audit trail tells of.
func isRefusal(status int) bool {
	switch status {
	case 400, 401, 403, 408, 413, 415, 422:
		return true
	}
	return false
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil && !strings.Contains(err.Error(), "context canceled") {
		t.Error(err)
	}
}

func (v *victim) identity(role, name string) pki.Files {
	v.t.Helper()
	if f, known := v.files[role+"/"+name]; known {
		return f
	}
	f := pki.FilesIn(v.t.TempDir(), "x")
	csr, err := f.NewRequest()
	ok(v.t, err)
	cert, err := v.authority.Sign(csr, pki.Identity{Cluster: v.authority.Cluster, Role: role, Name: name})
	ok(v.t, err)
	ok(v.t, f.Install(cert, v.authority.CertPEM))
	v.files[role+"/"+name] = f
	return f
}

func (v *victim) client(role, name string) *api.Client {
	v.t.Helper()
	tlsConfig, err := v.identity(role, name).ClientTLS(pki.RoleControl, pki.RoleControl)
	if err != nil {
		v.t.Fatal(err)
	}
	c := api.NewClient([]string{v.address}, tlsConfig)
	v.t.Cleanup(c.Close)
	return c
}

// fill makes nodes and volumes.
func (v *victim) fill() {
	v.t.Helper()
	ctx, ana := v.t.Context(), v.client("operator", "ana")
	for _, name := range []string{"h1", "h2"} {
		_, err := v.client("node", name).Report(ctx, mobyfs.Report{Address: name + ":8080", Version: "v1", Instance: "i" + name,
			Capacity: mobyfs.Capacity{TotalBytes: 1 << 40, FreeBytes: 1 << 39}})
		ok(v.t, err)
	}
	for _, name := range []string{"pgdata", "moving"} {
		made, err := ana.CreateVolume(ctx, name, mobyfs.VolumeSpec{}, "h1")
		ok(v.t, err)
		_, err = v.client("node", "h1").Created(ctx, made.ID)
		ok(v.t, err)
	}
	p, err := ana.Volume(ctx, "pgdata")
	ok(v.t, err)
	g, err := v.client("node", "h1").Claim(ctx, p.ID)
	ok(v.t, err)
	v.pgdata = g.Volume
	if _, err := v.client("node", "h2").Claim(ctx, p.ID); mobyfs.CodeOf(err) != mobyfs.CodeInUse { // the holder is told once
		v.t.Errorf("h2 asks for what h1 uses: %v", err)
	}
	v.moving, err = ana.MoveVolume(ctx, "moving", "h2")
	ok(v.t, err)
}

// state is what no attack may change.
func (v *victim) state() string {
	v.t.Helper()
	ana := v.client("operator", "ana")
	volumes, err := ana.Volumes(v.t.Context())
	ok(v.t, err)
	nodes, err := ana.Nodes(v.t.Context())
	ok(v.t, err)
	for i := range nodes {
		nodes[i].LastSeenAt = time.Time{}
	}
	text, err := json.Marshal([]any{volumes, nodes})
	ok(v.t, err)
	return string(text)
}

// attack is one request and why it must fail.
type attack struct {
	name, as, method, path, body string
	headers                      []string
	status                       int
	code                         mobyfs.Code
}

func (v *victim) send(transport *http.Transport, a attack) (int, mobyfs.Code, string) {
	v.t.Helper()
	escaped, query, _ := strings.Cut(a.path, "?")
	plain, err := url.PathUnescape(escaped)
	ok(v.t, err)
	req, err := http.NewRequestWithContext(v.t.Context(), a.method, "https://"+v.address, strings.NewReader(a.body))
	if err != nil {
		v.t.Fatal(err)
	}
	req.URL.Path, req.URL.RawPath = plain, escaped // as it is written, whatever is in it
	req.URL.RawQuery = query
	req.Header.Set("Content-Type", "application/json")
	for i := 0; i+1 < len(a.headers); i += 2 {
		if a.headers[i] == "Host" {
			req.Host = a.headers[i+1]
			continue
		}
		req.Header.Set(a.headers[i], a.headers[i+1])
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		v.t.Fatal(err)
	}
	defer resp.Body.Close()
	var p struct {
		Code mobyfs.Code `json:"code"`
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
	ok(v.t, err)
	_ = json.Unmarshal(text, &p) // what is no problem has no code
	return resp.StatusCode, p.Code, string(text)
}

func TestAttacksFailForTheirReasonAndChangeNothing(t *testing.T) {
	v := newVictim(t)
	ofVolume := fmt.Sprintf(`{"volume":%q}`, v.pgdata.ID)
	lease := func(fence mobyfs.Fence) string { return fmt.Sprintf(`{"volume":%q,"fence":%d}`, v.pgdata.ID, fence) }
	migration := fmt.Sprintf(`{"volume":%q,"migration":%q`, v.moving.ID, v.moving.Migration.ID)
	receipt := `,"receipt":{"digest":"blake3:1","progress":{"files":1,"bytes":1,"total_bytes":1}}}`
	const create, release, claim = "/v1/volumes", "/v1/agent/release", "/v1/agent/claim"
	evil := []string{"Origin", "https://evil.example", "Sec-Fetch-Site", "cross-site"}
	attacks := []attack{
		{"a viewer removes", "viewer/vic", "DELETE", "/v1/volumes/moving", "", nil, 403, mobyfs.CodeDenied},
		{"a viewer creates", "viewer/vic", "POST", create, `{"name":"mine"}`, nil, 403, mobyfs.CodeDenied},
		{"a viewer changes labels", "viewer/vic", "PATCH", "/v1/volumes/pgdata", `{"labels":{"a":"b"}}`, nil, 403, mobyfs.CodeDenied},
		{"a viewer moves", "viewer/vic", "POST", "/v1/volumes/moving:move", `{"to":"h1"}`, nil, 403, mobyfs.CodeDenied},
		{"a viewer cancels", "viewer/vic", "POST", "/v1/volumes/moving:cancel-move", "", nil, 403, mobyfs.CodeDenied},
		{"a viewer takes over", "viewer/vic", "POST", "/v1/volumes/pgdata:takeover", `{"to":"h2","reason":"x"}`, nil, 403, mobyfs.CodeDenied},
		{"a viewer reads who did what", "viewer/vic", "GET", "/v1/audit", "", nil, 403, mobyfs.CodeDenied},
		{"a viewer reads sealed segments", "viewer/vic", "GET", "/v1/audit/segments/1", "", nil, 403, mobyfs.CodeDenied},
		{"a viewer makes a token", "viewer/vic", "POST", "/v1/pki/tokens", `{"role":"node"}`, nil, 403, mobyfs.CodeDenied},
		{"an auditor removes", "auditor/aud", "DELETE", "/v1/volumes/moving", "", nil, 403, mobyfs.CodeDenied},
		{"an auditor makes a token", "auditor/aud", "POST", "/v1/pki/tokens", `{"role":"node"}`, nil, 403, mobyfs.CodeDenied},
		{"an auditor fills the store with keys", "auditor/aud", "POST", create, `{"name":"mine"}`, []string{"Idempotency-Key", "k"}, 403, mobyfs.CodeDenied},
		{"an operator claims as a node", "operator/ana", "POST", claim, ofVolume, nil, 403, mobyfs.CodeDenied},
		{"an operator named as a node", "operator/h1", "POST", claim, ofVolume, nil, 403, mobyfs.CodeDenied},
		{"an operator with a node's header", "operator/ana", "POST", claim, ofVolume, []string{"X-Forwarded-Client-Cert", "URI=spiffe://shop/node/h1"}, 403, mobyfs.CodeDenied},
		{"control's own certificate removes", "control/control", "DELETE", "/v1/volumes/moving", "", nil, 403, mobyfs.CodeDenied},
		{"a node lists all", "node/h2", "GET", create, "", nil, 403, mobyfs.CodeDenied},
		{"a node reads events", "node/h2", "GET", "/v1/events", "", nil, 403, mobyfs.CodeDenied},
		{"a node reads the audit trail", "node/h2", "GET", "/v1/audit", "", nil, 403, mobyfs.CodeDenied},
		{"a node reads metrics", "node/h2", "GET", "/metrics", "", nil, 403, mobyfs.CodeDenied},
		{"a node moves to itself", "node/h2", "POST", "/v1/volumes/moving:move", `{"to":"h2"}`, nil, 403, mobyfs.CodeDenied},
		{"a node takes over", "node/h2", "POST", "/v1/volumes/pgdata:takeover", `{"to":"h2","reason":"x"}`, nil, 403, mobyfs.CodeDenied},
		{"a node labels a volume", "node/h1", "PATCH", "/v1/volumes/pgdata", `{"labels":{"a":"b"}}`, nil, 403, mobyfs.CodeDenied},
		{"a node makes a token", "node/h1", "POST", "/v1/pki/tokens", `{"role":"admin"}`, nil, 403, mobyfs.CodeDenied},
		{"a node releases another's lease", "node/h2", "POST", release, lease(v.pgdata.Fence), nil, 403, mobyfs.CodeDenied},
		{"a node claims what is in use", "node/h2", "POST", claim, ofVolume, nil, 409, mobyfs.CodeInUse},
		{"a node claims as another", "node/h2", "POST", claim, fmt.Sprintf(`{"volume":%q,"node":"h1"}`, v.pgdata.ID), nil, 422, mobyfs.CodeInvalid},
		{"a node makes another's volume ready", "node/h2", "POST", "/v1/agent/created", ofVolume, nil, 403, mobyfs.CodeDenied},
		{"a node deletes another's record", "node/h2", "POST", "/v1/agent/removed", ofVolume, nil, 403, mobyfs.CodeDenied},
		{"the home deletes what is not removed", "node/h1", "POST", "/v1/agent/removed", ofVolume, nil, 400, mobyfs.CodeInvalid},
		{"the source commits", "node/h1", "POST", "/v1/agent/commit", migration + receipt, nil, 403, mobyfs.CodeDenied},
		{"the source gets the ticket", "node/h1", "POST", "/v1/agent/accept", migration + "}", nil, 403, mobyfs.CodeDenied},
		{"the source aborts", "node/h1", "POST", "/v1/agent/abort", migration + `,"reason":"x"}`, nil, 403, mobyfs.CodeDenied},
		{"a stranger among nodes commits", "node/h3", "POST", "/v1/agent/commit", migration + receipt, nil, 403, mobyfs.CodeDenied},
		{"a commit without a receipt", "node/h2", "POST", "/v1/agent/commit", migration + `,"receipt":{"digest":"","progress":{"files":0,"bytes":0,"total_bytes":0}}}`, nil, 400, mobyfs.CodeInvalid},
		{"a commit of another migration", "node/h2", "POST", "/v1/agent/commit", fmt.Sprintf(`{"volume":%q,"migration":"01old"`, v.moving.ID) + receipt, nil, 409, mobyfs.CodeStaleFence},
		{"a fence from the future", "node/h1", "POST", release, lease(v.pgdata.Fence + 1), nil, 400, mobyfs.CodeInvalid},
		{"a negative fence", "node/h1", "POST", release, `{"volume":"x","fence":-1}`, nil, 422, mobyfs.CodeInvalid},
		{"an ID that is a key of the store", "node/h1", "POST", claim, `{"volume":"../../m/cluster"}`, nil, 404, mobyfs.CodeNotFound},
		{"takeover of what may never be", "operator/ana", "POST", "/v1/volumes/pgdata:takeover", `{"to":"h2","reason":"x"}`, nil, 400, mobyfs.CodeInvalid},
		{"a name with ../", "operator/ana", "POST", create, `{"name":"../../etc"}`, nil, 400, mobyfs.CodeInvalid},
		{"a name with NUL", "operator/ana", "POST", create, `{"name":"a\u0000b"}`, nil, 400, mobyfs.CodeInvalid},
		{"a name that is a script", "operator/ana", "POST", create, `{"name":"<script>alert(1)</script>"}`, nil, 400, mobyfs.CodeInvalid},
		{"a name in full width", "operator/ana", "POST", create, `{"name":"ｐｇdata"}`, nil, 400, mobyfs.CodeInvalid},
		{"a name in another case", "operator/ana", "POST", create, `{"name":"PGDATA"}`, nil, 409, mobyfs.CodeExists},
		{"a name of a megabyte", "operator/ana", "POST", create, `{"name":"` + strings.Repeat("x", 1<<20-64) + `"}`, nil, 400, mobyfs.CodeInvalid},
		{"a body of two megabytes", "operator/ana", "POST", create, `{"name":"` + strings.Repeat("x", 2<<20) + `"}`, nil, 413, mobyfs.CodeInvalid},
		{"a JSON bomb in depth", "operator/ana", "POST", create, strings.Repeat(`{"spec":`, 1<<16), nil, 400, mobyfs.CodeInvalid},
		{"a JSON bomb of brackets", "operator/ana", "POST", create, strings.Repeat("[", 1<<19), nil, 400, mobyfs.CodeInvalid},
		{"a name twice", "operator/ana", "POST", create, `{"name":"good","name":"evil"}`, nil, 400, mobyfs.CodeInvalid},
		{"a name in two cases", "operator/ana", "POST", create, `{"name":"good","Name":"evil"}`, nil, 422, mobyfs.CodeInvalid},
		{"an unknown field", "operator/ana", "POST", create, `{"name":"good","owner":"h2"}`, nil, 422, mobyfs.CodeInvalid},
		{"a form, as a page can send it", "operator/ana", "POST", create, `name=evil`, []string{"Content-Type", "application/x-www-form-urlencoded"}, 415, mobyfs.CodeInvalid},
		{"plain text, as a page can send it", "operator/ana", "POST", create, `{"name":"evil"}`, []string{"Content-Type", "text/plain"}, 415, mobyfs.CodeInvalid},
		{"labels that hide a line", "operator/ana", "PATCH", "/v1/volumes/pgdata", `{"labels":{"a":"b\nc"}}`, nil, 400, mobyfs.CodeInvalid},
		{"a page of another site creates", "operator/ana", "POST", create, `{"name":"evil"}`, evil, 403, mobyfs.CodeDenied},
		{"a page of another site reads events", "operator/ana", "GET", "/v1/events", "", evil, 403, mobyfs.CodeDenied},
		{"a page without a name", "operator/ana", "GET", "/v1/events", "", []string{"Origin", "null"}, 403, mobyfs.CodeDenied},
		{"DNS rebinding", "operator/ana", "GET", "/v1/events", "", []string{"Host", "evil.example", "Origin", "https://evil.example", "Sec-Fetch-Site", "same-origin"}, 403, mobyfs.CodeDenied},
		{"a path upwards", "operator/ana", "GET", "/v1/volumes/../cluster", "", nil, 400, mobyfs.CodeInvalid},
		{"a path upwards, encoded", "operator/ana", "DELETE", "/v1/volumes/%2e%2e%2fpgdata", "", nil, 400, mobyfs.CodeInvalid},
		{"a path with NUL", "operator/ana", "DELETE", "/v1/volumes/pg%00data", "", nil, 400, mobyfs.CodeInvalid},
		{"a segment outside of the trail", "auditor/aud", "GET", "/v1/audit/segments/..%2f..%2fpki%2fca.key", "", nil, 400, mobyfs.CodeInvalid},
		{"a forged cursor", "operator/ana", "GET", "/v1/volumes?cursor=eyJuIjoiLi4vIn0", "", nil, 400, mobyfs.CodeInvalid},
		{"events of the future", "operator/ana", "GET", "/v1/events?since=9000000000", "", nil, 400, mobyfs.CodeInvalid},
		{"a resume token that is none", "operator/ana", "GET", "/v1/events", "", []string{"Last-Event-ID", "1 OR 1=1"}, 400, mobyfs.CodeInvalid},
		{"a stale ETag", "operator/ana", "PATCH", "/v1/volumes/pgdata", `{"labels":{"a":"b"}}`, []string{"If-Match", `"1"`}, 412, mobyfs.CodeChanged},
		{"an ETag of the future", "operator/ana", "DELETE", "/v1/volumes/pgdata", "", []string{"If-Match", `"9000000000"`}, 412, mobyfs.CodeChanged},
	}
	before, failed := v.state(), 0
	v.refusals(0)
	transports := map[string]*http.Transport{}
	for _, a := range attacks {
		t.Run(a.name, func(t *testing.T) {
			transport := transports[a.as]
			if transport == nil {
				role, name, _ := strings.Cut(a.as, "/")
				tlsConfig, err := v.identity(role, name).ClientTLS(pki.RoleControl, pki.RoleControl)
				if err != nil {
					t.Fatal(err)
				}
				transport = &http.Transport{TLSClientConfig: tlsConfig, ForceAttemptHTTP2: true}
				transports[a.as] = transport
			}
			status, code, text := v.send(transport, a)
			if status != a.status || code != a.code {
				t.Errorf("got %d %s %.300s; want %d %s", status, code, text, a.status, a.code)
			}
			if strings.Contains(text, "goroutine") || strings.Contains(text, "/m/") && !strings.Contains(a.body, "/m/") || strings.Contains(text, "etcd") {
				t.Errorf("the answer tells of the inside: %s", text)
			}
			if isRefusal(a.status) {
				v.wantTold(t, "/"+a.as, a.code)
			}
			failed++
		})
	}
	for _, transport := range transports {
		transport.CloseIdleConnections()
	}
	if after := v.state(); after != before {
		t.Errorf("something was changed:\n%s\n%s", before, after)
	}
	t.Logf("%d attacks tried, besides the floods", failed)
	if failed < 40 {
		t.Errorf("there are %d attacks, 40 are the least", failed)
	}
}
