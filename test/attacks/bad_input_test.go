package attacks

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/api"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// Whatever is wrong with a request: the answer is a problem (RFC 9457) with the status, a code for programs, what was wrong
// and the way out; nothing was changed; and the audit trail tells of it, unless it is the state of the cluster that forbids it.
func TestBadInputIsRefusedWithItsReasonItsWayOutAndALineInTheTrail(t *testing.T) {
	const create, volume = "/v1/volumes", "/v1/volumes/pgdata"
	labelled := func(key string) string { return `{"labels":{"` + key + `":"x"}}` }
	v := newVictim(t)
	ana := v.transport("operator", "ana")
	if status, _, text := v.send(ana, attack{method: "PATCH", path: volume, body: labelled("caf\u00e9")}); status != 200 { // composed
		t.Fatal(status, text)
	}
	if status, _, text := v.send(ana, attack{method: "POST", path: create, body: `{"name":"shop"}`, headers: []string{"Idempotency-Key", "k1"}}); status != 200 {
		t.Fatal(status, text)
	}
	used := v.usedToken()
	csr := v.request()
	enrol := func(token, name string) string {
		text, err := json.Marshal(api.EnrollRequest{Token: token, Name: name, Request: csr, Clock: v.now()})
		ok(t, err)
		return string(text)
	}
	json := func(more ...string) []string { return append([]string{"Content-Type", "application/json"}, more...) }
	rows := []attack{
		{"a body that is no JSON", "operator/a", "POST", create, `name=evil`, nil, 400, mobyfs.CodeInvalid},
		{"a body that is cut", "operator/a", "POST", create, `{"name":"evil"`, nil, 400, mobyfs.CodeInvalid},
		{"two bodies", "operator/a", "POST", create, `{"name":"evil"}{"name":"good"}`, nil, 400, mobyfs.CodeInvalid},
		{"a body that is not UTF-8", "operator/a", "POST", create, "{\"name\":\"\xff\xfe\"}", nil, 400, mobyfs.CodeInvalid},
		{"a body in UTF-16", "operator/a", "POST", create, "\xff\xfe{\x00}\x00", nil, 400, mobyfs.CodeInvalid},
		{"no body", "operator/a", "POST", create, "", nil, 400, mobyfs.CodeInvalid},
		{"a list for an object", "operator/a", "POST", create, `[{"name":"evil"}]`, nil, 422, mobyfs.CodeInvalid},
		{"a number for a name", "operator/a", "POST", create, `{"name":5}`, nil, 422, mobyfs.CodeInvalid},
		{"null for a name", "operator/a", "POST", create, `{"name":null}`, nil, 422, mobyfs.CodeInvalid},
		{"a member twice", "operator/a", "PATCH", volume, `{"size_bytes":1,"size_bytes":2}`, nil, 400, mobyfs.CodeInvalid},
		{"a member that there is not", "operator/a", "PATCH", volume, `{"fence":9}`, nil, 422, mobyfs.CodeInvalid},
		{"a member in another case", "operator/a", "PATCH", volume, `{"Labels":{"a":"b"}}`, nil, 422, mobyfs.CodeInvalid},
		{"17 levels", "operator/a", "POST", create, strings.Repeat(`{"a":`, 17) + "1" + strings.Repeat("}", 17), nil, 400, mobyfs.CodeInvalid},
		{"a body of two megabytes", "operator/a", "POST", create, `{"name":"` + strings.Repeat("x", 2<<20) + `"}`, nil, 413, mobyfs.CodeInvalid},
		{"a body that says it is text", "operator/a", "POST", create, `{"name":"evil"}`, []string{"Content-Type", "text/plain"}, 415, mobyfs.CodeInvalid},
		{"a body that does not say what it is", "operator/a", "POST", create, `{"name":"evil"}`, []string{"Content-Type", ""}, 415, mobyfs.CodeInvalid},
		{"a merge patch for what is none", "operator/a", "POST", create, `{"name":"evil"}`, []string{"Content-Type", "application/merge-patch+json"}, 415, mobyfs.CodeInvalid},
		{"a query that there is not", "operator/a", "GET", create + "?all=1", "", nil, 422, mobyfs.CodeInvalid},
		{"a path upwards", "operator/a", "DELETE", create + "/..%2fpgdata", "", nil, 400, mobyfs.CodeInvalid},
		{"a size that no disk has", "operator/a", "PATCH", volume, `{"size_bytes":1e30}`, nil, 422, mobyfs.CodeInvalid},
		{"a size below zero", "operator/a", "PATCH", volume, `{"size_bytes":-1}`, nil, 422, mobyfs.CodeInvalid},
		{"a takeover that there is not", "operator/a", "PATCH", volume, `{"takeover":"always"}`, nil, 422, mobyfs.CodeInvalid},
		{"null for a size", "operator/a", "PATCH", volume, `{"size_bytes":null}`, nil, 422, mobyfs.CodeInvalid},
		{"a takeover that the backend can't do", "operator/a", "PATCH", volume, `{"takeover":"auto"}`, nil, 400, mobyfs.CodeInvalid},

		{"a volume's name with an accent", "operator/a", "POST", create, `{"name":"caf` + "\u00e9" + `"}`, nil, 400, mobyfs.CodeInvalid},
		{"the same name, decomposed", "operator/a", "POST", create, `{"name":"caf` + "e\u0301" + `"}`, nil, 400, mobyfs.CodeInvalid},
		{"a label's name that differs from another by its form", "operator/a", "PATCH", volume, labelled("caf" + "e\u0301"), nil, 400, mobyfs.CodeInvalid},
		{"the same, escaped", "operator/a", "PATCH", volume, labelled(`cafe\u0301`), nil, 400, mobyfs.CodeInvalid},
		{"a node's name in Cyrillic", "operator/a", "POST", volume + ":move", `{"to":"` + "\u04bb1" + `"}`, nil, 400, mobyfs.CodeInvalid},
		{"a name with a hidden character", "operator/a", "POST", create, `{"name":"pg` + "\u200b" + `data"}`, nil, 400, mobyfs.CodeInvalid},
		{"a name that is read backwards", "operator/a", "POST", create, `{"name":"` + "\u202e" + `atadgp"}`, nil, 400, mobyfs.CodeInvalid},

		{"a stale ETag", "operator/a", "PATCH", volume, labelled("a"), json("If-Match", `"1"`), 412, mobyfs.CodeChanged},
		{"a weak ETag", "operator/a", "PATCH", volume, labelled("a"), json("If-Match", `W/"1"`), 400, mobyfs.CodeInvalid},
		{"an ETag for what has none", "operator/a", "GET", create, "", []string{"If-Match", `"1"`}, 400, mobyfs.CodeInvalid},
		{"a key with another body", "operator/ana", "POST", create, `{"name":"evil"}`, json("Idempotency-Key", "k1"), 422, mobyfs.CodeReused},
		{"a key of somebody else", "operator/a", "POST", create, `{"name":"shop"}`, json("Idempotency-Key", "k1"), 422, mobyfs.CodeReused},
		{"a key for another call", "operator/ana", "POST", volume + ":move", `{"to":"h2"}`, json("Idempotency-Key", "k1"), 422, mobyfs.CodeReused},
		{"a key of two words", "operator/a", "POST", create, `{"name":"evil"}`, json("Idempotency-Key", "k 1"), 400, mobyfs.CodeInvalid},
		{"a cursor that nobody gave", "operator/a", "GET", create + "?cursor=eyJ4Ijox", "", nil, 400, mobyfs.CodeInvalid},
		{"a resume token that nobody gave", "operator/a", "GET", "/v1/events", "", []string{"Last-Event-ID", "\u00b2"}, 400, mobyfs.CodeInvalid},
		{"events of the future", "operator/a", "GET", "/v1/events?since=99999999999", "", nil, 400, mobyfs.CodeInvalid},

		{"a token that was used", "", "POST", "/v1/pki/enroll", enrol(used, "h7"), nil, 403, mobyfs.CodeDenied},
		{"a token that was used, for another name", "", "POST", "/v1/pki/enroll", enrol(used, "h8"), nil, 403, mobyfs.CodeDenied},
		{"a token that is none", "", "POST", "/v1/pki/enroll", enrol("mby1.node.x.y.z", "h8"), nil, 400, mobyfs.CodeInvalid},
		{"no certificate, for what needs one", "", "GET", create, "", nil, 401, mobyfs.CodeDenied},
	}
	before := v.state()
	v.refusals(0)
	for _, a := range rows {
		t.Run(a.name, func(t *testing.T) {
			status, text := v.answer(a)
			var p struct {
				Type, Title, Detail, Next string
				Status                    int
				Code                      mobyfs.Code
			}
			if err := jsonOf(text, &p); err != nil {
				t.Fatalf("the answer is no problem: %d %.200s", status, text)
			}
			if status != a.status || p.Code != a.code || p.Status != a.status || p.Type != "urn:mobyfs:"+string(a.code) {
				t.Errorf("got %d %.300s; want %d %s", status, text, a.status, a.code)
			}
			if p.Title == "" || p.Detail == "" || p.Next == "" || strings.ContainsAny(p.Detail, "\n\x00\u202e\u200b") {
				t.Errorf("title %q, detail %q, way out %q", p.Title, p.Detail, p.Next)
			}
			if isRefusal(a.status) {
				v.wantTold(t, a.as, a.code)
			}
		})
	}
	if after := v.state(); after != before {
		t.Errorf("something was changed:\n%s\n%s", before, after)
	}
}

func jsonOf(text string, into any) error { return json.Unmarshal([]byte(text), into) }

// answer sends a request as whoever the row says, or through the door as nobody.
func (v *victim) answer(a attack) (int, string) {
	v.t.Helper()
	role, name, somebody := strings.Cut(a.as, "/")
	var transport *http.Transport
	if somebody {
		transport = v.transport(role, name)
	} else {
		door, err := pki.DoorTLS(v.authority.CertPEM)
		ok(v.t, err)
		transport = &http.Transport{TLSClientConfig: door, ForceAttemptHTTP2: true}
		v.t.Cleanup(transport.CloseIdleConnections)
	}
	status, _, text := v.send(transport, a)
	return status, text
}

// request is a certificate request for a new key.
func (v *victim) request() string {
	v.t.Helper()
	csr, err := pki.FilesIn(v.t.TempDir(), "x").NewRequest()
	ok(v.t, err)
	return string(csr)
}

// usedToken is one that somebody has joined with.
func (v *victim) usedToken() string {
	v.t.Helper()
	made, err := v.client("operator", "ana").CreateToken(v.t.Context(), api.TokenRequest{Role: pki.RoleNode})
	ok(v.t, err)
	_, err = api.Join(v.t.Context(), []string{v.address}, made.Token, "h7", pki.FilesIn(v.t.TempDir(), "node"), v.now)
	ok(v.t, err)
	return made.Token
}

// Whoever shows no certificate of the cluster that is good now gets no answer at all, and the trail tells from where they came.
func TestStrangersCertificatesAreRefusedAndTold(t *testing.T) {
	v := newVictim(t)
	before := v.state()
	foreign, err := pki.NewAuthority(t.TempDir(), "shop")
	ok(t, err)
	signed := func(by *pki.Authority, role string, at time.Time) pki.Files {
		f := pki.FilesIn(t.TempDir(), "x")
		csr, err := f.NewRequest()
		ok(t, err)
		cert, err := by.Issuer(pki.IssuerOf(role)).Sign(csr, pki.Identity{Cluster: "shop", Role: role, Name: "ana"}, at)
		ok(t, err)
		ok(t, f.Install(cert, v.authority.CertPEM)) // he knows whom to believe
		return f
	}
	evicted := signed(v.authority, pki.RoleViewer, time.Now().Add(-time.Minute))
	ok(t, v.client("operator", "ana").Evict(t.Context(), pki.RoleViewer, "ana", "left"))
	v.refusals(0)
	for name, files := range map[string]pki.Files{
		"an expired certificate":         signed(v.authority, pki.RoleOperator, time.Now().Add(-pki.LeafLife-2*time.Hour)),
		"one that is not good yet":       signed(v.authority, pki.RoleOperator, time.Now().Add(3*time.Hour)),
		"one of another authority":       signed(foreign, pki.RoleOperator, time.Now()),
		"one of somebody who is evicted": evicted,
		"none":                           {},
	} {
		config := &tls.Config{InsecureSkipVerify: true, ServerName: pki.ServerName(pki.RoleControl, pki.RoleControl), NextProtos: []string{"http/1.1"}}
		if files.Cert != "" {
			pair, err := tls.LoadX509KeyPair(files.Cert, files.Key)
			ok(t, err)
			config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
		}
		if answer, err := ask(t, v.address, config); err == nil {
			t.Errorf("%s: answered with %q", name, answer)
		}
		v.wantTold(t, "", mobyfs.CodeDenied)
	}
	if after := v.state(); after != before {
		t.Error("something was changed")
	}
}

// ask makes a request on a connection of its own, and reads until the server ends it.
func ask(t *testing.T, address string, config *tls.Config) (string, error) {
	t.Helper()
	conn, err := (&tls.Dialer{Config: config}).DialContext(t.Context(), "tcp", address)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	ok(t, conn.SetDeadline(time.Now().Add(20*time.Second)))
	if _, err := io.WriteString(conn, "GET /v1/volumes HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); err != nil {
		return "", err
	}
	text, err := io.ReadAll(conn)
	if err == nil && len(text) == 0 {
		err = errors.New("no answer")
	}
	return string(text), err
}
