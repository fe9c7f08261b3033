package api

import (
	"context"
	"net/http"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// Calls about volumes that operators and agents make.
var (
	createVolume = call{http.MethodPost, "/v1/volumes", "create-volume", "Create a volume, or get the one that exists with an equal spec"}
	listVolumes  = call{http.MethodGet, "/v1/volumes", "list-volumes", "List all volumes"}
	getVolume    = call{http.MethodGet, "/v1/volumes/{name}", "get-volume", "Get a volume by its name"}
	removeVolume = call{http.MethodDelete, "/v1/volumes/{name}", "remove-volume", "Remove a volume that nobody uses"}
	moveVolume   = call{http.MethodPost, "/v1/volumes/{name}:move", "move-volume", "Begin to move a volume to another node"}
	takeOver     = call{http.MethodPost, "/v1/volumes/{name}:takeover", "take-over-volume", "Give a volume whose node is silent to another node"}
	cancelMove   = call{http.MethodPost, "/v1/volumes/{name}:cancel-move", "cancel-move", "Give up the move that is under way"}
)

type createRequest struct {
	Name string            `json:"name" doc:"unique in the cluster without regard to case"`
	Spec mobyfs.VolumeSpec `json:"spec,omitzero"`
	Node string            `json:"node,omitempty" doc:"the home; control chooses if it is empty"`
}

type moveRequest struct {
	To string `json:"to" doc:"the node that shall be the home"`
}

type takeOverRequest struct {
	To     string `json:"to" doc:"the node that shall have it"`
	Reason string `json:"reason" doc:"for people; it becomes part of the event"`
}

type named struct {
	Name string `path:"name"`
}

func (s *Server) serveVolumes() {
	handle(s, createVolume, func(ctx context.Context, who pki.Identity, in *reply[createRequest]) (*reply[mobyfs.Volume], error) {
		v, err := s.service.CreateVolume(ctx, who, in.Body.Name, in.Body.Spec, in.Body.Node)
		return &reply[mobyfs.Volume]{v}, err
	})
	handle(s, listVolumes, func(ctx context.Context, who pki.Identity, _ *none) (*reply[[]mobyfs.Volume], error) {
		all, err := s.service.Volumes(ctx, who)
		return &reply[[]mobyfs.Volume]{all}, err
	})
	handle(s, getVolume, func(ctx context.Context, who pki.Identity, in *named) (*reply[mobyfs.Volume], error) {
		v, err := s.service.Volume(ctx, who, in.Name)
		return &reply[mobyfs.Volume]{v}, err
	})
	handle(s, removeVolume, func(ctx context.Context, who pki.Identity, in *named) (*none, error) {
		return nil, s.service.RemoveVolume(ctx, who, in.Name)
	})
	handle(s, moveVolume, func(ctx context.Context, who pki.Identity, in *struct {
		Name string `path:"name"`
		Body moveRequest
	}) (*reply[mobyfs.Volume], error) {
		v, err := s.service.MoveVolume(ctx, who, in.Name, in.Body.To)
		return &reply[mobyfs.Volume]{v}, err
	})
	handle(s, takeOver, func(ctx context.Context, who pki.Identity, in *struct {
		Name string `path:"name"`
		Body takeOverRequest
	}) (*reply[mobyfs.Volume], error) {
		v, err := s.service.TakeOver(ctx, who, in.Name, in.Body.To, in.Body.Reason)
		return &reply[mobyfs.Volume]{v}, err
	})
	handle(s, cancelMove, func(ctx context.Context, who pki.Identity, in *named) (*reply[mobyfs.Volume], error) {
		v, err := s.service.CancelMove(ctx, who, in.Name)
		return &reply[mobyfs.Volume]{v}, err
	})
}

// CreateVolume implements mobyfs.Control.
func (c *Client) CreateVolume(ctx context.Context, name string, spec mobyfs.VolumeSpec, node string) (v mobyfs.Volume, err error) {
	err = c.ask(ctx, createVolume, "", createRequest{name, spec, node}, &v)
	return v, err
}

// Volumes lists all volumes, sorted by name.
func (c *Client) Volumes(ctx context.Context) (all []mobyfs.Volume, err error) {
	err = c.ask(ctx, listVolumes, "", nil, &all)
	return all, err
}

// Volume implements mobyfs.Control.
func (c *Client) Volume(ctx context.Context, name string) (v mobyfs.Volume, err error) {
	err = c.ask(ctx, getVolume, name, nil, &v)
	return v, err
}

// RemoveVolume implements mobyfs.Control.
func (c *Client) RemoveVolume(ctx context.Context, name string) error {
	return c.ask(ctx, removeVolume, name, nil, nil)
}

// MoveVolume begins to move a volume that nobody uses, and returns at once. Volume.Migration is nil in the answer
// if it is there already.
func (c *Client) MoveVolume(ctx context.Context, name, to string) (v mobyfs.Volume, err error) {
	err = c.ask(ctx, moveVolume, name, moveRequest{to}, &v)
	return v, err
}

// TakeOver gives a volume whose node is silent to another node.
func (c *Client) TakeOver(ctx context.Context, name, to, reason string) (v mobyfs.Volume, err error) {
	err = c.ask(ctx, takeOver, name, takeOverRequest{to, reason}, &v)
	return v, err
}

// CancelMove gives the move up that is under way; the volume stays where it is.
func (c *Client) CancelMove(ctx context.Context, name string) (v mobyfs.Volume, err error) {
	err = c.ask(ctx, cancelMove, name, nil, &v)
	return v, err
}
