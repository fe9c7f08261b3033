// Package api is both ends of every call to the control plane, side by side: what a server answers and what a
// client asks stand in the same file, so that they can't differ.
//
// It is JSON over HTTP/2 with mutual TLS. Who calls is read from the certificate, never from the request. Errors
// are problems as of RFC 9457 with the members code, next (the way out) and cause. The server describes itself at
// /openapi.json.
package api

import (
	"context"
	"io"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/mobyfs/mobyfs"
	"github.com/mobyfs/mobyfs/internal/pki"
)

// Service is what the server serves. who is the verified identity of the caller; the service decides what it may
// do. The calls that mobyfs.Control has too are explained there.
type Service interface {
	Gatekeeper

	CreateVolume(ctx context.Context, who pki.Identity, name string, spec mobyfs.VolumeSpec, node string) (mobyfs.Volume, error)
	Volume(ctx context.Context, who pki.Identity, name string) (mobyfs.Volume, error)
	RemoveVolume(ctx context.Context, who pki.Identity, name string) error
	// Follow gives what a watcher is told. wake is called when there may be something new; it does not wait, and holds
	// nothing up.
	Follow(ctx context.Context, who pki.Identity, wake func()) (Feed, error)

	// Records tells of volumes by their IDs, of which there may be mobyfs.MaxRecords.
	Records(ctx context.Context, who pki.Identity, ids []mobyfs.VolumeID) (mobyfs.Records, error)

	Created(ctx context.Context, who pki.Identity, id mobyfs.VolumeID) (mobyfs.Volume, error)
	Removed(ctx context.Context, who pki.Identity, id mobyfs.VolumeID) error
	Claim(ctx context.Context, who pki.Identity, id mobyfs.VolumeID) (mobyfs.Grant, error)
	Release(ctx context.Context, who pki.Identity, id mobyfs.VolumeID, fence mobyfs.Fence) error
	Accept(ctx context.Context, who pki.Identity, id mobyfs.VolumeID, migration mobyfs.MigrationID) (mobyfs.Grant, error)
	Commit(ctx context.Context, who pki.Identity, id mobyfs.VolumeID, migration mobyfs.MigrationID, receipt mobyfs.Receipt) (mobyfs.Grant, error)
	Abort(ctx context.Context, who pki.Identity, id mobyfs.VolumeID, migration mobyfs.MigrationID, reason string) error
	Freeze(ctx context.Context, who pki.Identity, id mobyfs.VolumeID, migration mobyfs.MigrationID) (mobyfs.Volume, error)
	Thaw(ctx context.Context, who pki.Identity, id mobyfs.VolumeID, migration mobyfs.MigrationID, freeze int, reason string) (mobyfs.Volume, error)
	Moved(ctx context.Context, who pki.Identity, id mobyfs.VolumeID, migration mobyfs.MigrationID, report mobyfs.MoveReport) error
	Report(ctx context.Context, who pki.Identity, r mobyfs.Report) (mobyfs.Session, error)

	// VolumePage lists a part of the volumes, sorted by name.
	VolumePage(ctx context.Context, who pki.Identity, q VolumeQuery) (VolumePage, error)
	// WaitVolume returns the record of a volume once it is newer than a revision, or as it is when patience ends.
	WaitVolume(ctx context.Context, who pki.Identity, name string, revision int64, patience time.Duration) (mobyfs.Volume, error)
	// PatchVolume changes what a volume is asked to be. Repeated, it is success.
	PatchVolume(ctx context.Context, who pki.Identity, name string, patch VolumePatch) (mobyfs.Volume, error)
	// MoveVolume begins to move a volume: one that nobody uses, or live one that containers use. Volume.Migration is nil in
	// the answer if it is there already. Repeated, it tells of the move that is under way.
	MoveVolume(ctx context.Context, who pki.Identity, name string, how MoveRequest) (mobyfs.Volume, error)
	// TakeOver gives a volume whose node is silent to another node. CodeInvalid if its class or its backend does not
	// allow that, CodeInUse if the node is there, CodeUnavailable while the node may not have stopped yet.
	TakeOver(ctx context.Context, who pki.Identity, name, to, reason string) (mobyfs.Volume, error)
	// ChangeMove changes the options of the live move that is under way: its limit, and what it does when containers write
	// too fast. CodeNotFound if there is none.
	ChangeMove(ctx context.Context, who pki.Identity, name string, patch MovePatch) (mobyfs.Volume, error)
	// UndoMove begins to move a volume back to where it came from by its last move, in the way of that one. Repeated, it
	// tells of the move that is under way. CodeInvalid if there is nothing to undo.
	UndoMove(ctx context.Context, who pki.Identity, name string) (mobyfs.Volume, error)
	// CancelMove gives the move up that is under way; the volume stays where it is. Repeated, it is success.
	CancelMove(ctx context.Context, who pki.Identity, name string) (mobyfs.Volume, error)
	// Operations lists a part of the operations, sorted by ID, which is the order in which they were asked for.
	Operations(ctx context.Context, who pki.Identity, q OperationQuery) (OperationPage, error)
	// Operation tells of one operation. CodeNotFound if there is none, or none any more.
	Operation(ctx context.Context, who pki.Identity, id mobyfs.OperationID) (mobyfs.Operation, error)
	// WaitOperation returns an operation once its generation is newer than one or it has ended, or as it is when patience ends.
	WaitOperation(ctx context.Context, who pki.Identity, id mobyfs.OperationID, generation int64, patience time.Duration) (mobyfs.Operation, error)
	// CancelOperation ends an operation and undoes what can be undone. Repeated, it is success.
	CancelOperation(ctx context.Context, who pki.Identity, id mobyfs.OperationID) (mobyfs.Operation, error)
	// RetryOperation begins an operation anew that failed or was cancelled, and makes one that waits try at once.
	RetryOperation(ctx context.Context, who pki.Identity, id mobyfs.OperationID) (mobyfs.Operation, error)
	// PauseOperation says whether an operation may begin anything more.
	PauseOperation(ctx context.Context, who pki.Identity, id mobyfs.OperationID, paused bool) (mobyfs.Operation, error)
	// DrainNode begins to move all volumes away from a node. Repeated, it tells of the drain that is under way.
	DrainNode(ctx context.Context, who pki.Identity, node string, how DrainRequest) (mobyfs.Operation, error)
	// EvictNode shuts a node out for good, and begins to give others what can be taken from it. Repeated, it is success.
	EvictNode(ctx context.Context, who pki.Identity, node, reason string) (mobyfs.Operation, error)
	// ResizeVolume promises a volume another size, at once or as soon as its node has the room.
	ResizeVolume(ctx context.Context, who pki.Identity, name string, bytes int64) (mobyfs.Operation, error)
	// PlanRebalance tells which moves would make the nodes about equally full, those that gain minGain at least; the default if 0.
	PlanRebalance(ctx context.Context, who pki.Identity, minGain float64) ([]mobyfs.PlannedMove, error)
	// Rebalance begins to make these moves. CodeExists if it is being done.
	Rebalance(ctx context.Context, who pki.Identity, minGain float64) (mobyfs.Operation, error)
	// UpgradeNodes begins to say which node may be upgraded to a version next. Repeated, it tells of the upgrade that is
	// under way.
	UpgradeNodes(ctx context.Context, who pki.Identity, version string) (mobyfs.Operation, error)
	// ForgetNode deletes the record of a node that was drained or evicted. CodeInUse if volumes have their bytes there,
	// unless dataLost gives them up. Repeated, it is success.
	ForgetNode(ctx context.Context, who pki.Identity, node string, dataLost bool) error
	// Node tells of one node.
	Node(ctx context.Context, who pki.Identity, name string) (mobyfs.Node, error)
	// PatchNode changes what is said of a node, for placement to go by. Repeated, it is success.
	PatchNode(ctx context.Context, who pki.Identity, name string, patch NodePatch) (mobyfs.Node, error)
	// CordonNode lets a node get no volumes, or lets it get them again. Repeated, it is success.
	CordonNode(ctx context.Context, who pki.Identity, name string, cordon bool) (mobyfs.Node, error)
	// ExplainPlacement tells where a volume would go, and why. Nothing is made.
	ExplainPlacement(ctx context.Context, who pki.Identity, q PlacementQuestion) (Placement, error)
	// Nodes lists all nodes, sorted by name.
	Nodes(ctx context.Context, who pki.Identity) ([]mobyfs.Node, error)
	// Events calls each with the events of revision since and later, in the order of their revisions, and with the
	// revision up to which they are all; then with every new one, until ctx ends or each returns an error. The first call
	// comes at once, if need be with no events.
	Events(ctx context.Context, who pki.Identity, since int64, each func(events []mobyfs.Event, upTo int64) error) error
	// Audit is Events with refusals too, and with who asked for what.
	Audit(ctx context.Context, who pki.Identity, since int64, each func(events []mobyfs.Event, upTo int64) error) error
	// AuditTrail tells what this control has of the audit trail on its disk, and AuditSegment gives a part of it.
	AuditTrail(ctx context.Context, who pki.Identity) (AuditTrail, error)
	AuditSegment(ctx context.Context, who pki.Identity, n int64) ([]byte, error)
	// Denied is told of every call that was refused for who called.
	Denied(ctx context.Context, who pki.Identity, call string, refused error)
	// Begin notes that a request is being answered. It returns the answer if that was given before. CodeReused if the
	// key was another request's, CodeBusy if the same request is being answered now.
	Begin(ctx context.Context, who pki.Identity, asked Asked) (*Answer, error)
	// Finish keeps the answer for whoever repeats the request. Without one the request is forgotten, and can be made anew.
	Finish(ctx context.Context, who pki.Identity, asked Asked, answer *Answer) error
	// MakeBackup makes a backup now. CodeUnavailable if it takes longer than a call may: it is made all the same.
	MakeBackup(ctx context.Context, who pki.Identity) (Backup, error)
	// Backups lists the backups that are kept, the newest first.
	Backups(ctx context.Context, who pki.Identity) ([]Backup, error)
	// BackupContent opens a backup that is on this control's disk; CodeUnavailable if another control has it.
	BackupContent(ctx context.Context, who pki.Identity, id string) (content io.ReadCloser, size int64, err error)
	// RestoreStatus tells whether control waits for nodes after it was restored from a backup.
	RestoreStatus(ctx context.Context, who pki.Identity) (Restore, error)
	// Converge ends the waiting without some nodes.
	Converge(ctx context.Context, who pki.Identity, without []string) (Restore, error)
	// RemovedVolumes lists the volumes that may come back, the last removed first.
	RemovedVolumes(ctx context.Context, who pki.Identity) ([]mobyfs.Tombstone, error)
	// UndeleteVolume brings back what was removed last under a name, under another one if as is not empty. The volume is
	// Returning until its node has taken it out of its trash; if that does not have it any more, the volume is gone again.
	UndeleteVolume(ctx context.Context, who pki.Identity, name, as string) (mobyfs.Volume, error)
	// SettleVolume makes the bytes that one node keeps besides the volume's own the volume's, or gives up those of another.
	SettleVolume(ctx context.Context, who pki.Identity, name, use, drop string) (mobyfs.Volume, error)
	Inventory(ctx context.Context, who pki.Identity, part mobyfs.Inventory) error
	// Cluster tells how the cluster is.
	Cluster(ctx context.Context, who pki.Identity) (Cluster, error)
	// Metrics are what the service counts, for Prometheus.
	Metrics(ctx context.Context, who pki.Identity) (prometheus.Gatherer, error)
	// Healthy asks the store for an answer. It needs no permission.
	Healthy(ctx context.Context) error
	// Ready is nil if this control should be asked: it knows what the store holds, and can write. Otherwise it says why
	// not. It needs no permission, and tells of no volume, node or person.
	Ready(ctx context.Context) error
}

// Feed is the state of the cluster, then its changes, as one watcher is told of them. While nobody asks, changes of one
// object become one.
type Feed interface {
	// Next is the full state at first, then the next change; none of them if there is nothing new. It does not wait. One
	// call is made at a time; after an error none.
	Next() (mobyfs.Change, bool, error)
	// Close is called once, when nothing is asked any more.
	Close()
}

// Cluster is the cluster in a few numbers.
type Cluster struct {
	Cluster    string               `json:"cluster"`
	Version    string               `json:"version"`  // of mobyfs-control
	Revision   int64                `json:"revision"` // of the newest change in the store
	Nodes      int                  `json:"nodes"`
	ReadyNodes int                  `json:"ready_nodes"`
	Volumes    int                  `json:"volumes"`
	InUse      int                  `json:"in_use"`
	Moving     int                  `json:"moving"`
	Classes    []mobyfs.VolumeClass `json:"classes,omitempty"`    // from which volumes may be made
	Rooms      []Room               `json:"rooms,omitempty"`      // that the members of the store have
	Unreadable []Unreadable         `json:"unreadable,omitempty"` // records in the store that this version can't read
	Backup     *Backup              `json:"backup,omitempty"`     // the newest, if there is one
	Restore    *Restore             `json:"restore,omitempty"`    // while control waits for nodes after it was restored
	BackupDue  bool                 `json:"backup_due,omitempty"` // the newest backup is older than it should be, or too few nodes keep it
}

// Room is how much room a member of the store has.
type Room struct {
	Member        string `json:"member"`
	Level         string `json:"level" enum:"enough,low,full"` // full: nothing new is recorded; removals and claims go on
	Cause         string `json:"cause,omitempty"`
	InUseBytes    int64  `json:"in_use_bytes"`
	FileBytes     int64  `json:"file_bytes"`                // with what is free in it
	QuotaBytes    int64  `json:"quota_bytes,omitempty"`     // 0 if it is not known
	DiskFreeBytes int64  `json:"disk_free_bytes,omitempty"` // 0 for an etcd that somebody else runs
}

// Unreadable is a record that can't be read. What it describes exists all the same.
type Unreadable struct {
	Key   string `json:"key"`
	Cause string `json:"cause"`
}

// Version is that of the API, in its paths and its description.
const Version = "v1"
