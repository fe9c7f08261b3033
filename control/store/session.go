package store

import "time"

// Session is the record of a node that is there.
type Session struct {
	Node     string    `json:"node"`
	Instance string    `json:"instance"` // of its agent
	Epoch    uint64    `json:"epoch"`
	Lease    int64     `json:"lease"` // with which the record was written
	Since    time.Time `json:"since"`
}

// Down is the record of a session that ended without another.
type Down struct {
	Node  string    `json:"node"`
	Epoch uint64    `json:"epoch"` // of the session that ended
	Since time.Time `json:"since"` // by the wall clock of whoever saw it first; nothing is decided by it
}
