package mobyfs

import "time"

// Tombstone is what stays on record of a volume that was removed, while its bytes are in the trash of its node.
type Tombstone struct {
	Volume    Volume    `json:"volume"` // as it was; its fence is that of the removal
	RemovedAt time.Time `json:"removed_at"`
	Until     time.Time `json:"until"` // then its node empties the trash of it; earlier if its disk runs short
}

// DefaultTrash is how long a node keeps what was removed, unless it says otherwise, and MaxTrash how long at most.
const (
	DefaultTrash = time.Hour
	MaxTrash     = 90 * 24 * time.Hour
)

// Undeletion says that a volume was removed and came back.
type Undeletion struct {
	Removed Fence     `json:"removed"` // the fence of the removal
	At      time.Time `json:"at"`
	Pending bool      `json:"pending,omitempty"` // its home has yet to take the bytes out of its trash
}

// Returning reports whether the home has yet to take the volume's bytes out of its trash.
func (v Volume) Returning() bool { return v.Undeletion != nil && v.Undeletion.Pending }
