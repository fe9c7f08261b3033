package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// dockersAccept marks a call as Docker's.
const dockersAccept = "application/vnd.docker.plugins.v1.2+json"

// caller calls a volume driver as Docker does: a new connection for each call, for drivers close it.
type caller struct{ http *http.Client }

func newCaller(socket string) caller {
	return caller{&http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}}
}

// call makes a call, reads the whole answer and returns how long that took. An Err in the answer is an error.
func (c caller) call(method, body string) (time.Duration, error) {
	r, err := http.NewRequest(http.MethodPost, "http://plugin.moby.localhost/VolumeDriver."+method, strings.NewReader(body))
	if err != nil {
		return 0, err
	}
	r.Header.Set("Accept", dockersAccept)
	start := time.Now()
	resp, err := c.http.Do(r)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	took := time.Since(start)
	if err != nil {
		return 0, err
	}
	var answer struct{ Err string }
	if err := json.Unmarshal(data, &answer); err != nil || answer.Err != "" {
		return 0, fmt.Errorf("%s %s: %v %s", method, body, err, answer.Err)
	}
	return took, nil
}

// timing is how long calls of one kind took, and the same number of calls to a driver that does nothing.
type timing struct {
	Call        string
	Ours, Other []time.Duration
}

// timeCalls makes n rounds of calls to the driver at the socket, each call in turns with one to a driver that does
// nothing, and prints the timings as JSON.
func timeCalls(socket string, n int, methods []string) error {
	idle, stop, err := serveNothing()
	if err != nil {
		return err
	}
	defer stop()
	ours, other := newCaller(socket), newCaller(idle)
	timings := make([]timing, len(methods))
	for round := range n {
		for i, method := range methods {
			timings[i].Call = method
			body := fmt.Sprintf(`{"Name":"timed-%d","ID":"%064d","Opts":{}}`, round, round)
			for _, side := range []struct {
				caller
				took *[]time.Duration
			}{{ours, &timings[i].Ours}, {other, &timings[i].Other}} {
				took, err := side.call(method, body)
				if err != nil {
					return err
				}
				*side.took = append(*side.took, took)
			}
		}
	}
	return json.NewEncoder(os.Stdout).Encode(timings)
}

// serveNothing serves a volume driver that agrees to everything at once.
func serveNothing() (socket string, stop func(), err error) {
	dir, err := os.MkdirTemp("", "hosttool")
	if err != nil {
		return "", nil, err
	}
	socket = filepath.Join(dir, "nothing.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		return "", nil, err
	}
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", dockersAccept)
		_, _ = io.WriteString(w, `{"Err":""}`+"\n")
	})}
	s.SetKeepAlivesEnabled(false)
	go func() { _ = s.Serve(l) }()
	return socket, func() { _ = s.Close(); _ = os.RemoveAll(dir) }, nil
}

// createMany creates the volumes PREFIX-from … PREFIX-(to-1), eight at a time.
func createMany(socket, prefix string, from, to int) error {
	var (
		mu     sync.Mutex
		failed []string
		work   sync.WaitGroup
		slots  = make(chan struct{}, 8)
		c      = newCaller(socket)
	)
	for i := from; i < to; i++ {
		slots <- struct{}{}
		work.Go(func() {
			defer func() { <-slots }()
			if _, err := c.call("Create", fmt.Sprintf(`{"Name":"%s-%05d","Opts":{}}`, prefix, i)); err != nil {
				mu.Lock()
				defer mu.Unlock()
				failed = append(failed, err.Error())
			}
		})
	}
	work.Wait()
	if len(failed) > 0 {
		return fmt.Errorf("%d of %d could not be created: %s", len(failed), to-from, slices.Sorted(slices.Values(failed))[0])
	}
	return nil
}
