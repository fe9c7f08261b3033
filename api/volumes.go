package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// Calls about volumes that operators and agents make.
var (
	createVolume   = call{http.MethodPost, "/v1/volumes", "create-volume", "Create a volume, or get the one that exists with an equal spec"}
	listVolumes    = call{http.MethodGet, "/v1/volumes", "list-volumes", "List volumes by name, a page at a time"}
	getVolume      = call{http.MethodGet, "/v1/volumes/{name}", "get-volume", "Get a volume by its name"}
	waitVolume     = call{http.MethodGet, "/v1/volumes/{name}:wait", "wait-volume", "Get a volume once its record is newer than a revision"}
	patchVolume    = call{http.MethodPatch, "/v1/volumes/{name}", "patch-volume", "Change what a volume is asked to be"}
	removeVolume   = call{http.MethodDelete, "/v1/volumes/{name}", "remove-volume", "Remove a volume that nobody uses"}
	moveVolume     = call{http.MethodPost, "/v1/volumes/{name}:move", "move-volume", "Begin to move a volume to another node"}
	takeOver       = call{http.MethodPost, "/v1/volumes/{name}:takeover", "take-over-volume", "Give a volume whose node is silent to another node"}
	changeMove     = call{http.MethodPost, "/v1/volumes/{name}:change-move", "change-move", "Change the options of the live move that is under way"}
	undoMove       = call{http.MethodPost, "/v1/volumes/{name}:undo-move", "undo-move", "Begin to move a volume back to where it came from"}
	cancelMove     = call{http.MethodPost, "/v1/volumes/{name}:cancel-move", "cancel-move", "Give up the move that is under way"}
	removedVolumes = call{http.MethodGet, "/v1/removed-volumes", "list-removed-volumes", "List the volumes that may come back, the last removed first"}
	undelete       = call{http.MethodPost, "/v1/volumes/{name}:undelete", "undelete-volume", "Bring back what was removed last under a name"}
)

// patchType is the content of a change in the form of RFC 7396: what is null is taken away, what is absent stays.
const patchType = "application/merge-patch+json"

// MaxWait is how long a wait lasts at most. Whoever wants to wait longer asks again.
const MaxWait = 10 * time.Second

// VolumeQuery says which volumes a list shall tell of. The zero value asks for the first page of all.
type VolumeQuery struct {
	Limit  int      `query:"limit" minimum:"1" maximum:"1000" default:"500" doc:"volumes in a page"`
	Cursor string   `query:"cursor" maxLength:"512" doc:"where the page before ended, as its Link header says"`
	Labels []string `query:"label,explode" maxItems:"16" doc:"name=value, or name for any value; may come several times, and all must hold"`
	Node   string   `query:"node" maxLength:"63" doc:"the home"`
	State  string   `query:"state" enum:"creating,ready,in use,moving,aside,returning,removing" doc:"the condition"`
	Text   string   `query:"q" maxLength:"128" doc:"part of the name, without regard to case"`
}

// VolumePage is a part of a list. A volume that is there the whole time while pages are asked for is in exactly one.
type VolumePage struct {
	Volumes []*mobyfs.Volume // not to be written to: they may be records that others read too
	Next    string           // cursor of the next page; empty if this is the last
}

type undeleteRequest struct {
	As string `json:"as,omitempty" doc:"another name for it; the one that it had if empty"`
}

type volumeList struct {
	Link string `header:"Link" doc:"the next page, if there is one (RFC 8288)"`
	Body []*mobyfs.Volume
}

// VolumePatch is a change of what a volume is asked to be. What is nil stays as it is.
type VolumePatch struct {
	Labels map[string]*string `json:"labels,omitempty" nullable:"false" doc:"null takes a label away"`
	// SizeBytes is the space to count on: 0 promises none. Its home must have the room, and it may not be less than is used.
	SizeBytes *int64 `json:"size_bytes,omitempty" nullable:"false" minimum:"0" doc:"space to count on for placement; 0 = no promise"`
	// Takeover says who may give it away. To or from auto it changes only while no container uses the volume.
	Takeover *mobyfs.Takeover `json:"takeover,omitempty" nullable:"false" enum:"never,manual,auto" doc:"who may give the volume to another node while its own is silent; to or from auto only while nobody uses it"`
}

// UnmarshalJSON implements json.Unmarshaler. What null would take away is there always; to leave it as it is would be
// another answer than the one that RFC 7396 promises, so null is refused.
func (p *VolumePatch) UnmarshalJSON(text []byte) error {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(text, &members); err != nil {
		return err
	}
	for name, value := range members {
		if string(value) == "null" {
			return fmt.Errorf("null is no value of %s", name)
		}
	}
	type plain VolumePatch
	return json.Unmarshal(text, (*plain)(p))
}

type patchInput struct {
	Name string `path:"name"`
	Body VolumePatch
}

type createRequest struct {
	Name string            `json:"name" doc:"unique in the cluster without regard to case"`
	Spec mobyfs.VolumeSpec `json:"spec,omitzero"`
	Node string            `json:"node,omitempty" doc:"the home; control chooses if it is empty"`
}

// MoveRequest says how a volume is to move.
type MoveRequest struct {
	To      string             `json:"to,omitempty" doc:"the node that shall be the home; control chooses if it is empty"`
	Live    bool               `json:"live,omitempty" doc:"move it while containers use it: they are stopped for the last bytes only"`
	Options mobyfs.MoveOptions `json:"options,omitzero" doc:"of a live move; durations are in nanoseconds"`
}

// MovePatch changes options of a live move that is under way. What is nil stays as it is.
type MovePatch struct {
	BytesPerSecond *int64         `json:"bytes_per_second,omitempty" nullable:"false" minimum:"0" doc:"the most that the stream takes; 0 is no limit"`
	MaxPause       *time.Duration `json:"max_pause,omitempty" nullable:"false" minimum:"0" doc:"the longest pause that is aimed at, in nanoseconds"`
	MaxRounds      *int           `json:"max_rounds,omitempty" nullable:"false" minimum:"0" doc:"after so many on_busy decides"`
	OnBusy         *mobyfs.OnBusy `json:"on_busy,omitempty" nullable:"false" enum:"ask,freeze,throttle" doc:"what to do when containers write too fast"`
}

// Of returns options with the changes.
func (p MovePatch) Of(o mobyfs.MoveOptions) mobyfs.MoveOptions {
	if p.BytesPerSecond != nil {
		o.BytesPerSecond = *p.BytesPerSecond
	}
	if p.MaxPause != nil {
		o.MaxPause = *p.MaxPause
	}
	if p.MaxRounds != nil {
		o.MaxRounds = *p.MaxRounds
	}
	if p.OnBusy != nil {
		o.OnBusy = *p.OnBusy
	}
	return o
}

type takeOverRequest struct {
	To     string `json:"to" doc:"the node that shall have it"`
	Reason string `json:"reason" doc:"for people; it becomes part of the event"`
}

type named struct {
	Name string `path:"name"`
}

func (s *Server) serveVolumes() {
	handle(s, createVolume, func(ctx context.Context, who pki.Identity, in *reply[createRequest]) (*revised[mobyfs.Volume], error) {
		return ofVolumeRecord(s.service.CreateVolume(ctx, who, in.Body.Name, in.Body.Spec, in.Body.Node))
	})
	handle(s, listVolumes, func(ctx context.Context, who pki.Identity, in *VolumeQuery) (*volumeList, error) {
		page, err := s.service.VolumePage(ctx, who, *in)
		return &volumeList{nextLink(*in, page.Next), page.Volumes}, err
	})
	handle(s, waitVolume, func(ctx context.Context, who pki.Identity, in *struct {
		Name     string `path:"name"`
		Revision int64  `query:"revision" minimum:"0" doc:"that the caller knows"`
		Seconds  int    `query:"timeout" minimum:"0" maximum:"10" default:"10" doc:"seconds after which the record is answered as it is"`
	}) (*revised[mobyfs.Volume], error) {
		return ofVolumeRecord(s.service.WaitVolume(ctx, who, in.Name, in.Revision, time.Duration(in.Seconds)*time.Second))
	})
	handle(s, patchVolume, func(ctx context.Context, who pki.Identity, in *patchInput) (*revised[mobyfs.Volume], error) {
		return ofVolumeRecord(s.service.PatchVolume(ctx, who, in.Name, in.Body))
	})
	handle(s, getVolume, func(ctx context.Context, who pki.Identity, in *named) (*revised[mobyfs.Volume], error) {
		return ofVolumeRecord(s.service.Volume(ctx, who, in.Name))
	})
	handle(s, removeVolume, func(ctx context.Context, who pki.Identity, in *named) (*none, error) {
		return nil, s.service.RemoveVolume(ctx, who, in.Name)
	})
	handle(s, removedVolumes, func(ctx context.Context, who pki.Identity, _ *none) (*reply[[]mobyfs.Tombstone], error) {
		all, err := s.service.RemovedVolumes(ctx, who)
		return &reply[[]mobyfs.Tombstone]{all}, err
	})
	handle(s, undelete, func(ctx context.Context, who pki.Identity, in *struct {
		Name string `path:"name"`
		Body undeleteRequest
	}) (*revised[mobyfs.Volume], error) {
		return ofVolumeRecord(s.service.UndeleteVolume(ctx, who, in.Name, in.Body.As))
	})
	handle(s, moveVolume, func(ctx context.Context, who pki.Identity, in *struct {
		Name string `path:"name"`
		Body MoveRequest
	}) (*revised[mobyfs.Volume], error) {
		return ofVolumeRecord(s.service.MoveVolume(ctx, who, in.Name, in.Body))
	})
	handle(s, takeOver, func(ctx context.Context, who pki.Identity, in *struct {
		Name string `path:"name"`
		Body takeOverRequest
	}) (*revised[mobyfs.Volume], error) {
		return ofVolumeRecord(s.service.TakeOver(ctx, who, in.Name, in.Body.To, in.Body.Reason))
	})
	handle(s, changeMove, func(ctx context.Context, who pki.Identity, in *struct {
		Name string `path:"name"`
		Body MovePatch
	}) (*revised[mobyfs.Volume], error) {
		return ofVolumeRecord(s.service.ChangeMove(ctx, who, in.Name, in.Body))
	})
	handle(s, undoMove, func(ctx context.Context, who pki.Identity, in *named) (*revised[mobyfs.Volume], error) {
		return ofVolumeRecord(s.service.UndoMove(ctx, who, in.Name))
	})
	handle(s, cancelMove, func(ctx context.Context, who pki.Identity, in *named) (*revised[mobyfs.Volume], error) {
		return ofVolumeRecord(s.service.CancelMove(ctx, who, in.Name))
	})
}

// CreateVolume implements mobyfs.Control.
func (c *Client) CreateVolume(ctx context.Context, name string, spec mobyfs.VolumeSpec, node string) (v mobyfs.Volume, err error) {
	err = c.ask(ctx, createVolume, "", createRequest{name, spec, node}, &v)
	return v, err
}

// nextLink is the page that follows, in the form of RFC 8288.
func nextLink(q VolumeQuery, next string) string {
	if next == "" {
		return ""
	}
	q.Cursor = next
	return "<" + listVolumes.path + "?" + q.values().Encode() + `>; rel="next"`
}

func (q VolumeQuery) values() url.Values {
	v := url.Values{}
	for name, text := range map[string]string{"cursor": q.Cursor, "node": q.Node, "state": q.State, "q": q.Text} {
		if text != "" {
			v.Set(name, text)
		}
	}
	if q.Limit != 0 {
		v.Set("limit", strconv.Itoa(q.Limit))
	}
	if len(q.Labels) > 0 {
		v["label"] = q.Labels
	}
	return v
}

// nextCursor reads the cursor out of a Link header; it is empty if there is none.
func nextCursor(link string) (string, error) {
	if link == "" {
		return "", nil
	}
	target, rel, ok := strings.Cut(strings.TrimPrefix(link, "<"), ">")
	u, err := url.Parse(target)
	if !ok || err != nil || strings.TrimSpace(rel) != `; rel="next"` || u.Query().Get("cursor") == "" {
		return "", mobyfs.Errorf(mobyfs.CodeUnavailable, "read the list of volumes: it does not say where it goes on")
	}
	return u.Query().Get("cursor"), nil
}

// VolumePage lists a part of the volumes.
func (c *Client) VolumePage(ctx context.Context, q VolumeQuery) (VolumePage, error) {
	var page VolumePage
	what := listVolumes
	what.path += "?" + q.values().Encode()
	header, err := c.askFor(ctx, what, "", nil, &page.Volumes)
	if err == nil {
		page.Next, err = nextCursor(header.Get("Link"))
	}
	return page, err
}

// Volumes lists all volumes, sorted by name.
func (c *Client) Volumes(ctx context.Context) ([]mobyfs.Volume, error) {
	return c.AllVolumes(ctx, VolumeQuery{Limit: 1000})
}

// AllVolumes lists all volumes that a query asks for, sorted by name.
func (c *Client) AllVolumes(ctx context.Context, q VolumeQuery) ([]mobyfs.Volume, error) {
	all := []mobyfs.Volume{}
	for {
		page, err := c.VolumePage(ctx, q)
		if err != nil {
			return nil, err
		}
		for _, v := range page.Volumes {
			all = append(all, *v)
		}
		if page.Next == "" {
			return all, nil
		}
		q.Cursor = page.Next
	}
}

// WaitVolume returns the record of a volume once it is newer than a revision, or as it is after a while of at most
// MaxWait.
func (c *Client) WaitVolume(ctx context.Context, name string, revision int64, patience time.Duration) (v mobyfs.Volume, err error) {
	what := waitVolume
	what.path += fmt.Sprintf("?revision=%d&timeout=%d", revision, int(min(patience, MaxWait)/time.Second))
	err = c.ask(ctx, what, name, nil, &v)
	return v, err
}

// PatchVolume changes what a volume is asked to be.
func (c *Client) PatchVolume(ctx context.Context, name string, patch VolumePatch) (v mobyfs.Volume, err error) {
	err = c.ask(ctx, patchVolume, name, patch, &v)
	return v, err
}

// Volume implements mobyfs.Control.
func (c *Client) Volume(ctx context.Context, name string) (v mobyfs.Volume, err error) {
	err = c.ask(ctx, getVolume, name, nil, &v)
	return v, err
}

// RemovedVolumes lists the volumes that may come back, the last removed first.
func (c *Client) RemovedVolumes(ctx context.Context) (all []mobyfs.Tombstone, err error) {
	err = c.ask(ctx, removedVolumes, "", nil, &all)
	return all, err
}

// UndeleteVolume brings back what was removed last under a name, under another one if as is not empty.
func (c *Client) UndeleteVolume(ctx context.Context, name, as string) (v mobyfs.Volume, err error) {
	err = c.ask(ctx, undelete, name, undeleteRequest{as}, &v)
	return v, err
}

// RemoveVolume implements mobyfs.Control.
func (c *Client) RemoveVolume(ctx context.Context, name string) error {
	return c.ask(ctx, removeVolume, name, nil, nil)
}

// MoveVolume begins to move a volume that nobody uses, and returns at once. Volume.Migration is nil in the answer
// if it is there already.
func (c *Client) MoveVolume(ctx context.Context, name, to string) (v mobyfs.Volume, err error) {
	return c.Move(ctx, name, MoveRequest{To: to})
}

// Move begins to move a volume as it is asked for, and returns at once. CodeInUse if it is used and the move is not live.
func (c *Client) Move(ctx context.Context, name string, how MoveRequest) (v mobyfs.Volume, err error) {
	err = c.ask(ctx, moveVolume, name, how, &v)
	return v, err
}

// TakeOver gives a volume whose node is silent to another node.
func (c *Client) TakeOver(ctx context.Context, name, to, reason string) (v mobyfs.Volume, err error) {
	err = c.ask(ctx, takeOver, name, takeOverRequest{to, reason}, &v)
	return v, err
}

// ChangeMove changes the options of the live move that is under way.
func (c *Client) ChangeMove(ctx context.Context, name string, patch MovePatch) (v mobyfs.Volume, err error) {
	err = c.ask(ctx, changeMove, name, patch, &v)
	return v, err
}

// UndoMove begins to move a volume back to where it came from by its last move.
func (c *Client) UndoMove(ctx context.Context, name string) (v mobyfs.Volume, err error) {
	err = c.ask(ctx, undoMove, name, nil, &v)
	return v, err
}

// CancelMove gives the move up that is under way; the volume stays where it is.
func (c *Client) CancelMove(ctx context.Context, name string) (v mobyfs.Volume, err error) {
	err = c.ask(ctx, cancelMove, name, nil, &v)
	return v, err
}
