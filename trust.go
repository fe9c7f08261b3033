package mobyfs

import "time"

// Trust is what each member of the cluster must know to tell who belongs to it.
type Trust struct {
	ID      string     `json:"id"`                // names the roots
	Roots   string     `json:"roots"`             // whose certificates are good, PEM
	Issuing string     `json:"issuing"`           // the fingerprint of that root below which certificates are made now
	Evicted []Eviction `json:"evicted,omitempty"` // whose certificates are good no longer, in the order of their names
}

// Held is what a member says of its own trust: which roots it has, and below which root its certificate was made. A
// control says the same of itself as a member of the store: which intermediates of peers it runs with, and which of them
// made its certificate as a peer.
type Held struct {
	Trust      string `json:"trust,omitempty"`
	Issuer     string `json:"issuer,omitempty"`
	PeerTrust  string `json:"peer_trust,omitempty"`
	PeerIssuer string `json:"peer_issuer,omitempty"`
}

// Eviction shuts somebody out who was in the cluster: certificates of those who were let in up to a time are refused,
// however long they last. Whoever is let in again later has the name anew.
type Eviction struct {
	Role  string    `json:"role"`
	Name  string    `json:"name"`
	Until time.Time `json:"until"`
	Cause string    `json:"cause,omitempty"`
	// Proof is control's signature, so that a control that was restored from an older backup believes it.
	Proof []byte `json:"proof,omitempty"`
}

// Who is role and name, such as node/h1.
func (e Eviction) Who() string { return e.Role + "/" + e.Name }

// Person is somebody who uses the cluster: operator, admin, viewer or auditor.
type Person struct {
	Role  string    `json:"role"`
	Name  string    `json:"name"`
	Since time.Time `json:"since"` // let in
	Until time.Time `json:"until"` // the newest certificate that is known
}

// JoinToken lets one machine or person in, once. The secret is not part of the record.
type JoinToken struct {
	ID        string            `json:"id"`
	Role      string            `json:"role"`
	Name      string            `json:"name,omitempty"`    // that the joiner must have; any if empty
	Network   string            `json:"network,omitempty"` // CIDR from which it must come; any if empty
	Labels    map[string]string `json:"labels,omitempty"`  // that the node gets
	Replace   bool              `json:"replace,omitempty"` // the joiner takes the place of the node of that name, which is shut out
	CreatedAt time.Time         `json:"created_at"`
	ExpiresAt time.Time         `json:"expires_at"`
	UsedAt    time.Time         `json:"used_at,omitzero"`
	UsedBy    string            `json:"used_by,omitempty"` // the name of who joined with it
}

// RotationPhase is how far the change of the authority's root is. Phases only go forward.
type RotationPhase string

const (
	RotationNone   RotationPhase = ""       // one root, which everybody trusts
	RotationAsked  RotationPhase = "asked"  // a new root is wanted; the control that has the root's key makes it
	RotationAdd    RotationPhase = "add"    // all learn to trust the new root too; the old one signs
	RotationIssue  RotationPhase = "issue"  // all get certificates below the new root; both are trusted
	RotationRetire RotationPhase = "retire" // all unlearn the old root
)

// Rotation is the state of the cluster's authority.
type Rotation struct {
	Phase   RotationPhase `json:"phase"`
	Since   time.Time     `json:"since,omitzero"`
	Root    string        `json:"root"`              // fingerprint of the root that is to be pinned now
	Next    string        `json:"next,omitempty"`    // fingerprint of the one that shall replace it
	Lacking []Lacking     `json:"lacking,omitempty"` // who keeps the phase from ending
	Forced  []string      `json:"forced,omitempty"`  // who is not waited for any more
}

// Lacking is a member that a phase waits for.
type Lacking struct {
	Who string `json:"who"` // such as node/h1
	Why string `json:"why"`
}
