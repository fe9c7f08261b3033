package main

import (
	"context"
	"crypto/tls"
	"log/slog"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/mobyfs/mobyfs/internal/discovery"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// health finds out whether Docker is really answered.
type health struct {
	endpoint discovery.Endpoint
	docker   pki.Files                   // dockerd's certificate, to call as it would
	alive    func(context.Context) error // whether what is behind the driver can move
	log      *slog.Logger
}

// check makes a call at the driver's own endpoint, as Docker would, and sees whether what is behind it can move.
// That dockerd's certificate is of no use is said, but is no reason for systemd to end what answers.
func (h health) check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var config *tls.Config
	if h.endpoint.TLS() {
		var err error
		if config, err = h.docker.AddressTLS(); err != nil {
			h.log.Warn("dockerd could not show its certificate; mobyctl bootstrap makes another", "err", err)
			return h.alive(ctx)
		}
	}
	err := discovery.Ask(ctx, h.endpoint, config)
	if discovery.Refused(err) {
		h.log.Warn("the driver and dockerd do not believe each other's certificates; mobyctl bootstrap renews them", "err", err)
		err = nil
	}
	if err != nil {
		return err
	}
	return h.alive(ctx)
}

// feedWatchdog tells systemd that all is well, as long as it is. A driver that hangs would hang dockerd: systemd
// then ends it and starts another.
func (h health) feedWatchdog(ctx context.Context) {
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
			h.log.Error("the driver does not answer at its own endpoint", "err", err)
		default:
			tellSystemd(daemon.SdNotifyWatchdog, h.log)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
