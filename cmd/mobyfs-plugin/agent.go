package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/mobyfs/mobyfs"
)

const (
	// sayWhyBy is when the agent has to say why something takes longer, and answerBy is when Docker is told so even if
	// the agent does not: Docker hangs up on a managed plugin after 30 s.
	sayWhyBy = 22 * time.Second
	answerBy = 24 * time.Second
	// awakeBy is how long an agent that is alive may take to say so. It may be restarting meanwhile.
	awakeBy = 4 * time.Second
	// listBy bounds List, for which every docker volume ls waits.
	listBy = 2 * time.Second
	// maxAnswer caps an answer of the agent, in bytes: room for some 100,000 volumes.
	maxAnswer = 64 << 20
	// dockerAccept makes the agent answer as it answers Docker.
	dockerAccept = "application/vnd.docker.plugins.v1.2+json"
)

// agent is the Mounter behind the agent's own plugin socket. Mounts are counted there, by the IDs that Docker gives, so
// it does not matter when this process ends.
type agent struct {
	client *http.Client
	log    *slog.Logger

	mu     sync.Mutex
	listed []mobyfs.DockerVolume // what List heard last
}

// newAgent returns the agent that dial reaches.
func newAgent(dial func(context.Context) (net.Conn, error), log *slog.Logger) *agent {
	return &agent{log: log, client: &http.Client{Transport: &http.Transport{
		DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
		DisableKeepAlives: true,
	}}}
}

// dialer connects to the socket at path.
func dialer(path string) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) { return (&net.Dialer{}).DialContext(ctx, "unix", path) }
}

// question is what Docker sends.
type question struct {
	Name string            `json:",omitzero"`
	ID   string            `json:",omitzero"`
	Opts map[string]string `json:",omitzero"`
}

// reply is what the agent answers; which fields are set depends on the call.
type reply struct {
	Err        string
	Mountpoint string
	Volume     *volume
	Volumes    []volume
}

type volume struct {
	Name, Mountpoint string
	CreatedAt        time.Time
	Status           map[string]any
}

func (v volume) docker() mobyfs.DockerVolume {
	return mobyfs.DockerVolume{Name: v.Name, Mountpoint: v.Mountpoint, CreatedAt: v.CreatedAt, Status: v.Status}
}

func (a *agent) Create(ctx context.Context, name string, opts map[string]string) error {
	_, err := a.work(ctx, "Create", "created", question{Name: name, Opts: opts})
	return err
}

func (a *agent) Remove(ctx context.Context, name string) error {
	_, err := a.work(ctx, "Remove", "removed", question{Name: name})
	return err
}

// Mount asks the agent, which drops the use again if nobody waits for the answer any more.
func (a *agent) Mount(ctx context.Context, name, id string) (string, error) {
	r, err := a.work(ctx, "Mount", "attached", question{Name: name, ID: id})
	return r.Mountpoint, err
}

func (a *agent) Unmount(ctx context.Context, name, id string) error {
	_, err := a.work(ctx, "Unmount", "unmounted", question{Name: name, ID: id})
	return err
}

// Get believes that there is no such volume only if the agent says so.
func (a *agent) Get(ctx context.Context, name string) (mobyfs.DockerVolume, error) {
	r, err := a.call(ctx, "Get", question{Name: name})
	switch {
	case err != nil:
		return mobyfs.DockerVolume{}, err
	case r.Err != "":
		return mobyfs.DockerVolume{}, mobyfs.Errorf(mobyfs.CodeNotFound, "%s", r.Err)
	case r.Volume == nil:
		return mobyfs.DockerVolume{}, a.strange(errors.New("a volume is missing in the answer to Get"))
	}
	return r.Volume.docker(), nil
}

// List tells what the agent tells, or, if it does not answer, what it told last.
func (a *agent) List() []mobyfs.DockerVolume {
	ctx, cancel := context.WithTimeout(context.Background(), listBy)
	defer cancel()
	r, err := a.call(ctx, "List", question{})
	a.mu.Lock()
	defer a.mu.Unlock()
	if err == nil && r.Err != "" {
		err = errors.New(r.Err)
	}
	if err != nil {
		a.log.Warn("list the volumes that were known before", "err", err)
		return a.listed
	}
	a.listed = make([]mobyfs.DockerVolume, len(r.Volumes))
	for i, v := range r.Volumes {
		a.listed[i] = v.docker()
	}
	return a.listed
}

// Activated is not passed on. Docker activates no managed plugin, and to the agent it would mean that dockerd began
// anew; dockerd says so itself at the agent's own socket.
func (a *agent) Activated() {}

// work has the agent do something that may take long. It says so before Docker hangs up; the agent goes on with it.
func (a *agent) work(ctx context.Context, method, done string, q question) (reply, error) {
	ctx, cancel := context.WithTimeout(ctx, answerBy)
	defer cancel()
	if err := a.awake(ctx); err != nil {
		return reply{}, err
	}
	r, err := a.call(ctx, method, q)
	switch {
	case err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded):
		return reply{}, mobyfs.Errorf(mobyfs.CodeUnavailable, "volume %q is still being %s", q.Name, done).
			WithHint("it goes on; run it again in a moment")
	case err != nil:
		return reply{}, err
	case r.Err != "": // made for Docker's user by the agent, its hint included
		return reply{}, errors.New(r.Err)
	}
	return r, nil
}

// awake asks for something that an agent answers at once, so that one that hangs is not taken for one that works.
func (a *agent) awake(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, awakeBy)
	defer cancel()
	_, err := a.call(ctx, "Capabilities", question{})
	return err
}

// call makes one call. An error means that the agent gave no answer: it is unknown whether the call took effect.
func (a *agent) call(ctx context.Context, method string, q question) (reply, error) {
	body, err := json.Marshal(q)
	if err != nil {
		return reply{}, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://mobyfs/VolumeDriver."+method, bytes.NewReader(body))
	if err != nil {
		return reply{}, err
	}
	req.Header.Set("Accept", dockerAccept)
	req.Header.Set("Prefer", fmt.Sprintf("wait=%d", int(sayWhyBy.Seconds())))
	resp, err := a.client.Do(req)
	if err != nil {
		return reply{}, a.silent(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return reply{}, a.strange(fmt.Errorf("status %s in answer to %s", resp.Status, method))
	}
	var r reply
	if err := json.NewDecoder(http.MaxBytesReader(nil, resp.Body, maxAnswer)).Decode(&r); err != nil {
		return reply{}, a.strange(fmt.Errorf("read the answer to %s: %w", method, err))
	}
	return r, nil
}

func (a *agent) silent(err error) error {
	a.log.Debug("the agent does not answer", "err", err)
	return mobyfs.Errorf(mobyfs.CodeUnavailable, "the mobyfs agent of this host does not answer at its socket").
		WithHint("look at it with: systemctl status mobyfs, then run it again")
}

func (a *agent) strange(err error) error {
	return mobyfs.Errorf(mobyfs.CodeUnavailable, "the mobyfs agent of this host gave an answer of no use: %w", err).
		WithHint("its log tells more: journalctl -u mobyfs")
}
