package mobyfs

import (
	"regexp"
	"time"
)

// Node is the control plane's record of a host that runs the agent.
type Node struct {
	Name       string    `json:"name"`
	Address    string    `json:"address"` // host:port at which other agents pull volumes from it
	Version    string    `json:"version"` // of its mobyfs
	Capacity   Capacity  `json:"capacity"`
	Volumes    int       `json:"volumes"` // whose home it is, by its own count
	JoinedAt   time.Time `json:"joined_at"`
	LastSeenAt time.Time `json:"last_seen_at"` // of its last heartbeat, by the clock of control
	Ready      bool      `json:"ready"`        // it has a session
	Epoch      uint64    `json:"epoch"`        // of its newest session
}

// NodeSilence is how long a node may be silent before it counts as not ready. Nothing is taken from a silent
// node; it only gets no new volumes, and a migration towards it is given up.
const NodeSilence = SessionTTL

// Heartbeat is how often an agent tells control that it is there, within a tenth more or less.
const Heartbeat = 10 * time.Second

// Capacity is the space for volumes on a node, in bytes, as its file system tells.
type Capacity struct {
	TotalBytes int64 `json:"total_bytes"`
	FreeBytes  int64 `json:"free_bytes"`
}

var nodeName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// CheckNodeName tells what is wrong with a name that a node can't have, or nil. The rule is that of a host name's
// label (RFC 1123), in lower case, because the name stands in the node's certificate.
func CheckNodeName(name string) error {
	if nodeName.MatchString(name) {
		return nil
	}
	return Errorf(CodeInvalid, "%q can't be the name of a node", name).
		WithHint("use up to 63 lower-case letters, digits and -, such as vol-1")
}
