package api

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/mobyfs/mobyfs"
)

// keyHeader names a request, so that it can be repeated and is carried out once.
const keyHeader = "Idempotency-Key"

const (
	maxKey    = 128       // bytes
	maxAnswer = 256 << 10 // bytes of an answer that is kept
)

// pkiPath is where calls lie whose answers may hold secrets. None of them is kept, so they take no key.
const pkiPath = "/v1/pki/"

// Asked is a request that its client may repeat.
type Asked struct {
	Key    string // chosen by the client
	Who    string // the identity in its certificate
	Digest string // of method, path and body
}

// Answer is what was answered to a request.
type Answer struct {
	Status int               `json:"status"`
	Header map[string]string `json:"header,omitempty"`
	Body   []byte            `json:"body,omitempty"`
}

// keptHeaders are those that are part of an answer.
var keptHeaders = []string{"Content-Type", "ETag", "Link", "Retry-After"}

// answerOnce answers a request that has a key. Killed before the answer is kept, the request can be repeated once the
// first try is over: every decision that is asked for again is answered again, without a change.
func (s *Server) answerOnce(w http.ResponseWriter, r *http.Request, body []byte) {
	asked, err := askedIn(r, body)
	if err != nil {
		writeProblem(w, problemOf(err))
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), answerTimeout)
	defer cancel()
	before, err := s.service.Begin(ctx, caller(ctx), asked)
	if err != nil {
		s.note(r.Context(), "begin", err)
		writeProblem(w, problemOf(err))
		return
	}
	if before != nil {
		w.Header().Set("Idempotency-Replayed", "true")
		before.write(w)
		return
	}
	rec := &recorder{header: http.Header{}}
	s.record(rec, r, asked)
	rec.answer().write(w)
}

// record keeps what the handler answers, before anybody sees it. A panic keeps nothing.
func (s *Server) record(rec *recorder, r *http.Request, asked Asked) {
	defer s.finish(r, asked, rec)
	s.mux.ServeHTTP(rec, r)
	rec.whole = true
}

// finish keeps the answer, or forgets the request if it may turn out otherwise another time.
func (s *Server) finish(r *http.Request, asked Asked, rec *recorder) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), 5*time.Second)
	defer cancel()
	answer := rec.answer()
	if !rec.whole || !final(answer.Status) || len(answer.Body) > maxAnswer {
		answer = nil
	}
	if err := s.service.Finish(ctx, caller(ctx), asked, answer); err != nil {
		s.log.Warn("an answer could not be kept for its repetition", "key", asked.Key, "err", err)
	}
}

// final reports whether an answer of this status is the last word on a request.
func final(status int) bool {
	switch status {
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusForbidden, http.StatusUnauthorized:
		return false
	default:
		return status < http.StatusInternalServerError || status == http.StatusInsufficientStorage
	}
}

// askedIn names the request.
func askedIn(r *http.Request, body []byte) (Asked, error) {
	if strings.HasPrefix(r.URL.Path, pkiPath) {
		return Asked{}, mobyfs.Errorf(mobyfs.CodeInvalid, "%s takes no %s: its answer may hold a secret, which is not kept", r.URL.Path, keyHeader).
			WithHint("leave the key out; the request may be repeated as it is")
	}
	keys := r.Header.Values(keyHeader)
	key := keys[0]
	if len(keys) > 1 || len(key) > maxKey || strings.ContainsFunc(key, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return Asked{}, mobyfs.Errorf(mobyfs.CodeInvalid, "the %s is not one word of at most %d printable bytes", keyHeader, maxKey).
			WithHint("use a random UUID, a new one for each request that is not a repetition")
	}
	h := sha256.New()
	fmt.Fprintf(h, "%s %s\n%s\n", r.Method, r.URL.RequestURI(), r.Header.Get("If-Match"))
	h.Write(body)
	return Asked{Key: key, Who: caller(r.Context()).URI().String(), Digest: hex.EncodeToString(h.Sum(nil))}, nil
}

// newKey makes a key that no other request has.
func newKey() string { return rand.Text() }

// recorder keeps an answer until it is known to be whole.
type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
	whole  bool
}

func (r *recorder) Header() http.Header { return r.header }

func (r *recorder) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
}

func (r *recorder) Write(b []byte) (int, error) {
	r.WriteHeader(http.StatusOK)
	return r.body.Write(b)
}

func (r *recorder) answer() *Answer {
	a := &Answer{Status: r.status, Header: map[string]string{}, Body: r.body.Bytes()}
	for _, name := range keptHeaders {
		if v := r.header.Get(name); v != "" {
			a.Header[name] = v
		}
	}
	return a
}

func (a *Answer) write(w http.ResponseWriter) {
	for name, v := range a.Header {
		w.Header().Set(name, v)
	}
	w.WriteHeader(a.Status)
	_, _ = w.Write(a.Body) // if the client is gone it will ask again
}

// keyed reports whether a call changes what a repetition should not change again, and answers what may be kept.
func (c call) keyed() bool {
	return c.method == http.MethodPost && !strings.HasPrefix(c.path, pkiPath) && c != explainPlacement
}

// headers describes the headers that a call takes.
func (c call) headers() []*huma.Param {
	var all []*huma.Param
	text := &huma.Schema{Type: "string"}
	if c.keyed() {
		all = append(all, &huma.Param{Name: keyHeader, In: "header", Schema: text,
			Description: "names the request: whoever repeats it within a day gets the same answer, and it is carried out once"})
	}
	if c.matches() {
		all = append(all, &huma.Param{Name: "If-Match", In: "header", Schema: text,
			Description: "the ETag of the record to change; if it has another by now, nothing is changed"})
	}
	return all
}
