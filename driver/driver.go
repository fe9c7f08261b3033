// Package driver speaks Docker's volume plugin protocol in front of a mobyfs.Mounter, and nothing else.
//
// The protocol has traps that the rules below answer; docs/decisions and the tests name them.
//
//   - When a connection breaks, Docker sends the same call again without its body. Such a call carries nothing and
//     is never carried out.
//   - An error in answer to Get means "there is no such volume" to Docker, whatever its text: it then forgets
//     labels, options and who uses the volume. Only a connection that is cut means "I don't know". So Get answers
//     an error only when the volume is known not to exist.
//   - Docker takes back no Mount that it gave up waiting for. So a Mount whose caller is gone is undone here.
//   - Docker sees errors in a body with status 200; every other client (Podman) sees them with status 500 only.
package driver

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/mobyfs/mobyfs"
)

const (
	// dockerMark stands in the Accept header of every call that Docker makes, and of nobody else's.
	dockerMark = "application/vnd.docker.plugins"
	// contentType is what Docker names its newest protocol.
	contentType = "application/vnd.docker.plugins.v1.2+json"
	// maxBody caps a request, in bytes.
	maxBody = 1 << 20
	// maxID caps the ID of a mount, in bytes. Docker's has 64.
	maxID = 255
)

// How long a call may take. Docker gives up on Mount and Create after 120 s and on the rest after 60 s, other
// clients on everything after 5 s; an answer that says why is better than silence.
const (
	longWait  = 110 * time.Second
	shortWait = 50 * time.Second
	briefWait = 4500 * time.Millisecond
	bodyWait  = 5 * time.Second // for the bytes of a call, which its client has in its memory
)

// New returns the handler that serves the protocol. All of m's methods may be called at once.
func New(m mobyfs.Mounter, log *slog.Logger) http.Handler {
	return &handler{mounter: m, log: log, calls: map[string]call{
		"/Plugin.Activate":           {run: (*handler).activate, wait: briefWait, noBody: true},
		"/VolumeDriver.Capabilities": {run: (*handler).capabilities, wait: briefWait, noBody: true},
		"/VolumeDriver.List":         {run: (*handler).list, wait: briefWait, noBody: true},
		"/VolumeDriver.Get":          {run: (*handler).get, wait: briefWait, cutEmpty: true, cutUnsure: true},
		"/VolumeDriver.Path":         {run: (*handler).path, wait: briefWait, cutEmpty: true},
		"/VolumeDriver.Create":       {run: (*handler).create, wait: longWait},
		"/VolumeDriver.Remove":       {run: (*handler).remove, wait: shortWait},
		"/VolumeDriver.Mount":        {run: (*handler).mount, wait: longWait},
		"/VolumeDriver.Unmount":      {run: (*handler).unmount, wait: briefWait},
	}}
}

// Server serves h to Docker. Keep-alives are off: an idle connection that the server closes while Docker writes on
// it makes Docker repeat the call without its body.
func Server(h http.Handler) *http.Server {
	s := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, MaxHeaderBytes: 64 << 10}
	s.SetKeepAlivesEnabled(false)
	return s
}

// call is one method of the protocol.
type call struct {
	run       func(*handler, context.Context, request) (answer, error)
	wait      time.Duration // for Docker; others get briefWait at most
	noBody    bool          // the call has no arguments, so a body is not missed
	cutEmpty  bool          // without a body: cut the connection; the other calls answer an error
	cutUnsure bool          // Docker must not take an error for "there is no such volume"
}

type handler struct {
	mounter mobyfs.Mounter
	log     *slog.Logger
	calls   map[string]call
}

// ServeHTTP answers one call. A connection is cut by panicking with http.ErrAbortHandler, as net/http wants it.
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c, known := h.calls[r.URL.Path]
	switch {
	case !known:
		_ = h.write(w, http.StatusNotFound, answer{Err: "there is no call " + oneLine(r.URL.Path)})
		return
	case r.Method != http.MethodPost:
		w.Header().Set("Allow", http.MethodPost)
		_ = h.write(w, http.StatusMethodNotAllowed, answer{Err: "calls are made with POST"})
		return
	}
	docker := strings.Contains(strings.Join(r.Header.Values("Accept"), ","), dockerMark)
	log := h.log.With("call", r.URL.Path[1:])
	defer h.rescue(w, c, docker, log)

	req, err := readRequest(w, r, c)
	if err == errNoBody && c.cutEmpty {
		log.Debug("cut a call without a body")
		panic(http.ErrAbortHandler)
	}
	var ans answer
	if err == nil {
		req.docker = docker
		log = log.With("volume", req.Name, "mount", req.ID)
		ans, err = h.carryOut(r.Context(), c, req, patience(r, c, docker))
	}
	if err != nil && docker && c.cutUnsure && mobyfs.CodeOf(err) != mobyfs.CodeNotFound && mobyfs.CodeOf(err) != mobyfs.CodeInvalid {
		log.Warn("cut a call whose answer is not known", "err", err)
		panic(http.ErrAbortHandler)
	}
	status := http.StatusOK
	if err != nil {
		log.Debug("answered an error", "err", err)
		ans = answer{Err: explain(err)}
		if !docker {
			status = http.StatusInternalServerError
		}
	}
	// Only before the answer does a connection that ended mean that nobody waits: Docker ends it as soon as it has
	// the answer. An answer that is lost after this leaves a use that the kernel does not confirm.
	gone := r.Context().Err() != nil
	if lost := h.write(w, status, ans); lost != nil || gone {
		h.takeBack(r.Context(), ans, log)
	}
}

// carryOut makes the call with the time that its client gives it.
func (h *handler) carryOut(ctx context.Context, c call, req request, wait time.Duration) (answer, error) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	return c.run(h, ctx, req)
}

// patience is how long the client waits for an answer. One that waits for less than Docker does may say so as RFC 7240
// has it: "Prefer: wait=22", in seconds. So it hears why the call takes longer, instead of having to hang up.
func patience(r *http.Request, c call, docker bool) time.Duration {
	wait := c.wait
	if !docker {
		wait = min(wait, briefWait)
	}
	for preference := range strings.SplitSeq(strings.Join(r.Header.Values("Prefer"), ","), ",") {
		value, is := strings.CutPrefix(strings.TrimSpace(preference), "wait=")
		if seconds, err := strconv.ParseUint(value, 10, 16); is && err == nil && seconds > 0 {
			wait = min(wait, time.Duration(seconds)*time.Second)
		}
	}
	return wait
}

// takeBack undoes a Mount whose caller did not wait for the answer: no Unmount will come for it.
func (h *handler) takeBack(ctx context.Context, ans answer, log *slog.Logger) {
	if ans.undo == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), briefWait)
	defer cancel()
	if err := ans.undo(ctx); err != nil {
		log.Warn("take back a mount whose caller is gone", "err", err)
	}
}

// rescue turns a bug into an answer: the process and everybody else's calls go on.
func (h *handler) rescue(w http.ResponseWriter, c call, docker bool, log *slog.Logger) {
	bug := recover()
	if bug == nil {
		return
	}
	if bug == http.ErrAbortHandler {
		panic(bug)
	}
	log.Error("a call panicked", "err", bug, "stack", string(debug.Stack()))
	if docker && c.cutUnsure {
		panic(http.ErrAbortHandler)
	}
	_ = h.write(w, http.StatusInternalServerError, answer{Err: "mobyfs has a bug here; its log tells more"})
}

// write sends the answer and reports whether it could not even be handed to the kernel.
func (h *handler) write(w http.ResponseWriter, status int, ans answer) error {
	body, err := json.Marshal(ans)
	if err != nil { // an answer holds strings, and a status that the agent made of plain values
		panic(err)
	}
	w.Header().Set("Content-Type", contentType)
	body = append(body, '\n')
	w.Header().Set("Connection", "close")
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	if _, err := w.Write(body); err != nil {
		return err
	}
	return http.NewResponseController(w).Flush()
}

// explain makes the one line that Docker shows its user.
func explain(err error) string {
	text := err.Error()
	if hint := mobyfs.HintOf(err); hint != "" {
		text += " – " + hint
	}
	return oneLine(text)
}

// oneLine replaces what would break a line or a terminal.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
}

// usable reports whether Docker may be told the path. With an empty one it mounts the container's own bundle,
// files of the host, into the container.
func usable(path string) bool { return filepath.IsAbs(path) && path != "/" }
