package api

import (
	"context"
	"net/http"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// Calls that only agents make. The node is the one that the certificate names.
var (
	created = agentCall("created", "The bytes of a volume exist now")
	removed = agentCall("removed", "The bytes of a removed volume are gone")
	claim   = agentCall("claim", "Ask for the lease")
	release = agentCall("release", "Give the lease back")
	accept  = agentCall("accept", "Ask for what a migration to this node needs")
	commit  = agentCall("commit", "Make this node the home: the one transaction that moves a volume")
	abort   = agentCall("abort", "Give a migration to this node up")
	freeze  = agentCall("freeze", "Say that what uses a volume is stopped from now on, for a live migration")
	thaw    = agentCall("thaw", "Take a freeze back, so that it can't be committed")
	moved   = agentCall("moved", "Tell how a committed migration went")
	records = agentCall("records", "Tell of volumes that may not concern this node")
	report  = agentCall("report", "Tell what this node sees; also its heartbeat")
)

const agentPath = "/v1/agent/"

func agentCall(verb, summary string) call {
	return call{method: http.MethodPost, path: agentPath + verb, id: verb, summary: summary}
}

type ofVolume struct {
	Volume mobyfs.VolumeID `json:"volume"`
}

type ofVolumes struct {
	Volumes []mobyfs.VolumeID `json:"volumes"`
}

type ofLease struct {
	Volume mobyfs.VolumeID `json:"volume"`
	Fence  mobyfs.Fence    `json:"fence"`
}

type ofMigration struct {
	Volume    mobyfs.VolumeID    `json:"volume"`
	Migration mobyfs.MigrationID `json:"migration"`
}

type commitRequest struct {
	Volume    mobyfs.VolumeID    `json:"volume"`
	Migration mobyfs.MigrationID `json:"migration"`
	Receipt   mobyfs.Receipt     `json:"receipt"`
}

type abortRequest struct {
	Volume    mobyfs.VolumeID    `json:"volume"`
	Migration mobyfs.MigrationID `json:"migration"`
	Reason    string             `json:"reason" doc:"for people; it becomes part of the volume's record"`
}

type thawRequest struct {
	Volume    mobyfs.VolumeID    `json:"volume"`
	Migration mobyfs.MigrationID `json:"migration"`
	Freeze    int                `json:"freeze" minimum:"1" doc:"which one"`
	Reason    string             `json:"reason,omitempty" doc:"for people"`
}

type movedRequest struct {
	Volume    mobyfs.VolumeID    `json:"volume"`
	Migration mobyfs.MigrationID `json:"migration"`
	Report    mobyfs.MoveReport  `json:"report"`
}

func (s *Server) serveAgents() {
	s.serveLive()
	handle(s, created, func(ctx context.Context, who pki.Identity, in *reply[ofVolume]) (*revised[mobyfs.Volume], error) {
		return ofVolumeRecord(s.service.Created(ctx, who, in.Body.Volume))
	})
	handle(s, removed, func(ctx context.Context, who pki.Identity, in *reply[ofVolume]) (*none, error) {
		return nil, s.service.Removed(ctx, who, in.Body.Volume)
	})
	handle(s, claim, func(ctx context.Context, who pki.Identity, in *reply[ofVolume]) (*reply[mobyfs.Grant], error) {
		g, err := s.service.Claim(ctx, who, in.Body.Volume)
		return &reply[mobyfs.Grant]{g}, err
	})
	handle(s, release, func(ctx context.Context, who pki.Identity, in *reply[ofLease]) (*none, error) {
		return nil, s.service.Release(ctx, who, in.Body.Volume, in.Body.Fence)
	})
	handle(s, accept, func(ctx context.Context, who pki.Identity, in *reply[ofMigration]) (*reply[mobyfs.Grant], error) {
		g, err := s.service.Accept(ctx, who, in.Body.Volume, in.Body.Migration)
		return &reply[mobyfs.Grant]{g}, err
	})
	handle(s, commit, func(ctx context.Context, who pki.Identity, in *reply[commitRequest]) (*reply[mobyfs.Grant], error) {
		g, err := s.service.Commit(ctx, who, in.Body.Volume, in.Body.Migration, in.Body.Receipt)
		return &reply[mobyfs.Grant]{g}, err
	})
	handle(s, abort, func(ctx context.Context, who pki.Identity, in *reply[abortRequest]) (*none, error) {
		return nil, s.service.Abort(ctx, who, in.Body.Volume, in.Body.Migration, in.Body.Reason)
	})
	handle(s, records, func(ctx context.Context, who pki.Identity, in *reply[ofVolumes]) (*reply[mobyfs.Records], error) {
		all, err := s.service.Records(ctx, who, in.Body.Volumes)
		return &reply[mobyfs.Records]{all}, err
	})
	handle(s, report, func(ctx context.Context, who pki.Identity, in *reply[mobyfs.Report]) (*reply[mobyfs.Session], error) {
		session, err := s.service.Report(ctx, who, in.Body)
		return &reply[mobyfs.Session]{session}, err
	})
}

// serveLive serves what the two ends of a live migration ask for besides.
func (s *Server) serveLive() {
	handle(s, freeze, func(ctx context.Context, who pki.Identity, in *reply[ofMigration]) (*revised[mobyfs.Volume], error) {
		return ofVolumeRecord(s.service.Freeze(ctx, who, in.Body.Volume, in.Body.Migration))
	})
	handle(s, thaw, func(ctx context.Context, who pki.Identity, in *reply[thawRequest]) (*revised[mobyfs.Volume], error) {
		return ofVolumeRecord(s.service.Thaw(ctx, who, in.Body.Volume, in.Body.Migration, in.Body.Freeze, in.Body.Reason))
	})
	handle(s, moved, func(ctx context.Context, who pki.Identity, in *reply[movedRequest]) (*none, error) {
		return nil, s.service.Moved(ctx, who, in.Body.Volume, in.Body.Migration, in.Body.Report)
	})
}

// Freeze implements mobyfs.Control.
func (c *Client) Freeze(ctx context.Context, id mobyfs.VolumeID, migration mobyfs.MigrationID) (v mobyfs.Volume, err error) {
	err = c.ask(ctx, freeze, "", ofMigration{id, migration}, &v)
	return v, err
}

// Thaw implements mobyfs.Control.
func (c *Client) Thaw(ctx context.Context, id mobyfs.VolumeID, migration mobyfs.MigrationID, number int, reason string) (v mobyfs.Volume, err error) {
	err = c.ask(ctx, thaw, "", thawRequest{id, migration, number, reason}, &v)
	return v, err
}

// Moved implements mobyfs.Control.
func (c *Client) Moved(ctx context.Context, id mobyfs.VolumeID, migration mobyfs.MigrationID, report mobyfs.MoveReport) error {
	return c.ask(ctx, moved, "", movedRequest{id, migration, report}, nil)
}

// Created implements mobyfs.Control.
func (c *Client) Created(ctx context.Context, id mobyfs.VolumeID) (v mobyfs.Volume, err error) {
	err = c.ask(ctx, created, "", ofVolume{id}, &v)
	return v, err
}

// Removed implements mobyfs.Control.
func (c *Client) Removed(ctx context.Context, id mobyfs.VolumeID) error {
	return c.ask(ctx, removed, "", ofVolume{id}, nil)
}

// Claim implements mobyfs.Control.
func (c *Client) Claim(ctx context.Context, id mobyfs.VolumeID) (g mobyfs.Grant, err error) {
	err = c.ask(ctx, claim, "", ofVolume{id}, &g)
	return g, err
}

// Release implements mobyfs.Control.
func (c *Client) Release(ctx context.Context, id mobyfs.VolumeID, fence mobyfs.Fence) error {
	return c.ask(ctx, release, "", ofLease{id, fence}, nil)
}

// Accept implements mobyfs.Control.
func (c *Client) Accept(ctx context.Context, id mobyfs.VolumeID, migration mobyfs.MigrationID) (g mobyfs.Grant, err error) {
	err = c.ask(ctx, accept, "", ofMigration{id, migration}, &g)
	return g, err
}

// Commit implements mobyfs.Control.
func (c *Client) Commit(ctx context.Context, id mobyfs.VolumeID, migration mobyfs.MigrationID, receipt mobyfs.Receipt) (g mobyfs.Grant, err error) {
	err = c.ask(ctx, commit, "", commitRequest{id, migration, receipt}, &g)
	return g, err
}

// Abort implements mobyfs.Control.
func (c *Client) Abort(ctx context.Context, id mobyfs.VolumeID, migration mobyfs.MigrationID, reason string) error {
	return c.ask(ctx, abort, "", abortRequest{id, migration, reason}, nil)
}

// Report implements mobyfs.Control.
func (c *Client) Report(ctx context.Context, r mobyfs.Report) (s mobyfs.Session, err error) {
	err = c.ask(ctx, report, "", r, &s)
	return s, err
}

// Records implements mobyfs.Control.
func (c *Client) Records(ctx context.Context, ids []mobyfs.VolumeID) (all mobyfs.Records, err error) {
	err = c.ask(ctx, records, "", ofVolumes{ids}, &all)
	return all, err
}
