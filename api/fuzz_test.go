package api

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// FuzzRequest: any request of a member reaches the service, or is answered with a problem that says the way out; nothing
// breaks on the way.
func FuzzRequest(f *testing.F) {
	for _, c := range []struct{ method, target, kind, key, match, body string }{
		{"POST", "/v1/volumes", "application/json", "k1", "", `{"name":"pgdata","spec":{"labels":{"a":"b"}}}`},
		{"PATCH", "/v1/volumes/pgdata", "application/merge-patch+json", "", `"7"`, `{"labels":{"a":null},"size_bytes":5,"takeover":"auto"}`},
		{"DELETE", "/v1/volumes/pgdata", "", "", `W/"1"`, ""},
		{"POST", "/v1/volumes/pgdata:move", "application/json", "", "", `{"to":"h2"}`},
		{"GET", "/v1/volumes?label=a%3Db&limit=5&cursor=x", "", "", "", ""},
		{"GET", "/v1/volumes/pgdata:wait?revision=1&timeout=1", "", "", "", ""},
		{"POST", "/v1/agent/report", "application/json", "", "", `{"address":"h1:1","version":"v1","capacity":{"total_bytes":1,"free_bytes":1},"volumes":0}`},
		{"POST", "/v1/pki/enroll", "application/json", "", "", `{"token":"x","name":"h1","request":"x","clock":"2026-01-01T00:00:00Z"}`},
		{"POST", "/v1/pki/renew", "application/json", "", "", `{"chain":"x","request":"y","proof":"z"}`},
		{"GET", "/v1/audit/segments/7", "", "", "", ""},
		{"GET", "/v1/%2e%2e/x", "", "", "", ""},
		{"OPTIONS", "*", "", "", "", ""},
	} {
		f.Add(c.method, c.target, c.kind, c.key, c.match, []byte(c.body))
	}
	var log bytes.Buffer
	handler := NewServer(&fake{}, slog.New(slog.NewTextHandler(&log, nil))).Handler()
	member := &x509.Certificate{URIs: []*url.URL{(pki.Identity{Cluster: "shop", Role: "operator", Name: "ana"}).URI()}, DNSNames: []string{pki.ServerName("operator", "ana")}}
	state := &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{member}}}
	f.Fuzz(func(t *testing.T, method, target, kind, key, match string, body []byte) {
		r, err := http.NewRequestWithContext(t.Context(), method, "https://control", bytes.NewReader(body))
		if err != nil {
			return
		}
		if r.URL, err = url.ParseRequestURI(target); err != nil {
			return
		}
		r.TLS, r.RequestURI = state, target
		for name, value := range map[string]string{"Content-Type": kind, keyHeader: key, "If-Match": match} {
			if value != "" {
				r.Header.Set(name, value)
			}
		}
		log.Reset()
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		if w.Code == http.StatusInternalServerError && strings.Contains(log.String(), "(*fake)") || w.Code < 400 {
			return // it reached the service, which is none here
		}
		var p problem
		if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || p.Status != w.Code || p.Code == "" || p.Next == "" || w.Code >= 500 {
			t.Fatalf("%s %q with %q is answered %d %s (%v)\n%s", method, target, body, w.Code, w.Body, err, log.String())
		}
	})
}

// FuzzCheckJSON: a body that is agreed to means one thing, to any reader.
func FuzzCheckJSON(f *testing.F) {
	for _, text := range []string{`{"name":"pgdata","spec":{"labels":{"a":"b"}}}`, `{"a":1,"a":2}`, `{"a":1,"\u0061":2}`, `[]`, `{} {}`, "\xff", `"\ud800"`,
		strings.Repeat("[", 20) + strings.Repeat("]", 20), `{"a":[{"b":1},{"b":2}]}`, ``} {
		f.Add([]byte(text))
	}
	f.Add([]byte(" { \"a\" : [ 1 , -2.5 , true , null ] , \"b\" : { } , \"c\" : \"\\\"}\" } "))
	f.Add([]byte(`{"address":"h1:8080","capacity":{"total_bytes":1099511627776,"free_bytes":1e9},"n":1e999}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		if utf8.Valid(body) && isPlain(body) {
			if err := checkClosely(body); err != nil {
				t.Fatalf("%q looks plain, and is refused: %v", body, err)
			}
		}
		if err := checkJSON(body); err != nil {
			if p := refusalOf(err); p.Code != mobyfs.CodeInvalid || p.Next == "" || len(p.Detail) > 300 {
				t.Fatalf("%q is refused with %+v", body, p)
			}
			return
		}
		var v any
		if err := json.Unmarshal(body, &v); err != nil {
			t.Fatalf("%q is agreed to: %v", body, err)
		}
		if object, is := v.(map[string]any); is {
			if commas := bytes.Count(body, []byte(":")); commas < len(object) {
				t.Fatalf("%q has fewer names than it is read with", body)
			}
		}
	})
}

// FuzzSince: where a stream begins is a revision, or the request is refused in one line.
func FuzzSince(f *testing.F) {
	for _, q := range [][2]string{{"", ""}, {"since=5", ""}, {"since=5", "7"}, {"since=-1", ""}, {"since=1&since=2", ""}, {"x=1", ""}, {"", "9223372036854775807"}, {"%zz", ""}} {
		f.Add(q[0], q[1])
	}
	f.Fuzz(func(t *testing.T, query, last string) {
		since, err := sinceOf(query, last)
		if err != nil && (mobyfs.CodeOf(err) != mobyfs.CodeInvalid || mobyfs.HintOf(err) == "" || strings.ContainsAny(err.Error(), "\n\r\x00")) {
			t.Fatalf("refused with %q", err)
		}
		if err == nil && since < 0 {
			t.Fatalf("%q, %q begin at %d", query, last, since)
		}
	})
}

// FuzzEventStream: what a client reads from a stream is an event, a completion or an error.
func FuzzEventStream(f *testing.F) {
	f.Add(frames([]mobyfs.Event{{ID: "a", Revision: 1, Text: "x\ny"}, {ID: "b", Revision: 1}}, 7, true))
	f.Add([]byte("event: change\ndata: {\n\n"))
	f.Add([]byte(":\n\ndata\nevent\n\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		frame := sseFrame{each: func(mobyfs.Event) error { return nil }, complete: func(Complete) error { return nil }}
		for line := range bytes.SplitSeq(text, []byte("\n")) {
			if frame.line(line) != nil {
				return
			}
		}
	})
}

// FuzzNextCursor: a Link header that a client reads names a cursor or is refused.
func FuzzNextCursor(f *testing.F) {
	f.Add(nextLink(VolumeQuery{Labels: []string{"a=b"}}, "cursor"))
	f.Add(`<x>; rel="next"`)
	f.Fuzz(func(t *testing.T, link string) {
		cursor, err := nextCursor(link)
		if (cursor == "") != (err != nil || link == "") {
			t.Fatalf("%q is read as %q, %v", link, cursor, err)
		}
	})
}

// What agents say is plain: nobody has to look at it closely.
func TestReportsArePlain(t *testing.T) {
	for _, what := range []any{
		mobyfs.Report{Address: "h1:8080", Version: "v1", Volumes: 3, Capacity: mobyfs.Capacity{TotalBytes: 1 << 40, FreeBytes: 1 << 39}},
		ofVolume{"v"}, ofLease{"v", 7}, ofMigration{"v", "m"},
	} {
		body, err := json.Marshal(what)
		if err != nil || !isPlain(body) {
			t.Errorf("%s is not plain (%v)", body, err)
		}
	}
}

func BenchmarkCheckJSON(b *testing.B) {
	body := []byte(`{"address":"h1:8080","version":"v1","instance":"abc","capacity":{"total_bytes":1099511627776,"free_bytes":549755813888},"volumes":2}`)
	b.Run("plain", func(b *testing.B) {
		for b.Loop() {
			_ = checkJSON(body)
		}
	})
	b.Run("closely", func(b *testing.B) {
		for b.Loop() {
			_ = checkClosely(body)
		}
	})
}
