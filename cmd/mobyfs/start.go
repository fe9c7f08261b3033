package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	"github.com/mobyfs/mobyfs/agent"
	"github.com/mobyfs/mobyfs/api"
	"github.com/mobyfs/mobyfs/backend"
	"github.com/mobyfs/mobyfs/backend/dir"
	"github.com/mobyfs/mobyfs/driver"
	"github.com/mobyfs/mobyfs/internal/pki"
	"github.com/mobyfs/mobyfs/migrate/transfer"
)

const (
	// finishTime is how long calls of Docker that are being answered may take after SIGTERM. Those that come later
	// wait in systemd's socket for the next start.
	finishTime = 20 * time.Second
	// portRetry is how long to wait for the port for other nodes when another program has it.
	portRetry = 5 * time.Second
)

func newStartCommand() *cobra.Command {
	var s settings
	cmd := &cobra.Command{
		Use:   "start",
		Short: "Serve Docker and the other nodes until SIGTERM; containers and their volumes stay as they are then",
		Long: `Serve Docker's volume calls, and the other nodes that pull volumes from here, until SIGTERM.
Docker is answered whether or not the control plane can be reached. Stopping unmounts nothing: containers
go on. SIGHUP reads the log level again; certificates are read anew by each connection.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := s.check(); err != nil {
				return err
			}
			first, err := parseLevel(s.log)
			if err != nil {
				return err
			}
			shown := new(slog.LevelVar)
			shown.Set(first)
			log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: shown}))
			hangup := make(chan os.Signal, 1)
			signal.Notify(hangup, syscall.SIGHUP)
			defer signal.Stop(hangup)
			go rereadOn(cmd.Context(), hangup, s.envFile, shown, log)
			return start(cmd.Context(), s, log)
		},
	}
	s.bind(cmd.Flags())
	return cmd
}

// start serves until ctx ends, which is success, or until Docker can't be served.
func start(ctx context.Context, s settings, log *slog.Logger) error {
	lock, err := lockRoot(s.root)
	if err != nil {
		return err
	}
	defer lock.Close()
	a, err := openAgent(s, log)
	if err != nil {
		return err
	}
	defer a.Close()
	plugin, at, err := pluginSocket(s.socket)
	if err != nil {
		return err
	}
	docker := driver.Server(driver.New(a, log))
	served := make(chan error, 1)
	go func() { served <- docker.Serve(plugin) }()

	// The agent works on while the last calls of Docker are answered, for they wait for it.
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	var parts sync.WaitGroup
	defer parts.Wait()
	defer stop()
	parts.Go(func() { a.Run(work) })
	parts.Go(func() { servePeers(work, s, a, log) })

	self := health{socket: at, agent: a}
	if err := self.check(ctx); err != nil && ctx.Err() == nil {
		_ = docker.Close()
		return fmt.Errorf("try the driver's own socket: %w", err)
	}
	log.Info("mobyfs is ready", "node", s.node, "address", s.advertise, "socket", at, "version", version)
	tellSystemd(daemon.SdNotifyReady, log)
	parts.Go(func() { self.feedWatchdog(work, log) })

	select {
	case err := <-served:
		return fmt.Errorf("serve Docker: %w", err)
	case <-ctx.Done():
	}
	tellSystemd(daemon.SdNotifyStopping, log)
	patience, cancel := context.WithTimeout(context.WithoutCancel(ctx), finishTime)
	defer cancel()
	if err := docker.Shutdown(patience); err != nil {
		log.Warn("calls of Docker were cut off", "err", err)
		_ = docker.Close()
	}
	log.Info("mobyfs stops; containers go on")
	return nil
}

// openAgent introduces the agent to its backend, to control and to the other nodes. None of them is called yet.
func openAgent(s settings, log *slog.Logger) (*agent.Agent, error) {
	toControl, err := s.files().ClientTLS(pki.RoleControl, "control")
	if err != nil {
		return nil, err
	}
	dirs, err := dir.Open(s.root)
	if err != nil {
		return nil, err
	}
	cfg := agent.Config{
		Node: s.node, Address: s.advertise, Version: version, Root: s.root,
		Backends: []backend.Backend{dirs},
		Control:  api.NewClient(s.control, toControl),
		Peer:     transfer.NewClient(s.files()),
		Files:    s.files(),
		Linger:   s.linger,
		Log:      log,
	}
	if s.docker != "" {
		cfg.Docker = agent.NewDocker(s.docker, agent.DockerIsUp)
	}
	return agent.Open(cfg)
}

// servePeers lets other nodes pull from here, until ctx ends. A port that another program has does not keep Docker
// waiting; it is tried for again and again.
func servePeers(ctx context.Context, s settings, a *agent.Agent, log *slog.Logger) {
	for said := false; ctx.Err() == nil; {
		err := servePeersOnce(ctx, s, a, log)
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

func servePeersOnce(ctx context.Context, s settings, a *agent.Agent, log *slog.Logger) error {
	tls, err := s.files().ServerTLS()
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", net.JoinHostPort("", strconv.Itoa(s.port)))
	if err != nil {
		return fmt.Errorf("listen for other nodes: %w", err)
	}
	peers := &transfer.Server{TLS: tls, Offer: a.Offer, Log: log}
	return peers.Serve(ctx, l)
}

// rereadOn takes the log level over again at each signal, until ctx ends.
func rereadOn(ctx context.Context, hangup <-chan os.Signal, envFile string, shown *slog.LevelVar, log *slog.Logger) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangup:
		}
		level, err := levelIn(envFile)
		if err != nil {
			log.Warn("read the settings again; they stay as they are", "err", err)
			continue
		}
		shown.Set(level)
		log.Info("settings were read again", "level", level.String())
	}
}

// tellSystemd does nothing where systemd did not start the program.
func tellSystemd(state string, log *slog.Logger) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Warn("tell systemd", "state", state, "err", err)
	}
}
