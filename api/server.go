package api

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	stdlog "log"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"path"
	"reflect"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"go.opentelemetry.io/otel/trace"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/link"
	"github.com/mobyfs/mobyfs/internal/pki"
	"github.com/mobyfs/mobyfs/internal/tracing"
)

// Bounds of what one client may ask of the server.
const (
	maxBody       = 1 << 20 // bytes of a request
	maxHeader     = 64 << 10
	headerTimeout = 10 * time.Second
	bodyTimeout   = 5 * time.Second
	answerTimeout = 15 * time.Second // for the service, not for a watch
	idleTimeout   = 2 * time.Minute
	sendTime      = 300 * time.Millisecond // for the last answers before connections are closed
	linkSilence   = time.Minute            // without a sign of an agent, after which its link is ended
	linkLook      = 5 * time.Second        // between two looks for such links
)

// Server is the control plane's end.
type Server struct {
	// Tracer records what calls do, each in the trace that its caller names; nil records nothing. It is set before Serve.
	Tracer trace.Tracer

	service Service
	log     *slog.Logger
	mux     *http.ServeMux
	huma    huma.API
	http    *http.Server
	links   *link.Server

	watches    context.Context // ends when Shutdown begins
	endWatches context.CancelFunc
	underWay   atomic.Int64 // requests that are being answered
	guests     guests
	metrics    *metrics
	clients    clients
}

// exactNames makes huma take NAME for no name: it would pass for name otherwise, as encoding/json reads it, and a request
// could hold one field twice. huma has one setting for all servers of a process.
var exactNames = sync.OnceFunc(func() { huma.ValidateStrictCasing = true })

// NewServer makes a server of the service. log gets what no client can be told: panics, internal errors, refusals.
func NewServer(service Service, log *slog.Logger) *Server {
	exactNames()
	s := &Server{service: service, log: log, mux: http.NewServeMux()}
	s.metrics = newMetrics(s)
	s.watches, s.endWatches = context.WithCancel(context.Background())
	s.huma = huma.NewAPI(huma.Config{
		OpenAPI: &huma.OpenAPI{
			OpenAPI: "3.1.0",
			Info: &huma.Info{
				Title:       "mobyfs control",
				Version:     Version,
				Description: "Who owns which volume. Every call needs a client certificate of the cluster's authority, which says who calls.",
			},
		},
		Formats:       map[string]huma.Format{"application/json": huma.DefaultJSONFormat, "json": huma.DefaultJSONFormat},
		DefaultFormat: "application/json",
		Transformers:  []huma.Transformer{plainProblem},

		RejectUnknownQueryParameters: true,
	}, verbs{humago.NewAdapter(s.mux, "")})
	s.serveVolumes()
	s.serveAgents()
	s.serveWatch()
	s.serveEvents()
	s.serveAudit()
	s.serveCluster()
	s.serveOperations()
	s.serveNodes()
	s.servePlacement()
	s.serveBackups()
	s.servePKI()
	s.serveMetrics()
	delete(s.huma.OpenAPI().Components.Schemas.Map(), "ErrorModel") // huma's own, which plainProblem replaces
	delete(s.huma.OpenAPI().Components.Schemas.Map(), "ErrorDetail")
	s.mux.HandleFunc("GET /openapi.json", s.serveSpec)
	s.mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		writeProblem(w, newProblem(http.StatusNotFound, mobyfs.CodeNotFound,
			fmt.Sprintf("there is no call %s %s", r.Method, r.URL.Path), seeSpec))
	})
	s.http = &http.Server{
		Handler:           s.Handler(),
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: h2Streams},
		ErrorLog:          stdlog.New(strangers{s, log}, "", 0),
		ConnState:         s.guests.note,
	}
	s.links = &link.Server{
		Handler: s.Handler(), MaxBody: maxBody, MaxCalls: h2Streams, MaxLinks: maxLinks,
		CallTime: bodyTimeout, Patience: watchPatience, Silence: linkSilence,
	}
	return s
}

// Serve answers on the listener, which it closes, until Shutdown. tlsConfig must demand and verify client
// certificates, save of who comes to the pki.Door. Connections of who is evicted are cut. After Shutdown it returns nil.
func (s *Server) Serve(l net.Listener, tlsConfig *tls.Config) error {
	go s.service.OnEviction(s.watches, func() { s.guests.throwOut(s.service.Admit) })
	go s.links.Run(s.watches, linkLook)
	front := newFront(s, l, tlsConfig)
	go front.run()
	err := s.http.Serve(front)
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// Shutdown ends all watches, lets other calls finish until ctx ends, and closes all connections.
func (s *Server) Shutdown(ctx context.Context) error {
	s.endWatches()
	s.links.Shutdown()
	defer s.links.Close()
	finishing, finished := context.WithCancel(ctx)
	defer finished()
	go s.waitUntilQuiet(finishing, finished)
	err := s.http.Shutdown(finishing)
	s.links.Wait(finishing)
	if ctx.Err() == nil {
		err = nil // what is left are connections on which nothing goes on; http.Server does not end them all
	}
	return errors.Join(err, s.http.Close())
}

// waitUntilQuiet calls quiet once no call has been under way for so long that all answers are sent.
func (s *Server) waitUntilQuiet(ctx context.Context, quiet func()) {
	t := time.NewTicker(sendTime / 10)
	defer t.Stop()
	last := time.Now()
	for time.Since(last) < sendTime {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		if s.underWay.Load() > 0 {
			last = time.Now()
		}
	}
	quiet()
}

// Handler is the server without its connections. Requests must carry the TLS state of theirs.
func (s *Server) Handler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.underWay.Add(1)
		o := &outcome{ResponseWriter: w, after: []func(){func() { s.underWay.Add(-1) }}}
		defer o.answered()
		defer s.survive(w, r)
		who, refused := s.visitor(r)
		key := r.Header.Get(keyHeader)
		ctx := mobyfs.WithActor(r.Context(), mobyfs.Actor{Who: actorOf(who), From: r.RemoteAddr, Request: key[:min(len(key), maxKey)]})
		w, ctx = o, context.WithValue(ctx, outcomeKey{}, o)
		defer s.tellRefusal(ctx, who, asking(r), o)
		if refused != nil {
			writeProblem(w, refused)
			return
		}
		if !splitVerb(r) || path.Clean(r.URL.Path) != r.URL.Path {
			writeProblem(w, newProblem(http.StatusBadRequest, mobyfs.CodeInvalid,
				fmt.Sprintf("the path %q holds . or .. or empty parts", r.URL.Path), seeSpec))
			return
		}
		ctx = tracing.Resume(tracing.With(ctx, s.Tracer), r.Header.Get(traceHeader))
		s.admit(w, r.WithContext(context.WithValue(ctx, callerKey{}, who)))
	})
}

// admit answers a request whose caller is known, unless it asks for too much at once or does not ask by itself.
func (s *Server) admit(w http.ResponseWriter, r *http.Request) {
	if err := checkBrowser(r); err != nil {
		s.metrics.refused.WithLabelValues(refusedPage).Inc()
		s.note(r.Context(), "a page", err)
		writeProblem(w, problemOf(err))
		return
	}
	leave, err := s.clients.enter(caller(r.Context()), isStream(r))
	if err != nil {
		why := refusedCalls
		if isStream(r) {
			why = refusedStreams
		}
		s.metrics.refused.WithLabelValues(why).Inc()
		writeProblem(w, problemOf(err))
		return
	}
	o := outcomeOf(r.Context())
	o.after = append(o.after, leave)
	s.serve(w, r)
}

// serve answers a request that is admitted.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	body, err := readBody(w, r)
	if err == nil {
		r, err = withMatch(r)
	}
	if err != nil {
		writeProblem(w, refusalOf(err))
		return
	}
	if r.Method == http.MethodPost && r.Header.Get(keyHeader) != "" && !secret(r) {
		s.answerOnce(w, r, body)
		return
	}
	s.mux.ServeHTTP(w, r)
}

// survive turns a panic into an answer and a line in the log.
func (s *Server) survive(w http.ResponseWriter, r *http.Request) {
	p := recover()
	if p == nil {
		return
	}
	if p == http.ErrAbortHandler {
		panic(p)
	}
	s.log.Error("a request broke the server", "path", r.URL.Path, "err", p, "stack", string(debug.Stack()))
	writeProblem(w, newProblem(http.StatusInternalServerError, mobyfs.CodeInternal,
		"mobyfs-control broke while it answered", "its journal tells where"))
}

type callerKey struct{}

// caller is who made the request, as Handler has verified.
func caller(ctx context.Context) pki.Identity {
	who, _ := ctx.Value(callerKey{}).(pki.Identity)
	return who
}

// call names one call: how it is asked for and how it is described.
type call struct {
	method, path string
	id           string
	summary      string
}

// handle serves a call. It is a function, for methods have no type parameters.
func handle[I, O any](s *Server, c call, answer func(ctx context.Context, who pki.Identity, in *I) (*O, error)) {
	huma.Register(s.huma, huma.Operation{
		OperationID: c.id, Method: c.method, Path: c.path, Summary: c.summary,
		MaxBodyBytes: maxBody, BodyReadTimeout: -1, Parameters: c.headers(),
		Responses: map[string]*huma.Response{"default": s.problemResponse()},
	}, func(ctx context.Context, in *I) (*O, error) {
		ctx, cancel := context.WithTimeout(ctx, answerTimeout)
		defer cancel()
		ctx, span := c.trace(ctx)
		begun := time.Now()
		out, err := (*O)(nil), c.checkMatch(ctx)
		if err == nil {
			out, err = answer(ctx, caller(ctx), in)
		}
		s.metrics.answered(c.id, err, time.Since(begun))
		tracing.End(span, err)
		if err != nil {
			s.note(ctx, c.id, err)
			return nil, problemOf(err)
		}
		return out, nil
	})
}

// note logs what the client can't do anything about, and what it should not have tried.
func (s *Server) note(ctx context.Context, id string, err error) {
	switch mobyfs.CodeOf(err) {
	case mobyfs.CodeInternal, mobyfs.CodeCorrupt:
		s.log.Error("a call failed", "call", id, "who", caller(ctx).String(), "err", err)
	case mobyfs.CodeDenied:
		s.log.Warn("a call was denied", "call", id, "who", caller(ctx).String(), "err", err)
		s.service.Denied(ctx, caller(ctx), id, err)
		toldRefusal(ctx)
	}
}

func (s *Server) problemResponse() *huma.Response {
	return &huma.Response{
		Description: "A problem (RFC 9457)",
		Content: map[string]*huma.MediaType{
			problemType: {Schema: s.schema(reflect.TypeFor[problem]())},
		},
	}
}

// schema refers to the description of a type.
func (s *Server) schema(t reflect.Type) *huma.Schema {
	return s.huma.OpenAPI().Components.Schemas.Schema(t, true, t.Name())
}

// reply is an answer with a body.
type reply[T any] struct{ Body T }

// none is a request or an answer with nothing in it.
type none struct{}

func (s *Server) serveSpec(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/openapi+json")
	spec, err := json.Marshal(s.huma.OpenAPI())
	if err != nil {
		panic(err) // it is made of our own types
	}
	_, _ = w.Write(spec)
}

// Spec is the description of the API, in OpenAPI 3.1, indented.
func Spec() ([]byte, error) {
	spec, err := json.MarshalIndent(NewServer(nil, slog.New(slog.DiscardHandler)).huma.OpenAPI(), "", "  ")
	return append(spec, '\n'), err
}

// verbs lets paths such as /v1/volumes/{name}:move be served by http.ServeMux, whose wildcards are whole
// segments: it registers them as /v1/volumes/{name}/:move, and splitVerb changes requests likewise.
type verbs struct{ huma.Adapter }

// Handle implements huma.Adapter.
func (v verbs) Handle(op *huma.Operation, handler func(huma.Context)) {
	if resource, verb, ok := strings.Cut(op.Path, ":"); ok {
		split := *op
		split.Path = resource + "/:" + verb
		op = &split
	}
	v.Adapter.Handle(op, handler)
}

// splitVerb reports false if the path can't be read.
func splitVerb(r *http.Request) bool {
	escaped := r.URL.EscapedPath()
	colon := strings.LastIndexByte(escaped, ':')
	if !strings.HasPrefix(escaped, "/") { // OPTIONS *, and whatever else HTTP lets through
		return false
	}
	if r.Method != http.MethodPost && r.Method != http.MethodGet || colon < strings.LastIndexByte(escaped, '/') {
		return true
	}
	split := escaped[:colon] + "/" + escaped[colon:]
	plain, err := url.PathUnescape(split)
	r.URL.Path, r.URL.RawPath = plain, split
	return err == nil
}
