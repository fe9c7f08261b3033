package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// A container is made anew from what dockerd tells of it: its Config and HostConfig as they are, and the networks by name.
// What dockerd chose by itself (addresses, the host name that is its ID) it chooses again. What was written into the
// container outside of its volumes stays behind, as with every container that is made anew.

// runners are labels by which others than a person made a container; they make it anew themselves.
var runners = []struct{ label, name string }{
	{"com.docker.swarm.task.id", "Swarm"},
	{"com.docker.compose.project", "Compose"},
}

// ownNetworks are there on every host.
var ownNetworks = []string{"bridge", "host", "none", "default", ""}

// Pack implements Carrier.
func (d *Docker) Pack(ctx context.Context, id, volume string) (Packed, error) {
	doing := func(err error) error { return fmt.Errorf("look at container %s: %w", id, err) }
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	resp, err := d.call(ctx, http.MethodGet, "/containers/"+url.PathEscape(id)+"/json", nil)
	if err != nil {
		return Packed{}, doing(err)
	}
	defer resp.Body.Close()
	var text json.RawMessage
	if err := json.NewDecoder(http.MaxBytesReader(nil, resp.Body, 4<<20)).Decode(&text); err != nil {
		return Packed{}, doing(err)
	}
	p, err := pack(text, volume)
	if err != nil {
		return Packed{}, doing(err)
	}
	i, err := d.image(ctx, p.Image.ID)
	if err != nil {
		return Packed{}, doing(err)
	}
	p.Image.Digests = i.Digests
	return p, nil
}

// pack turns what dockerd tells of a container into what it is asked for to make one.
func pack(text []byte, volume string) (Packed, error) {
	var c inspected
	var raw struct{ Config, HostConfig map[string]any }
	if err := decode(text, &c); err != nil {
		return Packed{}, err
	}
	if err := decode(text, &raw); err != nil {
		return Packed{}, err
	}
	p := Packed{Name: strings.TrimPrefix(c.Name, "/"), ID: c.ID, Volume: volume, Image: Image{Name: c.Config.Image, ID: c.Image}}
	for _, r := range runners {
		if c.Config.Labels[r.label] != "" && p.Runner == "" {
			p.Runner = r.name
		}
	}
	p.mounts(c)
	p.limits(c)
	body := raw.Config
	if body == nil || raw.HostConfig == nil {
		return Packed{}, fmt.Errorf("dockerd tells nothing of how it was made")
	}
	if strings.HasPrefix(c.ID, c.Config.Hostname) { // dockerd chose it
		delete(body, "Hostname")
	}
	delete(body, "MacAddress")
	delete(raw.HostConfig, "ContainerIDFile")
	noCopies(raw.HostConfig)
	body["HostConfig"] = raw.HostConfig
	endpoints := map[string]any{}
	for _, name := range slices.Sorted(maps.Keys(c.NetworkSettings.Networks)) {
		if slices.Contains(ownNetworks, name) {
			continue
		}
		p.Network = append(p.Network, name)
		endpoints[name] = endpoint(c.NetworkSettings.Networks[name], c.ID)
	}
	if len(endpoints) > 0 {
		body["NetworkingConfig"] = map[string]any{"EndpointsConfig": endpoints}
	}
	var err error
	p.Body, err = json.Marshal(body)
	return p, err
}

// decode keeps numbers as they are.
func decode(text []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	return d.Decode(v)
}

// mounts sorts what the container has mounted: volumes of ours move, paths of the host have to be there, and the rest
// would stay behind.
func (p *Packed) mounts(c inspected) {
	for _, m := range c.Mounts {
		switch {
		case m.Type == "volume" && m.Name == p.Volume:
		case m.Type == "volume" && m.Driver == driverName:
			p.Others = append(p.Others, m.Name)
		case m.Type == "volume":
			p.Cannot = append(p.Cannot, fmt.Sprintf("its volume %.20s at %s is of driver %s and would stay", m.Name, m.Destination, m.Driver))
		case m.Type == "bind":
			p.Binds = append(p.Binds, m.Source)
		case m.Type != "tmpfs":
			p.Cannot = append(p.Cannot, fmt.Sprintf("its mount of type %s at %s would stay", m.Type, m.Destination))
		}
	}
}

// limits names what ties the container to others on its host.
func (p *Packed) limits(c inspected) {
	for what, mode := range map[string]string{"network": c.HostConfig.NetworkMode, "processes": c.HostConfig.PidMode, "shared memory": c.HostConfig.IpcMode} {
		if strings.HasPrefix(mode, "container:") {
			p.Cannot = append(p.Cannot, "it has the "+what+" of another container")
		}
	}
	if len(c.HostConfig.Links) > 0 {
		p.Cannot = append(p.Cannot, "it is linked to other containers")
	}
	if len(c.HostConfig.VolumesFrom) > 0 {
		p.Cannot = append(p.Cannot, "it has the volumes of another container")
	}
	slices.Sort(p.Cannot)
}

// noCopies tells dockerd to copy nothing from the image into volumes: what belongs there has come, and to copy it would
// mount them when the container is made.
func noCopies(host map[string]any) {
	binds, _ := host["Binds"].([]any)
	for i, b := range binds {
		text, ok := b.(string)
		parts := strings.SplitN(text, ":", 3)
		if !ok || len(parts) < 2 || strings.HasPrefix(parts[0], "/") {
			continue
		}
		switch {
		case len(parts) == 2:
			text += ":nocopy"
		case !slices.Contains(strings.Split(parts[2], ","), "nocopy"):
			text += ",nocopy"
		}
		binds[i] = text
	}
	mounts, _ := host["Mounts"].([]any)
	for _, m := range mounts {
		mount, ok := m.(map[string]any)
		if !ok || mount["Type"] != "volume" {
			continue
		}
		options, _ := mount["VolumeOptions"].(map[string]any)
		if options == nil {
			options = map[string]any{}
		}
		options["NoCopy"] = true
		mount["VolumeOptions"] = options
	}
}

// endpoint is how the container was connected to a network: what somebody asked for, not what dockerd chose.
func endpoint(has map[string]any, id string) map[string]any {
	asked := map[string]any{}
	for _, key := range []string{"IPAMConfig", "DriverOpts", "GwPriority"} {
		if has[key] != nil {
			asked[key] = has[key]
		}
	}
	var aliases []string
	all, _ := has["Aliases"].([]any)
	for _, a := range all {
		if name, ok := a.(string); ok && !strings.HasPrefix(id, name) {
			aliases = append(aliases, name)
		}
	}
	if len(aliases) > 0 {
		asked["Aliases"] = aliases
	}
	return asked
}

// labelled is the body with more labels.
func labelled(body json.RawMessage, more map[string]string) (map[string]any, error) {
	var b map[string]any
	if err := decode(body, &b); err != nil {
		return nil, err
	}
	labels, _ := b["Labels"].(map[string]any)
	if labels == nil {
		labels = map[string]any{}
	}
	for k, v := range more {
		labels[k] = v
	}
	b["Labels"] = labels
	return b, nil
}
