package discovery

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"
)

// Report is what is registered on a host under the driver's name.
type Report struct {
	Endpoint      Endpoint       `json:"endpoint,omitempty"` // that the agent was told to serve; empty if no agent is installed
	Kept          []Endpoint     `json:"kept"`               // that are served until dockerd ends
	Docker        Docker         `json:"docker"`
	Registrations []Registration `json:"registrations"` // in the order in which Docker looks
	Trouble       []string       `json:"trouble"`       // what should be mended, other than with one registration
}

// Docker is what dockerd says.
type Docker struct {
	Version   string `json:"version,omitempty"`
	Activated bool   `json:"activated"` // it has used the driver since it was started
	Error     string `json:"error,omitempty"`
}

// Fine reports whether nothing needs a look.
func (r Report) Fine() bool {
	return len(r.Trouble) == 0 && !slices.ContainsFunc(r.Registrations, func(x Registration) bool { return len(x.Trouble) > 0 })
}

// Look gathers a Report. root stands in front of every path ("" but in tests), dockerSocket is dockerd's. It changes
// nothing, starts no life of Docker's with the driver, and no dockerd.
func Look(ctx context.Context, root, dockerSocket string, told Endpoint, kept []Endpoint) Report {
	r := Report{Endpoint: told, Kept: append([]Endpoint{}, kept...), Trouble: []string{}}
	d := dockerd{client: &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", dockerSocket)
		},
	}}}
	var managed []Registration
	err := runs(root)
	if err == nil {
		managed, err = r.askDocker(ctx, d)
	}
	if err != nil {
		r.Docker.Error = err.Error()
		r.Trouble = append(r.Trouble, "dockerd was not asked: "+err.Error())
	}
	r.Registrations = Find(root)
	for i := range r.Registrations {
		r.Registrations[i].ask(ctx, root)
	}
	if len(managed) > 0 {
		for i := range r.Registrations {
			r.Registrations[i].Wins = false
		}
		r.Registrations = append(managed, r.Registrations...)
	}
	r.judge()
	return r
}

// runs is nil if dockerd runs. One that was stopped must not be asked: its socket would start it.
func runs(root string) error {
	pid, err := os.ReadFile(root + "/run/docker.pid")
	if err == nil {
		_, err = os.Stat("/proc/" + strings.TrimSpace(string(pid)))
	}
	if err != nil {
		return errors.New("it does not run")
	}
	return nil
}

// judge compares what Docker would take with what it should take.
func (r *Report) judge() {
	wrong := func(format string, args ...any) { r.Trouble = append(r.Trouble, fmt.Sprintf(format, args...)) }
	winner := slices.IndexFunc(r.Registrations, func(x Registration) bool { return x.Wins })
	switch {
	case r.Endpoint == "":
		if winner >= 0 {
			wrong("mobyfs is not installed, yet %s leads Docker to a driver of its name", r.Registrations[winner].Place)
		}
		return
	case winner < 0:
		wrong("nothing tells Docker of the driver: run mobyctl bootstrap")
		return
	}
	w := r.Registrations[winner]
	switch {
	case w.Endpoint == r.Endpoint:
	case slices.Contains(r.Kept, w.Endpoint):
		wrong("Docker calls %s until dockerd is restarted; it takes %s then", w.Endpoint, r.Endpoint)
	default:
		wrong("%s comes before what leads to %s: remove it, then restart dockerd", w.Place, r.Endpoint)
	}
	if len(r.Kept) > 0 && w.Endpoint == r.Endpoint && r.Docker.Activated {
		wrong("a dockerd that used the driver before calls %s until it is restarted", join(r.Kept))
	}
	for _, x := range r.Registrations {
		if !x.Wins && x.Endpoint != r.Endpoint && !slices.Contains(r.Kept, x.Endpoint) {
			wrong("%s is of no use and comes into play if %s goes: remove it", x.Place, w.Place)
		}
	}
}

func join(all []Endpoint) string {
	words := make([]string, len(all))
	for i, e := range all {
		words[i] = string(e)
	}
	return strings.Join(words, ", ")
}

// askDocker fills in Docker and returns the managed plugins of the driver's name.
func (r *Report) askDocker(ctx context.Context, d dockerd) (managed []Registration, err error) {
	var info struct {
		ServerVersion string
		Plugins       struct{ Volume []string }
	}
	if err := d.get(ctx, "/info", &info); err != nil {
		return nil, err
	}
	r.Docker.Version = info.ServerVersion
	r.Docker.Activated = slices.Contains(info.Plugins.Volume, Name)
	var plugins []struct {
		ID      string `json:"Id"`
		Name    string
		Enabled bool
	}
	if err := d.get(ctx, "/plugins", &plugins); err != nil {
		return nil, err
	}
	for _, p := range plugins {
		name, _, _ := strings.Cut(p.Name, ":")
		if name != Name && !strings.HasPrefix(p.ID, Name) {
			continue
		}
		m := Registration{Place: "docker plugin " + p.Name, Kind: "managed", Wins: true, Answers: p.Enabled, Trouble: []string{}}
		if !p.Enabled {
			m.Answer = "it is disabled"
			m.wrong("it is disabled, and still comes before everything else: docker plugin rm %s", p.Name)
		} else {
			m.wrong("a managed plugin comes before everything else: give it another name (docker plugin rm %s)", p.Name)
		}
		managed = append(managed, m)
	}
	return managed, nil
}

// dockerd is asked over its socket.
type dockerd struct{ client *http.Client }

func (d dockerd) get(ctx context.Context, path string, out any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://docker"+path, nil)
	if err != nil {
		return err
	}
	resp, err := d.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s", path, resp.Status)
	}
	return json.NewDecoder(http.MaxBytesReader(nil, resp.Body, 16<<20)).Decode(out)
}
