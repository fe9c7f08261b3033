package api

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// outcome sees with which status a request is answered, so that a refusal is told of which no call knows: of a body that
// can't be read, a field that there is not, a page of another site.
type outcome struct {
	http.ResponseWriter
	status int
	told   bool     // by the call
	why    *problem // nil if nobody knows more than the status
	after  []func() // what is done once the request is answered
	goesOn bool     // the answer, after its handler has returned
}

// answered does what is to be done once the request is answered, unless that goes on.
func (o *outcome) answered() {
	if !o.goesOn {
		o.ended()
	}
}

func (o *outcome) ended() {
	for _, f := range o.after {
		f()
	}
	o.after = nil
}

// outcomeOf is the outcome of the request that is being answered.
func outcomeOf(ctx context.Context) *outcome {
	o, _ := ctx.Value(outcomeKey{}).(*outcome)
	return o
}

// WriteHeader implements http.ResponseWriter.
func (o *outcome) WriteHeader(status int) {
	if o.status == 0 {
		o.status = status
	}
	o.ResponseWriter.WriteHeader(status)
}

// Unwrap lets http.ResponseController find the connection.
func (o *outcome) Unwrap() http.ResponseWriter { return o.ResponseWriter }

type outcomeKey struct{}

// toldRefusal notes that the refusal of a request has been told.
func toldRefusal(ctx context.Context) {
	if o := outcomeOf(ctx); o != nil {
		o.told = true
	}
}

// refusals are the statuses of requests that nobody should have made. What the state of the cluster alone forbids (409,
// 412) is none of them.
var refusals = []int{
	http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden, http.StatusRequestTimeout,
	http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType, http.StatusUnprocessableEntity,
}

// tellRefusal tells of a refusal unless a call has done so.
func (s *Server) tellRefusal(ctx context.Context, who pki.Identity, asked string, o *outcome) {
	if o.told || !slices.Contains(refusals, o.status) {
		return
	}
	code, why := mobyfs.CodeInvalid, fmt.Sprintf("%d %s", o.status, http.StatusText(o.status))
	if o.status == http.StatusUnauthorized || o.status == http.StatusForbidden {
		code = mobyfs.CodeDenied
	}
	if o.why != nil {
		code, why = o.why.Code, o.why.Detail
	}
	s.service.Denied(context.WithoutCancel(ctx), who, asked, mobyfs.Errorf(code, "%s", why))
}

// asking names a request before anything was read of it.
func asking(r *http.Request) string { return fmt.Sprintf("%s %.120s", r.Method, r.URL.EscapedPath()) }

// strangers is where net/http says why a connection came to nothing. Who was refused for their certificate is told of
// like all who are refused.
type strangers struct {
	server *Server
	log    *slog.Logger
}

// nobodysFault are ends of handshakes that say nothing of who called.
var nobodysFault = []string{"EOF", "remote error", "reset by peer", "broken pipe", "timeout", "closed network connection"}

// Write implements io.Writer for one line of a log.
func (s strangers) Write(line []byte) (int, error) {
	text := strings.TrimSpace(string(line))
	s.log.Debug(text)
	_, what, ok := strings.Cut(text, "TLS handshake error from ")
	from, why, said := strings.Cut(what, ": ")
	if !ok || !said || slices.ContainsFunc(nobodysFault, func(end string) bool { return strings.Contains(why, end) }) {
		return len(line), nil
	}
	ctx := mobyfs.WithActor(s.server.watches, mobyfs.Actor{From: from})
	s.server.service.Denied(ctx, pki.Identity{}, "connect", mobyfs.Errorf(mobyfs.CodeDenied, "%s", why))
	return len(line), nil
}
