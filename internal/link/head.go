package link

import (
	"encoding/binary"
	"fmt"
	"net/http"
	"net/textproto"
	"net/url"
	"strings"
)

// Bounds of what comes before a body.
const (
	maxHead    = 64 << 10 // bytes
	maxHeaders = 64
)

// request is a request as a frame holds it: method, target, headers, body.
type request struct {
	method, target string
	header         http.Header
	body           []byte
}

// answer is an answer as a frame holds it.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// usual are texts that nearly every frame holds; they are not made anew for each.
var usual = func() map[string]string {
	all := map[string]string{}
	for _, s := range []string{
		"GET", "POST", "PATCH", "DELETE", "Content-Type", "Traceparent", "Cache-Control", "Idempotency-Key", "If-Match", "Etag", "Link",
		"Retry-After", "application/json", "application/x-ndjson", "application/problem+json", "no-store",
	} {
		all[s] = s
	}
	return all
}()

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// reader reads texts and numbers until the first that is not there.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) number() uint64 {
	n, size := binary.Uvarint(r.b)
	if size <= 0 {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[size:]
	return n
}

func (r *reader) text() string {
	n := r.number()
	if n > uint64(len(r.b)) {
		r.bad, r.b = true, nil
		return ""
	}
	text := r.b[:n]
	r.b = r.b[n:]
	if s, ok := usual[string(text)]; ok {
		return s
	}
	return string(text)
}

func appendHeader(b []byte, h http.Header) []byte {
	n := 0
	for _, values := range h {
		n += len(values)
	}
	b = binary.AppendUvarint(b, uint64(n))
	for name, values := range h {
		for _, v := range values {
			b = appendText(appendText(b, name), v)
		}
	}
	return b
}

// header reads one. Names stand as http.Header has them, so that nobody finds by another name what was looked for.
func (r *reader) header() http.Header {
	n := r.number()
	if n > maxHeaders {
		r.bad = true
	}
	if n == 0 || r.bad {
		return http.Header{}
	}
	h := make(http.Header, n)
	for range n {
		name, value := r.text(), r.text()
		if r.bad || !isHeader(name, value) {
			r.bad = true
			return nil
		}
		h[name] = append(h[name], value)
	}
	return h
}

// isHeader reports whether a header could stand in a request of HTTP.
func isHeader(name, value string) bool {
	if name == "" || usual[name] == "" && textproto.CanonicalMIMEHeaderKey(name) != name {
		return false
	}
	for i := range len(name) {
		if c := name[i]; c <= ' ' || c >= 0x7f || strings.IndexByte(`()<>@,;:\"/[]?={}`, c) >= 0 {
			return false
		}
	}
	for i := range len(value) {
		if c := value[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

// head is how many bytes of a payload lie before the body, if r has read just that far.
func (r *reader) head(payload []byte) int { return len(payload) - len(r.b) }

func (q request) append(b []byte) []byte {
	b = appendText(appendText(b, q.method), q.target)
	return append(appendHeader(b, q.header), q.body...)
}

// readRequest reads what append wrote. The body lies in the payload.
func readRequest(payload []byte) (q request, err error) {
	r := &reader{b: payload}
	q.method, q.target, q.header = r.text(), r.text(), r.header()
	if r.bad || r.head(payload) > maxHead || !isMethod(q.method) || !strings.HasPrefix(q.target, "/") {
		return q, fmt.Errorf("%w: a request that can't be read", errProtocol)
	}
	q.body = r.b
	return q, nil
}

func isMethod(s string) bool {
	return s != "" && len(s) <= 16 && !strings.ContainsFunc(s, func(c rune) bool { return c < 'A' || c > 'Z' })
}

// plainTarget reports whether a target is the path that it says, with nothing that is written otherwise than it is.
func plainTarget(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '/' && (i == 0 || s[i-1] != '/'), c == '-', c == ':' && i > 0:
		default:
			return false
		}
	}
	return true
}

// url is where the request goes.
func (q request) url() (*url.URL, error) {
	if plainTarget(q.target) {
		return &url.URL{Path: q.target}, nil
	}
	return url.ParseRequestURI(q.target)
}

func (a answer) append(b []byte) []byte {
	return append(appendHeader(binary.AppendUvarint(b, uint64(a.status)), a.header), a.body...)
}

func readAnswer(payload []byte) (a answer, err error) {
	r := &reader{b: payload}
	status := r.number()
	a.header = r.header()
	if r.bad || status < 100 || status > 999 {
		return a, fmt.Errorf("%w: an answer that can't be read", errProtocol)
	}
	a.status, a.body = int(status), r.b
	return a, nil
}
