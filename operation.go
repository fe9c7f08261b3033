package mobyfs

import (
	"regexp"
	"slices"
	"time"
)

// OperationID names an operation for ever: a ULID, lower case; that of a part of another operation stands behind it and a
// point.
type OperationID string

// Operation is work of the cluster that takes longer than one decision: a row that any control process can carry a
// step further. A step reads the row and what it is about, decides, and writes both in one transaction; so a process
// that ends between two steps leaves nothing behind that the next one does not see. What is to be done stands in the
// records that agents watch (Volume.Migration, Node.Availability), never in the row alone.
type Operation struct {
	ID         OperationID    `json:"id"`
	Kind       OperationKind  `json:"kind"`
	Schema     int            `json:"schema"` // of the meaning of this row; a program parks what it does not know
	Phase      OperationPhase `json:"phase"`
	Generation int64          `json:"generation"` // raised by each step and each change by an operator

	Volume    VolumeID    `json:"volume,omitempty"`
	Name      string      `json:"name,omitempty"` // of the volume
	Node      string      `json:"node,omitempty"` // which is drained, evicted, or upgraded now
	From      string      `json:"from,omitempty"`
	To        string      `json:"to,omitempty"`
	Parent    OperationID `json:"parent,omitempty"`     // for which this one is a part
	Migration MigrationID `json:"migration,omitempty"`  // of the try that is under way, or was the last
	SizeBytes int64       `json:"size_bytes,omitempty"` // that the volume shall have
	MinGain   float64     `json:"min_gain,omitempty"`   // of a rebalance, a part of the fullest node's space
	Version   string      `json:"version,omitempty"`    // to which nodes are upgraded
	Reason    string      `json:"reason,omitempty"`     // that was given for it
	Live      bool        `json:"live,omitempty"`       // volumes move while containers use them
	Options   MoveOptions `json:"options,omitzero"`     // of a live move, or of all those of a drain

	Progress Work      `json:"progress"`
	ETA      time.Time `json:"eta,omitzero"`      // an estimate, while it runs
	Attempt  int       `json:"attempt,omitempty"` // tries that have failed
	NextTry  time.Time `json:"next_try,omitzero"`
	Cause    string    `json:"cause,omitempty"`  // why it waits or has failed, or what it left undone, for people
	Paused   bool      `json:"paused,omitempty"` // begins nothing more; what is under way goes on

	// Step and Pull are how far a live move is, as control tells of it. They are never written.
	Step string   `json:"step,omitempty"` // preparing, round N, asking, freezing, or starting
	Pull Progress `json:"pull,omitzero"`

	Traceparent string    `json:"traceparent,omitempty"` // W3C Trace Context of who asked
	CreatedAt   time.Time `json:"created_at"`
	StartedAt   time.Time `json:"started_at,omitzero"`
	EndedAt     time.Time `json:"ended_at,omitzero"`
	Revision    int64     `json:"revision"` // of the row in the store
}

// PlannedMove is a volume that is better off elsewhere.
type PlannedMove struct {
	Volume VolumeID `json:"volume"`
	Name   string   `json:"name"`
	From   string   `json:"from"`
	To     string   `json:"to"`
	Bytes  int64    `json:"bytes"` // that it uses, and that are copied
	Gain   float64  `json:"gain"`  // how much emptier its node is then than its node was before, of 1
}

// Work is how much of an operation is done.
type Work struct {
	Done       int   `json:"done"` // volumes or nodes
	Total      int   `json:"total"`
	Waiting    int   `json:"waiting,omitempty"` // of those that are not done: they can't begin yet, Cause says why
	Bytes      int64 `json:"bytes,omitempty"`
	TotalBytes int64 `json:"total_bytes,omitempty"` // an estimate; 0 if unknown
}

// OperationKind says what an operation does.
type OperationKind string

const (
	// OperationCreate makes a volume's bytes. Its ID is the volume's and its row the volume's record.
	OperationCreate    OperationKind = "create"
	OperationMove      OperationKind = "move"      // moves one volume
	OperationResize    OperationKind = "resize"    // changes what a volume counts on
	OperationDrain     OperationKind = "drain"     // moves all volumes away from a node
	OperationEvict     OperationKind = "evict"     // gives what can be taken from a node that is shut out to others
	OperationRebalance OperationKind = "rebalance" // moves volumes until no move is worth it
	OperationUpgrade   OperationKind = "upgrade"   // says which node may be upgraded next
)

// OperationSchema is the meaning that this program gives to rows.
const OperationSchema = 1

// Known reports whether this program knows how to carry the operation on. If not it is parked: it is shown and
// counted, and nothing is done for it.
func (o Operation) Known() bool {
	switch o.Kind {
	case OperationMove, OperationResize, OperationDrain, OperationEvict, OperationRebalance, OperationUpgrade:
		return o.Schema == OperationSchema && slices.Contains(OperationPhases[:], o.Phase)
	}
	return false
}

// OperationPhase says how an operation stands.
type OperationPhase string

const (
	// OperationPending: nothing has begun; it waits for its turn under the budgets.
	OperationPending OperationPhase = "pending"
	// OperationRunning: its work is under way.
	OperationRunning OperationPhase = "running"
	// OperationWaiting: it can't go on now, Cause says why; it is tried again at NextTry.
	OperationWaiting OperationPhase = "waiting"
	// OperationDone: what was asked for is so.
	OperationDone OperationPhase = "done"
	// OperationFailed: it was given up, Cause says why. It can be tried again.
	OperationFailed OperationPhase = "failed"
	// OperationCancelled: it was undone as far as it could be. It can be tried again.
	OperationCancelled OperationPhase = "cancelled"
	// OperationParked: the control process that tells of it does not know how to carry it on. It is never written.
	OperationParked OperationPhase = "parked"
)

// OperationPhases are all phases that are written, in the order of a life.
var OperationPhases = [...]OperationPhase{
	OperationPending, OperationRunning, OperationWaiting, OperationDone, OperationFailed, OperationCancelled,
}

// Ended reports whether nothing more happens by itself.
func (p OperationPhase) Ended() bool {
	return p == OperationDone || p == OperationFailed || p == OperationCancelled
}

// Leads reports whether phase p may be followed by next.
func (p OperationPhase) Leads(next OperationPhase) bool {
	switch p {
	case OperationPending, OperationRunning, OperationWaiting:
		return next != p && slices.Contains(OperationPhases[:], next)
	case OperationFailed, OperationCancelled:
		return next == OperationPending // it is tried again
	default:
		return false
	}
}

var operationID = regexp.MustCompile(`^[0-9a-z]{26}(\.[0-9a-z]{26})?$`)

// CheckOperationID tells what is wrong with an ID that no operation can have, or nil.
func CheckOperationID(id string) error {
	if operationID.MatchString(id) {
		return nil
	}
	return Errorf(CodeInvalid, "%.60q is not the ID of an operation", id).WithHint("mobyctl operation ls lists them")
}
