// Command mobyfs-plugin is mobyfs as a managed plugin of Docker (docker plugin create), for shops that allow no other
// kind: it passes Docker's volume calls on to the socket of the agent on the same host. It mounts nothing, keeps nothing
// and decides nothing, so it may be killed, disabled and upgraded at any moment; containers and their volumes go on.
//
// Docker starts it, in a container of its own, with the settings of config.json. It ends at SIGTERM.
package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/driver"
)

const (
	// finishTime is how long calls that are being answered may take after SIGTERM. Docker kills a plugin after 10 s.
	finishTime = 5 * time.Second
	// listenAt is where Docker looks for the plugin's socket, inside the plugin; config.json names the file.
	listenAt = "/run/docker/plugins/mobyfs.sock"
)

// version is set by the linker.
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Getenv("MOBYFS_AGENT"), os.Getenv("MOBYFS_LOG"))
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "mobyfs-plugin: %v\n", err)
		if hint := mobyfs.HintOf(err); hint != "" {
			fmt.Fprintf(os.Stderr, "  hint: %s\n", hint)
		}
		os.Exit(1)
	}
}

// run serves Docker until ctx ends. It logs to stdout: Docker's own log takes what comes on stderr for errors.
func run(ctx context.Context, agentSocket, level string) error {
	var shown slog.Level
	if err := shown.UnmarshalText([]byte(level)); err != nil {
		return mobyfs.Errorf(mobyfs.CodeInvalid, "there is no log level %q", level).
			WithHint("docker plugin set NAME MOBYFS_LOG=info, or debug, warn, error")
	}
	if agentSocket == "" {
		return mobyfs.Errorf(mobyfs.CodeInvalid, "the agent's socket is missing").
			WithHint("docker plugin set NAME MOBYFS_AGENT=/run/mobyfs/mobyfs.sock")
	}
	log := slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{Level: shown}))
	// Docker makes the directory anew for each start; a socket in it is that of a process that has ended.
	if err := os.Remove(listenAt); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	l, err := net.Listen("unix", listenAt)
	if err != nil {
		return fmt.Errorf("listen for Docker: %w", err)
	}
	log.Info("mobyfs-plugin is ready", "agent", agentSocket, "version", version)
	return serve(ctx, l, newAgent(dialer(agentSocket), log), log)
}

// serve answers on l until ctx ends, and then lets the calls finish that are being answered.
func serve(ctx context.Context, l net.Listener, a mobyfs.Mounter, log *slog.Logger) error {
	server := driver.Server(newHandler(a, log))
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	select {
	case err := <-served:
		return fmt.Errorf("serve Docker: %w", err)
	case <-ctx.Done():
	}
	patience, cancel := context.WithTimeout(context.WithoutCancel(ctx), finishTime)
	defer cancel()
	if err := server.Shutdown(patience); err != nil {
		log.Warn("calls of Docker were cut off", "err", err)
		return server.Close()
	}
	return nil
}
