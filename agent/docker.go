package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Containers names the containers that have a volume.
type Containers interface {
	// Running lists the names of the containers that run and have the volume of that name mounted, sorted.
	Running(ctx context.Context, volume string) ([]string, error)
}

// DockerSocket is where dockerd listens unless it was told otherwise.
const DockerSocket = "/var/run/docker.sock"

// Docker asks dockerd, over its socket. It never holds dockerd up: it only lists.
type Docker struct{ client *http.Client }

// NewDocker returns a Docker that asks at the socket.
func NewDocker(socket string) *Docker {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}
	return &Docker{&http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}}
}

// Running lists containers that are running, paused or restarting.
func (d *Docker) Running(ctx context.Context, volume string) ([]string, error) {
	filters, err := json.Marshal(map[string][]string{"volume": {volume}})
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://docker/containers/json?all=1&filters="+url.QueryEscape(string(filters)), nil)
	if err != nil {
		return nil, err
	}
	resp, err := d.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("list the containers of volume %q: dockerd answered %s", volume, resp.Status)
	}
	var list []struct {
		ID     string `json:"Id"`
		Names  []string
		State  string
		Mounts []struct{ Type, Name string }
	}
	if err := json.NewDecoder(http.MaxBytesReader(nil, resp.Body, 16<<20)).Decode(&list); err != nil {
		return nil, fmt.Errorf("list the containers of volume %q: %w", volume, err)
	}
	var names []string
	for _, c := range list {
		mounted := false // the filter also finds volumes by the path they are mounted at
		for _, m := range c.Mounts {
			mounted = mounted || m.Type == "volume" && m.Name == volume
		}
		if mounted && slices.Contains([]string{"running", "paused", "restarting"}, c.State) {
			name := c.ID[:min(12, len(c.ID))]
			if len(c.Names) > 0 {
				name = strings.TrimPrefix(c.Names[0], "/")
			}
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
}
