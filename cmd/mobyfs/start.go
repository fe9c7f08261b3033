package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"
	"go.opentelemetry.io/otel/trace"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/agent"
	"github.com/mobyfs/mobyfs/agent/watchdog"
	"github.com/mobyfs/mobyfs/backend"
	"github.com/mobyfs/mobyfs/backend/btrfs"
	"github.com/mobyfs/mobyfs/backend/dir"
	"github.com/mobyfs/mobyfs/backend/loop"
	"github.com/mobyfs/mobyfs/backend/shared"
	"github.com/mobyfs/mobyfs/driver"
	"github.com/mobyfs/mobyfs/internal/mountns"
	"github.com/mobyfs/mobyfs/internal/tracing"
	"github.com/mobyfs/mobyfs/migrate/feed"
	"github.com/mobyfs/mobyfs/migrate/transfer"
)

// portRetry is how long to wait for the port for other nodes when another program has it.
const portRetry = 5 * time.Second

func newStartCommand() *cobra.Command {
	var s settings
	cmd := &cobra.Command{
		Use:   "start",
		Short: "Serve Docker and the other nodes until SIGTERM; containers and their volumes stay as they are then",
		Long: `Serve Docker's volume calls, and the other nodes that pull volumes from here, until SIGTERM.
Docker is answered whether or not the control plane can be reached. Stopping unmounts nothing: containers
go on. SIGHUP reads the environment file again and takes over the log level, the addresses of control, the
address that is told to other nodes, and the certificates; no call is dropped.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			first, err := parseLevel(s.log)
			if err != nil {
				first = slog.LevelInfo // check refuses it
			}
			shown := new(slog.LevelVar)
			shown.Set(first)
			log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: shown}))
			hangup := make(chan os.Signal, 1)
			signal.Notify(hangup, syscall.SIGHUP)
			defer signal.Stop(hangup)
			return start(cmd.Context(), s, reload{hangup: hangup, flags: cmd.Flags(), shown: shown}, log)
		},
	}
	s.bind(cmd.Flags(), os.Getenv)
	return cmd
}

// start serves until ctx ends, which is success, or until Docker can't be served. Where systemd hands over the socket
// Docker's calls arrive whether or not there is an agent, so a stub answers them until there is one; started by hand,
// without a socket that calls wait in, mobyfs ends with the error instead.
func start(ctx context.Context, s settings, again reload, log *slog.Logger) error {
	f := newFront(s, again, log)
	tracer, stopTracing, err := tracing.Open(ctx, tracing.Program{Service: "mobyfs", Instance: s.node, Version: version}, log)
	if err != nil { // containers need their volumes all the same
		log.Error("traces are not recorded", "err", err, "hint", mobyfs.HintOf(err))
	}
	defer stopTracing()
	f.tracer = tracer
	defer f.close()
	if waiting := socketHandedOver(); waiting {
		f.begin(ctx)
	} else if err := f.open(); err != nil {
		return err
	}
	doors, err := openDoors(s)
	if err != nil {
		return err
	}
	docker := serveDocker(doors, driver.New(measured{f.seat, f.counts}, log), log)

	self := health{endpoint: doors[0].endpoint, docker: s.dockerFiles(), alive: f.alive, log: log}
	if err := self.check(ctx); err != nil && ctx.Err() == nil {
		docker.close()
		return fmt.Errorf("try the driver's own endpoint: %w", err)
	}
	log.Info("mobyfs answers Docker", "endpoint", string(doors[0].endpoint), "version", version)
	tellSystemd(daemon.SdNotifyReady, log)
	f.goDo(func() { self.feedWatchdog(f.work) })
	if s.metrics != "" {
		f.goDo(func() { f.serveMetrics(f.work) })
	}

	select {
	case err := <-docker.failed:
		docker.close()
		return fmt.Errorf("serve Docker: %w", err)
	case <-f.anew:
		log.Info("the settings have changed; mobyfs begins anew with them")
	case <-ctx.Done():
		log.Info("mobyfs stops; containers go on")
	}
	tellSystemd(daemon.SdNotifyStopping, log)
	f.endInOrder()
	docker.finish(log)
	return nil
}

// openAgent introduces the agent to its backend, to control and to the other nodes. None of them is called yet.
func openAgent(s settings, toControl mobyfs.Control, id *identity, tracer trace.Tracer, log *slog.Logger) (*agent.Agent, error) {
	dirs, err := dir.Open(s.root)
	if err != nil {
		return nil, err
	}
	backends := []backend.Backend{dirs}
	for name, open := range map[string]func(string) (*dir.Backend, error){mobyfs.LoopBackend: loop.Open, mobyfs.BtrfsBackend: btrfs.Open} {
		switch volumes, err := open(mobyfs.BackendRoot(s.root, name)); {
		case mobyfs.CodeOf(err) == mobyfs.CodeUnavailable:
			log.Info("volumes of this backend are not offered here", "backend", name, "err", err, "hint", mobyfs.HintOf(err))
		case err != nil:
			return nil, err
		default:
			backends = append(backends, volumes)
		}
	}
	if s.shared != "" {
		all, err := shared.Open(s.shared, filepath.Join(s.root, "shared"))
		if err != nil {
			return nil, err
		}
		backends = append(backends, all)
	}
	feeds := feed.New(log)
	cfg := agent.Config{
		Node: s.node, Address: s.advertise, Version: version, Root: s.root,
		Zone: s.zone, Rack: s.rack, Labels: s.labelled(),
		Backends: backends,
		Control:  toControl,
		Peer:     transfer.NewClient(s.files()),
		Files:    s.files(),
		Feed: func(dir string) feed.Feed {
			f, _ := feeds.Arm(dir, feed.Options{PIDs: func() ([]int, error) { return mountns.Suspects(dir) }})
			return f
		},
		Linger:  s.linger,
		Trash:   s.trash,
		Trusted: id.learn,
		Held:    id.held,
		Evicted: id.known,
		Log:     log,
		Tracer:  tracer,

		VolumeMetrics: s.perVolume,
	}
	if s.shared != "" {
		cfg.Watchdog = watchdog.Client{Socket: s.watchdogSocket()}
	}
	if s.docker != "" {
		cfg.Docker = agent.NewDocker(s.docker, agent.DockerIsUp)
	}
	return agent.Open(cfg)
}

// servePeers lets other nodes pull from here, until ctx ends. A port that another program has does not keep Docker
// waiting; it is tried for again and again.
func servePeers(ctx context.Context, s settings, a *agent.Agent, id *identity, log *slog.Logger) {
	for said := false; ctx.Err() == nil; {
		err := servePeersOnce(ctx, s, a, id, log)
		if err != nil && !said {
			log.Error("other nodes can't pull volumes from here", "err", err)
			said = true
		}
		select {
		case <-ctx.Done():
		case <-time.After(portRetry):
		}
	}
}

func servePeersOnce(ctx context.Context, s settings, a *agent.Agent, id *identity, log *slog.Logger) error {
	tls, err := s.files().ServerTLS(id.admit)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", net.JoinHostPort("", s.port.String()))
	if err != nil {
		return fmt.Errorf("listen for other nodes: %w", err)
	}
	peers := &transfer.Server{TLS: tls, Offer: a.Offer, Log: log}
	return peers.Serve(ctx, l)
}

// tellSystemd does nothing where systemd did not start the program.
func tellSystemd(state string, log *slog.Logger) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Warn("tell systemd", "state", state, "err", err)
	}
}
