package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	"github.com/mobyfs/mobyfs/agent"
	"github.com/mobyfs/mobyfs/agent/stub"
	"github.com/mobyfs/mobyfs/driver"
	"github.com/mobyfs/mobyfs/internal/process"
)

// forgetTime is how long Docker is given to forget volumes before the stub counts as up.
const forgetTime = 20 * time.Second

// newStubCommand is what mobyctl reset leaves running; nobody else needs it.
func newStubCommand() *cobra.Command {
	var s gone
	var dockerd string
	cmd := &cobra.Command{
		Use:    "stub",
		Short:  "Answer a dockerd that has used the driver, on a host that left its cluster, until that dockerd ends",
		Args:   cobra.NoArgs,
		Hidden: true,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if s.dockerd, err = process.Parse(dockerd); err != nil {
				return err
			}
			return s.run(cmd.Context(), slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil)))
		},
	}
	cmd.Flags().StringVar(&dockerd, "dockerd", "", "process of dockerd and the clock tick at which it began: 812@52345")
	cmd.Flags().StringVar(&s.socket, "socket", "/run/docker/plugins/mobyfs.sock", "where to listen for Docker")
	cmd.Flags().StringVar(&s.docker, "docker", agent.DockerSocket, "socket of dockerd")
	cmd.Flags().StringVar(&s.forget, "forget", "", "directory of an agent whose volumes Docker shall forget")
	return cmd
}

// gone is a stub where mobyfs was taken off.
type gone struct {
	dockerd process.Life
	socket  string
	docker  string
	forget  string
}

// run answers until that life of dockerd has ended, or ctx, and then takes its socket away.
func (g gone) run(ctx context.Context, log *slog.Logger) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	names := stub.Names(g.forget) // before the directory goes
	l, err := listenUnix(g.socket)
	if err != nil {
		return err
	}
	own, err := os.Stat(g.socket)
	if err != nil {
		return err
	}
	server := driver.Server(driver.New(stub.Gone{}, log))
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	ended := make(chan error, 1)
	go func() { ended <- g.dockerd.Wait(ctx) }()
	g.forgetVolumes(ctx, names, log)
	tellSystemd(daemon.SdNotifyReady, log)
	log.Info("a stub answers Docker until it ends", "dockerd", g.dockerd.String(), "socket", g.socket)

	select {
	case err = <-served:
	case err = <-ended:
	}
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	if now, statErr := os.Stat(g.socket); statErr == nil && os.SameFile(own, now) {
		if rmErr := os.Remove(g.socket); rmErr != nil && !errors.Is(rmErr, fs.ErrNotExist) {
			err = errors.Join(err, rmErr)
		}
	}
	_ = server.Close()
	return err
}

// forgetVolumes makes Docker ask for each volume, hear that there is none, and drop its record. A record that it keeps
// costs its next start 15 s, for then nobody answers.
func (g gone) forgetVolumes(ctx context.Context, names []string, log *slog.Logger) {
	ctx, cancel := context.WithTimeout(ctx, forgetTime)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", g.docker)
	}}}
	defer client.CloseIdleConnections()
	for i, name := range names {
		if err := askDocker(ctx, client, name); err != nil {
			log.Warn("Docker was not asked to forget all volumes", "left", len(names)-i, "err", err)
			return
		}
	}
}

func askDocker(ctx context.Context, client *http.Client, volume string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://docker/volumes/"+url.PathEscape(volume), nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("ask Docker for volume %q: %w", volume, err)
	}
	return resp.Body.Close()
}
