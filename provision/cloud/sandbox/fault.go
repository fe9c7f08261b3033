package sandbox

import (
	"context"
	"strings"

	"github.com/mobyfs/mobyfs"
)

// Exec runs a command on a host as root, past SSH, and returns what it prints to stdout without the last newline.
func (f Fleet) Exec(ctx context.Context, host string, command ...string) (string, error) {
	h, err := f.host(host)
	if err != nil {
		return "", err
	}
	out, err := docker(ctx, append([]string{"exec", h.Container}, command...)...)
	return strings.TrimSuffix(string(out), "\n"), err
}

// Stop cuts a host's power: every process on it ends at once, and /run and /tmp are lost. What was written to files
// stays, even if it was never synced, because the machine's own kernel goes on.
func (f Fleet) Stop(ctx context.Context, host string) error { return f.act(ctx, "kill", host) }

// Start gives the power back after Stop, and waits as Up does.
func (f Fleet) Start(ctx context.Context, host string) error {
	return f.actAndWait(ctx, "start", host)
}

// Restart shuts a host down in order and starts it again, and waits as Up does.
func (f Fleet) Restart(ctx context.Context, host string) error {
	return f.actAndWait(ctx, "restart", host)
}

// Pause freezes a host with everything that runs on it: it keeps its connections and answers nothing.
func (f Fleet) Pause(ctx context.Context, host string) error { return f.act(ctx, "pause", host) }

// Unpause lets a paused host go on where it was.
func (f Fleet) Unpause(ctx context.Context, host string) error { return f.act(ctx, "unpause", host) }

func (f Fleet) act(ctx context.Context, command, host string) error {
	h, err := f.host(host)
	if err != nil {
		return err
	}
	_, err = docker(ctx, command, h.Container)
	return err
}

func (f Fleet) actAndWait(ctx context.Context, command, host string) error {
	if err := f.act(ctx, command, host); err != nil {
		return err
	}
	h, err := f.host(host)
	if err != nil {
		return err
	}
	o, err := Options{Name: f.Name}.withDefaults()
	if err != nil {
		return err
	}
	_, err = (&raising{Options: o}).settle(ctx, f, h)
	return err
}

func (f Fleet) host(name string) (Host, error) {
	for _, h := range f.Hosts {
		if h.Name == name {
			return h, nil
		}
	}
	return Host{}, mobyfs.Errorf(mobyfs.CodeNotFound, "fleet %s has no host %q", f.Name, name)
}
