package control

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/api"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// asks is one who sends requests with headers of their own.
type asks struct {
	f         *fleet
	transport *http.Transport
}

func (f *fleet) asks(role, name string) asks {
	f.t.Helper()
	tlsConfig, err := f.files(f.authority, role, name).ClientTLS("control", "control")
	if err != nil {
		f.t.Fatal(err)
	}
	a := asks{f, &http.Transport{TLSClientConfig: tlsConfig, ForceAttemptHTTP2: true}}
	f.t.Cleanup(a.transport.CloseIdleConnections)
	return a
}

// do sends a request with pairs of header names and values.
func (a asks) do(method, path, body string, headers ...string) (*http.Response, []byte) {
	a.f.t.Helper()
	req, err := http.NewRequestWithContext(a.f.t.Context(), method, "https://"+a.f.address+path, strings.NewReader(body))
	if err != nil {
		a.f.t.Fatal(err)
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
	}
	resp, err := a.transport.RoundTrip(req)
	if err != nil {
		a.f.t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		a.f.t.Fatal(err)
	}
	return resp, answer
}

func problemIn(t *testing.T, body []byte) (p struct {
	Code  mobyfs.Code `json:"code"`
	Next  string      `json:"next"`
	Retry int         `json:"retry_after"`
}) {
	t.Helper()
	if err := json.Unmarshal(body, &p); err != nil {
		t.Fatalf("no problem: %q", body)
	}
	return p
}

func TestRepeatedRequestGetsTheSameAnswerAlsoAfterARestart(t *testing.T) {
	f := newFleet(t, true)
	f.node("h1")
	f.node("h2")
	f.ready("pgdata", "h1")
	ana := f.asks("operator", "ana")
	const key = "Idempotency-Key"
	move := func(a asks, to, key string) (*http.Response, []byte) {
		return a.do("POST", "/v1/volumes/pgdata:move", `{"to":"`+to+`"}`, "Idempotency-Key", key)
	}
	first, answer := move(ana, "h2", "k1")
	if first.StatusCode != 200 || first.Header.Get("Idempotency-Replayed") != "" {
		t.Fatalf("got %s %s", first.Status, answer)
	}
	must[mobyfs.Volume](t)(f.operator().CancelMove(t.Context(), "pgdata"))
	before := f.record("pgdata")
	again, repeated := move(ana, "h2", "k1")
	if again.StatusCode != 200 || string(repeated) != string(answer) || again.Header.Get("Idempotency-Replayed") != "true" || again.Header.Get("ETag") != first.Header.Get("ETag") {
		t.Errorf("repeated: %s %s\nfirst:    %s", again.Status, repeated, answer)
	}
	for name, ask := range map[string]func() (*http.Response, []byte){
		"another body":      func() (*http.Response, []byte) { return move(ana, "h1", "k1") },
		"another principal": func() (*http.Response, []byte) { return move(f.asks("operator", "bob"), "h2", "k1") },
		"another role":      func() (*http.Response, []byte) { return move(f.asks("admin", "ana"), "h2", "k1") },
		"another call": func() (*http.Response, []byte) {
			return ana.do("POST", "/v1/volumes/pgdata:cancel-move", "", key, "k1")
		},
		"the same with If-Match": func() (*http.Response, []byte) {
			return ana.do("POST", "/v1/volumes/pgdata:move", `{"to":"h2"}`, key, "k1", "If-Match", `"1"`)
		},
	} {
		resp, body := ask()
		if resp.StatusCode != 422 || problemIn(t, body).Code != mobyfs.CodeReused {
			t.Errorf("%s: got %s %s", name, resp.Status, body)
		}
	}
	for _, bad := range []string{strings.Repeat("k", 129), "two words", "caf\xc3\xa9"} {
		if resp, body := move(ana, "h2", bad); resp.StatusCode != 400 || problemIn(t, body).Code != mobyfs.CodeInvalid {
			t.Errorf("key %q: got %s %s", bad, resp.Status, body)
		}
	}
	f.restart()
	if again, repeated := move(f.asks("operator", "ana"), "h2", "k1"); again.StatusCode != 200 || string(repeated) != string(answer) {
		t.Errorf("after a restart: %s %s", again.Status, repeated)
	}
	if after := f.record("pgdata"); after.Revision != before.Revision {
		t.Errorf("the record was written: %+v", after)
	}
}

func TestRefusalThatMayEndIsNotKept(t *testing.T) {
	f := newFleet(t, true)
	f.node("h1")
	ana := f.asks("operator", "ana")
	f.advance(mobyfs.SessionTTL + time.Second)
	create := func() *http.Response {
		resp, _ := ana.do("POST", "/v1/volumes", `{"name":"pgdata","node":"h1"}`, "Idempotency-Key", "k1")
		return resp
	}
	if got := create(); got.StatusCode != 503 || got.Header.Get("Retry-After") == "" {
		t.Fatalf("with a silent node: %s, Retry-After %q", got.Status, got.Header.Get("Retry-After"))
	}
	f.node("h1")
	if got := create(); got.StatusCode != 200 {
		t.Errorf("once it is there: %s", got.Status)
	}
}

func TestOneOfManyEqualRequestsIsCarriedOut(t *testing.T) {
	f := newFleet(t, true)
	f.node("h1")
	ana := f.asks("operator", "ana")
	answers := make([]string, 8)
	var all sync.WaitGroup
	for i := range answers {
		all.Go(func() {
			for {
				resp, body := ana.do("POST", "/v1/volumes", `{"name":"pgdata"}`, "Idempotency-Key", "k1")
				if resp.StatusCode != 429 {
					answers[i] = resp.Status + string(body)
					return
				}
			}
		})
	}
	all.Wait()
	for _, a := range answers {
		if a != answers[0] || !strings.HasPrefix(a, "200") {
			t.Errorf("got %s\nand %s", a, answers[0])
		}
	}
}

// TestRequestOfADeadProcessCanBeRepeated: control was killed between the decision and the answer.
func TestRequestOfADeadProcessCanBeRepeated(t *testing.T) {
	f := newFleet(t, false)
	ana := pki.Identity{Cluster: "shop", Role: pki.RoleOperator, Name: "ana"}
	asked := api.Asked{Key: "k1", Who: ana.URI().String(), Digest: "d"}
	begin := func() (*api.Answer, error) { return f.control.Begin(t.Context(), ana, asked) }
	if a, err := begin(); a != nil || err != nil {
		t.Fatalf("at first: %v, %v", a, err)
	}
	if _, err := begin(); mobyfs.CodeOf(err) != mobyfs.CodeBusy {
		t.Errorf("while it is answered: %v", err)
	}
	f.restart()
	f.clock.advance(requestWork)
	if a, err := begin(); a != nil || err != nil {
		t.Errorf("once its process is dead: %v, %v", a, err)
	}
	if err := f.control.Finish(t.Context(), ana, asked, &api.Answer{Status: 200, Body: []byte("x")}); err != nil {
		t.Fatal(err)
	}
	if a, err := begin(); err != nil || a == nil || string(a.Body) != "x" {
		t.Errorf("once it is answered: %v, %v", a, err)
	}
	f.clock.advance(requestLife + time.Second)
	if err := f.control.forgetRequests(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left, err := f.control.store.RequestsBefore(t.Context(), f.clock.Now().Add(time.Hour), 10); err != nil || len(left) != 0 {
		t.Errorf("after a day there are %d, %v", len(left), err)
	}
}

func TestStaleETagChangesNothing(t *testing.T) {
	f := newFleet(t, true)
	f.node("h1")
	f.node("h2")
	v := f.ready("pgdata", "h1")
	ana := f.asks("operator", "ana")
	got, _ := ana.do("GET", "/v1/volumes/pgdata", "")
	old := got.Header.Get("ETag")
	if old != fmt.Sprintf(`"%d"`, v.Revision) {
		t.Fatalf("the ETag is %s, the revision %d", old, v.Revision)
	}
	resp, body := ana.do("PATCH", "/v1/volumes/pgdata", `{"labels":{"app":"shop"}}`, "If-Match", old)
	if resp.StatusCode != 200 || resp.Header.Get("ETag") == old {
		t.Fatalf("with the right ETag: %s %s", resp.Status, body)
	}
	before := f.record("pgdata")
	for _, call := range [][3]string{
		{"PATCH", "/v1/volumes/pgdata", `{"labels":{"app":null}}`},
		{"DELETE", "/v1/volumes/pgdata", ""},
		{"POST", "/v1/volumes/pgdata:move", `{"to":"h2"}`},
		{"POST", "/v1/volumes/pgdata:cancel-move", ""},
	} {
		resp, body := ana.do(call[0], call[1], call[2], "If-Match", old)
		if p := problemIn(t, body); resp.StatusCode != 412 || p.Code != mobyfs.CodeChanged || p.Next == "" {
			t.Errorf("%s %s: got %s %s", call[0], call[1], resp.Status, body)
		}
		for _, bad := range []string{`W/"1"`, "1", `"x"`, `""`, `"1", "2"`, `"-1"`, `"01"`} {
			resp, body := ana.do(call[0], call[1], call[2], "If-Match", bad)
			if resp.StatusCode != 400 || problemIn(t, body).Code != mobyfs.CodeInvalid {
				t.Errorf("%s %s with %s: got %s %s", call[0], call[1], bad, resp.Status, body)
			}
		}
	}
	if resp, body := ana.do("POST", "/v1/volumes", `{"name":"other"}`, "If-Match", old); resp.StatusCode != 400 {
		t.Errorf("create with If-Match: %s %s", resp.Status, body)
	}
	if after := f.record("pgdata"); after.Revision != before.Revision {
		t.Errorf("the record was written: %+v", after)
	}
	if resp, body := ana.do("DELETE", "/v1/volumes/pgdata", "", "If-Match", fmt.Sprintf(`"%d"`, before.Revision)); resp.StatusCode != 204 {
		t.Errorf("with the right ETag: %s %s", resp.Status, body)
	}
}

func TestPatchChangesWhatItNamesAndNothingElse(t *testing.T) {
	both(t, func(t *testing.T, f *fleet) {
		f.node("h1")
		ctx, op := t.Context(), f.operator()
		must[mobyfs.Volume](t)(op.CreateVolume(ctx, "pgdata", mobyfs.VolumeSpec{SizeBytes: 5, Labels: map[string]string{"app": "shop", "tier": "gold"}}, "h1"))
		blog := "blog"
		v := must[mobyfs.Volume](t)(op.PatchVolume(ctx, "pgdata", api.VolumePatch{Labels: map[string]*string{"app": &blog, "tier": nil, "none": nil}}))
		if len(v.Spec.Labels) != 1 || v.Spec.Labels["app"] != "blog" || v.Spec.SizeBytes != 5 || v.Fence != 1 {
			t.Errorf("it became %+v", v)
		}
		again := must[mobyfs.Volume](t)(op.PatchVolume(ctx, "pgdata", api.VolumePatch{Labels: map[string]*string{"app": &blog}}))
		if again.Revision != v.Revision {
			t.Error("a change that is there already is written again")
		}
		for _, bad := range []string{"", "e\u0301", "a\nb", strings.Repeat("x", 64)} {
			_, err := op.PatchVolume(ctx, "pgdata", api.VolumePatch{Labels: map[string]*string{bad: &blog}})
			wantCode(t, err, mobyfs.CodeInvalid)
		}
		if got := f.record("pgdata"); got.Revision != v.Revision {
			t.Errorf("the record was written: %+v", got)
		}
	})
}

func TestPagesTellOfEachVolumeOnceWhateverIsWrittenMeanwhile(t *testing.T) {
	both(t, func(t *testing.T, f *fleet) {
		f.node("h1")
		f.node("h2")
		ctx, op := t.Context(), f.operator()
		create := func(name, node string, labels map[string]string) {
			must[mobyfs.Volume](t)(op.CreateVolume(ctx, name, mobyfs.VolumeSpec{Labels: labels}, node))
		}
		var want []string
		for i := range 25 {
			name := fmt.Sprintf("vol-%02d", i)
			create(name, []string{"h1", "h2"}[i%2], map[string]string{"app": fmt.Sprint(i % 3)})
			want = append(want, name)
		}
		var got []string
		q := api.VolumeQuery{Limit: 4}
		for i := 0; ; i++ {
			page := must[api.VolumePage](t)(op.VolumePage(ctx, q))
			for _, v := range page.Volumes {
				if strings.HasPrefix(v.Name, "vol-") {
					got = append(got, v.Name)
				}
			}
			if q.Cursor = page.Next; page.Next == "" {
				break
			}
			create(fmt.Sprintf("a-new-%d", i), "h1", nil) // lie before and behind what was told
			create(fmt.Sprintf("z-new-%d", i), "h1", nil)
		}
		if !slices.Equal(got, want) {
			t.Errorf("told are %v", got)
		}
		for _, tc := range []struct {
			q    api.VolumeQuery
			want int
		}{
			{api.VolumeQuery{Node: "h2"}, 12},
			{api.VolumeQuery{Labels: []string{"app=0"}}, 9},
			{api.VolumeQuery{Labels: []string{"app=0", "app"}, Node: "h1"}, 5},
			{api.VolumeQuery{Labels: []string{"app=0", "app=1"}}, 0},
			{api.VolumeQuery{Text: "OL-1"}, 10},
			{api.VolumeQuery{State: "ready"}, 0},
			{api.VolumeQuery{State: "creating", Text: "vol"}, 25},
		} {
			if page := must[api.VolumePage](t)(op.VolumePage(ctx, tc.q)); len(page.Volumes) != tc.want || page.Next != "" {
				t.Errorf("%+v: %d volumes, want %d", tc.q, len(page.Volumes), tc.want)
			}
		}
		for _, bad := range []string{"x", "e30", "bnVsbA", "!!", cursor{"a", ""}.String(), cursor{"a", "b"}.String() + "A"} {
			_, err := op.VolumePage(ctx, api.VolumeQuery{Cursor: bad})
			wantCode(t, err, mobyfs.CodeInvalid)
		}
	})
}

func TestWaitAnswersWithTheChangeOrWhenPatienceEnds(t *testing.T) {
	f := newFleet(t, true)
	f.node("h1")
	v := f.ready("pgdata", "h1")
	ana := f.operator()
	changed := make(chan mobyfs.Volume)
	go func() {
		changed <- must[mobyfs.Volume](t)(ana.WaitVolume(t.Context(), "pgdata", v.Revision, 10*time.Second))
	}()
	shop := "shop"
	after := must[mobyfs.Volume](t)(f.operator().PatchVolume(t.Context(), "pgdata", api.VolumePatch{Labels: map[string]*string{"app": &shop}}))
	if got := <-changed; got.Revision != after.Revision {
		t.Errorf("it was told revision %d, want %d", got.Revision, after.Revision)
	}
	if now := must[mobyfs.Volume](t)(ana.WaitVolume(t.Context(), "pgdata", after.Revision, 0)); now.Revision != after.Revision {
		t.Errorf("without patience: revision %d", now.Revision)
	}
	_, err := ana.WaitVolume(t.Context(), "nosuch", 0, time.Second)
	wantCode(t, err, mobyfs.CodeNotFound)
}

// TestMayIsATableAndNothingElse walks all pairs of roles and actions, those that nobody has thought of too.
func TestMayIsATableAndNothingElse(t *testing.T) {
	for _, role := range []string{"", "root", "Operator", "operator ", "node/h1", pki.RoleControl, pki.RoleDocker, pki.RolePeer} {
		for _, do := range allActions {
			if may(role, do) {
				t.Errorf("%q may %s", role, do)
			}
		}
	}
	for _, role := range []string{pki.RoleOperator, pki.RoleAdmin, pki.RoleViewer, pki.RoleAuditor, pki.RoleNode} {
		for _, do := range []action{"", "claim", "CLAIM VOLUMES", "claim volumes "} {
			if may(role, do) {
				t.Errorf("%q may %q", role, do)
			}
		}
	}
}

var allActions = []action{doCreate, doGet, doRemove, doWatch, doList, doMove, doCreated, doRemoved, doClaim, doRelease,
	doAccept, doCommit, doAbort, doReport, doMeasure, doEvents, doPatch, doRepeat, doAudit}
