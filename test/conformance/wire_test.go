package conformance

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/mobyfs/mobyfs/test/fleet"
)

// request is what hosttool sends over a connection of its own.
type request struct {
	Send  string
	Leave *int `json:",omitempty"` // hang up that many ms later
	Wait  int  `json:",omitempty"` // ms before it is sent
}

// said is the answer.
type said struct {
	Status      int
	Header      http.Header
	Body        string
	Bytes       int
	Closes      bool // its head says that it ends the connection
	Open        bool // it did not
	Began, Took int  // ms
	Failed      string
}

// answer is a body as all calls answer it.
type answer struct {
	Err          *string
	Implements   []string
	Mountpoint   string
	Capabilities struct{ Scope string }
	Volume       *struct {
		Name, Mountpoint, CreatedAt string
		Status                      map[string]any
	}
	Volumes *[]*struct{ Name, Mountpoint string }
}

// leave is a request whose sender hangs up at once.
func (r request) leave(ms int) request {
	r.Leave = &ms
	return r
}

// asDocker is a call as the host's engine sends it.
func (h *host) asDocker(call, body string) request {
	name := "plugin.moby.localhost"
	if h.engine == "20.10" {
		name = ""
	}
	return post(call, body, "Host: "+name, "User-Agent: Go-http-client/1.1", "Accept: application/vnd.docker.plugins.v1.2+json")
}

// asPodman is a call as Podman sends it.
func asPodman(call, body string) request {
	return post(call, body, "Host: plugin", "User-Agent: Go-http-client/1.1", "Content-Type: application/vnd.docker.plugins.v1.1+json")
}

func post(call, body string, headers ...string) request {
	return request{Send: fmt.Sprintf("POST /%s HTTP/1.1\r\n%s\r\nContent-Length: %d\r\n\r\n%s", call, strings.Join(headers, "\r\n"), len(body), body)}
}

// args writes the arguments of a call, as key and value in turns.
func args(pairs ...any) string {
	m := map[string]any{}
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i].(string)] = pairs[i+1]
	}
	text, err := json.Marshal(m)
	if err != nil {
		panic(err)
	}
	return string(text) + "\n"
}

// wire sends requests to the driver's own socket, so many at a time.
func (h *host) wire(t *testing.T, atOnce int, requests ...request) []said {
	t.Helper()
	h.mu.Lock()
	at := socket
	if h.recording {
		at = behind
	}
	h.mu.Unlock()
	in, err := json.Marshal(requests)
	if err != nil {
		t.Fatal(err)
	}
	cmd := the.CmdOn(h.name, "hosttool", "wire", at, fmt.Sprint(atOnce))
	cmd.Stdin = bytes.NewReader(in)
	r := fleet.RunCommand(t, cmd)
	var answers []said
	if err := json.Unmarshal([]byte(r.Stdout), &answers); err != nil || len(answers) != len(requests) {
		t.Fatalf("%s: hosttool wire: %v: %v", h.name, err, r)
	}
	return answers
}

// ask makes one call as Docker, which must be answered with status 200.
func (h *host) ask(t *testing.T, call, body string) answer {
	t.Helper()
	s := h.wire(t, 1, h.asDocker(call, body))[0]
	if s.Status != 200 {
		t.Fatalf("%s %s: got %+v", call, body, s)
	}
	return s.answer(t)
}

// do makes one call as Docker, which must succeed.
func (h *host) do(t *testing.T, call string, pairs ...any) answer {
	t.Helper()
	a := h.ask(t, "VolumeDriver."+call, args(pairs...))
	if *a.Err != "" {
		t.Fatalf("%s %v: %s", call, pairs, *a.Err)
	}
	return a
}

// refused makes one call as Docker, which must be refused, and returns why.
func (h *host) refused(t *testing.T, call string, pairs ...any) string {
	t.Helper()
	a := h.ask(t, "VolumeDriver."+call, args(pairs...))
	if *a.Err == "" {
		t.Errorf("%s %v succeeded", call, pairs)
	}
	return *a.Err
}

func (s said) answer(t *testing.T) answer {
	t.Helper()
	var a answer
	if err := json.Unmarshal([]byte(s.Body), &a); err != nil || a.Err == nil {
		t.Fatalf("the answer is no object with Err: %v in %+v", err, s)
	}
	return a
}

// succeeded fails unless the answer is a success.
func (s said) succeeded(t *testing.T) {
	t.Helper()
	if a := s.answer(t); s.Status != 200 || *a.Err != "" {
		t.Errorf("got %d %s, want a success", s.Status, s.Body)
	}
}

// usual is how long such calls take: the machine of the tests is busy, and now and then a call waits for its turn.
func usual(answers []said) (ms int) {
	var took []int
	for _, s := range answers {
		took = append(took, s.Took)
	}
	slices.Sort(took)
	return took[len(took)/3]
}
