package agent

import (
	"context"
	"errors"
	"fmt"

	"github.com/coreos/go-systemd/v22/dbus"
	"github.com/coreos/go-systemd/v22/util"
)

// dockerUnit is Docker's unit in the packages of Docker Inc., Debian and Ubuntu.
const dockerUnit = "docker.service"

// DockerIsUp is nil if dockerd may be asked something. systemd usually holds dockerd's socket: a call to a dockerd that
// was stopped, or is about to stop, would wait there and make systemd start it again. Where systemd does not know
// Docker by that unit, nothing holds the socket for it.
func DockerIsUp(ctx context.Context) error {
	if !util.IsRunningSystemd() {
		return nil
	}
	bus, err := dbus.NewSystemdConnectionContext(ctx)
	if err != nil {
		return fmt.Errorf("ask systemd for %s: %w", dockerUnit, err)
	}
	defer bus.Close()
	units, err := bus.ListUnitsByNamesContext(ctx, []string{dockerUnit})
	if err != nil {
		return fmt.Errorf("ask systemd for %s: %w", dockerUnit, err)
	}
	for _, u := range units {
		if u.LoadState == "loaded" && u.ActiveState != "active" {
			return errors.New(dockerUnit + " is " + u.ActiveState)
		}
	}
	return nil
}
