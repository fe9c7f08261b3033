package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/mobyfs/mobyfs/agent"
)

// health finds out whether Docker is really answered.
type health struct {
	socket string
	agent  *agent.Agent
}

// check makes a call on the driver's own socket, as Docker would, and sees whether the agent behind it can move.
func (h health) check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", h.socket)
		},
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://mobyfs/VolumeDriver.Capabilities", strings.NewReader("{}"))
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
	if err != nil || resp.StatusCode != http.StatusOK || !strings.Contains(string(body), "global") {
		return fmt.Errorf("it answered %s %q", resp.Status, body)
	}
	return h.agent.Alive(ctx)
}

// feedWatchdog tells systemd that all is well, as long as it is. A driver that hangs would hang dockerd: systemd
// then ends it and starts another.
func (h health) feedWatchdog(ctx context.Context, log *slog.Logger) {
	limit, err := daemon.SdWatchdogEnabled(false)
	if err != nil || limit == 0 {
		return
	}
	tick := time.NewTicker(limit / 3)
	defer tick.Stop()
	for {
		err := h.check(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			log.Error("the driver does not answer on its own socket", "err", err)
		default:
			tellSystemd(daemon.SdNotifyWatchdog, log)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
