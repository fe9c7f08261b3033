package step

import "time"

// Event is one line of what is going on. The host prints events as JSON lines; mobyctl adds the host's name and shows
// them, or prints them on.
type Event struct {
	Time   time.Time `json:"ts"`
	Host   string    `json:"host,omitempty"`
	Step   string    `json:"step"`
	State  State     `json:"state"`
	Text   string    `json:"text,omitempty"`
	Bytes  int64     `json:"bytes,omitempty"`
	Total  int64     `json:"total,omitempty"`
	TookMS int64     `json:"took_ms,omitempty"`
	CSR    string    `json:"csr,omitempty"`   // with StateAsks: sign this, and send an Answer
	Role   string    `json:"role,omitempty"`  // and the role to sign it for
	Error  *Failure  `json:"error,omitempty"` // with StateFailed
}

// State is what an event says of its step.
type State string

const (
	StateRunning   State = "running"
	StateWaiting   State = "waiting"   // Text tells for what
	StateAsks      State = "asks"      // the host waits for an Answer on its stdin
	StateUnchanged State = "unchanged" // all was as desired
	StateChanged   State = "changed"
	StateFailed    State = "failed"
	StateDone      State = "done" // of the whole host
)

// Failure is an error on its way over the wire.
type Failure struct {
	Code   string   `json:"code"` // a mobyfs.Code, or an MFS code where mobyctl says it
	Text   string   `json:"text"`
	Hint   string   `json:"hint,omitempty"`
	Detail []string `json:"detail,omitempty"` // such as the last lines of a unit's journal
}

// CodeLocked is the Failure.Code of a host whose lock someone else has.
const CodeLocked = "locked"

// Answer is what the host gets for StateAsks, as one line of JSON.
type Answer struct {
	Cert   string `json:"cert,omitempty"`
	CA     string `json:"ca,omitempty"`
	Secret string `json:"secret,omitempty"` // for a control that joins others: the key of what is sealed in the store, if they have one
	Error  string `json:"error,omitempty"`
}
