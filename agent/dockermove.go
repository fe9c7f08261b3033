package agent

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/mobyfs/mobyfs"
)

// How long dockerd may take for what a move asks of it.
const (
	pauseTimeout  = 20 * time.Second
	stopTimeout   = 15 * time.Minute // a container sets its own; a database may have much to write
	imageTimeout  = 30 * time.Minute
	changeTimeout = time.Minute
)

// What Make writes on a container, for Made to find it by.
const (
	labelMigration = "io.mobyfs.migration"
	labelVolume    = "io.mobyfs.volume"
)

// isStatus reports whether dockerd answered with one of some codes of HTTP.
func isStatus(err error, codes ...int) bool {
	var e *dockerError
	return errors.As(err, &e) && slices.Contains(codes, e.status)
}

// Occupants implements Carrier.
func (d *Docker) Occupants(ctx context.Context, volume string) ([]Occupant, error) {
	all, err := d.list(ctx, map[string][]string{"volume": {volume}, "status": {"running", "paused", "restarting"}})
	if err != nil {
		return nil, fmt.Errorf("list the containers of volume %q: %w", volume, err)
	}
	var found []Occupant
	for _, s := range all {
		if !s.mounts(volume, "") {
			continue
		}
		c, err := d.inspect(ctx, s.ID)
		if isStatus(err, http.StatusNotFound) {
			continue // it has ended
		}
		if err != nil {
			return nil, err
		}
		o := Occupant{Container: Container{s.ID, s.name()}, PID: c.State.Pid, Paused: c.State.Paused, AutoRemove: c.HostConfig.AutoRemove,
			Restart: c.HostConfig.RestartPolicy.Name}
		if o.Restart == "no" {
			o.Restart = ""
		}
		for _, m := range c.Mounts {
			if m.Type == "volume" && m.Name == volume {
				o.Mounts++
			}
		}
		found = append(found, o)
	}
	slices.SortFunc(found, func(x, y Occupant) int { return strings.Compare(x.Name, y.Name) })
	return found, nil
}

// inspected is what a move has to know of a container.
type inspected struct {
	ID    string `json:"Id"`
	Name  string
	Image string
	State struct {
		Status          string
		Pid             int
		Running, Paused bool
	}
	HostConfig struct {
		AutoRemove                    bool
		NanoCpus, CpuPeriod, CpuQuota int64
		RestartPolicy                 struct{ Name string }
		NetworkMode, PidMode, IpcMode string
		Links, VolumesFrom            []string
	}
	Config struct {
		Image, Hostname string
		Labels          map[string]string
	}
	Mounts          []mountPoint
	NetworkSettings struct{ Networks map[string]map[string]any }
}

type mountPoint struct{ Type, Name, Source, Destination, Driver string }

func (d *Docker) inspect(ctx context.Context, id string) (c inspected, err error) {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	if err := d.do(ctx, http.MethodGet, "/containers/"+url.PathEscape(id)+"/json", &c); err != nil {
		return c, fmt.Errorf("look at container %s: %w", id, err)
	}
	return c, nil
}

// order has dockerd do something with a container. What answers with one of the codes that are fine was so before.
func (d *Docker) order(ctx context.Context, patience time.Duration, id, what string, fine ...int) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	verb, _, _ := strings.Cut(what, "?")
	err := d.do(ctx, http.MethodPost, "/containers/"+url.PathEscape(id)+"/"+what, nil)
	if err == nil || isStatus(err, fine...) {
		return nil
	}
	return fmt.Errorf("%s container %s: %w", verb, id, err)
}

// Pause implements Carrier.
func (d *Docker) Pause(ctx context.Context, id string) error {
	return d.order(ctx, pauseTimeout, id, "pause")
}

// Unpause implements Carrier. Whether the container is paused is asked after an error only: the pause is as short as it
// can be.
func (d *Docker) Unpause(ctx context.Context, id string) error {
	err := d.order(ctx, pauseTimeout, id, "unpause", http.StatusNotFound)
	if err == nil {
		return nil
	}
	if c, asked := d.inspect(ctx, id); asked == nil && !c.State.Paused {
		return nil
	}
	return err
}

// Stop implements Carrier.
func (d *Docker) Stop(ctx context.Context, id string) error {
	return d.order(ctx, stopTimeout, id, "stop", http.StatusNotModified)
}

// Kill implements Carrier. dockerd sends SIGKILL, then unpauses. What is killed while it is frozen runs no instruction
// more. The policy is changed once the container has ended, so that its control group is not touched.
func (d *Docker) Kill(ctx context.Context, id string) (string, error) {
	if err := d.order(ctx, changeTimeout, id, "kill", http.StatusNotFound, http.StatusConflict); err != nil {
		return "", err
	}
	c, err := d.inspect(ctx, id)
	switch {
	case isStatus(err, http.StatusNotFound): // it was to be removed once it ended
		return "", nil
	case err != nil:
		return "", err
	case c.State.Running:
		return "", fmt.Errorf("container %s was killed and runs still", id)
	}
	policy := c.HostConfig.RestartPolicy.Name
	if policy == "" || policy == "no" {
		return "", nil
	}
	none := map[string]any{"RestartPolicy": map[string]any{"Name": "no"}}
	if err := d.update(ctx, id, none); err != nil && !isStatus(err, http.StatusNotFound) {
		return "", fmt.Errorf("keep container %s from being started: %w", id, err)
	}
	return policy, nil
}

// CPU implements Carrier.
func (d *Docker) CPU(ctx context.Context, id string) (CPU, error) {
	c, err := d.inspect(ctx, id)
	if err != nil {
		return CPU{}, err
	}
	var s struct {
		CPU struct {
			Usage struct {
				Total int64 `json:"total_usage"` // nanoseconds
			} `json:"cpu_usage"`
		} `json:"cpu_stats"`
	}
	if err := d.ask(ctx, "/containers/"+url.PathEscape(id)+"/stats?stream=false&one-shot=true", &s); err != nil {
		return CPU{}, fmt.Errorf("ask what container %s uses of the processors: %w", id, err)
	}
	h := c.HostConfig
	return CPU{time.Duration(s.CPU.Usage.Total), CPULimits{NanoCPUs: h.NanoCpus, Period: h.CpuPeriod, Quota: h.CpuQuota}}, nil
}

// LimitCPU implements Carrier. dockerd takes 0 for no change, so no limit is said by a quota of -1.
func (d *Docker) LimitCPU(ctx context.Context, id string, l CPULimits) error {
	limits := map[string]any{"NanoCpus": l.NanoCPUs}
	if l.NanoCPUs <= 0 {
		limits = map[string]any{"CpuPeriod": l.period(), "CpuQuota": cmp.Or(max(0, l.Quota), -1)}
	}
	if err := d.update(ctx, id, limits); err != nil {
		return fmt.Errorf("change what container %s may use of the processors: %w", id, err)
	}
	return nil
}

// update changes how a container was made.
func (d *Docker) update(ctx context.Context, id string, change map[string]any) error {
	return d.send(ctx, changeTimeout, "/containers/"+url.PathEscape(id)+"/update", change, nil)
}

// Remove implements Carrier.
func (d *Docker) Remove(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, changeTimeout)
	defer cancel()
	err := d.do(ctx, http.MethodDelete, "/containers/"+url.PathEscape(id), nil)
	if err != nil && !isStatus(err, http.StatusNotFound) {
		return fmt.Errorf("remove container %s: %w", id, err)
	}
	return nil
}

// Check implements Carrier.
func (d *Docker) Check(ctx context.Context, p Packed) error {
	refused := func(format string, args ...any) error {
		return mobyfs.Errorf(mobyfs.CodeInvalid, "container %s can't be made anew here: "+format, append([]any{p.Name}, args...)...)
	}
	if len(p.Cannot) > 0 {
		return refused("%s", strings.Join(p.Cannot, "; ")).(*mobyfs.Error).WithHint("move the volume without its containers, or run them without that")
	}
	if len(p.Others) > 0 {
		return refused("it has also mounted %s, which stays", strings.Join(p.Others, ", ")).(*mobyfs.Error).
			WithHint("move the volume without its containers, or stop the container and move all its volumes")
	}
	for _, path := range p.Binds {
		if _, err := os.Stat(path); err != nil {
			return refused("it has mounted a path of its host: %w", err).(*mobyfs.Error).WithHint("put %s on this host too", path)
		}
	}
	for _, name := range p.Network {
		if err := d.ask(ctx, "/networks/"+url.PathEscape(name), nil); isStatus(err, http.StatusNotFound) {
			return refused("there is no network %q", name).(*mobyfs.Error).WithHint("docker network create %s", name)
		} else if err != nil {
			return fmt.Errorf("look for network %s: %w", name, err)
		}
	}
	if c, err := d.inspect(ctx, p.Name); err == nil && c.Config.Labels[labelMigration] == "" {
		return refused("there is a container of that name").(*mobyfs.Error).WithHint("rename or remove it")
	} else if err != nil && !isStatus(err, http.StatusNotFound) {
		return err
	}
	there, same, err := d.hasImage(ctx, p.Image)
	if err == nil && !same {
		if err = d.pull(ctx, p.Image.Name); err == nil {
			there, same, err = d.hasImage(ctx, p.Image)
		}
	}
	switch {
	case there && !same:
		why := ""
		if err != nil {
			why = ", and the source's is not to be had: " + err.Error()
		}
		return refused("%s is another image here than at the source%s", p.Image.Name, why).(*mobyfs.Error).WithHint("load the source's image on this host")
	case err == nil && !there:
		err = errors.New("dockerd pulled it, and has it not")
		fallthrough
	case err != nil:
		return refused("its image %s is not to be had: %w", p.Image.Name, err).(*mobyfs.Error).WithHint("docker pull or load it on this host")
	}
	return nil
}

// ask makes a call that takes dockerd no time.
func (d *Docker) ask(ctx context.Context, path string, v any) error {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	return d.do(ctx, http.MethodGet, path, v)
}

// image is an image in dockerd's words.
func (d *Docker) image(ctx context.Context, name string) (Image, error) {
	var i struct {
		ID          string `json:"Id"`
		RepoDigests []string
	}
	err := d.ask(ctx, "/images/"+name+"/json", &i)
	return Image{Name: name, ID: i.ID, Digests: i.RepoDigests}, err
}

// hasImage reports whether there is an image of the name here, and whether it is the same one.
func (d *Docker) hasImage(ctx context.Context, want Image) (there, same bool, err error) {
	has, err := d.image(ctx, want.Name)
	if isStatus(err, http.StatusNotFound) {
		return false, false, nil
	}
	return err == nil, err == nil && has.same(want), err
}

func (i Image) same(as Image) bool {
	return i.ID == as.ID || slices.ContainsFunc(i.Digests, func(d string) bool { return slices.Contains(as.Digests, d) })
}

// pull pulls an image, as somebody would who knows no password.
func (d *Docker) pull(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, imageTimeout)
	defer cancel()
	query := url.Values{"fromImage": {name}}
	if _, after, _ := strings.Cut(name[strings.LastIndex(name, "/")+1:], ":"); after == "" && !strings.Contains(name, "@") {
		query.Set("tag", "latest")
	}
	resp, err := d.call(ctx, http.MethodPost, "/images/create?"+query.Encode(), nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	for lines := json.NewDecoder(resp.Body); ; {
		var line struct{ Error string }
		if err := lines.Decode(&line); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("pull %s: %w", name, err)
		}
		if line.Error != "" {
			return fmt.Errorf("pull %s: %s", name, line.Error)
		}
	}
}

// Make implements Carrier.
func (d *Docker) Make(ctx context.Context, p Packed, m mobyfs.MigrationID) (Container, error) {
	if c, err := d.inspect(ctx, p.Name); err == nil {
		if c.Config.Labels[labelMigration] == string(m) && c.State.Status == "created" {
			return Container{c.ID, p.Name}, nil
		}
		if c.State.Status != "created" || c.Config.Labels[labelMigration] == "" {
			return Container{}, mobyfs.Errorf(mobyfs.CodeExists, "there is a container %s here", p.Name).WithHint("rename or remove it")
		}
		if err := d.Remove(ctx, c.ID); err != nil { // of an earlier migration that came to nothing
			return Container{}, err
		}
	} else if !isStatus(err, http.StatusNotFound) {
		return Container{}, err
	}
	body, err := labelled(p.Body, map[string]string{labelMigration: string(m), labelVolume: p.Volume})
	if err != nil {
		return Container{}, fmt.Errorf("make container %s: %w", p.Name, err)
	}
	var made struct {
		ID string `json:"Id"`
	}
	if err := d.send(ctx, changeTimeout, "/containers/create?name="+url.QueryEscape(p.Name), body, &made); err != nil {
		return Container{}, fmt.Errorf("make container %s: %w", p.Name, err)
	}
	return Container{made.ID, p.Name}, nil
}

// Made implements Carrier.
func (d *Docker) Made(ctx context.Context) ([]Made, error) {
	all, err := d.list(ctx, map[string][]string{"label": {labelMigration}, "status": {"created"}})
	if err != nil {
		return nil, fmt.Errorf("list the containers that were made for migrations: %w", err)
	}
	var found []Made
	for _, s := range all {
		found = append(found, Made{Container{s.ID, s.name()}, mobyfs.MigrationID(s.Labels[labelMigration]), s.Labels[labelVolume]})
	}
	return found, nil
}

// send is do with a body.
func (d *Docker) send(ctx context.Context, patience time.Duration, path string, body, v any) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	resp, err := d.call(ctx, http.MethodPost, path, bytes.NewReader(text))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if v == nil {
		_, err = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<20))
		return err
	}
	return json.NewDecoder(http.MaxBytesReader(nil, resp.Body, 1<<20)).Decode(v)
}
