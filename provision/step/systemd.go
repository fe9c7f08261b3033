package step

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
	godbus "github.com/godbus/dbus/v5"
)

// Systemd is what the steps need from the host's service manager. Starting a unit that runs, stopping one that does
// not, and enabling or disabling again are success.
type Systemd interface {
	Enable(ctx context.Context, units []string) error  // at boot, from /etc/systemd/system; takes no effect yet
	Disable(ctx context.Context, units []string) error // likewise
	Reload(ctx context.Context) error                  // reads all unit files again
	Start(ctx context.Context, unit string) error      // returns when the unit is up
	Restart(ctx context.Context, unit string) error    // likewise
	Stop(ctx context.Context, unit string) error       // returns when the unit is down
	// StartTransient starts a service that has no file and is forgotten when it ends; it returns when the service is up.
	StartTransient(ctx context.Context, unit string, t Transient) error
}

// Transient is a service without a file. It tells systemd when it is up (Type=notify).
type Transient struct {
	Description string
	Command     []string
	Afterwards  []string // a command that is run when the service has ended, however it did
}

// UnitError is a unit that did not do what it was asked to.
type UnitError struct {
	Unit   string
	Act    string
	Result string   // as systemd calls it: failed, timeout, dependency …
	Log    []string // the last lines of its journal
}

func (e *UnitError) Error() string { return fmt.Sprintf("%s %s: %s", e.Act, e.Unit, e.Result) }

// Bus is the systemd of the machine, over D-Bus.
type Bus struct{ conn *dbus.Conn }

// OpenBus connects to systemd. It must be closed.
func OpenBus(ctx context.Context) (*Bus, error) {
	conn, err := dbus.NewWithContext(ctx)
	if err != nil {
		return nil, fmt.Errorf("connect to systemd: %w", err)
	}
	return &Bus{conn}, nil
}

// Close ends the connection.
func (b *Bus) Close() { b.conn.Close() }

// Enable links the units into the targets that want them.
func (b *Bus) Enable(ctx context.Context, units []string) error {
	if _, _, err := b.conn.EnableUnitFilesContext(ctx, units, false, true); err != nil {
		return fmt.Errorf("enable %s: %w", strings.Join(units, ", "), err)
	}
	return nil
}

// Disable removes those links.
func (b *Bus) Disable(ctx context.Context, units []string) error {
	if _, err := b.conn.DisableUnitFilesContext(ctx, units, false); err != nil {
		return fmt.Errorf("disable %s: %w", strings.Join(units, ", "), err)
	}
	return nil
}

// Reload makes systemd read its units again.
func (b *Bus) Reload(ctx context.Context) error {
	if err := b.conn.ReloadContext(ctx); err != nil {
		return fmt.Errorf("reload systemd: %w", err)
	}
	return nil
}

// Start starts a unit and waits for the job to end.
func (b *Bus) Start(ctx context.Context, unit string) error {
	return b.job(ctx, "start", unit, b.conn.StartUnitContext)
}

// Restart stops and starts a unit.
func (b *Bus) Restart(ctx context.Context, unit string) error {
	return b.job(ctx, "restart", unit, b.conn.RestartUnitContext)
}

// Stop stops a unit. One that is not loaded does not run.
func (b *Bus) Stop(ctx context.Context, unit string) error {
	err := b.job(ctx, "stop", unit, b.conn.StopUnitContext)
	if err != nil && strings.Contains(err.Error(), "not loaded") {
		return nil
	}
	return err
}

// execCommand is a command as systemd wants it over D-Bus.
type execCommand struct {
	Path             string
	Args             []string
	UncleanIsFailure bool
}

// StartTransient starts a service that has no file.
func (b *Bus) StartTransient(ctx context.Context, unit string, t Transient) error {
	property := func(name string, value any) dbus.Property {
		return dbus.Property{Name: name, Value: godbus.MakeVariant(value)}
	}
	properties := []dbus.Property{
		dbus.PropDescription(t.Description),
		dbus.PropType("notify"),
		dbus.PropExecStart(t.Command, false),
		property("ExecStopPost", []execCommand{{t.Afterwards[0], t.Afterwards, false}}),
		property("CollectMode", "inactive-or-failed"),
	}
	return b.job(ctx, "start", unit, func(ctx context.Context, unit, mode string, ended chan<- string) (int, error) {
		return b.conn.StartTransientUnitContext(ctx, unit, mode, properties, ended)
	})
}

// jobLimit bounds the wait for a job; units give up sooner by their own time-outs.
const jobLimit = 2 * time.Minute

func (b *Bus) job(ctx context.Context, act, unit string, send func(context.Context, string, string, chan<- string) (int, error)) error {
	limited, cancel := context.WithTimeout(ctx, jobLimit)
	defer cancel()
	ended := make(chan string, 1)
	if _, err := send(limited, unit, "replace", ended); err != nil {
		return fmt.Errorf("%s %s: %w", act, unit, err)
	}
	select {
	case result := <-ended:
		if result == "done" || result == "skipped" {
			return nil
		}
		return &UnitError{Unit: unit, Act: act, Result: result, Log: unitLog(ctx, unit)}
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-limited.Done():
		return &UnitError{Unit: unit, Act: act, Result: "it takes longer than " + jobLimit.String(), Log: unitLog(ctx, unit)}
	}
}

// unitLog is the last lines that a unit logged; none if the journal can't be read.
func unitLog(ctx context.Context, unit string) []string {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "journalctl", "-u", unit, "-n", "20", "--no-pager", "-o", "cat").Output()
	if err != nil {
		return nil
	}
	return strings.Split(strings.TrimSpace(string(out)), "\n")
}
