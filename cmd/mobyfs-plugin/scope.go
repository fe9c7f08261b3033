package main

import (
	"context"
	"log/slog"
	"net/http"
	"strings"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/driver"
)

// newHandler serves the protocol as Docker speaks it with a managed plugin: it takes the path in the answer to Get as it
// stands, and puts the plugin's root directory in front of those in all other answers.
func newHandler(m mobyfs.Mounter, log *slog.Logger) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/VolumeDriver.Get", driver.New(m, log))
	mux.Handle("/", driver.New(outside{m}, log))
	return mux
}

// outside is a Mounter whose paths lead out of the plugin's root directory again, to the place on the host that the agent
// named. So Docker mounts the very directory that it would mount without the plugin, and nothing of a volume ever lies
// below Docker's own directory of plugins, which Docker empties when it removes one. docs/decisions/0014 weighs it.
type outside struct{ mobyfs.Mounter }

// Mount answers the path on the host.
func (o outside) Mount(ctx context.Context, name, id string) (string, error) {
	path, err := o.Mounter.Mount(ctx, name, id)
	return lead(path), err
}

// Get answers VolumeDriver.Path here.
func (o outside) Get(ctx context.Context, name string) (mobyfs.DockerVolume, error) {
	v, err := o.Mounter.Get(ctx, name)
	v.Mountpoint = lead(v.Mountpoint)
	return v, err
}

// List answers paths on the host.
func (o outside) List() []mobyfs.DockerVolume {
	list := o.Mounter.List()
	led := make([]mobyfs.DockerVolume, len(list))
	for i, v := range list {
		v.Mountpoint = lead(v.Mountpoint)
		led[i] = v
	}
	return led
}

// depth is more directories than lie above any plugin's root directory; climbing on at / leads nowhere else.
const depth = 32

// lead makes the path that is path once Docker has put a directory in front and cleaned the whole. One that Docker must
// not be told stays as it is, for the driver to refuse.
func lead(path string) string {
	if !strings.HasPrefix(path, "/") || path == "/" {
		return path
	}
	return strings.Repeat("/..", depth) + path
}
