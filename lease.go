package mobyfs

import "time"

// Lease says that a node uses the volume. Only the volume's home can hold it. It has no expiry: a node that falls
// silent keeps it, for nobody else has the bytes. A node may keep it for a moment after its last container has ended
// (it lingers: the next container often starts there again), unless somebody else wants the volume.
type Lease struct {
	Node  string    `json:"node"`
	Fence Fence     `json:"fence"` // the volume's fence when the lease was given
	Since time.Time `json:"since"`
	Users []string  `json:"users,omitempty"` // names of the containers, as the node last reported
	// Wanted is who asked for the volume meanwhile and was refused, "" for nobody. The holder then gives the lease
	// back as soon as its last container has ended, without lingering.
	Wanted string `json:"wanted,omitempty"`
}

// MaxLinger bounds how long a node may be told to let leases linger.
const MaxLinger = 10 * time.Minute

// Grant is control's answer to a claim: everything the node needs next, so that it asks no second question.
type Grant struct {
	Volume Volume `json:"volume"`
	Fence  Fence  `json:"fence"`          // to attach, export or adopt with
	From   *From  `json:"from,omitempty"` // set if the bytes must be pulled first; the lease then comes with the commit
}

// From tells a destination where the bytes are and what lets it have them.
type From struct {
	Migration MigrationID `json:"migration"`
	Node      string      `json:"node"`
	Address   string      `json:"address"` // host:port of the source's agent
	Ticket    string      `json:"ticket"`  // signed by control; the source checks the signature alone
}
