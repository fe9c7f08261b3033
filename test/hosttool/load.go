package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// outcome is what came of a load.
type outcome struct {
	Calls   int      `json:"calls"`
	Failed  []string `json:"failed"`
	Slowest float64  `json:"slowest_seconds"`
}

// load calls at a steady rate, whether or not earlier calls have been answered. A call fails that breaks, has another
// status than 200, an empty answer, or an error in it. Nothing is tried twice.
func load(socket, method, path, body, rate, seconds string) error {
	perSecond, err := strconv.Atoi(rate)
	if err != nil {
		return err
	}
	length, err := strconv.Atoi(seconds)
	if err != nil {
		return err
	}
	client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}
	var mu sync.Mutex
	var calls sync.WaitGroup
	o := outcome{Calls: perSecond * length, Failed: []string{}}
	tick := time.NewTicker(time.Second / time.Duration(perSecond))
	defer tick.Stop()
	for range o.Calls {
		<-tick.C
		calls.Go(func() {
			began := time.Now()
			err := callOnce(client, method, path, body)
			mu.Lock()
			defer mu.Unlock()
			o.Slowest = max(o.Slowest, time.Since(began).Seconds())
			if err != nil {
				o.Failed = append(o.Failed, err.Error())
			}
		})
	}
	calls.Wait()
	return json.NewEncoder(os.Stdout).Encode(o)
}

func callOnce(client *http.Client, method, path, body string) error {
	req, err := http.NewRequest(method, "http://socket"+path, strings.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "application/vnd.docker.plugins.v1.2+json")
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	var answer struct{ Err string }
	if err := json.Unmarshal(text, &answer); err != nil || resp.StatusCode != http.StatusOK || answer.Err != "" {
		return fmt.Errorf("%s: %q", resp.Status, text)
	}
	return nil
}

// handshake connects as Docker would, and waits until the server has said what it thinks of the certificate.
func handshake(address, caFile, certFile, keyFile string) error {
	ca, err := os.ReadFile(caFile)
	if err != nil {
		return err
	}
	config := &tls.Config{RootCAs: x509.NewCertPool()}
	config.RootCAs.AppendCertsFromPEM(ca)
	if certFile != "-" {
		pair, err := tls.LoadX509KeyPair(certFile, keyFile)
		if err != nil {
			return err
		}
		config.Certificates = []tls.Certificate{pair}
	}
	c, err := tls.Dial("tcp", address, config)
	if err != nil {
		return err
	}
	defer c.Close()
	fmt.Fprintf(c, "POST /VolumeDriver.Capabilities HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
	text, err := io.ReadAll(c)
	if err != nil {
		return err
	}
	if !strings.Contains(string(text), "global") {
		return fmt.Errorf("the answer is %q", text)
	}
	fmt.Println(c.ConnectionState().PeerCertificates[0].SerialNumber)
	return nil
}
