package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	"github.com/mobyfs/mobyfs/agent"
	"github.com/mobyfs/mobyfs/agent/stub"
	"github.com/mobyfs/mobyfs/driver"
	"github.com/mobyfs/mobyfs/internal/discovery"
	"github.com/mobyfs/mobyfs/internal/process"
)

// forgetTime is how long Docker is given to forget volumes before the stub counts as up.
const forgetTime = 20 * time.Second

// newStubCommand is what mobyctl reset leaves running; nobody else needs it.
func newStubCommand() *cobra.Command {
	var g gone
	var dockerd string
	cmd := &cobra.Command{
		Use:    "stub",
		Short:  "Answer a dockerd that has used the driver, on a host that left its cluster, until that dockerd ends",
		Args:   cobra.NoArgs,
		Hidden: true,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if g.life, err = process.Parse(dockerd); err != nil {
				return err
			}
			return g.run(cmd.Context(), slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil)))
		},
	}
	f := cmd.Flags()
	f.StringVar(&dockerd, "dockerd", "", "process of dockerd and the clock tick at which it began: 812@52345")
	f.StringSliceVar(&g.endpoints, "endpoint", []string{string(discovery.SockEndpoint)}, "where that dockerd calls, several with commas")
	f.StringVar(&g.docker, "docker", agent.DockerSocket, "socket of dockerd")
	f.StringVar(&g.root, "root", "", "directory of the agent that was here; it is read once, at the start")
	f.StringVar(&g.cluster, "cluster", "", "the cluster that the host was in")
	f.StringVar(&g.node, "node", "", "the node that the host was")
	return cmd
}

// gone is a stub where mobyfs was taken off.
type gone struct {
	settings
	life      process.Life // of dockerd
	endpoints []string
}

// run answers until that life of dockerd has ended, or ctx, and then takes its sockets away.
func (g gone) run(ctx context.Context, log *slog.Logger) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var doors []door
	for _, e := range g.endpoints {
		d, err := g.open(discovery.Endpoint(e))
		if err != nil { // that dockerd can't be answered is no reason to keep the host from leaving
			log.Error("Docker will wait 15 s for the driver each time until it is restarted", "endpoint", e, "err", err)
			continue
		}
		defer takeAway(d, log)()
		doors = append(doors, d)
	}
	answers := &forgetful{Handler: driver.New(stub.Gone{}, log)}
	docker := serveDocker(doors, answers, log)
	defer docker.close()
	ended := make(chan error, 1)
	go func() { ended <- g.life.Wait(ctx) }()
	if err := g.forgetVolumes(ctx, answers); err != nil {
		log.Warn("make Docker forget the volumes; its next start may take 15 s longer", "err", err)
	}
	tellSystemd(daemon.SdNotifyReady, log)
	log.Info("a stub answers Docker until it ends", "dockerd", g.life.String(), "endpoints", len(doors))

	select {
	case err := <-docker.failed:
		return err
	case err := <-ended:
		if errors.Is(err, context.Canceled) {
			return nil
		}
		return err
	}
}

// open opens an endpoint. Where Docker shows a certificate, those that tell whom to let in are read now: they are about
// to be removed.
func (g gone) open(e discovery.Endpoint) (door, error) {
	l, err := listen(e)
	if err != nil || !e.TLS() {
		return door{l, e}, err
	}
	config, err := g.files().DockerTLS(g.dockerd(), g.dockerFiles())
	if err == nil {
		config, err = config.GetConfigForClient(nil)
	}
	if err != nil {
		l.Close()
		return door{}, err
	}
	return door{tls.NewListener(l, config), e}, nil
}

// takeAway returns what removes the socket of a door, unless somebody has put another one in its place by then.
func takeAway(d door, log *slog.Logger) func() {
	p := d.endpoint.Path()
	own, err := os.Stat(p)
	return func() {
		now, nowErr := os.Stat(p)
		if err != nil || nowErr != nil || !os.SameFile(own, now) {
			return
		}
		if err := os.Remove(p); err != nil {
			log.Error("take the socket away", "err", err)
		}
	}
}

// forgetful answers List with an error while it is blind: Docker then lists what it remembers of the driver's volumes.
type forgetful struct {
	http.Handler
	blind atomic.Bool
}

func (f *forgetful) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if f.blind.Load() && r.URL.Path == "/VolumeDriver.List" {
		_, _ = io.WriteString(w, `{"Err":"mobyfs was taken off this host"}`+"\n")
		return
	}
	f.Handler.ServeHTTP(w, r)
}

// forgetVolumes makes Docker ask for each volume that it may have a record of, hear that there is none, and drop the
// record. With such records its next start would look for a driver that nobody is any more. Docker lists those that it
// found when it began; of others only the agent knows.
func (g gone) forgetVolumes(ctx context.Context, answers *forgetful) error {
	ctx, cancel := context.WithTimeout(ctx, forgetTime)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", g.docker)
	}}}
	defer client.CloseIdleConnections()
	var remembered struct {
		Volumes []struct{ Name, Driver string }
	}
	names := stub.Names(g.root)
	answers.blind.Store(true)
	err := askDocker(ctx, client, "/volumes?filters="+url.QueryEscape(`{"driver":["mobyfs"]}`), &remembered)
	answers.blind.Store(false)
	if err != nil {
		return err
	}
	for _, v := range remembered.Volumes {
		if v.Driver == "mobyfs" && !slices.Contains(names, v.Name) {
			names = append(names, v.Name)
		}
	}
	for _, name := range names {
		if err := askDocker(ctx, client, "/volumes/"+url.PathEscape(name), nil); err != nil {
			return err
		}
	}
	return nil
}

// askDocker makes a call and decodes the answer into v, unless v is nil: then any answer will do.
func askDocker(ctx context.Context, client *http.Client, path string, v any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://docker"+path, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("ask Docker: %w", err)
	}
	defer resp.Body.Close()
	body := io.LimitReader(resp.Body, 64<<20)
	if v == nil {
		_, err = io.Copy(io.Discard, body)
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("ask Docker: it answers %s", resp.Status)
	}
	return json.NewDecoder(body).Decode(v)
}
