package mobyfs

import "time"

// MigrationID names one try to move one volume.
type MigrationID string

// Migration is a move of a volume's home. While it stands in Volume.Migration it is under way; once it ended it
// stands in Volume.LastMove.
type Migration struct {
	ID        MigrationID    `json:"id"`
	From      string         `json:"from"`
	To        string         `json:"to"`
	Fence     Fence          `json:"fence"` // the volume's fence when the move began: the source refuses anything lower
	Mount     bool           `json:"mount"` // a container on To waits: the commit gives To the lease as well
	State     MigrationState `json:"state"`
	Reason    string         `json:"reason,omitempty"` // why it was aborted
	StartedAt time.Time      `json:"started_at"`
	EndedAt   time.Time      `json:"ended_at,omitzero"`
	Progress  Progress       `json:"progress"`         // as the destination last reported
	Digest    string         `json:"digest,omitempty"` // of the tree that was committed
	// Traceparent names the trace (W3C Trace Context) in which the migration began and of which all that is done for it is
	// a part, on whichever host and in whichever life of a program. Empty if nobody records one.
	Traceparent string      `json:"traceparent,omitempty"`
	Operation   OperationID `json:"operation,omitempty"` // of which it is a try; empty if a container asked
}

// MigrationState says how a migration stands.
type MigrationState string

const (
	// MigrationCopying: the source is the home; the destination pulls. Nobody may use the volume.
	MigrationCopying MigrationState = "copying"
	// MigrationCommitted: the destination is the home.
	MigrationCommitted MigrationState = "committed"
	// MigrationAborted: the source is the home still; what the destination has is worth nothing.
	MigrationAborted MigrationState = "aborted"
)

// Leads reports whether state s may be followed by next. Both ends are final.
func (s MigrationState) Leads(next MigrationState) bool {
	return s == MigrationCopying && (next == MigrationCommitted || next == MigrationAborted)
}

// Progress tells how far a pull has come.
type Progress struct {
	Files      int64 `json:"files"`       // received
	Bytes      int64 `json:"bytes"`       // of content received, holes not counted
	TotalBytes int64 `json:"total_bytes"` // an estimate made before the pull; 0 if unknown
}

// Receipt says what a pull brought: both ends computed the same digest, the destination from what it reads back.
type Receipt struct {
	Progress Progress `json:"progress"`
	Digest   string   `json:"digest"` // of names, content and metadata of the whole tree
}

// Ticket is what control signs to let one node pull one volume from another, once decided. It is of no use to any
// other node: the source compares To with the name in the certificate of whoever connects.
type Ticket struct {
	Migration MigrationID `json:"migration"`
	Volume    VolumeID    `json:"volume"`
	From      string      `json:"from"`
	To        string      `json:"to"`
	Fence     Fence       `json:"fence"`
	Expires   time.Time   `json:"expires"` // checked when the pull begins

	Traceparent string `json:"traceparent,omitempty"` // of the migration
}
