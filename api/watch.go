package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/link"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// watch is a stream of mobyfs.Change, one JSON object a line; empty lines say that the server is there.
var watch = call{http.MethodGet, "/v1/agent/watch", "watch", "The full state of the cluster, then every change"}

const (
	keepAlive     = 10 * time.Second // between empty lines, while there is nothing to tell
	watchSilence  = 25 * time.Second // after which the client takes the connection for dead
	watchPatience = 30 * time.Second // for a client to take what is written to it
	streamType    = "application/x-ndjson"
)

func (s *Server) serveWatch() {
	s.mux.HandleFunc(watch.method+" "+watch.path, s.watch)
	s.huma.OpenAPI().AddOperation(&huma.Operation{
		OperationID: watch.id, Method: watch.method, Path: watch.path, Summary: watch.summary,
		Description: fmt.Sprintf("The stream goes on until one side ends it. Each line is a change; an empty line comes each %v at least. "+
			"Changes of one object come in order, and a slow reader misses states but never the last.", keepAlive),
		Responses: map[string]*huma.Response{
			"200": {Description: "OK", Content: map[string]*huma.MediaType{
				streamType: {Schema: s.schema(reflect.TypeFor[mobyfs.Change]())},
			}},
			"default": s.problemResponse(),
		},
	})
}

// watch streams until the client goes, the server shuts down, or the service ends it. On a link no goroutine waits for
// what there will be to tell.
func (s *Server) watch(w http.ResponseWriter, r *http.Request) {
	if on := streamer(w); on != nil {
		s.watchLink(w, r, on.Stream())
		return
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(s.watches, cancel)()
	lines := &lineWriter{w: w, rc: http.NewResponseController(w), kind: streamType}
	defer lines.end() // w is not ours any more after the return
	begin := sync.OnceFunc(func() { lines.keepAlive(cancel) })
	err := Watch(ctx, s.service, caller(ctx), func(c mobyfs.Change) error {
		line, err := json.Marshal(c)
		if err != nil {
			return err
		}
		if err := lines.write(line); err != nil {
			return err
		}
		if c.Full != nil {
			begin()
		}
		return nil
	})
	cancel()
	if err != nil && !lines.begun() {
		s.note(r.Context(), watch.id, err)
		writeProblem(w, problemOf(err))
	}
}

// Watch calls each with the full state, then with changes, until ctx ends or each returns an error.
func Watch(ctx context.Context, s Service, who pki.Identity, each func(mobyfs.Change) error) error {
	news := make(chan struct{}, 1)
	feed, err := s.Follow(ctx, who, func() {
		select {
		case news <- struct{}{}:
		default:
		}
	})
	if err != nil {
		return err
	}
	defer feed.Close()
	for {
		change, ok, err := feed.Next()
		if err == nil && ok {
			err = each(change)
		}
		if err != nil {
			return err
		}
		if ok {
			continue
		}
		select {
		case <-news:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// streamer is what an answer can go on with after its handler has returned; nil if it can't.
func streamer(w http.ResponseWriter) link.Streamer {
	for {
		switch x := w.(type) {
		case link.Streamer:
			return x
		case interface{ Unwrap() http.ResponseWriter }:
			w = x.Unwrap()
		default:
			return nil
		}
	}
}

// watchLink begins a stream on a link. Lines that say that the server is there are not needed: the link says it.
func (s *Server) watchLink(w http.ResponseWriter, r *http.Request, stream *link.Stream) {
	feed, err := s.service.Follow(r.Context(), caller(r.Context()), stream.Wake)
	var first []byte
	if err == nil {
		if first, err = s.nextLine(feed); err != nil {
			feed.Close()
		}
	}
	if err != nil {
		s.note(r.Context(), watch.id, err)
		writeProblem(w, problemOf(err))
		return
	}
	w.Header().Set("Content-Type", streamType)
	w.Header().Set("Cache-Control", "no-store")
	o := outcomeOf(r.Context())
	o.goesOn = true
	done := o.after
	o.after = nil // o holds much that is not needed any more
	stream.Start(first, func() ([]byte, error) { return s.nextLine(feed) }, func() {
		feed.Close()
		for _, f := range done {
			f()
		}
	})
}

// nextLine is the next line of a watch; nothing if there is nothing new.
func (s *Server) nextLine(feed Feed) ([]byte, error) {
	if err := s.watches.Err(); err != nil {
		return nil, mobyfs.Errorf(mobyfs.CodeUnavailable, "control is stopping").WithHint("connect again in a moment")
	}
	change, ok, err := feed.Next()
	if err != nil || !ok {
		return nil, err
	}
	line, err := json.Marshal(change)
	return append(line, '\n'), err
}

// lineWriter writes whole lines and sends each at once.
type lineWriter struct {
	mu    sync.Mutex
	w     http.ResponseWriter
	rc    *http.ResponseController
	kind  string      // the type of the content
	alive []byte      // the line that says that the server is there
	last  time.Time   // when a line was written last; zero before the first
	timer *time.Timer // until that line is due; nil before keepAlive
	ended bool
}

func (l *lineWriter) begun() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.last.IsZero()
}

func (l *lineWriter) write(line []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.writeLocked(line)
}

func (l *lineWriter) writeLocked(line []byte) error {
	if l.last.IsZero() {
		l.w.Header().Set("Content-Type", l.kind)
		l.w.Header().Set("Cache-Control", "no-store")
	}
	l.last = time.Now()
	if err := l.rc.SetWriteDeadline(l.last.Add(watchPatience)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	if _, err := l.w.Write(append(line, '\n')); err != nil {
		return err
	}
	return l.rc.Flush()
}

// keepAlive says that the server is there whenever it has said nothing else for a while, until end. broken is called if
// that can't be said.
func (l *lineWriter) keepAlive(broken func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.timer = time.AfterFunc(keepAlive, func() { l.stillThere(broken) })
}

func (l *lineWriter) stillThere(broken func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return
	}
	wait := keepAlive - time.Since(l.last)
	if wait <= 0 {
		if l.writeLocked(l.alive) != nil {
			broken()
			return
		}
		wait = keepAlive
	}
	l.timer.Reset(wait)
}

// end returns when nothing is written any more, for good.
func (l *lineWriter) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
	if l.timer != nil {
		l.timer.Stop()
	}
}

// Watch implements mobyfs.Control. A connection on which nothing comes for 25 s counts as lost.
func (c *Client) Watch(ctx context.Context, each func(mobyfs.Change)) error {
	watching, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	resp, endpoint, err := c.send(watching, request{what: watch, path: watch.path})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	quiet := func() (again func()) { return func() {} }
	if alive, ok := resp.Body.(interface{ Alive() bool }); !ok || !alive.Alive() { // no link, which would look by itself
		silence := time.AfterFunc(watchSilence, func() { cancel(fmt.Errorf("nothing came for %v", watchSilence)) })
		defer silence.Stop()
		quiet = func() func() {
			silence.Stop()
			return func() { silence.Reset(watchSilence) }
		}
	}
	err = readLines(resp.Body, func(line []byte) error {
		defer quiet()() // each may take its time
		if len(bytes.TrimSpace(line)) == 0 {
			return nil
		}
		var change mobyfs.Change
		if err := json.Unmarshal(line, &change); err != nil {
			return fmt.Errorf("read a change: %w", err)
		}
		each(change)
		return watching.Err()
	})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if cause := context.Cause(watching); cause != nil {
		err = cause
		c.way.Load().passBy(endpoint)
	}
	return unreachable("watch", []string{endpoint}, err)
}

// readLines calls each with every line until it or the reader fails. The end of the reader is an error too.
func readLines(r io.Reader, each func(line []byte) error) error {
	in := bufio.NewReaderSize(r, 64<<10)
	for {
		line, err := in.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return errors.New("the server ended the stream")
		}
		if err != nil {
			return err
		}
		if err := each(line); err != nil {
			return err
		}
	}
}
