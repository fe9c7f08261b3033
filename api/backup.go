package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// Calls about backups, and about the time after one was restored.
var (
	makeBackup  = call{http.MethodPost, "/v1/backups", "make-backup", "Make a backup of the control plane now"}
	listBackups = call{http.MethodGet, "/v1/backups", "list-backups", "Which backups there are, and who keeps copies"}
	getBackup   = call{http.MethodGet, "/v1/backups/{id}", "get-backup", "A sealed backup, if this control has it on its disk"}
	getRestore  = call{http.MethodGet, "/v1/restore", "get-restore", "Whether control was restored from a backup and waits for nodes to tell what they hold"}
	converge    = call{http.MethodPost, "/v1/restore:converge", "converge", "Decide again without nodes that have not told what they hold"}
	settle      = call{http.MethodPost, "/v1/volumes/{name}:settle", "settle-volume", "Say which bytes of a volume count, where two nodes have some since a restore"}
	inventory   = agentCall("inventory", "Tell a part of what this node holds, after control was restored")
)

const (
	backupType     = "application/octet-stream"
	backupPatience = 10 * time.Minute // for a client to take a backup
)

// Backup is a backup of the control plane.
type Backup struct {
	ID       string    `json:"id"`
	By       string    `json:"by"` // name of the control that made it
	MadeAt   time.Time `json:"made_at"`
	Bytes    int64     `json:"bytes"`
	Digest   string    `json:"digest"` // SHA-256 of the file, in hex
	Records  int64     `json:"records"`
	Revision int64     `json:"revision"` // at which the records were those of the store
	Asked    []string  `json:"asked"`    // nodes that are asked to keep a copy
	Held     []string  `json:"held"`     // nodes that have one
}

// Restore says how far control is after it was restored from a backup.
type Restore struct {
	Backup  string    `json:"backup,omitempty"` // that was restored, "" if it is over or there was none
	MadeAt  time.Time `json:"made_at,omitzero"` // the backup
	At      time.Time `json:"at,omitzero"`
	Told    []string  `json:"told,omitempty"`    // nodes that have told what they hold
	Awaited []string  `json:"awaited,omitempty"` // nodes that control waits for
	Without []string  `json:"without,omitempty"` // nodes that it does not wait for, as an operator said
}

type convergeRequest struct {
	Without []string `json:"without" doc:"nodes that are not waited for"`
}

type settleRequest struct {
	Use  string `json:"use,omitempty" doc:"the node whose kept bytes shall be the volume's"`
	Drop string `json:"drop,omitempty" doc:"the node whose kept bytes are given up"`
}

func (s *Server) serveBackups() {
	handle(s, settle, func(ctx context.Context, who pki.Identity, in *struct {
		Name string `path:"name"`
		Body settleRequest
	}) (*revised[mobyfs.Volume], error) {
		return ofVolumeRecord(s.service.SettleVolume(ctx, who, in.Name, in.Body.Use, in.Body.Drop))
	})
	handle(s, makeBackup, func(ctx context.Context, who pki.Identity, _ *none) (*reply[Backup], error) {
		b, err := s.service.MakeBackup(ctx, who)
		return &reply[Backup]{b}, err
	})
	handle(s, listBackups, func(ctx context.Context, who pki.Identity, _ *none) (*reply[[]Backup], error) {
		all, err := s.service.Backups(ctx, who)
		return &reply[[]Backup]{all}, err
	})
	handle(s, getRestore, func(ctx context.Context, who pki.Identity, _ *none) (*reply[Restore], error) {
		r, err := s.service.RestoreStatus(ctx, who)
		return &reply[Restore]{r}, err
	})
	handle(s, converge, func(ctx context.Context, who pki.Identity, in *reply[convergeRequest]) (*reply[Restore], error) {
		r, err := s.service.Converge(ctx, who, in.Body.Without)
		return &reply[Restore]{r}, err
	})
	handle(s, inventory, func(ctx context.Context, who pki.Identity, in *reply[mobyfs.Inventory]) (*none, error) {
		return nil, s.service.Inventory(ctx, who, in.Body)
	})
	s.mux.HandleFunc(getBackup.method+" "+getBackup.path, s.backup)
	s.huma.OpenAPI().AddOperation(&huma.Operation{
		OperationID: getBackup.id, Method: getBackup.method, Path: getBackup.path, Summary: getBackup.summary,
		Description: "Without the cluster's key it can't be read. 503 if another control has it.",
		Parameters:  []*huma.Param{{Name: "id", In: "path", Required: true, Schema: &huma.Schema{Type: "string"}}},
		Responses: map[string]*huma.Response{
			"200":     {Description: "OK", Content: map[string]*huma.MediaType{backupType: {Schema: &huma.Schema{Type: "string", Format: "binary"}}}},
			"default": s.problemResponse(),
		},
	})
}

func (s *Server) backup(w http.ResponseWriter, r *http.Request) {
	content, size, err := s.service.BackupContent(r.Context(), caller(r.Context()), r.PathValue("id"))
	if err != nil {
		s.refuse(r.Context(), w, getBackup, err)
		return
	}
	defer content.Close()
	if err := http.NewResponseController(w).SetWriteDeadline(time.Now().Add(backupPatience)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		s.refuse(r.Context(), w, getBackup, err)
		return
	}
	w.Header().Set("Content-Type", backupType)
	w.Header().Set("Content-Length", fmt.Sprint(size))
	_, _ = io.Copy(w, content) // who is gone asks again; who got less knows it by the length
}

// MakeBackup makes a backup now.
func (c *Client) MakeBackup(ctx context.Context) (b Backup, err error) {
	err = c.ask(ctx, makeBackup, "", nil, &b)
	return b, err
}

// Backups lists the backups that are kept, the newest first.
func (c *Client) Backups(ctx context.Context) (all []Backup, err error) {
	err = c.ask(ctx, listBackups, "", nil, &all)
	return all, err
}

// Backup implements mobyfs.Control.
func (c *Client) Backup(ctx context.Context, id string, w io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, backupPatience)
	defer cancel()
	if id == "" || strings.ContainsAny(id, "/.?#%") {
		return mobyfs.Errorf(mobyfs.CodeInvalid, "%.40q is not the ID of a backup", id).WithHint("mobyctl control backups lists them")
	}
	resp, endpoint, err := c.send(ctx, request{what: getBackup, path: strings.Replace(getBackup.path, "{id}", id, 1)})
	if err != nil {
		return err
	}
	_, err = io.Copy(w, resp.Body)
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return unreachable("ask", []string{endpoint}, err)
	}
	return nil
}

// RestoreStatus tells whether control waits for nodes after it was restored.
func (c *Client) RestoreStatus(ctx context.Context) (r Restore, err error) {
	err = c.ask(ctx, getRestore, "", nil, &r)
	return r, err
}

// Converge makes control decide again without nodes that have not told what they hold.
func (c *Client) Converge(ctx context.Context, without []string) (r Restore, err error) {
	err = c.ask(ctx, converge, "", convergeRequest{without}, &r)
	return r, err
}

// SettleVolume says which bytes of a volume count, where two nodes have some since a restore.
func (c *Client) SettleVolume(ctx context.Context, name, use, drop string) (v mobyfs.Volume, err error) {
	err = c.ask(ctx, settle, name, settleRequest{use, drop}, &v)
	return v, err
}

// Inventory implements mobyfs.Control.
func (c *Client) Inventory(ctx context.Context, part mobyfs.Inventory) error {
	return c.ask(ctx, inventory, "", part, nil)
}
