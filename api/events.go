package api

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"reflect"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// Streams of server-sent events.
var followEvents = call{http.MethodGet, "/v1/events", "follow-events", "Every change of the cluster, those of before and then those to come"}

const (
	sseType     = "text/event-stream"
	sseEvent    = "change"   // data is a mobyfs.Event
	sseComplete = "complete" // data is a Complete
)

// Complete says that the stream has told all events up to a revision. It comes once, behind those that were there when
// the stream began.
type Complete struct {
	Revision int64 `json:"revision"`
}

// follow is how the service tells events.
type follow func(ctx context.Context, who pki.Identity, since int64, each func([]mobyfs.Event, int64) error) error

func (s *Server) serveEvents() {
	s.serveStream(followEvents, func(ctx context.Context, who pki.Identity, since int64, each func([]mobyfs.Event, int64) error) error {
		return s.service.Events(ctx, who, since, each)
	})
}

func (s *Server) serveStream(c call, from follow) {
	s.mux.HandleFunc(c.method+" "+c.path, func(w http.ResponseWriter, r *http.Request) { s.stream(w, r, c, from) })
	s.huma.OpenAPI().AddOperation(&huma.Operation{
		OperationID: c.id, Method: c.method, Path: c.path, Summary: c.summary,
		Description: fmt.Sprintf("Server-sent events in the order of their revisions: %q with an event, and once %q, behind all events that were there. "+
			"They come at least once: whoever connects again with Last-Event-ID misses nothing. A comment comes each %v at least.", sseEvent, sseComplete, keepAlive),
		Parameters: []*huma.Param{
			{Name: "since", In: "query", Description: "the revision to begin with; 0 is the beginning", Schema: &huma.Schema{Type: "integer", Format: "int64", Minimum: new(float64)}},
			{Name: "Last-Event-ID", In: "header", Description: "the id that came last; goes before since", Schema: &huma.Schema{Type: "string"}},
		},
		Responses: map[string]*huma.Response{
			"200":     {Description: "OK", Content: map[string]*huma.MediaType{sseType: {Schema: s.schema(reflect.TypeFor[mobyfs.Event]())}}},
			"default": s.problemResponse(),
		},
	})
}

// stream tells events until the client goes, the server shuts down, or the service ends it.
func (s *Server) stream(w http.ResponseWriter, r *http.Request, c call, from follow) {
	since, err := sinceOf(r.URL.RawQuery, r.Header.Get("Last-Event-ID"))
	if err != nil {
		s.refuse(r.Context(), w, c, err)
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(s.watches, cancel)()
	lines := &lineWriter{w: w, rc: http.NewResponseController(w), kind: sseType, alive: []byte(":\n")}
	defer lines.end() // w is not ours any more after the return
	complete := false
	err = from(ctx, caller(ctx), since, func(events []mobyfs.Event, upTo int64) error {
		if err := lines.write(frames(events, upTo, !complete)); err != nil {
			return err
		}
		if !complete {
			complete = true
			lines.keepAlive(cancel)
		}
		return nil
	})
	cancel()
	if err != nil && !lines.begun() {
		s.refuse(r.Context(), w, c, err)
	}
}

// refuse answers a call that is not served by huma with a problem.
func (s *Server) refuse(ctx context.Context, w http.ResponseWriter, c call, err error) {
	s.note(ctx, c.id, err)
	writeProblem(w, problemOf(err))
}

// frames puts events into the form of the wire. Only the last event of a revision carries it as its id, so that whoever
// was cut off between two of the same revision gets both again.
func frames(events []mobyfs.Event, upTo int64, complete bool) []byte {
	var b bytes.Buffer
	for i, e := range events {
		if i+1 == len(events) || events[i+1].Revision != e.Revision {
			fmt.Fprintf(&b, "id: %d\n", e.Revision)
		}
		data, err := json.Marshal(e)
		if err != nil {
			panic(err) // it is made of our own types
		}
		fmt.Fprintf(&b, "event: %s\ndata: %s\n\n", sseEvent, data)
	}
	if complete {
		fmt.Fprintf(&b, "id: %d\nevent: %s\ndata: {\"revision\":%d}\n\n", upTo, sseComplete, upTo)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

// sinceOf reads where a stream shall begin.
func sinceOf(rawQuery, lastID string) (int64, error) {
	q, err := url.ParseQuery(rawQuery)
	if err != nil {
		return 0, mobyfs.Errorf(mobyfs.CodeInvalid, "the query can't be read").WithHint(seeSpec)
	}
	for name, values := range q {
		if name != "since" || len(values) != 1 {
			return 0, mobyfs.Errorf(mobyfs.CodeInvalid, "the query may hold since, once, and nothing else").WithHint(seeSpec)
		}
	}
	text, more := q.Get("since"), int64(0)
	if lastID != "" {
		text, more = lastID, 1
	}
	if text == "" {
		return 0, nil
	}
	rev, err := strconv.ParseInt(text, 10, 64)
	if err != nil || rev < 0 || strconv.FormatInt(rev, 10) != text || rev == 1<<63-1 {
		return 0, mobyfs.Errorf(mobyfs.CodeInvalid, "%.40q is not the revision of an event", text).
			WithHint("give the id that came last as Last-Event-ID, or since=0 for all events")
	}
	return rev + more, nil
}

// Events calls each with the events of revision since and later, in the order of their revisions, and complete once,
// with the revision up to which all that were there are told; from then on each with every new one, until ctx ends or
// the connection is lost (an error; whoever calls again with a revision later than the last gets the rest). An event may come twice.
// each and complete may end it with an error.
func (c *Client) Events(ctx context.Context, since int64, each func(mobyfs.Event) error, complete func(Complete) error) error {
	return c.follow(ctx, followEvents, since, each, complete)
}

func (c *Client) follow(ctx context.Context, what call, since int64, each func(mobyfs.Event) error, complete func(Complete) error) error {
	following, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	resp, endpoint, err := c.send(following, request{what: what, path: fmt.Sprintf("%s?since=%d", what.path, since)})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	silence := time.AfterFunc(watchSilence, func() { cancel(fmt.Errorf("nothing came for %v", watchSilence)) })
	defer silence.Stop()
	frame := sseFrame{each: each, complete: complete}
	err = readLines(resp.Body, func(line []byte) error {
		silence.Stop() // each may take its time
		defer silence.Reset(watchSilence)
		return frame.line(line)
	})
	switch cause := context.Cause(following); {
	case ctx.Err() != nil:
		return ctx.Err()
	case frame.ended != nil:
		return frame.ended
	case cause != nil:
		err = cause
	}
	return unreachable("follow", []string{endpoint}, err)
}

// sseFrame is what has come of one server-sent event.
type sseFrame struct {
	kind     string
	data     []byte
	each     func(mobyfs.Event) error
	complete func(Complete) error
	ended    error // why the caller ended it
}

// line takes one line of the stream. Lines of unknown kinds are left out, as the standard says.
func (f *sseFrame) line(line []byte) error {
	line = bytes.TrimRight(line, "\r\n")
	name, value, _ := bytes.Cut(line, []byte(":"))
	value = bytes.TrimPrefix(value, []byte(" "))
	switch {
	case len(line) == 0:
		defer func() { f.kind, f.data = "", nil }()
		return f.dispatch()
	case string(name) == "event":
		f.kind = string(value)
	case string(name) == "data":
		f.data = append(f.data, value...)
	}
	return nil
}

func (f *sseFrame) dispatch() error {
	switch f.kind {
	case sseEvent:
		var e mobyfs.Event
		if err := json.Unmarshal(f.data, &e); err != nil {
			return fmt.Errorf("read an event: %w", err)
		}
		f.ended = f.each(e)
	case sseComplete:
		var c Complete
		if err := json.Unmarshal(f.data, &c); err != nil {
			return fmt.Errorf("read how complete the events are: %w", err)
		}
		f.ended = f.complete(c)
	}
	return f.ended
}
