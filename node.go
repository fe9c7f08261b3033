package mobyfs

import (
	"regexp"
	"strings"
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
	LastSeenAt time.Time `json:"last_seen_at"`       // of its last heartbeat, by the clock of control
	Ready      bool      `json:"ready"`              // it has a session
	Epoch      uint64    `json:"epoch"`              // of its newest session
	Backends   []string  `json:"backends,omitempty"` // that it has; nil if it has not said
	Live       bool      `json:"live,omitempty"`     // its agent can be either end of a live migration
	// TrashSeconds is how long it keeps what was removed; DefaultTrash if it has not said.
	TrashSeconds int64 `json:"trash_seconds,omitempty"`
	// RivalAt is when another agent spoke for it that control does not listen to: two machines have its certificate. It
	// is told once in RivalEvery; zero if there never was one.
	RivalAt time.Time `json:"rival_at,omitzero"`

	// What operators say of it, for placement to go by. A node tells its own labels, zone and rack only when it joins.
	Labels       map[string]string `json:"labels,omitempty"`
	Zone         string            `json:"zone,omitempty"` // nodes of one zone can fail together
	Rack         string            `json:"rack,omitempty"`
	Taints       []Taint           `json:"taints,omitempty"`
	Described    *NodeSpec         `json:"described,omitempty"`    // what cluster.yaml said of it last; nil for nothing
	Availability Availability      `json:"availability,omitempty"` // active if empty
	Generation   int64             `json:"generation,omitempty"`   // raised by each change of these
	Operation    OperationID       `json:"operation,omitempty"`    // that drains it or was begun by its eviction
	Revision     int64             `json:"revision"`               // of the record in the store; grows with each change
}

// RivalEvery is how often it is written down that two agents speak for one node.
const RivalEvery = time.Minute

// Rival reports whether two machines speak for the node, as far as control has heard lately.
func (n Node) Rival(now time.Time) bool { return now.Sub(n.RivalAt) < 3*RivalEvery }

// Availability says what a node may be used for.
type Availability string

const (
	// NodeActive: it may get volumes.
	NodeActive Availability = "active"
	// NodeCordoned: it gets no volumes; those that are there stay.
	NodeCordoned Availability = "cordoned"
	// NodeDraining: it gets no volumes, and those that are there are moved away.
	NodeDraining Availability = "draining"
	// NodeDrained: it was drained and holds no volume.
	NodeDrained Availability = "drained"
	// NodeEvicted: its certificates are revoked. Its record stays until it is forgotten.
	NodeEvicted Availability = "evicted"
)

// Leads reports whether an operator's command may bring a node from a to next. Only forgetting follows eviction.
func (a Availability) Leads(next Availability) bool {
	switch a {
	case NodeEvicted:
		return false
	case NodeDraining:
		return next != NodeCordoned && next != a
	case NodeActive, NodeCordoned, NodeDrained:
		return next != a && next != NodeDrained
	default:
		return false
	}
}

// Taint keeps volumes away from a node unless they tolerate it.
type Taint struct {
	Key    string      `json:"key"`
	Value  string      `json:"value,omitempty"`
	Effect TaintEffect `json:"effect"`
}

// TaintEffect says how strictly.
type TaintEffect string

const (
	TaintNoPlace   TaintEffect = "no-place"   // no volume that does not tolerate it
	TaintPreferNot TaintEffect = "prefer-not" // only if no other node can take the volume
)

func (t Taint) String() string {
	if t.Value == "" {
		return t.Key + ":" + string(t.Effect)
	}
	return t.Key + "=" + t.Value + ":" + string(t.Effect)
}

// Tolerated reports whether a toleration, "key" or "key=value", is for this taint.
func (t Taint) Tolerated(by []string) bool {
	for _, toleration := range by {
		if toleration == t.Key || toleration == t.Key+"="+t.Value {
			return true
		}
	}
	return false
}

// ParseTaint reads KEY[=VALUE][:EFFECT]. Without an effect it is no-place.
func ParseTaint(text string) (Taint, error) {
	what, effect, given := strings.Cut(text, ":")
	if !given {
		effect = string(TaintNoPlace)
	}
	t := Taint{Effect: TaintEffect(effect)}
	t.Key, t.Value, _ = strings.Cut(what, "=")
	if !labelKey.MatchString(t.Key) || t.Value != "" && !labelKey.MatchString(t.Value) || t.Effect != TaintNoPlace && t.Effect != TaintPreferNot {
		return Taint{}, Errorf(CodeInvalid, "%.80q is no taint", text).
			WithHint("write KEY, KEY=VALUE or KEY=VALUE:EFFECT; the effects are %s and %s", TaintNoPlace, TaintPreferNot)
	}
	return t, nil
}

// maxTaints is how many taints a node may have.
const maxTaints = 16

// CheckTaints tells what is wrong with the taints of a node, or nil.
func CheckTaints(taints []Taint) error {
	if len(taints) > maxTaints {
		return Errorf(CodeInvalid, "a node can't have %d taints, %d are the most", len(taints), maxTaints).WithHint("give it less")
	}
	seen := map[string]bool{}
	for _, t := range taints {
		read, err := ParseTaint(t.String())
		if err != nil || read != t {
			return Errorf(CodeInvalid, "%.80q is no taint", t).
				WithHint("a taint has a key, a value or none, and the effect %s or %s", TaintNoPlace, TaintPreferNot)
		}
		name := t.Key + ":" + string(t.Effect)
		if seen[name] {
			return Errorf(CodeInvalid, "a node can't have the taint %.80q twice", name).WithHint("give it one value")
		}
		seen[name] = true
	}
	return nil
}

var labelKey = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9_./-]{0,61}[a-zA-Z0-9])?$`)

// maxNodeLabels is how many labels a node may have.
const maxNodeLabels = 64

// CheckLabels tells what is wrong with the labels, zone and rack of a node, or nil.
func (n Node) CheckLabels() error {
	bad := func(what, text string) error {
		return Errorf(CodeInvalid, "%.80q can't be the %s of a node", text, what).
			WithHint(labelHint)
	}
	if len(n.Labels) > maxNodeLabels {
		return Errorf(CodeInvalid, "a node can't have %d labels, %d are the most", len(n.Labels), maxNodeLabels).WithHint("give it less")
	}
	for k, v := range n.Labels {
		if !labelKey.MatchString(k) {
			return bad("name of a label", k)
		}
		if v != "" && !labelKey.MatchString(v) {
			return bad("value of a label", v)
		}
	}
	if n.Zone != "" && !labelKey.MatchString(n.Zone) {
		return bad("zone", n.Zone)
	}
	if n.Rack != "" && !labelKey.MatchString(n.Rack) {
		return bad("rack", n.Rack)
	}
	return nil
}

// Use is the availability, active if none is written.
func (n Node) Use() Availability {
	if n.Availability == "" {
		return NodeActive
	}
	return n.Availability
}

// NodeSilence is how long a node may be silent before it counts as not ready. Nothing is taken from a silent
// node; it only gets no new volumes, and a migration towards it is given up.
const NodeSilence = SessionTTL

// Heartbeat is how often an agent tells control that it is there, unless sessions are short: see Session.Heartbeat.
const Heartbeat = 10 * time.Second

// Capacity is the space for volumes on a node, in bytes and inodes, as its file system tells.
type Capacity struct {
	TotalBytes int64 `json:"total_bytes"`
	FreeBytes  int64 `json:"free_bytes"`

	TotalInodes int64 `json:"total_inodes,omitempty"` // 0 where the file system makes them as they are needed
	FreeInodes  int64 `json:"free_inodes,omitempty"`
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
