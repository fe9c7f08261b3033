package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/api"
	"github.com/mobyfs/mobyfs/control"
	"github.com/mobyfs/mobyfs/control/store"
	"github.com/mobyfs/mobyfs/internal/failpoint"
	"github.com/mobyfs/mobyfs/internal/tracing"
)

// shutdownTimeout is how long calls that are being answered may take after SIGTERM.
const shutdownTimeout = 5 * time.Second

func newStartCommand(s *settings) *cobra.Command {
	var debug bool
	cmd := &cobra.Command{
		Use:   "start",
		Short: "Decide, until SIGTERM",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			level := slog.LevelInfo
			if debug {
				level = slog.LevelDebug
			}
			log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: level}))
			return start(cmd.Context(), *s, log)
		},
	}
	cmd.Flags().BoolVar(&debug, "debug", false, "log all that etcd says, too")
	s.addStart(cmd.Flags())
	return cmd
}

// start serves until ctx ends, or until it is to be started again, which is success, or until the store or the listener
// fails.
func start(ctx context.Context, s settings, log *slog.Logger) (err error) {
	if err := s.checkStart(); err != nil {
		return err
	}
	_, _, err = s.identity().Identity()
	if errors.Is(err, fs.ErrNotExist) {
		return mobyfs.Errorf(mobyfs.CodeInvalid, "control has no certificate yet: %w", err).
			WithHint("mobyfs-control init --cluster %s", s.cluster)
	}
	if err != nil {
		return err
	}
	classes, err := control.ReadClasses(s.classes)
	if err != nil {
		return err
	}
	self, err := s.self()
	if err != nil {
		return err
	}
	quota, err := s.storeQuota()
	if err != nil {
		return err
	}
	etcdTLS, err := s.etcd.tls()
	if err != nil {
		return err
	}
	tracer, stopTracing, err := tracing.Open(ctx, tracing.Program{Service: "mobyfs-control", Instance: s.name, Version: version}, log)
	if err != nil {
		return err
	}
	defer stopTracing()
	ctx = tracing.With(ctx, tracer)
	listener, err := net.Listen("tcp", s.listen) // first of all: it tells at once if another control runs
	if err != nil {
		return mobyfs.Errorf(mobyfs.CodeUnavailable, "serve the API: %w", err).
			WithHint("another mobyfs-control may run here, or set MOBYFS_CONTROL_LISTEN to another port")
	}
	loaded := make(chan struct{})
	go keepHeapSmall(ctx, heapLoaded(store.SizeIn(s.root)), loaded)
	ctl, err := control.Open(ctx, control.Config{
		Cluster: s.cluster, Root: s.root, Identity: s.identity(), Version: version, Classes: classes, Log: log,
		Placement: s.placement,
		Self:      self, Endpoints: s.etcd.endpoints, EndpointTLS: etcdTLS, Quota: quota, Now: failpoint.Now, SessionTTL: s.session, BackupEvery: s.backups,
	})
	close(loaded)
	if err != nil {
		listener.Close()
		return err
	}
	defer func() { err = errors.Join(err, ctl.Close()) }()
	tlsConfig, err := s.identity().ControlTLS(ctl.Admit)
	if err != nil {
		listener.Close()
		return err
	}
	server := api.NewServer(ctl, log)
	server.Tracer = tracer
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener, tlsConfig) }()
	log.Info("control is ready", "cluster", s.cluster, "address", listener.Addr().String(), "version", version)
	tellSystemd(daemon.SdNotifyReady, log)

	select {
	case err = <-served:
		err = fmt.Errorf("serve the API: %w", err)
	case <-ctl.Done():
		err = ctl.Err()
	case <-ctl.Restart():
		log.Info("control is stopping, to be started again")
	case <-ctx.Done():
		log.Info("control is stopping")
	}
	tellSystemd(daemon.SdNotifyStopping, log)
	patience, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	if stopErr := server.Shutdown(patience); stopErr != nil {
		log.Debug("some calls were cut off", "err", stopErr)
	}
	return err
}

// tellSystemd does nothing where systemd did not start the program.
func tellSystemd(state string, log *slog.Logger) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Warn("systemd could not be told", "state", state, "err", err)
	}
}
