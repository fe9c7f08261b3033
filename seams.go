package mobyfs

import (
	"context"
	"io"
	"time"
)

// Mounter is what the driver in front needs from the agent behind it. All methods may be called at once and
// repeatedly; ctx bounds the waiting, not the work: whoever asks again finds it further along.
type Mounter interface {
	// Create makes a volume, or agrees if it exists with the same options. CodeInvalid names the bad option.
	Create(ctx context.Context, name string, opts map[string]string) error
	// Remove removes a volume that nobody uses, here or elsewhere. That it is not there is success.
	Remove(ctx context.Context, name string) error
	// Mount brings the volume here if need be and counts a use by id. The path is absolute, exists, and is the
	// one that Get tells. When ctx is cancelled the use is not counted.
	Mount(ctx context.Context, name, id string) (path string, err error)
	// Unmount takes back one use by id. An unknown volume or id is success.
	Unmount(ctx context.Context, name, id string) error
	// Get tells of one volume. CodeNotFound only if it is known that there is none; CodeUnavailable if nobody
	// could be asked.
	Get(ctx context.Context, name string) (DockerVolume, error)
	// List tells of all volumes of the cluster, sorted by name, from what this node knows. It never waits, and leaves
	// Status out: Docker asks Get for that.
	List() []DockerVolume
	// Activated is told that a new life of dockerd begins: uses counted before are now only believed.
	Activated()
}

// DockerVolume is a volume as Docker sees it.
type DockerVolume struct {
	Name       string
	Mountpoint string // absolute and the same for the volume's whole life on this node
	CreatedAt  time.Time
	Status     map[string]any // shown by docker volume inspect
}

// Control is what an agent needs from the control plane. The caller is the node that its certificate names.
// Every method may be repeated with the same effect. An error without a Code from the far side is
// CodeUnavailable: it is unknown whether the call took effect.
type Control interface {
	// CreateVolume records a volume, or returns the one that exists with an equal spec. If node is not empty the
	// home is that node or the call fails with CodeNoSpace. Otherwise control places it.
	CreateVolume(ctx context.Context, name string, spec VolumeSpec, node string) (Volume, error)
	// Created tells that the bytes of a volume in VolumeCreating now exist here, and makes it VolumeReady. Of one that
	// is Returning it tells that they are out of the trash.
	Created(ctx context.Context, id VolumeID) (Volume, error)
	// Volume returns the record of the volume that has the name now, or CodeNotFound.
	Volume(ctx context.Context, name string) (Volume, error)
	// RemoveVolume frees the name and makes the volume VolumeRemoving. CodeInUse or CodeMoving if it may not go.
	RemoveVolume(ctx context.Context, name string) error
	// Removed tells that the bytes of a volume in VolumeRemoving are gone from here, and deletes the record. Of one that
	// is Returning it tells that the trash does not have them any more.
	Removed(ctx context.Context, id VolumeID) error
	// Claim asks for the lease. The Grant either gives it, or From tells that a migration to here has begun (or
	// goes on) whose commit will give it. CodeInUse and CodeMoving tell by whom and what to do.
	Claim(ctx context.Context, id VolumeID) (Grant, error)
	// Release gives the lease back. A lease that is not held any more, or under a newer fence, is success.
	Release(ctx context.Context, id VolumeID, fence Fence) error
	// Accept asks for what is needed to carry out a migration to here that control began: a fresh ticket.
	// CodeNotFound if it is not under way any more.
	Accept(ctx context.Context, id VolumeID, migration MigrationID) (Grant, error)
	// Commit makes this node the home. It is the one transaction that moves a volume; repeating it after success
	// is success. The Grant's fence is the one to adopt with; if Migration.Mount was set it is the lease's too.
	// CodeStaleFence if the migration was aborted: the bytes pulled are worth nothing. A live migration must be
	// MigrationFreezing and the receipt name its last freeze: CodeChanged if it was thawed since, and must be frozen again.
	// The commit takes the lease from the source.
	Commit(ctx context.Context, id VolumeID, migration MigrationID, receipt Receipt) (Grant, error)
	// Freeze (source of a live migration) says that from now on this node stops what uses the volume, and must come before
	// it stops anything: MigrationCopying becomes MigrationFreezing and Migration.Freezes of the answer numbers the freeze.
	// Repeated while that one holds, it is the same freeze. What was stopped goes on only once Thaw has succeeded or the
	// record says that the migration was aborted. CodeStaleFence if the migration has ended: nothing is to be stopped.
	Freeze(ctx context.Context, id VolumeID, migration MigrationID) (Volume, error)
	// Thaw (source) takes a freeze back: MigrationFreezing becomes MigrationCopying, and no commit of that freeze can come
	// any more. An aborted migration is success. CodeStaleFence if it was committed: what was stopped must never go on.
	// CodeChanged if another freeze has come since. CodeNotFound if control does not know the migration (any more), as
	// after a restore from a backup: then what was stopped may go on if, and only if, the lease in the record is the one
	// that this node relied on when it froze.
	Thaw(ctx context.Context, id VolumeID, migration MigrationID, freeze int, reason string) (Volume, error)
	// Moved (destination) tells how a committed migration went. It decides nothing. One that is not the volume's last any
	// more is success.
	Moved(ctx context.Context, id VolumeID, migration MigrationID, report MoveReport) error
	// Abort gives the migration up; the source stays the home. Both ends of a live one may do that, the destination alone
	// of another. CodeStaleFence if it was committed.
	Abort(ctx context.Context, id VolumeID, migration MigrationID, reason string) error
	// Report tells what this node sees. It is also its heartbeat; the first one after start joins the cluster and begins
	// a session. CodeStaleFence if another agent has begun one for this node since: this one must not go on.
	Report(ctx context.Context, r Report) (Session, error)
	// Watch calls each with the full state of the cluster, then with every change, until ctx ends or the
	// connection is lost (an error; the caller calls again). Changes of one object arrive in order; states that
	// a slow watcher missed are skipped. Of a large cluster a node is told what concerns it: see Snapshot.Partial.
	Watch(ctx context.Context, each func(Change)) error
	// Records tells of volumes that may not concern this node, by their IDs, of which there may be MaxRecords.
	Records(ctx context.Context, ids []VolumeID) (Records, error)
	// Inventory tells a part of what this node holds, as Session.Tell asked. With the last part all is told, and what was
	// told before under the same history and is not repeated since counts too.
	Inventory(ctx context.Context, part Inventory) error
	// Backup writes a sealed backup to w. What came is worth nothing unless nil is returned.
	Backup(ctx context.Context, id string, w io.Writer) error
}

// MaxRecords is how many records can be asked for at once.
const MaxRecords = 1000

// Records is what is known of some volumes. One whose record can't be read is in neither.
type Records struct {
	Volumes []Volume   `json:"volumes,omitempty"`
	Gone    []VolumeID `json:"gone,omitempty"` // there are no such volumes
}

// Change is one step of what Watch tells. Exactly one of Full, Volume, Gone, Node and Trust is set.
type Change struct {
	Revision int64     `json:"revision"`
	Full     *Snapshot `json:"full,omitempty"`   // replaces what is known; first of each Watch
	Volume   *Volume   `json:"volume,omitempty"` // new or changed
	Gone     VolumeID  `json:"gone,omitempty"`   // the record is deleted
	Node     *Node     `json:"node,omitempty"`   // joined or changed (not for each heartbeat)
	Trust    *Trust    `json:"trust,omitempty"`  // changed
}

// Snapshot is the state of the cluster at one revision.
type Snapshot struct {
	Cluster string `json:"cluster"`
	// Partial says that these are only the volumes that concern the node which watches: it is their home, or they are on
	// their way to it. Of others nothing is said: they may exist or not. It may come again in the same Watch.
	Partial bool     `json:"partial,omitempty"`
	Volumes []Volume `json:"volumes"`
	Nodes   []Node   `json:"nodes"`
	Trust   *Trust   `json:"trust,omitempty"` // nil before control has an authority
}

// Report is what a node tells control.
type Report struct {
	Address  string                   `json:"address"`
	Version  string                   `json:"version"`
	Instance string                   `json:"instance,omitempty"` // names this life of the agent
	Begins   bool                     `json:"begins,omitempty"`   // control has not answered a report of this life yet
	Capacity Capacity                 `json:"capacity"`
	Volumes  int                      `json:"volumes"`            // whose bytes are here
	Used     map[VolumeID]int64       `json:"used,omitempty"`     // bytes, of volumes whose home it is
	Users    map[VolumeID][]string    `json:"users,omitempty"`    // containers, of leases held; absent = unchanged
	Progress map[MigrationID]Progress `json:"progress,omitempty"` // of pulls and copies that run here
	Held     *Held                    `json:"held,omitempty"`     // nil = unchanged
	Backends []string                 `json:"backends,omitempty"` // that keep volumes here
	Live     bool                     `json:"live,omitempty"`     // this agent can be either end of a live migration
	// TrashSeconds is how long what was removed stays in the trash here.
	TrashSeconds int64 `json:"trash_seconds,omitempty"`

	// What placement shall know of the node from its first day on. Later, operators say.
	Labels  map[string]string `json:"labels,omitempty"`
	Zone    string            `json:"zone,omitempty"`
	Rack    string            `json:"rack,omitempty"`
	Backups *[]string         `json:"backups,omitempty"` // IDs of those whose copies are here; nil = unchanged
}

// Peer brings the bytes of a volume from another node.
type Peer interface {
	// Pull fills the empty directory into with the tree that from offers, and returns once it is durable and was
	// read back. progress may be nil and is called at most a few times a second. On error what is in into is
	// no volume; only Follow may take it up. CodeCorrupt if the digests differ, CodeNoSpace if it does not fit, CodeDenied and
	// CodeStaleFence if the source refuses, CodeInUse if the tree changed while it was read, CodeUnavailable if it
	// can't be reached or the stream broke.
	Pull(ctx context.Context, from From, into string, progress func(Progress)) (Receipt, error)
}

// LivePeer brings the bytes of a volume that is in use meanwhile.
type LivePeer interface {
	Peer
	// Follow opens a session with the source and returns once it is known what will come. into is empty, or what an
	// earlier Follow of the same migration left there, if Journal is that one's. That is read, and only what the source has otherwise
	// comes. Errors are those of Pull.
	Follow(ctx context.Context, from From, into string, o FollowOptions) (Follower, error)
}

// FollowOptions say how to follow.
type FollowOptions struct {
	BytesPerSecond int64          // the most that the stream takes; 0 is no limit
	Journal        string         // file in which is noted whose the bytes are, so that they need not come again; "" is none
	TakeUp         bool           // what is there is the same migration's, as the caller knows, whatever the journal says
	Progress       func(Progress) // called at most a few times a second; may be nil
}

// Follower is a session that keeps a directory on this node up with one on another that changes. Limit, Predict and Luggage may be
// called at any time, the others one after the other. After an error only Close may be called.
type Follower interface {
	// Round brings the tree up to what it was at the source at some moments during the round. The first round brings it whole.
	Round(ctx context.Context) (Round, error)
	// Freeze has the source stop all writing, brings what is still missing, proves that both trees are equal and makes
	// this one durable. The source stays frozen then, whatever becomes of the session, until the migration has ended.
	Freeze(ctx context.Context) (Receipt, error)
	// Predict is how long the pause would be if Freeze were called now.
	Predict() time.Duration
	// Limit sets the most bytes that the stream takes in a second; 0 is no limit.
	Limit(bytesPerSecond int64)
	// Luggage is what the source's agent tells the destination's, such as how containers were made: 1 MiB at most. It
	// may hold secrets, so it goes from node to node and never to control.
	Luggage() []byte
	// Close ends the session. What has come stays.
	Close() error
}

// Round is what one round brought.
type Round struct {
	Number    int // the first one is 0
	Files     int64
	Bytes     int64 // of content that came over the network
	Took      time.Duration
	Rate      int64  // bytes that came in a second
	DirtyRate int64  // bytes that were changed in a second since the round before
	Feed      string // what told the source of the changes, and why that
}
