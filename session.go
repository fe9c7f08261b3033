package mobyfs

import "time"

// Session says that a node is there. It begins with the first heartbeat of an agent and ends when none came for
// SessionTTL. There is one session of a node at a time; a new agent's ends that of the agent before.
type Session struct {
	Epoch     uint64 `json:"epoch"`  // grows by one with each session of the node
	TTLMillis int64  `json:"ttl_ms"` // how long control waits for the next heartbeat, in milliseconds
	// NextMillis is when the next heartbeat is to be sent, in milliseconds after the answered one was; 0 says nothing of it.
	NextMillis int64 `json:"next_ms,omitempty"`
	// Tell asks the node for its whole Inventory, since the restore of that name; "" asks for nothing.
	Tell string `json:"tell,omitempty"`
	// Keep asks the node to keep a copy of the backup with this ID; "" asks for nothing.
	Keep string `json:"keep,omitempty"`
}

// TTL is how long control waits for the next heartbeat. The agent counts it from the moment at which it sent the one
// that was answered, for it can't know when control heard it.
func (s Session) TTL() time.Duration { return time.Duration(s.TTLMillis) * time.Millisecond }

// Heartbeat is how often the node's agent is to be heard: three times in the session's time, and every Heartbeat at least.
func (s Session) Heartbeat() time.Duration {
	if third := s.TTL() / 3; third > 0 && third < Heartbeat {
		return third
	}
	return Heartbeat
}

// Next is how long after it sent a heartbeat, which was answered with this session, the node's agent sends the next one:
// when control says, and after Heartbeat if it says nothing, or what would endanger the session.
func (s Session) Next() time.Duration {
	if next := time.Duration(s.NextMillis) * time.Millisecond; next > 0 && next < s.Heartbeat()*5/4 {
		return next
	}
	return s.Heartbeat()
}

// MinSessionTTL and MaxSessionTTL bound what the control plane can be set to. Shorter ones than the least would end
// whenever the store elects a leader.
const (
	MinSessionTTL = 4 * time.Second
	MaxSessionTTL = time.Hour
)

// SessionTTL is how long a node may be silent before its session ends, unless the control plane is set to another time.
const SessionTTL = 30 * time.Second

// Takeover says who may give a volume to another node while the node that uses it is silent. It is of use only for
// volumes whose bytes outlive the node (see SharesBytes).
type Takeover string

const (
	// TakeoverNever: nobody. The volume waits for its node, and its node never has to fear that it was taken.
	TakeoverNever Takeover = "never"
	// TakeoverManual: an operator, who gives a reason.
	TakeoverManual Takeover = "manual"
	// TakeoverAuto: control, once another node wants it and the silent one has had time to stop. A node that can't
	// reach control in time stops the containers that use such a volume.
	TakeoverAuto Takeover = "auto"
)

// CheckTakeover tells what is wrong with a takeover for volumes of a backend, or nil. Empty is never.
func CheckTakeover(t Takeover, backend string) error {
	switch t {
	case "", TakeoverNever:
		return nil
	case TakeoverManual, TakeoverAuto:
		if SharesBytes(backend) {
			return nil
		}
		return Errorf(CodeInvalid, "takeover %s is not possible with backend %s: the bytes are on one node alone, and lost with it", t, backend).
			WithHint("leave takeover out, or use backend %s", SharedBackend)
	}
	return Errorf(CodeInvalid, "there is no takeover %.20q", string(t)).
		WithHint("choose %s, %s or %s", TakeoverNever, TakeoverManual, TakeoverAuto)
}

// SharesBytes reports whether all nodes see the bytes of volumes of a backend. Such a volume moves without being copied,
// and is not lost with its node.
func SharesBytes(backend string) bool { return backend == SharedBackend }

// MinStoreQuota and MaxStoreQuota bound how many bytes the store may be allowed on each control host. Below the least it
// has no room to compress itself in; beyond the most its restart takes minutes.
const (
	MinStoreQuota = 16 << 20
	MaxStoreQuota = 32 << 30
)
