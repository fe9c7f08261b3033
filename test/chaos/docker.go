package chaos

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"
)

// docker calls a driver at its socket as dockerd does.
type docker struct {
	client *http.Client
}

func newDocker(socket string) docker {
	return docker{&http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{Timeout: 2 * time.Second}).DialContext(ctx, "unix", socket)
		},
	}}}
}

type dockerAnswer struct {
	Err        string
	Mountpoint string
	Volume     *struct {
		Status map[string]any
	}
}

// refused is an answer of the driver that says no: what was asked for has not happened.
type refused struct{ text string }

func (r refused) Error() string { return r.text }

// call makes a call. An error that is no refused leaves open whether it took effect.
func (d docker) call(ctx context.Context, method string, request any) (dockerAnswer, error) {
	body, err := json.Marshal(request)
	if err != nil {
		return dockerAnswer{}, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://plugin/VolumeDriver."+method, bytes.NewReader(body))
	if err != nil {
		return dockerAnswer{}, err
	}
	req.Header.Set("Accept", "application/vnd.docker.plugins.v1.2+json")
	resp, err := d.client.Do(req)
	if err != nil {
		return dockerAnswer{}, err
	}
	defer resp.Body.Close()
	var answer dockerAnswer
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		return dockerAnswer{}, fmt.Errorf("read the driver's answer: %w", err)
	}
	if answer.Err != "" {
		return answer, refused{answer.Err}
	}
	return answer, nil
}

type dockerVolume struct {
	Name string
	ID   string            `json:",omitempty"`
	Opts map[string]string `json:",omitempty"`
}

func (d docker) create(ctx context.Context, name string, opts map[string]string) error {
	_, err := d.call(ctx, "Create", dockerVolume{Name: name, Opts: opts})
	return err
}

func (d docker) mount(ctx context.Context, name, id string) (path string, err error) {
	answer, err := d.call(ctx, "Mount", dockerVolume{Name: name, ID: id})
	return answer.Mountpoint, err
}

// status is what docker volume inspect shows.
func (d docker) status(ctx context.Context, name string) (map[string]any, error) {
	answer, err := d.call(ctx, "Get", dockerVolume{Name: name})
	if err != nil || answer.Volume == nil {
		return nil, errors.Join(err, errors.New("it was not told"))
	}
	return answer.Volume.Status, nil
}

func (d docker) unmount(ctx context.Context, name, id string) error {
	_, err := d.call(ctx, "Unmount", dockerVolume{Name: name, ID: id})
	return err
}

func (d docker) remove(ctx context.Context, name string) error {
	_, err := d.call(ctx, "Remove", dockerVolume{Name: name})
	return err
}

// isRefused reports whether an error is the driver's no.
func isRefused(err error) bool {
	var r refused
	return errors.As(err, &r)
}
