package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// request is what goes over a connection of its own.
type request struct {
	Send  string // all bytes, head and body
	Leave *int   // hang up that many ms after sending, and read nothing
	Wait  int    // ms before sending
}

// said is how the other side answered.
type said struct {
	Status int
	Header http.Header
	Body   string
	Bytes  int    // of the whole answer
	Closes bool   // the answer's head says that it ends the connection
	Open   bool   // the other side left the connection open all the same
	Began  int    // ms from the start to the first byte sent
	Took   int    // ms from there to the end of the answer
	Failed string // what the connection broke with
}

const answerLimit = 150 * time.Second

// wire sends requests in their order, at most atOnce at a time.
func wire(socket string, atOnce int, from io.Reader, to io.Writer) error {
	var requests []request
	if err := json.NewDecoder(from).Decode(&requests); err != nil {
		return err
	}
	answers := make([]said, len(requests))
	slots := make(chan struct{}, atOnce)
	start := time.Now()
	var wg sync.WaitGroup
	for i, r := range requests {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			time.Sleep(time.Duration(r.Wait) * time.Millisecond)
			began := time.Now()
			answers[i] = say(socket, r)
			answers[i].Began, answers[i].Took = int(began.Sub(start).Milliseconds()), int(time.Since(began).Milliseconds())
		})
	}
	wg.Wait()
	return json.NewEncoder(to).Encode(answers)
}

func say(socket string, r request) (s said) {
	c, err := net.Dial("unix", socket)
	if err != nil {
		return said{Failed: err.Error()}
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(answerLimit))
	if _, err := io.WriteString(c, r.Send); err != nil {
		s.Failed = err.Error() // the answer may be there all the same
	}
	if r.Leave != nil {
		time.Sleep(time.Duration(*r.Leave) * time.Millisecond)
		return s
	}
	var all bytes.Buffer
	in := bufio.NewReader(io.TeeReader(c, &all))
	resp, err := http.ReadResponse(in, nil)
	if err == nil {
		var body []byte
		body, err = io.ReadAll(resp.Body)
		s.Status, s.Header, s.Body, s.Closes = resp.StatusCode, resp.Header, string(body), resp.Close
	}
	if err != nil {
		s.Failed = err.Error()
	} else {
		_ = c.SetReadDeadline(time.Now().Add(time.Second))
		_, err = in.ReadByte()
		s.Open = err != io.EOF && !strings.Contains(err.Error(), "reset")
	}
	s.Bytes = all.Len()
	return s
}

// pace makes calls as Docker's client does, over connections that it keeps if it may, and pauses in between: none, or
// up to 20 ms. A call that fails in transit is one that Docker would repeat without its body.
func pace(socket, volume string, calls int) error {
	client := &http.Client{Transport: &http.Transport{
		MaxIdleConns: 2, IdleConnTimeout: 6 * time.Second,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}
	body := fmt.Sprintf(`{"Name":%q}`+"\n", volume)
	for i := range calls {
		req, err := http.NewRequest(http.MethodPost, "http://plugin.moby.localhost/VolumeDriver.Path", io.NopCloser(strings.NewReader(body)))
		if err != nil {
			return err
		}
		req.ContentLength = int64(len(body)) // and no GetBody, so that net/http repeats nothing by itself
		req.Header.Set("Accept", "application/vnd.docker.plugins.v1.2+json")
		resp, err := client.Do(req)
		if err != nil {
			return fmt.Errorf("call %d of %d: %w", i+1, calls, err)
		}
		text, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || !strings.Contains(string(text), `"Err":""`) {
			return fmt.Errorf("call %d of %d: %v %s", i+1, calls, err, text)
		}
		if i%8 == 0 {
			time.Sleep(time.Duration(rand.IntN(20_000)) * time.Microsecond)
		}
	}
	_, err := fmt.Printf("%d calls\n", calls)
	return err
}
