package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Engine is dockerd, as the agent listens to it and helps it on. Nothing that Docker waits for depends on it.
type Engine interface {
	// Running lists the names of the containers that run and have the volume of that name mounted, sorted.
	Running(ctx context.Context, volume string) ([]string, error)
	// Follow calls began once dockerd can be asked, and ended each time a container has ended or was removed. It
	// returns when the connection breaks, which is an error, or ctx ends. began and ended must not wait for anybody.
	Follow(ctx context.Context, began, ended func()) error
	// ListVolumes makes dockerd ask all its volume drivers, which makes it know ours.
	ListVolumes(ctx context.Context) error
	// Stranded lists the containers that dockerd is to keep running, and that do not run since a volume of ours was
	// not to be had when it started them.
	Stranded(ctx context.Context) ([]Container, error)
	// Start starts a container; one that runs is fine. It may take as long as its volumes take to arrive.
	Start(ctx context.Context, id string) error
	Carrier
}

// Container is a container as people and dockerd name it.
type Container struct{ ID, Name string }

// DockerSocket is where dockerd listens unless it was told otherwise.
const DockerSocket = "/var/run/docker.sock"

// driverName is the name under which dockerd knows the driver.
const driverName = "mobyfs"

// Docker is the Engine that listens at a unix socket.
type Docker struct{ client *http.Client }

// NewDocker returns the Docker that listens at the socket. mayAsk, if not nil, is called before each connection, which
// is not made if it is an error; see DockerIsUp.
func NewDocker(socket string, mayAsk func(context.Context) error) *Docker {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		if mayAsk != nil {
			if err := mayAsk(ctx); err != nil {
				return nil, err
			}
		}
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}
	return &Docker{&http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}}
}

// How long dockerd may take to answer.
const (
	listTimeout   = 2 * time.Second
	volumeTimeout = 70 * time.Second // it waits for its other drivers too
	startTimeout  = 5 * time.Minute  // a container may have several volumes on their way
)

// summary is a container in dockerd's list.
type summary struct {
	ID     string `json:"Id"`
	Names  []string
	State  string
	Labels map[string]string
	Mounts []struct{ Type, Name, Driver string }
}

func (s summary) name() string {
	if len(s.Names) > 0 {
		return strings.TrimPrefix(s.Names[0], "/")
	}
	return s.ID[:min(12, len(s.ID))]
}

// mounts reports whether a volume of that name, or of that driver, is mounted; "" is any.
func (s summary) mounts(name, driver string) bool {
	for _, m := range s.Mounts {
		if m.Type == "volume" && (name == "" || m.Name == name) && (driver == "" || m.Driver == driver) {
			return true
		}
	}
	return false
}

// Running lists containers that are running, paused or restarting.
func (d *Docker) Running(ctx context.Context, volume string) ([]string, error) {
	all, err := d.list(ctx, map[string][]string{"volume": {volume}}) // which also finds volumes by where they are mounted
	if err != nil {
		return nil, fmt.Errorf("list the containers of volume %q: %w", volume, err)
	}
	var names []string
	for _, c := range all {
		if c.mounts(volume, "") && slices.Contains([]string{"running", "paused", "restarting"}, c.State) {
			names = append(names, c.name())
		}
	}
	slices.Sort(names)
	return names, nil
}

// Follow reads dockerd's events. The answer's head comes as soon as dockerd serves.
func (d *Docker) Follow(ctx context.Context, began, ended func()) error {
	resp, err := d.call(ctx, http.MethodGet, "/events?filters="+filters(map[string][]string{"type": {"container"}, "event": {"die", "destroy"}}), nil)
	if err != nil {
		return fmt.Errorf("follow dockerd: %w", err)
	}
	defer resp.Body.Close()
	began()
	for events := json.NewDecoder(resp.Body); ; {
		var event json.RawMessage
		if err := events.Decode(&event); err != nil {
			return fmt.Errorf("follow dockerd: %w", err)
		}
		ended()
	}
}

// ListVolumes asks for all volumes.
func (d *Docker) ListVolumes(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, volumeTimeout)
	defer cancel()
	return d.do(ctx, http.MethodGet, "/volumes", nil)
}

// Stranded looks for containers whose policy is to run always, or unless they were stopped, and whose last start
// failed with an error that tells of our driver or of one of its volumes.
func (d *Docker) Stranded(ctx context.Context) ([]Container, error) {
	all, err := d.list(ctx, map[string][]string{"status": {"created", "exited"}})
	if err != nil {
		return nil, fmt.Errorf("list the containers that don't run: %w", err)
	}
	var stranded []Container
	for _, c := range all {
		if !c.mounts("", driverName) {
			continue
		}
		failed, err := d.failedOnUs(ctx, c)
		if err != nil {
			return nil, fmt.Errorf("look at container %s: %w", c.name(), err)
		}
		if failed {
			stranded = append(stranded, Container{c.ID, c.name()})
		}
	}
	return stranded, nil
}

func (d *Docker) failedOnUs(ctx context.Context, s summary) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	var c struct {
		State struct {
			Running bool
			Error   string
		}
		HostConfig struct{ RestartPolicy struct{ Name string } }
		Mounts     []struct{ Name, Source, Driver string }
	}
	if err := d.do(ctx, http.MethodGet, "/containers/"+s.ID+"/json", &c); err != nil {
		return false, err
	}
	if c.State.Running || c.State.Error == "" || !slices.Contains([]string{"always", "unless-stopped"}, c.HostConfig.RestartPolicy.Name) {
		return false, nil
	}
	if strings.Contains(c.State.Error, "VolumeDriver.") || strings.Contains(c.State.Error, driverName) {
		return true, nil
	}
	for _, m := range c.Mounts {
		if m.Driver == driverName && (strings.Contains(c.State.Error, m.Name) || m.Source != "" && strings.Contains(c.State.Error, m.Source)) {
			return true, nil
		}
	}
	return false, nil
}

// Start starts a container; one that runs is fine.
func (d *Docker) Start(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	return d.do(ctx, http.MethodPost, "/containers/"+url.PathEscape(id)+"/start", nil)
}

func (d *Docker) list(ctx context.Context, only map[string][]string) ([]summary, error) {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	var all []summary
	err := d.do(ctx, http.MethodGet, "/containers/json?all=1&filters="+filters(only), &all)
	return all, err
}

func filters(only map[string][]string) string {
	text, err := json.Marshal(only)
	if err != nil {
		panic(err) // strings can be encoded
	}
	return url.QueryEscape(string(text))
}

// do makes a call and decodes its answer into v, if not nil.
func (d *Docker) do(ctx context.Context, method, path string, v any) error {
	resp, err := d.call(ctx, method, path, nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if v == nil {
		_, err = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<20))
		return err
	}
	return json.NewDecoder(http.MaxBytesReader(nil, resp.Body, 16<<20)).Decode(v)
}

// dockerError is an answer of dockerd that is no success.
type dockerError struct {
	status int // of HTTP
	text   string
}

func (e *dockerError) Error() string { return e.text }

// call makes a call. An answer that is no success is a *dockerError with dockerd's own words; that nothing had to be
// changed (304) is success.
func (d *Docker) call(ctx context.Context, method, path string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://docker"+path, body)
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := d.client.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode < 400 {
		return resp, nil
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
	if err != nil {
		return nil, fmt.Errorf("dockerd answered %s: %w", resp.Status, err)
	}
	var told struct{ Message string }
	if json.Unmarshal(text, &told) == nil && told.Message != "" {
		text = []byte(told.Message)
	}
	return nil, &dockerError{resp.StatusCode, fmt.Sprintf("dockerd answered %s: %s", resp.Status, bytes.TrimSpace(text))}
}
