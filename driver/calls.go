package driver

import (
	"context"
	"time"

	"github.com/mobyfs/mobyfs"
)

// answer is the body of any answer. Err is always there; the rest where the call has it.
type answer struct {
	Err          string
	Implements   []string      `json:",omitzero"`
	Capabilities *capabilities `json:",omitzero"`
	Mountpoint   string        `json:",omitzero"`
	Volume       *volume       `json:",omitzero"`
	Volumes      []volume      `json:",omitzero"` // [] if there are none, never null

	undo func(context.Context) error // takes the effect back if the answer does not arrive
}

type capabilities struct{ Scope string }

// volume is what Docker decodes. CreatedAt is RFC 3339 or absent: with anything else the volume "does not exist".
type volume struct {
	Name       string
	Mountpoint string
	CreatedAt  string         `json:",omitzero"`
	Status     map[string]any `json:",omitzero"`
}

// activate is what dockerd calls once in its life, and Podman in every process.
func (h *handler) activate(_ context.Context, req request) (answer, error) {
	if req.docker {
		h.mounter.Activated()
	}
	return answer{Implements: []string{"VolumeDriver"}}, nil
}

func (h *handler) capabilities(context.Context, request) (answer, error) {
	return answer{Capabilities: &capabilities{Scope: "global"}}, nil
}

func (h *handler) list(context.Context, request) (answer, error) {
	volumes := []volume{}
	seen := make(map[string]bool)
	for _, v := range h.mounter.List() {
		if v.Name == "" || seen[v.Name] || !usable(v.Mountpoint) {
			h.log.Error("left a volume out of the list that Docker could not bear", "volume", v.Name)
			continue
		}
		seen[v.Name] = true
		volumes = append(volumes, volume{Name: v.Name, Mountpoint: v.Mountpoint})
	}
	return answer{Volumes: volumes}, nil
}

var errNoSuchVolume = mobyfs.Errorf(mobyfs.CodeNotFound, "no such volume")

func (h *handler) get(ctx context.Context, req request) (answer, error) {
	v, err := h.find(ctx, req.Name)
	if err != nil {
		return answer{}, err
	}
	return answer{Volume: &v}, nil
}

func (h *handler) path(ctx context.Context, req request) (answer, error) {
	v, err := h.find(ctx, req.Name)
	if err != nil {
		return answer{}, err
	}
	return answer{Mountpoint: v.Mountpoint}, nil
}

// find asks for a volume and checks what Docker could not bear.
func (h *handler) find(ctx context.Context, name string) (volume, error) {
	if mobyfs.CheckVolumeName(name) != nil {
		return volume{}, errNoSuchVolume
	}
	v, err := h.mounter.Get(ctx, name)
	switch {
	case mobyfs.CodeOf(err) == mobyfs.CodeNotFound:
		return volume{}, errNoSuchVolume
	case err != nil:
		return volume{}, err
	case v.Name != name || !usable(v.Mountpoint):
		return volume{}, mobyfs.Errorf(mobyfs.CodeInternal, "volume %q is told as %q at %q", name, v.Name, v.Mountpoint)
	}
	return volume{v.Name, v.Mountpoint, timestamp(v.CreatedAt), v.Status}, nil
}

// timestamp is t as Docker reads it, or nothing.
func timestamp(t time.Time) string {
	if t.IsZero() || t.Year() < 1 || t.Year() > 9999 {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}

func (h *handler) create(ctx context.Context, req request) (answer, error) {
	if err := mobyfs.CheckVolumeName(req.Name); err != nil {
		return answer{}, err
	}
	return answer{}, h.mounter.Create(ctx, req.Name, req.Opts)
}

func (h *handler) remove(ctx context.Context, req request) (answer, error) {
	if mobyfs.CheckVolumeName(req.Name) != nil {
		return answer{}, nil // a volume of that name can't be there
	}
	return answer{}, h.mounter.Remove(ctx, req.Name)
}

func (h *handler) mount(ctx context.Context, req request) (answer, error) {
	if err := mobyfs.CheckVolumeName(req.Name); err != nil {
		return answer{}, err
	}
	if len(req.ID) > maxID {
		return answer{}, mobyfs.Errorf(mobyfs.CodeInvalid, "the ID of the mount has %d bytes, %d are the most", len(req.ID), maxID)
	}
	undo := func(ctx context.Context) error { return h.mounter.Unmount(ctx, req.Name, req.ID) }
	path, err := h.mounter.Mount(ctx, req.Name, req.ID)
	if err != nil {
		return answer{}, err
	}
	if !usable(path) {
		h.takeBack(ctx, answer{undo: undo}, h.log)
		return answer{}, mobyfs.Errorf(mobyfs.CodeInternal, "volume %q was mounted at %q, which is no path to give away", req.Name, path)
	}
	return answer{Mountpoint: path, undo: undo}, nil
}

func (h *handler) unmount(ctx context.Context, req request) (answer, error) {
	if mobyfs.CheckVolumeName(req.Name) != nil || len(req.ID) > maxID {
		return answer{}, nil // never mounted
	}
	return answer{}, h.mounter.Unmount(ctx, req.Name, req.ID)
}
