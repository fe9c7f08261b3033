package mobyfs

import (
	"cmp"
	"fmt"
	"time"
)

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

	Live    bool          `json:"live,omitempty"`    // containers on From may use the volume until From freezes it; the lease stays there
	Options MoveOptions   `json:"options,omitzero"`  // as asked
	Freezes int           `json:"freezes,omitempty"` // how often From froze the volume: a commit names the last one
	Pause   time.Duration `json:"pause,omitempty"`   // measured, from the freeze until the volume could be used on To, or its containers ran there; 0 while or if that is not known

	FrozenAt   time.Time   `json:"frozen_at,omitzero"`   // of the last freeze, by control's clock; zero once it was thawed
	Undoes     MigrationID `json:"undoes,omitempty"`     // the move that it takes back: what From of that one has retained may be the base
	Containers []string    `json:"containers,omitempty"` // that were made anew on To and run there, as To told once it was committed
	Trouble    string      `json:"trouble,omitempty"`    // what did not go well after the commit, as To told
	ToldAt     time.Time   `json:"told_at,omitzero"`     // when To told how it went; zero before, and if it never did
}

// Told reports whether To has told how a live migration went once it was committed.
func (m *Migration) Told() bool { return m.Pause > 0 || !m.ToldAt.IsZero() } // an older control notes no time

// RoundText says in words which round of a live migration goes on, and how much its containers are slowed down in it.
func (m *Migration) RoundText() string {
	text := fmt.Sprintf("round %d", m.Progress.Round)
	if share := m.Options.Share(m.Progress.Round); share < 1 {
		text += fmt.Sprintf(", containers are slowed down to 1/%d", int(1/share))
	}
	return text
}

// MoveReport is what a destination tells of a migration once it is committed.
type MoveReport struct {
	Pause      time.Duration `json:"pause"`                // from the freeze until the volume could be used on To, or its containers ran there; 0 if the program that saw the freeze has ended
	Containers []string      `json:"containers,omitempty"` // that were made anew on To and run there
	Trouble    string        `json:"trouble,omitempty"`    // why containers do not run there, for people
}

// MoveOptions say how a live move is to go.
type MoveOptions struct {
	WithContainers bool          `json:"with_containers,omitempty"`  // that use the volume: made anew on the destination with the same configuration and name, and removed from the source
	MaxPause       time.Duration `json:"max_pause,omitempty"`        // rounds go on until the predicted pause is not longer; 0 is DefaultMaxPause
	MaxRounds      int           `json:"max_rounds,omitempty"`       // after so many OnBusy decides; 0 is DefaultMaxRounds
	OnBusy         OnBusy        `json:"on_busy,omitempty"`          // when containers write faster than rounds can follow
	BytesPerSecond int64         `json:"bytes_per_second,omitempty"` // the most that the stream takes; 0 is no limit
	Consistency    Consistency   `json:"consistency,omitempty"`
}

// What MoveOptions are where nothing is said.
const (
	DefaultMaxPause  = 500 * time.Millisecond
	DefaultMaxRounds = 8
)

// LongestPause returns the pause that is aimed at.
func (o MoveOptions) LongestPause() time.Duration { return cmp.Or(o.MaxPause, DefaultMaxPause) }

// Rounds returns after how many rounds OnBusy decides.
func (o MoveOptions) Rounds() int { return cmp.Or(o.MaxRounds, DefaultMaxRounds) }

// Enough reports whether the source is to be frozen after the round with a number, 0 for the first: the pause that is predicted is short
// enough, and another round would hardly make it shorter. So it is if the last round made it less than a quarter shorter than what was
// predicted before, 0 if nothing was.
func (o MoveOptions) Enough(round int, before, pause time.Duration) bool {
	shrinks := pause < before-before/4 && round+1 < o.Rounds()
	return pause <= o.LongestPause() && !shrinks
}

// Bounds of MoveOptions.
const (
	mostPause  = time.Hour
	mostRounds = 1000
	leastRate  = 1 << 10 // bytes in a second
)

// Check returns the options in the one form that each of them has, or CodeInvalid.
func (o MoveOptions) Check() (MoveOptions, error) {
	if o.OnBusy == "ask" {
		o.OnBusy = BusyAsk
	}
	if o.Consistency == "crash" {
		o.Consistency = ConsistencyCrash
	}
	bad := func(hint, format string, args ...any) (MoveOptions, error) {
		return o, Errorf(CodeInvalid, "move a volume: "+format, args...).WithHint("%s", hint)
	}
	switch {
	case o.MaxPause < 0 || o.MaxPause > mostPause:
		return bad("give a pause such as 500ms, of an hour at most", "the pause %v can't be", o.MaxPause)
	case o.MaxRounds < 0 || o.MaxRounds > mostRounds:
		return bad("give a number up to 1000, or none", "%d rounds can't be", o.MaxRounds)
	case o.BytesPerSecond != 0 && o.BytesPerSecond < leastRate:
		return bad("give 1 KiB in a second at least, or 0 for no limit", "%d bytes in a second can't be", o.BytesPerSecond)
	}
	switch o.OnBusy {
	case BusyAsk, BusyFreeze, BusyThrottle:
	default:
		return bad("it is ask, freeze or throttle", "nobody knows what %.40q is to mean when containers write too fast", o.OnBusy)
	}
	switch o.Consistency {
	case ConsistencyCrash, ConsistencyClean:
	default:
		return bad("it is crash or clean", "nobody knows the consistency %.40q", o.Consistency)
	}
	return o, nil
}

// OnBusy says what becomes of a live move whose predicted pause does not get short enough.
type OnBusy string

const (
	BusyAsk    OnBusy = ""       // wait for an operator, who is told the prediction
	BusyFreeze OnBusy = "freeze" // freeze whatever the pause will be
	// BusyThrottle gives containers less processor time from round to round, and asks if that is not enough.
	BusyThrottle OnBusy = "throttle"
)

// throttleRounds is in how many rounds BusyThrottle gives containers less than in the one before.
const throttleRounds = 6

// Share returns the part of the processor time that they used before which containers have in a round, 0 for the first. It is 1 unless
// OnBusy is BusyThrottle: then each round after Rounds halves it, down to 1/64. So does a hypervisor that moves a machine which is too
// busy (QEMU's auto-converge).
func (o MoveOptions) Share(round int) float64 {
	if o.OnBusy != BusyThrottle {
		return 1
	}
	return 1 / float64(int(1)<<max(0, min(round+1-o.Rounds(), throttleRounds)))
}

// Asks reports whether after a round, 0 for the first, whose predicted pause is not short enough, an operator is asked.
func (o MoveOptions) Asks(round int) bool {
	return round+1 >= o.Rounds() && o.Share(round) == o.Share(round+1)
}

// Consistency says in which state containers are when the last of their bytes are taken.
type Consistency string

const (
	ConsistencyCrash Consistency = ""      // frozen in the middle of what they do, as a crash would leave them
	ConsistencyClean Consistency = "clean" // stopped with their own signal and in their own time
)

// MigrationState says how a migration stands.
type MigrationState string

const (
	// MigrationCopying: the source is the home; the destination pulls. Nobody may use the volume, but of a live one From.
	MigrationCopying MigrationState = "copying"
	// MigrationFreezing: of a live one: the source stops or has stopped what uses the volume, and lets it go on only once it
	// knows that no commit can come any more: it thawed the migration, or read that it was aborted.
	MigrationFreezing MigrationState = "freezing"
	// MigrationCommitted: the destination is the home.
	MigrationCommitted MigrationState = "committed"
	// MigrationAborted: the source is the home still; what the destination has is worth nothing.
	MigrationAborted MigrationState = "aborted"
)

// Leads reports whether state s may be followed by next. Both ends are final.
func (s MigrationState) Leads(next MigrationState) bool {
	switch s {
	case MigrationCopying:
		return next == MigrationFreezing || next == MigrationCommitted || next == MigrationAborted
	case MigrationFreezing:
		return next == MigrationCopying || next == MigrationCommitted || next == MigrationAborted
	}
	return false
}

// Progress tells how far a pull has come.
type Progress struct {
	Files      int64 `json:"files"`       // received
	Bytes      int64 `json:"bytes"`       // of content received, holes not counted
	TotalBytes int64 `json:"total_bytes"` // an estimate made before the pull; 0 if unknown

	// Of a live migration:
	Round          int           `json:"round,omitempty"`           // that goes on; the first one, 0, brings the whole tree
	Rate           int64         `json:"rate,omitempty"`            // bytes that come in a second
	DirtyRate      int64         `json:"dirty_rate,omitempty"`      // bytes that containers change in a second
	PredictedPause time.Duration `json:"predicted_pause,omitempty"` // if it were frozen now
	Feed           string        `json:"feed,omitempty"`            // what tells the source of changes, and why that
	Asks           bool          `json:"asks,omitempty"`            // it waits for an operator: see BusyAsk
}

// Receipt says what a pull brought: both ends computed the same digest, the destination from what it reads back.
type Receipt struct {
	Progress Progress `json:"progress"`
	Digest   string   `json:"digest"`           // of names, content and metadata of the whole tree
	Freeze   int      `json:"freeze,omitempty"` // which freeze of a live migration this is the state of; 0: nobody used the volume
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
	Live      bool        `json:"live,omitempty"`

	Traceparent string `json:"traceparent,omitempty"` // of the migration
}
