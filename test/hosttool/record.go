package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"
)

// recorded is a line of the log: a call and its answer.
type recorded struct {
	Call   string // as Mount
	Name   string
	ID     string
	Opts   map[string]string
	Err    string
	Status int // 0 if the driver cut the connection
	Began  time.Time
	Took   int // ms
}

// recorder stands between dockerd and the driver.
type recorder struct {
	driver *http.Client
	faults string // a file that lists volumes, a line each, that are denied in answer to Get
	mu     sync.Mutex
	log    *json.Encoder
}

// record serves until it is ended. The name of its socket is made anew and stays.
func record(at, to, log string) error {
	f, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if err := os.Remove(at); err != nil && !os.IsNotExist(err) {
		return err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: at, Net: "unix"})
	if err != nil {
		return err
	}
	l.SetUnlinkOnClose(false)
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", to)
	}
	r := &recorder{
		driver: &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}},
		faults: log + ".deny",
		log:    json.NewEncoder(f),
	}
	s := &http.Server{Handler: r}
	s.SetKeepAlivesEnabled(false)
	return s.Serve(l)
}

func (r *recorder) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	line := recorded{Call: req.URL.Path[strings.LastIndex(req.URL.Path, ".")+1:], Began: time.Now()}
	_ = json.Unmarshal(body, &line) // a body without these fields leaves them empty
	answer := r.answer(req, line, body, &line.Status)
	var told struct{ Err string }
	_ = json.Unmarshal(answer, &told)
	line.Err, line.Took = told.Err, int(time.Since(line.Began).Milliseconds())
	r.mu.Lock()
	err = r.log.Encode(line)
	r.mu.Unlock()
	if err != nil || line.Status == 0 {
		panic(http.ErrAbortHandler) // what the driver cut is cut here
	}
	w.WriteHeader(line.Status)
	_, _ = w.Write(answer)
}

// answer is the driver's, or a lie about a volume that is to be denied.
func (r *recorder) answer(req *http.Request, line recorded, body []byte, status *int) []byte {
	if denied, _ := os.ReadFile(r.faults); line.Call == "Get" && line.Name != "" && strings.Contains("\n"+string(denied), "\n"+line.Name+"\n") {
		*status = http.StatusOK
		return []byte(`{"Err":"no such volume"}`)
	}
	out, err := http.NewRequestWithContext(req.Context(), req.Method, "http://driver"+req.URL.Path, bytes.NewReader(body))
	if err != nil {
		return nil
	}
	out.Header = req.Header.Clone()
	resp, err := r.driver.Do(out)
	if err != nil {
		return nil
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil
	}
	*status = resp.StatusCode
	return answer
}
